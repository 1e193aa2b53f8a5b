# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Renders the templates on the controller, and hands what one node has sealed to the other.

Managed nodes have no Jinja2. What is sealed stands in Ansible's own temporary folder until the run ends, and in no
result, log or event.
"""

from __future__ import annotations

import hashlib
import os

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from ansible_collections.marzban.tunnels.plugins.plugin_utils._node import NodeAction

ROLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles")
TEMPLATES = {
    "wireguard": os.path.join(ROLES, "wireguard", "templates", "wg-quick.conf.j2"),
    "openvpn": os.path.join(ROLES, "openvpn", "templates", "openvpn.conf.j2"),
    "ipsec": os.path.join(ROLES, "strongswan", "templates", "swanctl.conf.j2"),
}
LONGEST = 4096  # characters of what is sealed


class ActionModule(NodeAction):
    """tunnel_apply"""

    def run(self, tmp=None, task_vars=None):
        """The module's result."""
        self._checked = []
        result = super().run(tmp, task_vars)
        sealing = {view["uuid"]: view for view in self._checked}
        wanted = [one["uuid"] for one in result.get("tunnels", []) if one.get("hand") and one.get("uuid") in sealing]
        if wanted and not self._task.check_mode:
            for uuid, text in self._fetch(wanted, task_vars).items():
                if uuid in sealing and isinstance(text, str) and len(text) <= LONGEST:
                    self._keep(_place(sealing[uuid], "local"), text)
        return result

    def prepare(self, given, task_vars):
        """Adds ``rendered``, for each view its text or why there is none, and ``handed``, what its peer has sealed."""
        texts = self._templates(given.get("templates") or {}, given["views"])
        rendered, handed = [], {}
        for raw in given["views"]:
            try:
                view = model_views.check(raw, str(given.get("panel")))
                self._checked.append(view)
                rendered.append({"text": render.render(view, texts[view["type"]])})
                found = self._kept(_place(view, "peer"))
                if found:
                    handed[view["uuid"]] = found
            except Error as error:
                rendered.append({"error": str(error)})
        return dict(given, rendered=rendered, handed=handed)

    def _fetch(self, uuids, task_vars):
        """``{uuid: what the node has sealed}``. Not even ciphertext is shown at any verbosity."""
        shown = self._play_context.no_log, self._connection._play_context.no_log
        self._play_context.no_log = self._connection._play_context.no_log = True
        try:
            arguments = {key: self._given.get(key) for key in ("panel", "config_dir")}
            arguments.update(views=[], rendered=[], seal=uuids)
            answer = self._execute_module(
                module_name="marzban.tunnels.tunnel_apply", module_args=arguments, task_vars=task_vars
            )
        finally:
            self._play_context.no_log, self._connection._play_context.no_log = shown
        sealed = answer.get("sealed")
        return sealed if isinstance(sealed, dict) else {}

    @staticmethod
    def _keep(name, text):
        path = os.path.join(constants.DEFAULT_LOCAL_TMP, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as stream:
            stream.write(text)

    @staticmethod
    def _kept(name):
        try:
            with open(os.path.join(constants.DEFAULT_LOCAL_TMP, name), encoding="ascii") as stream:
                return stream.read()
        except OSError:
            return None

    def _templates(self, chosen, views):
        """``{type: text}`` of the types that are chosen or needed."""
        if not isinstance(chosen, dict) or set(chosen) - set(TEMPLATES):
            raise AnsibleActionFail("templates: give a dict of type and path; the types are %s." % ", ".join(TEMPLATES))
        needed = [one.get("type") for one in views if isinstance(one, dict)]
        texts = {}
        for kind, default in TEMPLATES.items():
            if kind not in needed and not chosen.get(kind):
                continue
            try:
                path = self._find_needle("templates", str(chosen[kind])) if chosen.get(kind) else default
                with open(path, encoding="utf-8") as stream:
                    texts[kind] = stream.read()
            except (AnsibleError, OSError, ValueError) as error:
                raise AnsibleActionFail("templates: the one for %s can't be read: %s" % (kind, error)) from error
        return texts


def _place(view, side):
    """The name of the file for what the node at a side of a view has sealed for the other one."""
    about = "\0".join((view["panel"], view["uuid"], view[side]["node"]))
    return "marzban-tunnels-" + hashlib.sha256(about.encode("utf-8")).hexdigest()
