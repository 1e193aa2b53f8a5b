# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sends the service's files, the engine and the templates with the module's other options, as one text."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package
from ansible_collections.marzban.tunnels.plugins.module_utils._model.types import BY_TYPE
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _engine, _templates
from ansible_collections.marzban.tunnels.plugins.plugin_utils._node import NodeAction

FILES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles", "node_api", "files")
ENGINE = "ansible_collections/marzban/tunnels/plugins/module_utils"


class ActionModule(NodeAction):
    """The action of ``node_service``."""

    TAKES_VIEWS = False

    def prepare(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Adds ``archive`` and ``engine``."""
        if given.get("state") == "absent":
            return given
        folder = str(given.get("source") or FILES)
        try:
            sent = package.read(folder)
            for name, content in _engine.files().items():
                sent["%s/%s" % (ENGINE, name)] = content
            engine = _engine.digest()
        except OSError as error:
            raise AnsibleActionFail("source: %s can't be read: %s." % (folder, error.strerror)) from error
        texts = _templates.read(self, given.get("templates") or {}, list(BY_TYPE))
        for kind, text in texts.items():
            sent["templates/%s.conf.j2" % kind] = text.encode("utf-8")
        return dict(given, archive=package.pack(sent), engine=engine)
