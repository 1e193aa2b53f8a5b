# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the action plugins of the node side do on the controller before the module runs."""

from __future__ import annotations

import json
import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class NodeAction(ActionBase):
    """Resolves ``config_dir`` by the controller's environment, refuses invalid views, and runs the module."""

    _supports_check_mode = True
    _supports_diff = True
    TAKES_VIEWS = True

    def run(self, tmp=None, task_vars=None):
        """The module's result."""
        super().run(tmp, task_vars)
        name = "marzban.tunnels." + self._task.action.rpartition(".")[2]
        given = dict(self._task.args)
        given["config_dir"] = given.get("config_dir") or os.environ.get("TUNNEL_CONFIG_DIR") or None
        if self.TAKES_VIEWS:
            given["views"] = self._views(given)
        self._given = given
        return self._execute_module(module_name=name, module_args=self.prepare(given, task_vars), task_vars=task_vars)

    def prepare(self, given, task_vars):
        """What the module gets instead of ``given``, its arguments."""
        return given

    def _views(self, given):
        views = given.get("views")
        if not isinstance(views, (list, tuple)):
            raise AnsibleActionFail(
                "views: a list is needed, and it is %s. Give what marzban.tunnels.tunnel_views answered for this host. "
                "Nothing was changed: without views nothing is known, and that removes nothing."
                % ("not given or null" if views is None else "a %s" % type(views).__name__)
            )
        try:
            return json.loads(json.dumps(views))  # plain values, without Ansible's own marks on them
        except (TypeError, ValueError) as error:
            raise AnsibleActionFail("views: they contain something that is not JSON: %s." % error) from error
