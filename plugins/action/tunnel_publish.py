# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives the panel the public halves that it lacks."""

from __future__ import annotations

from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._model import publishing
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """The action of ``tunnel_publish``."""

    SPEC = {
        "results": {"type": "dict"},
        "answers": {"type": "str"},
        "nodes": {"type": "dict"},
        "keys": {
            "type": "list",
            "elements": "dict",
            "options": {
                "uuid": {"type": "str", "required": True},
                "node": {"type": "str", "required": True},
                "public": {"type": "dict", "required": True},
            },
            "no_log": False,
        },
    }
    RULES = {
        "required_one_of": [("results", "answers", "keys")],
        "mutually_exclusive": [("results", "answers", "keys")],
    }

    def work(self) -> dict[str, Any]:
        """``updated``, ``published``, ``rejected`` and the diff."""
        given = self.options
        if given["keys"] is not None:
            keys, rejected = given["keys"], []
        elif given["answers"] is not None:
            nodes = self.nodes() if given["nodes"] is None else given["nodes"]
            keys, rejected = publishing.offered(self.answers_of(given["answers"]), nodes)
        else:
            keys, rejected = publishing.offered(given["results"], given["nodes"])
        done = _panel_steps.publish(self.panel(), keys, rejected, self.check_mode, self.warn)
        return {
            "changed": done.updated > 0,
            "updated": done.updated,
            "published": done.keys,
            "rejected": done.rejected,
            "diff": done.diff,
        }
