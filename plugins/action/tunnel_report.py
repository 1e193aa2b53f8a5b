# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prints the table of the module as lines: a callback would fold or escape them, and nobody could read it."""

from __future__ import annotations

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        result = self._execute_module(task_vars=task_vars)
        if result.get("table"):
            problems = ["! %s" % one for one in result.get("problems") or []]
            self._display.display("\n%s\n" % "\n".join(result["table"] + problems))
        return result
