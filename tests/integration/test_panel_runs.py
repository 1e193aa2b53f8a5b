# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of a run that speak to the panel: views, public halves, reports."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import table
from tests.support.faulty import Faulty, answer
from tests.support.panel_modules import (
    KEY,
    OTHER_KEY,
    Task,
    call,
    nodes,
    own,
    play,
    quartet,
    results_of,
    run,
    start_over,
    with_token,
)
from tests.support.world import World

NODES = {"host-a": "de-1", "fi-1": "", "host-c": "us-1", "host-d": "no-such-node"}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(autouse=True)
def empty(world: World) -> None:
    start_over(world)


# tunnel_views


def test_tunnel_views(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    world.tunnel("fi-us", "fi-1", "us-1")
    before = len(world.panel.writes())
    results = run(world, [("tunnel_views", {"nodes": NODES}, check) for check in (True, False)])
    assert world.panel.writes()[before:] == []
    assert results[0]["views"] == results[1]["views"]
    views = results[0]["views"]
    names = {host: [view["name"] for view in seen] for host, seen in views.items()}
    assert names == {"host-a": ["de-fi"], "fi-1": ["de-fi", "fi-us"], "host-c": ["fi-us"], "host-d": []}
    assert views["host-a"][0]["local"] == views["fi-1"][0]["peer"]
    assert results[0]["broken"] == []
    assert results[0]["gone"] == results[0]["confirmed_deleted"] == {}, "the old name too, until 1.0"
    assert {view["panel"] for seen in views.values() for view in seen} == {results[0]["panel"]}


def test_tunnel_views_only_the_panels_own_word_makes_a_tunnel_gone(world: World) -> None:
    stays = world.tunnel("de-fi", "de-1", "fi-1")
    moved = world.tunnel("moves", "de-1", "fi-1")
    deleted = world.tunnel("goes", "de-1", "us-1")
    world.api("PUT", f"/tunnels/{moved['id']}", json={"source_node_id": nodes(world)["us-1"]["id"]})
    world.api("DELETE", f"/tunnels/{deleted['id']}")
    known = [{"id": item["id"], "uuid": item["uuid"], "node": "de-1"} for item in (stays, moved, deleted)]
    another = {"id": stays["id"], "uuid": "00000000-0000-4000-8000-000000000000"}
    options = {"nodes": NODES, "orphans": {"host-a": [*known, another], "host-c": []}}
    # What was made for a name which the panel does not have any more: there is no such node, so nothing ends
    # elsewhere. The same where nobody knows for which node it was made. What was made for another node
    # than the asking host's is judged by that one.
    former = {"nodes": NODES, "orphans": {"host-a": [{**item, "node": "de-0"} for item in known]}}
    unknown = {"nodes": NODES, "orphans": {"host-a": [{**item, "node": None} for item in known]}}
    others = {"nodes": {"host-a": "us-1"}, "orphans": {"host-a": known}}
    with Faulty.before(world.panel) as faulty:
        all_of_them = [("tunnel_views", item, False) for item in (options, former, unknown, others)]
        honest, renamed, nobodys, twins = run(world, all_of_them)
        faulty.lists_nothing()
        mistaken = run(world, [("tunnel_views", options, False)], MARZBAN_URL=faulty.url)
        faulty.behave()
        faulty.on("GET", "/api/tunnels/[0-9]+", answer(404, {"detail": "Not Found"}))
        no_api = run(world, [("tunnel_views", options, False)], MARZBAN_URL=faulty.url)
    gone = [moved["uuid"], deleted["uuid"], another["uuid"]]
    assert honest["confirmed_deleted"] == {"host-a": gone, "host-c": []}
    assert renamed["confirmed_deleted"] == nobodys["confirmed_deleted"] == {"host-a": [deleted["uuid"]]}
    assert twins["confirmed_deleted"] == {"host-a": [deleted["uuid"]]}, "moved is in the list of the one who asks"
    assert mistaken[0]["confirmed_deleted"] == {"host-a": gone, "host-c": []}, (
        "what exists is kept, whatever the list says"
    )
    assert no_api[0]["failed"]


def test_tunnel_views_a_compromised_node_spoils_its_own_part_only(world: World) -> None:
    gone = {"id": 999_999, "uuid": "00000000-0000-4000-8000-000000000000"}
    options = {"nodes": NODES, "orphans": {"host-a": [{"id": "x"}, 5, gone], "fi-1": "x", "host-c": [gone]}}
    ends = {
        role: {"endpoint": "203.0.113.1", "port": 20000, "addresses": [f"10.201.0.{n}/31"]}
        for n, role in enumerate(("source", "target"))
    }
    record = {"name": "t", "id": 1, "source": "de-1", "target": "fi-1", "config": ends}
    (first,) = run(world, [("tunnel_views", {"nodes": NODES, "records": [record]}, False)])
    uuid = first["views"]["fi-1"][0]["uuid"]
    told = {
        "host-a": [{"uuid": uuid, "public": 5}],
        "host-c": 5,
        "fi-1": [{"uuid": uuid, "public": {"public_key": KEY}}],
    }
    tasks: list[Task] = [
        ("tunnel_views", options, False),
        ("tunnel_views", {"nodes": NODES, "records": [record], "published": told}, False),
    ]
    done = play(world, tasks)
    asked, listed = results_of(tasks, done)
    assert asked["confirmed_deleted"] == {"host-a": [gone["uuid"]], "fi-1": [], "host-c": [gone["uuid"]]}
    assert listed["views"]["host-a"][0]["peer"]["public"] == {"public_key": KEY}
    assert listed["views"]["host-a"][0]["local"]["public"] is None
    for place in ("orphans[host-a].id: 'x'", "orphans[host-a]: 5", "orphans[fi-1]: 'x'"):
        assert any(f"Left out: {place} can't be used." in said for said in asked["warnings"])
    assert len(listed["warnings"]) == 2


def test_tunnel_views_never_gives_half_a_list(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    with Faulty.before(world.panel) as faulty:
        faulty.one_page_then_fails()
        env = {"MARZBAN_URL": faulty.url, "MARZBAN_RETRIES": "1"}
        (result,) = run(world, [("tunnel_views", {"nodes": NODES}, False)], **env)
    assert result["failed"]
    assert "views" not in result
    assert faulty.seen("GET", "/api/tunnels") == 3


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE tunnel_ends SET port = 99999 WHERE tunnel_id = ? AND role = 'source'", "source.port: 99999"),
        ("UPDATE tunnels SET name = 'x' || char(10) || 'PostUp = reboot' WHERE id = ?", "name: 'x\\nPostUp = reboot'"),
        ("UPDATE tunnels SET config = '[]' WHERE id = ?", "config: []"),
        ("UPDATE tunnel_ends SET interface = '../../x' WHERE tunnel_id = ?", "source.interface: '../../x'"),
    ],
)
def test_a_record_written_past_the_validation_stops_itself_only(world: World, statement: str, error: str) -> None:
    bad = world.tunnel("bad", "de-1", "fi-1")
    world.tunnel("good", "de-1", "fi-1")
    with sqlite3.connect(world.panel.database) as database:
        assert database.execute(statement, [bad["id"]]).rowcount
    database.close()
    (result,) = run(world, [("tunnel_views", {"nodes": NODES}, False)])
    assert [view["name"] for view in result["views"]["host-a"]] == ["good"]
    (broken,) = result["broken"]
    assert broken["uuid"] == bad["uuid"]
    assert broken["nodes"] == ["de-1", "fi-1"]
    assert broken["error"].startswith(error)


