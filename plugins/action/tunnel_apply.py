# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Renders the templates on the controller: managed nodes have no Jinja2."""

from __future__ import annotations

import os

from ansible.errors import AnsibleActionFail, AnsibleError

from ansible_collections.marzban.tunnels.plugins.module_utils import _received, _render
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.plugin_utils._node import NodeAction

ROLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles")
TEMPLATES = {"wireguard": os.path.join(ROLES, "wireguard", "templates", "wg-quick.conf.j2")}


class ActionModule(NodeAction):
    """tunnel_apply"""

    def prepare(self, given, task_vars):
        """Adds ``rendered``: for each view its text, or why there is none."""
        texts = self._templates(given.get("templates") or {})
        rendered = []
        for raw in given["views"]:
            try:
                view = _received.view(raw, str(given.get("panel")))
                if view["type"] not in texts:
                    raise Error("This version has no template for the type %s." % view["type"])
                rendered.append({"text": _render.render(view, texts[view["type"]])})
            except Error as error:
                rendered.append({"error": str(error)})
        return dict(given, rendered=rendered)

    def _templates(self, chosen):
        if not isinstance(chosen, dict) or set(chosen) - set(TEMPLATES):
            raise AnsibleActionFail("templates: give a dict of type and path; the types are %s." % ", ".join(TEMPLATES))
        texts = {}
        for kind, default in TEMPLATES.items():
            try:
                path = self._find_needle("templates", str(chosen[kind])) if chosen.get(kind) else default
                with open(path, encoding="utf-8") as stream:
                    texts[kind] = stream.read()
            except (AnsibleError, OSError, ValueError) as error:
                raise AnsibleActionFail("templates: the one for %s can't be read: %s" % (kind, error)) from error
        return texts
