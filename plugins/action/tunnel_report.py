# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prints the table of the tunnels, and tells the panel how they are."""

from __future__ import annotations

from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._model import summary
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import STRICT, ControllerAction, plain


class ActionModule(ControllerAction):
    """The action of ``tunnel_report``."""

    SPEC = {
        "results": {"type": "dict"},
        "answers": {"type": "str"},
        "unreachable": {"type": "list", "elements": "str"},
        "read": {"type": "str"},
        "broken": {"type": "list", "elements": "dict", "default": []},
        "nodes": {"type": "dict"},
        "columns": {"type": "dict", "default": {}},
        "strict": STRICT,
        "post": {"type": "bool", "default": True},
    }
    RULES = {"required_one_of": [("results", "answers")], "mutually_exclusive": [("results", "answers")]}

    def work(self) -> dict[str, Any]:
        """``table``, ``problems``, ``reported``, ``rejected``, ``unreached``; the table is there with a failure too."""
        given = self.options
        results, nodes = given["results"], given["nodes"]
        lost = {host: summary.why_lost([{"unreachable": True}]) for host in given["unreachable"] or []}
        if given["answers"] is not None:
            results = self.answers_of(given["answers"])
            nodes = self.nodes() if nodes is None else nodes
            if given["unreachable"] is None:
                ended = self.ended_with(self.lost(given["answers"]), given["answers"])
                lost = {host: summary.why_lost(found) for host, found in ended.items()}
        read = self.variables.get(given["read"] or "") or {}
        told = _panel_steps.Told(
            *(results, nodes, lost, given["broken"], given["columns"]),
            strict=given["strict"],
            views=plain(read.get("views") or {}),
        )
        answer, failures = self.report(told, given["post"])
        answer["unreached"] = [] if given["answers"] is None else self.unreached(given["answers"])
        if failures:
            sentences = list(dict.fromkeys(text for its in failures.values() for text in its))
            answer.update(failed=True, msg="\n".join([answer["msg"], *sentences] if "msg" in answer else sentences))
        return answer
