# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Renders the templates on the controller: managed nodes have no Jinja2. Passes on what nodes seal for each other."""

from __future__ import annotations

import hashlib
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _engine, _panel_steps, _sealed_keys, _templates
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import plain
from ansible_collections.marzban.tunnels.plugins.plugin_utils._node import NodeAction


class ActionModule(NodeAction):
    """The action of ``tunnel_apply``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the module on the host with what was added here; its result."""
        self._checked: list[Any] = []
        with _sealed_keys.unseen(self):
            result = super().run(tmp, task_vars)
        _sealed_keys.keep(result, self._checked)
        return result

    def prepare(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Adds ``rendered``, for each view its text or why there is none, and ``handed``, what its peer has sealed."""
        host = (task_vars or {}).get("inventory_hostname")
        self._refuse_another_list(host, given.pop("records", None), given.pop("list_digest", None))
        kinds = [view.get("type") for view in given["views"] if isinstance(view, dict)]
        texts = _templates.read(self, given.get("templates") or {}, kinds)
        rendered: list[dict[str, str]] = []
        for raw in given["views"]:
            try:
                view = model_views.check(raw, str(given.get("panel")))
                self._checked.append(view)
                rendered.append({"text": render.render(view, texts[view["type"]])})
            except Error as error:
                rendered.append({"error": str(error)})
        alike = {
            "engine": _engine.digest(),
            "ipsec_data_path": given.get("ipsec_data_path") or "auto",
            "templates": {kind: hashlib.sha256(text.encode("utf-8")).hexdigest() for kind, text in texts.items()},
        }
        return dict(given, rendered=rendered, handed=_sealed_keys.for_node(self._checked), alike=alike)

    @staticmethod
    def _refuse_another_list(host: Any, records: Any, digest: Any) -> None:
        if records is not None and records != "" and digest and _panel_steps.digest_of(plain(records)) != digest:
            raise AnsibleActionFail(
                "%s: its list of tunnels is not the one that the run has read. A run reads one list for all hosts: "
                "give it in the play or in the group_vars of a group with all of them, or run the hosts apart with "
                "--limit." % host
            )