def test_tunnel_views_of_a_list_without_a_panel(world: World) -> None:
    def record(number: int, **more: Any) -> dict[str, Any]:
        ends = {
            role: {"endpoint": f"203.0.113.{n}", "port": 20000 + number, "addresses": [f"10.201.{number}.{n}/31"]}
            for n, role in enumerate(("source", "target"))
        }
        return {"name": f"t{number}", "id": number, "source": "de-1", "target": "fi-1", "config": ends, **more}

    env = {"MARZBAN_URL": "", "MARZBAN_PASSWORD": "", "MARZBAN_USERNAME": ""}
    (first,) = run(
        world, [("tunnel_views", {"nodes": NODES, "records": [record(1), record(2, active="x")]}, False)], **env
    )
    assert len(first["views"]["host-a"]) == 1
    assert "is_active: 'x'" in first["broken"][0]["error"]
    uuid = first["views"]["host-a"][0]["uuid"]
    options = {
        "nodes": NODES,
        "records": [record(1)],
        "published": {"host-a": [{"uuid": uuid, "public": {"public_key": KEY}, "status": "connecting"}], "fi-1": []},
        "orphans": {"fi-1": [{"id": 9, "uuid": "00000000-0000-4000-8000-000000000000"}, {"id": 1, "uuid": uuid}]},
    }
    merged, empty_list = run(
        world, [("tunnel_views", options, False), ("tunnel_views", {**options, "records": []}, False)], **env
    )
    assert merged["views"]["fi-1"][0]["peer"]["public"] == {"public_key": KEY}
    assert merged["confirmed_deleted"] == {"fi-1": ["00000000-0000-4000-8000-000000000000"]}
    assert empty_list["confirmed_deleted"] == {"fi-1": []}, "an empty list removes nothing"


