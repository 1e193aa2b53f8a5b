# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The templates of the types: the roles' own, or the operator's."""

from __future__ import annotations

import os
from typing import Any, Collection

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.marzban.tunnels.plugins.module_utils._model.types import BY_TYPE

ROLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles")
TEMPLATES = {name: os.path.join(ROLES, kind.role, "templates", kind.template) for name, kind in BY_TYPE.items()}


def read(action: ActionBase, chosen: Any, needed: Collection[Any]) -> dict[str, str]:
    """``{type: text}`` of the types that are chosen (``{type: path}``) or needed. Raises AnsibleActionFail."""
    if not isinstance(chosen, dict) or set(chosen) - set(TEMPLATES):
        raise AnsibleActionFail("templates: give a dict of type and path; the types are %s." % ", ".join(TEMPLATES))
    texts = {}
    for kind, default in TEMPLATES.items():
        if kind not in needed and not chosen.get(kind):
            continue
        try:
            path = action._find_needle("templates", str(chosen[kind])) if chosen.get(kind) else default
            with open(path, encoding="utf-8") as stream:
                texts[kind] = stream.read()
        except (AnsibleError, OSError, ValueError) as error:
            raise AnsibleActionFail("templates: the one for %s can't be read: %s" % (kind, error)) from error
    return texts
