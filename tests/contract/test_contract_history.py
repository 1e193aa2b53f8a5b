# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: since when, and the history (docs/development/contract.md). Without a manager: what runs report is all."""

from __future__ import annotations

from typing import Any

from tests.support.panel_api import Api, report

COLUMNS = ["at", "up", "down", "rtt_ms", "rtt_worst_ms", "loss_percent", "to_target", "to_source"]


def test_history_of_what_runs_report(api: Api, pair: tuple[Any, Any]) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    assert (tunnel["status"], tunnel["since"]) == ("connecting", tunnel["created_at"])

    def statuses() -> list[Any]:
        return [change["status"] for change in api.send("GET", path + "/history")["changes"]]

    report(api, tunnel, pair[0], status="active")
    report(api, tunnel, pair[1], status="active")
    assert statuses() == ["connecting", "active"]
    report(api, tunnel, pair[1], status="error", error="no answer\nfrom there " + "x" * 300)
    report(api, tunnel, pair[1], status="error", error="another sentence")
    seen = api.send("GET", path + "/history")
    assert (seen["tunnel_id"], seen["uuid"], seen["status"]) == (tunnel["id"], tunnel["uuid"], "error")
    assert seen["changes"][-1] == {
        "at": seen["since"],
        "status": "error",
        "error": ("no answer from there " + "x" * 300)[:200],
    }
    assert seen["since"] == api.send("GET", path)["since"] == api.send("GET", "/api/tunnels?limit=2000")[-1]["since"]
    for name, length in (("day", 300), ("month", 3600)):
        assert seen[name] == {"seconds": length, "columns": COLUMNS, "rows": []}, "no manager measures here"
    changed = api.send("PUT", path, {"config": '{"mtu": 1400}'})
    assert (changed["status"], changed["since"]) == ("connecting", changed["updated_at"])
    api.send("POST", path + "/deactivate")
    api.send("POST", path + "/deactivate")
    assert statuses() == ["connecting", "active", "error", "connecting", "inactive"]
    report(api, api.send("GET", path), pair[0], status="inactive")
    assert len(statuses()) == 5


def test_the_history_of_what_is_not_there(api: Api, pair: tuple[Any, Any]) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    api.send("DELETE", path)
    assert api.send("GET", path + "/history", status=404)["detail"] == "Tunnel not found"
    assert api.send("GET", f"/api/tunnels/{2**63}/history", status=404)
