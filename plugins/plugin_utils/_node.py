# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the action plugins of the node side do on the controller before the module runs."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import plain


class NodeAction(ActionBase):
    """Takes ``config_dir`` from the controller's environment, refuses views that aren't a list, and runs the module."""

    _supports_check_mode = True
    _supports_diff = True
    TAKES_VIEWS = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the module on the host with what was added here; its result."""
        super().run(tmp, task_vars)
        name = "marzban.tunnels." + self._task.action.rpartition(".")[2]
        given = dict(self._task.args)
        given["config_dir"] = given.get("config_dir") or os.environ.get("TUNNEL_CONFIG_DIR") or None
        if self.TAKES_VIEWS:
            given["views"] = self._views(given)
        arguments = self.prepare(given, task_vars)
        result: dict[str, Any] = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
        return result

    def prepare(self, given: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """What the module gets instead of ``given``, its arguments."""
        return given

    @staticmethod
    def _views(given: dict[str, Any]) -> list[Any]:
        views = given.get("views")
        if not isinstance(views, (list, tuple)):
            raise AnsibleActionFail(
                "views: a list is needed, and it is %s. Give what marzban.tunnels.tunnel_views answered for this host. "
                "Nothing was changed: without views nothing is known, and that removes nothing."
                % ("not given or null" if views is None else "a %s" % type(views).__name__)
            )
        checked: list[Any] = plain(views)
        return checked