# tunnel_publish and tunnel_report


def told(record: dict[str, Any], node: str, peer: str, **more: Any) -> dict[str, Any]:
    """One tunnel in an answer of tunnel_apply."""
    same = {key: record[key] for key in ("uuid", "id", "name", "version")}
    role = "source" if record["source_node_name"] == node else "target"
    base = {"type": "wireguard", "interface": "mz1", "node": node, "peer": peer, "role": role, "status": "connecting"}
    return {
        **same,
        **base,
        "error": None,
        "waiting_for": None,
        "public": None,
        "publish": False,
        "measured": None,
        **more,
    }


def test_tunnel_publish(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    half = {"public": {"public_key": KEY}, "publish": True}
    results = {
        "host-a": {"tunnels": [told(record, "de-1", "fi-1", **half)]},
        "fi-1": {"tunnels": [told(record, "fi-1", "de-1", public={"public_key": OTHER_KEY}, publish=False)]},
        "host-c": {"msg": "skipped"},
        "host-d": {},
    }
    options = {"results": results, "nodes": NODES}
    check, apply = quartet(world, "tunnel_publish", options, "POST /api/tunnels/keys", way=run)
    assert check["updated"] == apply["updated"] == 1
    assert (
        check["published"]
        == apply["published"]
        == [{"uuid": record["uuid"], "node": "de-1", "public": {"public_key": KEY}}]
    )
    ends = {end["node"]: end["public"] for end in world.tunnels()["de-fi"]["ends"]}
    assert ends == {"de-1": {"public_key": KEY}, "fi-1": None}, "only what is flagged is published"
    keys = [{"uuid": record["uuid"], "node": "fi-1", "public": {"public_key": OTHER_KEY}}]
    quartet(world, "tunnel_publish", {"keys": keys}, "POST /api/tunnels/keys", way=run)


def test_tunnel_publish_takes_no_rubbish(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    half = {"public": {"public_key": KEY, "private_key": "never"}, "publish": True}
    results = {
        "host-a": {"tunnels": [told(record, "fi-1", "de-1", **half)]},
        "host-c": {"tunnels": [5]},
        "host-d": {"tunnels": 5},
    }
    keys = [
        {"uuid": "00000000-0000-4000-8000-000000000000", "node": "de-1", "public": {"public_key": KEY}},
        {"uuid": record["uuid"], "node": "us-1", "public": {"public_key": KEY}},
        {"uuid": record["uuid"], "node": "de-1", "public": {"public_key": "short"}},
    ]
    before = len(world.panel.writes())
    tasks: list[Task] = [
        ("tunnel_publish", {"results": results, "nodes": NODES}, False),
        ("tunnel_publish", {"keys": keys}, False),
    ]
    done = play(world, tasks)
    assert done.code == 0, done.text
    compromised, rubbish = results_of(tasks, done)
    assert not compromised["changed"]
    assert [item["node"] for item in compromised["rejected"]] == ["fi-1", "us-1", "no-such-node"]
    assert "speaks for another node" in compromised["rejected"][0]["detail"]
    assert "never" not in json.dumps(own(compromised)), "what was refused may hold anything"
    assert len(rubbish["rejected"]) == 3
    assert done.text.count("[WARNING]: Not published for") == 6
    assert world.panel.writes()[before:] == []


def test_tunnel_report(world: World) -> None:
    first = world.tunnel("de-fi", "de-1", "fi-1")
    second = world.tunnel("de-us", "de-1", "us-1")
    third = world.tunnel("fi-us", "fi-1", "us-1")
    good: dict[str, Any] = {"handshake_age": 5, "rx_bytes": 1480, "tx_bytes": 1480, "rtt_ms": 0.52, "loss_percent": 0}
    good.update(cipher="ChaCha20-Poly1305", key_exchange="X25519 + PSK", post_quantum=True, data_path="kernel")
    results = {
        "host-a": {
            "tunnels": [
                told(first, "de-1", "fi-1", status="active", measured=good),
                told(second, "de-1", "us-1", waiting_for="us-1", measured={"certificate_days": 3}),
            ]
        },
        "fi-1": {
            "tunnels": [
                told(first, "fi-1", "de-1", status="active", measured={**good, "rtt_ms": 0.61}),
                told(third, "fi-1", "us-1", status="error", error="no\nanswer"),
            ]
        },
    }
    broken = [{"id": 9, "uuid": None, "name": "bad", "nodes": ["de-1", "fi-1"], "error": "name: 'x\\n'"}]
    options = {"results": results, "unreachable": ["host-c"], "broken": broken, "nodes": NODES}
    before = len(world.panel.writes())
    check, apply, silent = run(
        world,
        [
            ("tunnel_report", options, True),
            ("tunnel_report", options, False),
            ("tunnel_report", {**options, "post": False}, False),
        ],
    )
    assert world.panel.writes()[before:] == ["POST /api/tunnels/status"]
    assert [item["reported"] for item in (check, apply, silent)] == [0, 4, 0]
    assert not any(item["changed"] for item in (check, apply, silent))
    assert check["table"] == apply["table"] == silent["table"]
    lost, expiring = "us-1 is unreachable", "certificate of de-1 ends in 3 d"
    assert [re.split(" {2,}", line) for line in apply["table"]] == [
        ["name", "ends", "type", "status", "handshake", "rtt", "loss"],
        ["de-fi", "de-1 -> fi-1", "wireguard", "active", "5 s", "0.6 ms", "0 %"],
        ["de-us", "de-1 -> us-1", "wireguard", "connecting", *"---"],
        *(["", note] for note in (lost, "waiting for us-1", expiring)),
        ["fi-us", "fi-1 -> us-1", "wireguard", "error", *"---"],
        ["", lost],
        ["bad", "de-1 -> fi-1", "-", "broken", *"---"],
    ]
    assert apply["problems"] == [
        "de-us on de-1: its certificate ends in 3 d: " + table.RENEW % ("de-1", "us-1"),
        "bad: name: 'x\\n'",
        "us-1 could not be reached: the table shows what other nodes reported. No traffic to it in fi-us.",
    ]
    status = world.api("GET", f"/tunnels/{first['id']}/status")
    assert status["status"] == "active"
    assert [end["measured"] for end in status["ends"]] == [good, {**good, "rtt_ms": 0.61}]
    assert world.tunnels()["fi-us"]["status"] == "error"


def test_tunnel_report_tells_the_table_even_when_the_panel_is_gone(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    old = {**record, "version": 7}
    results = {"host-a": {"tunnels": [told(old, "de-1", "fi-1"), told(old, "fi-1", "de-1", role="target"), {"x": 1}]}}
    with Faulty() as nobody:
        url = nobody.url
    rejected, gone, strict = run(
        world,
        [
            ("tunnel_report", {"results": results, "nodes": NODES}, False),
            ("tunnel_report", {"results": results, "url": url, "retries": 0}, False),
            ("tunnel_report", {"results": results, "nodes": NODES, "strict": ["connecting", "broken"]}, False),
        ],
    )
    assert strict["failed"]
    assert strict["msg"] == "tunnel de-fi (de-1 -> fi-1): connecting"
    assert strict["table"][0].startswith("name ")
    assert not rejected["failed"]
    assert len(rejected["rejected"]) == 1, "a report about another version, and none for another node"
    assert len(rejected["problems"]) == 3
    assert gone["failed"]
    assert "The panel was not told" in gone["msg"]
    assert gone["table"][0].startswith("name ")


def test_check_mode_sends_no_write(world: World, tmp_path: Path) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    (read,) = run(world, [("tunnel_views", {"nodes": NODES}, False)])
    half = {"public": {"public_key": KEY}, "publish": True}
    reported = {"results": {"host-a": {"tunnels": [told(record, "de-1", "fi-1", **half)]}}, "nodes": NODES}
    seen = {"panel": read["panel"], "views": read["views"]["host-a"], "config_dir": str(tmp_path / "none")}
    infos: list[tuple[str, dict[str, Any]]] = [
        ("node_info", {}),
        ("tunnel_info", {}),
        ("tunnel_info", {"id": record["id"]}),
    ]
    of_a_run: list[tuple[str, dict[str, Any]]] = [
        ("tunnel_health", seen),
        ("tunnel_publish", reported),
        ("tunnel_report", reported),
    ]
    before = len(world.panel.writes())

    def all_of_them(check: bool) -> list[dict[str, Any]]:
        called = call(world, [(module, options, check) for module, options in infos])
        return called + run(world, [(module, options, check) for module, options in of_a_run])

    checks = all_of_them(check=True)
    assert world.panel.writes()[before:] == []
    applied = all_of_them(check=False)
    assert world.panel.writes()[before:] == ["POST /api/tunnels/keys", "POST /api/tunnels/status"]
    assert [item["changed"] for item in checks] == [item["changed"] for item in applied] == [False] * 4 + [True, False]
    assert (checks[-1].pop("reported"), applied[-1].pop("reported")) == (0, 1)
    for (module, _options), check, apply in zip([*infos, *of_a_run], checks, applied, strict=True):
        assert not check["failed"], check
        assert own(check) == own(apply), module
    assert checks[3]["tunnels"][0]["waiting_for"] == "fi-1"
    since = {name: tunnel["since"] for name, tunnel in world.tunnels().items()}
    assert {tunnel["name"]: tunnel["since"] for tunnel in applied[1]["tunnels"]} == since
    assert None not in since.values()
    assert not (tmp_path / "none").exists()


def test_a_tunnel_that_is_deleted_during_a_run_is_asked_about(world: World) -> None:
    """It is an orphan from the second round on. What the hosts answer is written here: no host is needed for that."""
    stays, goes = world.tunnel("stays", "de-1", "fi-1"), world.tunnel("goes", "de-1", "fi-1")
    orphan = {"id": goes["id"], "uuid": goes["uuid"], "name": "goes"}
    first = told(stays, "de-1", "fi-1", publish=True, public={"public_key": KEY}, new=True, changes=["key made"])
    second, third = told(stays, "de-1", "fi-1"), told(stays, "de-1", "fi-1")
    rounds = [
        {"tunnels": [first, told(goes, "de-1", "fi-1")], "removed": [], "orphans": []},
        {"tunnels": [second], "removed": [], "orphans": [orphan]},
        {"tunnels": [third], "removed": [orphan], "orphans": []},
    ]
    tasks: list[dict[str, Any]] = [{"marzban.tunnels.tunnel_round": {}, "register": "tunnels_round"}]
    for number, answered in enumerate(rounds):
        if number == 0:
            tasks.append({"marzban.tunnels.tunnel": {"name": "goes", "state": "absent"}})
        tasks.append({"ansible.builtin.set_fact": {"tunnels_answer": answered}})
        options = {"answers": "tunnels_answer", "strict": ["connecting"]}
        tasks.append({"marzban.tunnels.tunnel_round": options, "register": "tunnels_round"})
    here = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play = {"hosts": "all", "gather_facts": False, "vars": here, "tasks": tasks}
    run = world.play([play], inventory="de-1,", env=with_token(world, {})).expect()
    begun, published, asked, ended = run.results("tunnel_round")
    assert [item["step"] for item in (begun, published, asked, ended)] == ["apply", "apply", "apply", "done"]
    assert asked["parts"]["de-1"]["remove"] == [goes["uuid"]]
    assert ended["done"] == [
        "+ stays: set up on de-1",
        "- goes: removed from de-1 (there is no record of it that ends there)",
    ]
    assert ended["problems"] == []
    assert ended["failures"] == {"de-1": ["tunnel stays (de-1 -> fi-1): connecting"]}, "what strict asks for"
    assert "\n".join(ended["done"]) in run.text


def test_hosts_that_are_one_machine_are_named(world: World) -> None:
    """What the hosts answer is written here."""
    answered = {"tunnels": [], "removed": [], "orphans": [], "machine": "0" * 64}
    tasks: list[dict[str, Any]] = [
        {"marzban.tunnels.tunnel_round": {}, "register": "tunnels_round"},
        {"ansible.builtin.set_fact": {"tunnels_answer": answered}},
        {"marzban.tunnels.tunnel_round": {"answers": "tunnels_answer"}},
    ]
    one = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    run = world.play([one], inventory="de-1,fi-1,us-1,", env=with_token(world, {}))
    assert run.code == 0, run.text
    assert "These hosts are one machine (they have the same" in " ".join(run.text.split())
    assert "the same boot id): de-1, fi-1, us-1. Their tunnels share" in " ".join(run.text.split())


@pytest.mark.parametrize(
    ("strategy", "playbook", "words"),
    [
        pytest.param("free", "status", (), marks=pytest.mark.variation),
        pytest.param("ansible.builtin.host_pinned", "apply", (), marks=pytest.mark.variation),
        ("free", "remove", ("-e", "marzban_tunnel=de-fi")),
    ],
)
def test_a_strategy_in_which_no_host_waits_is_refused(
    world: World, strategy: str, playbook: str, words: tuple[str, ...]
) -> None:
    """Before anything is asked of a host (there is none here), and before a record is deleted."""
    world.tunnel("de-fi", "de-1", "fi-1")
    before = len(world.panel.writes())
    env = {**with_token(world, {}), "ANSIBLE_STRATEGY": strategy}
    run = world.play(playbook, "-e", "marzban_hosts=all", *words, inventory="de-1,fi-1,", env=env)
    assert run.code == 2, run.text
    # With free the task of one host fails the others too, whose turn may not have come yet.
    failures = [event for host in ("de-1", "fi-1") for event in run.of(host, ["failed", "unreachable"])]
    assert failures
    for failed in failures:
        assert failed["result"]["msg"].startswith(f"strategy: '{strategy}' can't be used. ")
        assert "use linear" in failed["result"]["msg"]
    assert world.panel.writes()[before:] == []
