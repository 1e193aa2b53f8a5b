# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sends the add-on's files with the module's other options, as one text: one call, however many files there are."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package

FILES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles", "panel", "files")


class ActionModule(ActionBase):
    """The action of ``panel_addon``."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the module on the host with what was added here; its result."""
        super().run(tmp, task_vars)
        folder = self._task.args.get("source") or FILES
        try:
            files = read(folder)
        except OSError as error:
            raise AnsibleActionFail("source: %s can't be read: %s." % (folder, error.strerror)) from error
        arguments = dict(self._task.args, archive=package.pack(files))
        result: dict[str, Any] = self._execute_module(
            module_name="marzban.tunnels.panel_addon", module_args=arguments, task_vars=task_vars
        )
        return result


def read(folder: str) -> package.Files:
    """``{relative path: bytes}`` of the add-on below a folder, without what Python leaves behind."""
    files = {}
    for name in package.OURS:
        for place, folders, found in os.walk(os.path.join(folder, name)):
            folders[:] = sorted(inner for inner in folders if inner != package.CACHE)
            for file in found:
                path = os.path.join(place, file)
                with open(path, "rb") as stream:
                    files[os.path.relpath(path, folder)] = stream.read()
    with open(os.path.join(folder, "start.py"), "rb") as stream:
        files["start.py"] = stream.read()
    return files
