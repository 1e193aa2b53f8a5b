# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells the panel where the services of the nodes are, and by which key it knows them."""

from __future__ import annotations

from typing import Any

from ansible_collections.marzban.tunnels.plugins.plugin_utils import _node_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import ControllerAction, plain


class ActionModule(ControllerAction):
    """The action of ``node_publish``."""

    SPEC = {
        "access": {"type": "dict", "required": True},
        "results": {"type": "dict"},
        "answers": {"type": "str"},
        "nodes": {"type": "dict"},
    }
    RULES = {"required_one_of": [("results", "answers")], "mutually_exclusive": [("results", "answers")]}

    def work(self) -> dict[str, Any]:
        """``updated``, ``published``, ``rejected``, ``refused`` and the diff."""
        given = self.options
        nodes = self.nodes() if given["nodes"] is None else given["nodes"]
        results = given["results"]
        if results is None:
            results = self.of_hosts(given["answers"], self.batch)
        wanted, rejected = _node_steps.services(plain(given["access"]), results, nodes)
        answer = _node_steps.publish(self.panel(), wanted, rejected, self.check_mode)
        return dict(answer, refused=_node_steps.refused(rejected, nodes))
