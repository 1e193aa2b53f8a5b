# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Absence is not removal: whatever a panel forgets to say, no tunnel leaves a node, and packets pass through it.

Only what the panel has really deleted goes, from both nodes; what another panel made stays in any case.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.lab.host import Host
from tests.support.faulty import HTML_404, NO_ROUTE, Answer, Faulty, Request, Rule, answer, drop
from tests.support.world import Run, World, until

pytestmark = pytest.mark.lab

KINDS = {"one": "wireguard", "two": "openvpn", "three": "ipsec"}
OWN = "/api/tunnels/[0-9]+"  # a tunnel's own page
ELSEWHERE = [  # what another panel (here: a hand-written list) has put on the same nodes
    {
        "name": "elsewhere",
        "id": 1,
        "source": "a",
        "target": "b",
        "config": {
            "source": {"port": 41000, "addresses": ["10.99.0.0/31"], "interface": "elsewhere"},
            "target": {"port": 41000, "addresses": ["10.99.0.1/31"], "interface": "elsewhere"},
        },
    }
]
NOTHING_SAID = "did not confirm that it is deleted"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Two nodes with tunnels of our panel between them, one of each type, and one of another panel's."""
    world = make_world(a="bookworm+tunnels", b="bookworm+tunnels")
    assert world.lab is not None
    for name, kind in KINDS.items():
        world.tunnel(name, "a", "b", tunnel_type=kind)
    for role, node in (("source", "a"), ("target", "b")):
        ELSEWHERE[0]["config"][role]["endpoint"] = world.lab.hosts[node].address  # type: ignore[index]
    other = {
        "hosts": "marzban_nodes",
        "gather_facts": False,
        "roles": [
            {
                "role": "marzban.tunnels.wireguard",
                "vars": {"wireguard_tunnels": ELSEWHERE, "wireguard_list_name": "elsewhere"},
            }
        ],
    }
    world.play([other], inventory=world.static()).expect()
    world.apply(inventory=world.static()).expect()
    return world


@pytest.fixture
def faulty(world: World) -> Iterator[Faulty]:
    with Faulty.before(world.panel) as proxy:
        yield proxy


def picture(world: World) -> dict[str, str]:
    """All of a node that tunnels are made of, as one text: files, units, interfaces, addresses, peers, rules."""
    assert world.lab is not None
    script = """
        find /etc/marzban /etc/wireguard /etc/openvpn /etc/swanctl /etc/strongswan.d /etc/systemd/system \\
            -type f -exec stat -c '%n %a %U' {} + -exec sha256sum {} + | sort
        units="wg-quick@* openvpn-*@* marzban* strongswan.service"
        systemctl list-units --all --plain --no-legend $units | awk '{print $1, $3}'
        systemctl list-unit-files --no-legend $units | awk '{print $1, $2}'
        systemctl show --property=Id,ActiveEnterTimestampMonotonic 'wg-quick@*' 'openvpn-*@*' strongswan.service
        ip -o address show | awk '{print $2, $4}'
        wg show all allowed-ips
        wg show all persistent-keepalive
        swanctl --list-conns
        nft -s list ruleset
    """
    return {name: host.run(script).stdout for name, host in world.lab.hosts.items()}


def expect_all_to_pass(world: World) -> None:
    assert world.lab is not None
    world.expect_traffic(*((name, "a", "b") for name in KINDS))
    for host, address in (("a", "10.99.0.1"), ("b", "10.99.0.0")):
        until(f"elsewhere: {address} answers {host}", partial(answers, world.lab.hosts[host], address))


def answers(host: Host, address: str) -> bool:
    return host.run(["ping", "-n", "-q", "-c", "1", "-W", "1", address], check=False).returncode == 0


def through(faulty: Faulty | None, **more: str) -> dict[str, str]:
    """The environment of a run that asks the faulty panel."""
    return {"MARZBAN_RETRIES": "0", **({"MARZBAN_URL": faulty.url} if faulty else {}), **more}


# Faults


def changed(faulty: Faulty, change: Callable[[Answer, Request], None]) -> Rule:
    """The panel's own answer, changed on its way."""

    def rule(request: Request) -> Answer:
        passed = faulty.forward(request)
        change(passed, request)
        return passed

    return rule


def empty(passed: Answer, request: Request) -> None:
    passed.body = b"[]"


def short(passed: Answer, request: Request) -> None:
    passed.body = json.dumps(json.loads(passed.body)[1:]).encode()


def half(passed: Answer, request: Request) -> None:
    passed.body = passed.body[: len(passed.body) // 2]


def wrapped(passed: Answer, request: Request) -> None:
    passed.body = json.dumps({"tunnels": []}).encode()


def of_no_panel(passed: Answer, request: Request) -> None:
    passed.body = b"[]"
    passed.headers = {key: value for key, value in passed.headers.items() if key.lower() != "marzban-panel-id"}


def of_another_panel(passed: Answer, request: Request) -> None:
    of_no_panel(passed, request)
    passed.headers["Marzban-Panel-Id"] = "11111111-4b5a-4c6d-8e7f-0a1b2c3d4e5f"


def a_page_and_then(rest: Rule) -> Callable[[Faulty], Rule]:
    """The first page is full, and the second is not a page."""

    def make(faulty: Faulty) -> Rule:
        def page(request: Request) -> Answer:
            if request.query.get("skip", "0") != "0":
                return rest(request)
            passed = faulty.forward(request)
            tunnels = json.loads(passed.body)
            more = range(tunnels[-1]["id"] + 1, tunnels[-1]["id"] + 1 + int(request.query["limit"]) - len(tunnels))
            passed.body = json.dumps(tunnels + [{"id": number} for number in more]).encode()
            return passed

        return page

    return make


@dataclass
class Fault:
    """What the panel does to the list of tunnels, how the run ends, and what it says."""

    rule: Callable[[Faulty], Rule] | Callable[[Answer, Request], None]
    code: int
    says: tuple[str, ...]
    at: tuple[str, str] = ("GET", "/api/tunnels")
    by_change: bool = field(default=False)

    def begin(self, faulty: Faulty, skip: int = 0) -> None:
        rule = changed(faulty, self.rule) if self.by_change else self.rule(faulty)  # type: ignore[arg-type,call-arg]
        faulty.on(*self.at, rule, skip=skip)  # type: ignore[arg-type]


def always(rule: Rule) -> Callable[[Faulty], Rule]:
    return lambda faulty: rule


BROKEN = "look into the panel's log"
# one that fails a run, and one that looks like an answer; what the modules say to all of them is in test_panel_runs
ALWAYS = ("no tunnels API", "an empty list")
FAULTS = {
    "no tunnels API": Fault(
        always(NO_ROUTE), 2, ("Use a panel that has the tunnels API", "Nothing was removed anywhere")
    ),
    "no tunnels API, in HTML": Fault(
        always(HTML_404), 2, ("Use a panel that has the tunnels API", "Nothing was removed")
    ),
    "500": Fault(always(answer(500, "Internal Server Error", "text/plain")), 2, ("answered 500", BROKEN)),
    "a page, then 500": Fault(
        a_page_and_then(answer(500, "Internal Server Error", "text/plain")), 2, ("answered 500", BROKEN)
    ),
    "a page, then nothing": Fault(a_page_and_then(drop), 2, ("no answer", "Check url, and that the panel runs")),
    "half an answer": Fault(half, 2, ("JSON that can't be read", BROKEN), by_change=True),
    "no list": Fault(wrapped, 2, ("not a page of tunnels", BROKEN), by_change=True),
    "a web page": Fault(always(answer(200, "<html>", "text/html")), 2, ("not JSON", "Check that url is the panel's")),
    "a list of nobody's": Fault(of_no_panel, 2, ("without the header", BROKEN), by_change=True),
    "token refused": Fault(
        always(answer(401, {"detail": "Could not validate credentials"})), 2, ("Check username and password",)
    ),
    "no sudo admin": Fault(always(answer(403, {"detail": "You're not allowed"})), 2, ("Use a sudo admin",)),
    "login refused": Fault(
        always(answer(401, {"detail": "Incorrect username or password"})),
        2,
        ("Incorrect username or password", "Check username and password"),
        at=("POST", "/api/admin/token"),
    ),
    "an empty list": Fault(empty, 0, (f"one on a: {NOTHING_SAID}", f"two on b: {NOTHING_SAID}"), by_change=True),
    "one left out": Fault(short, 0, (f"one on a: {NOTHING_SAID}", f"one on b: {NOTHING_SAID}"), by_change=True),
    "an empty list of another panel": Fault(of_another_panel, 0, (), by_change=True),
}


def expect(run: Run, code: int, says: tuple[str, ...]) -> None:
    assert run.code == code, run.text
    # Older callbacks quote a message: what the modules said counts as well.
    said = [str(event["result"].get("msg", "")) for event in run.events]
    flat = " ".join(" ".join([run.text, *said]).split())
    for words in says:
        where, colon, what = words.partition(": ")
        if colon:  # "tunnel on node: what is said about it"
            assert any(where in line and what in line for line in run.text.splitlines()), run.text
        else:
            assert words in flat, run.text


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.variation) for name in FAULTS]
)
def test_nothing_is_removed(world: World, faulty: Faulty, fault: str) -> None:
    before = picture(world)
    FAULTS[fault].begin(faulty)
    run = world.apply(inventory=world.static(), env=through(faulty))
    expect(run, FAULTS[fault].code, FAULTS[fault].says)
    assert picture(world) == before
    assert not any(result["removed"] for result in run.results("tunnel_apply"))
    expect_all_to_pass(world)


@pytest.mark.variation
def test_nothing_is_removed_when_the_panel_is_down(world: World) -> None:
    before = picture(world)
    run = world.apply(inventory=world.static(), env=through(None, MARZBAN_URL="https://127.0.0.1:1"))
    expect(run, 2, ("connection refused", "Check url, and that the panel runs"))
    assert picture(world) == before


@pytest.mark.variation
@pytest.mark.parametrize("fault", ["no tunnels API", "an empty list"])
def test_nothing_is_removed_with_an_inventory_from_that_panel(world: World, faulty: Faulty, fault: str) -> None:
    before = picture(world)
    FAULTS[fault].begin(faulty)
    run = world.apply(env=through(faulty))
    expect(run, FAULTS[fault].code, FAULTS[fault].says)
    assert picture(world) == before
    expect_all_to_pass(world)


# A list that leaves "one" out, and a panel that is asked for it and doesn't say that it is gone
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        pytest.param(NO_ROUTE, "Use a panel that has the tunnels API", id="no route", marks=pytest.mark.variation),
        pytest.param(
            HTML_404, "Use a panel that has the tunnels API", id="no route, in HTML", marks=pytest.mark.variation
        ),
        pytest.param(
            answer(404, {"detail": "Tunnel not found"}), "Use a panel that has the tunnels API", id="somebody else"
        ),
        pytest.param(answer(500, "Internal Server Error", "text/plain"), BROKEN, id="500", marks=pytest.mark.variation),
        pytest.param(drop, "Check url, and that the panel runs", id="nothing", marks=pytest.mark.variation),
        pytest.param(
            answer(200, {}, Marzban_Panel_Id="11111111-4b5a-4c6d-8e7f-0a1b2c3d4e5f"),
            BROKEN,
            id="another panel",
            marks=pytest.mark.variation,
        ),
    ],
)
def test_only_the_panels_own_word_removes(world: World, faulty: Faulty, rule: Rule, says: str) -> None:
    before = picture(world)
    FAULTS["one left out"].begin(faulty)
    faulty.on("GET", OWN, rule)
    run = world.apply(inventory=world.static(), env=through(faulty))
    expect(run, 2, (says,))
    assert faulty.seen("GET", OWN), "the tunnel that is left out is asked for"
    assert picture(world) == before
    expect_all_to_pass(world)


def test_the_status_of_a_node_changes_nothing(world: World) -> None:
    before = picture(world)
    nodes = {node["name"]: node["id"] for node in world.api("GET", "/nodes")}
    world.api("PUT", f"/node/{nodes['a']}", json={"status": "disabled"})
    with sqlite3.connect(world.panel.database) as database:
        database.execute("UPDATE nodes SET status = 'error', message = 'Connection refused' WHERE name = 'b'")
    database.close()
    assert {node["status"] for node in world.api("GET", "/nodes")} == {"disabled", "error"}
    run = world.apply().expect()
    assert set(run.results("tunnel_round")[0]["views"]) == {"a", "b"}
    assert not run.changed()
    assert picture(world) == before
    expect_all_to_pass(world)


@pytest.mark.parametrize(
    ("fault", "good"),
    [
        ("an empty list", 1),
        *(
            pytest.param(fault, good, marks=pytest.mark.variation)
            for fault, good in (("one left out", 2), ("an empty list", 2), ("500", 2), ("no tunnels API", 1))
        ),
    ],
)
def test_nothing_is_removed_in_the_middle_of_a_run(world: World, faulty: Faulty, fault: str, good: int) -> None:
    """The first lists are right: the one at the beginning (1), and the one that keys are published with (2)."""
    new = world.tunnel("new", "a", "b")
    FAULTS[fault].begin(faulty, skip=good)
    run = world.apply(inventory=world.static(), env=through(faulty))
    expect(run, FAULTS[fault].code, FAULTS[fault].says)
    assert faulty.seen("GET", "/api/tunnels") > good
    # What an earlier of these tests has begun and deleted may go meanwhile, and nothing else.
    removed = [item for answered in run.results("tunnel_apply") for item in answered["removed"]]
    assert {item["name"] for item in removed} <= {"new"}
    assert new["uuid"] not in {item["uuid"] for item in removed}
    expect_all_to_pass(world)
    world.api("DELETE", f"/tunnels/{new['id']}")


def test_deleted_tunnels_are_removed_from_both_nodes(world: World) -> None:
    """The twin of all the others, and the last one: what the panel has really deleted goes, and only that."""
    assert world.lab is not None
    deleted = {name: world.tunnels()[name] for name in ("two", "three")}
    for tunnel in deleted.values():
        world.api("DELETE", f"/tunnels/{tunnel['id']}")
    run = world.apply(inventory=world.static()).expect()
    for name, host in world.lab.hosts.items():
        removed = [item for answered in run.results("tunnel_apply", name) for item in answered["removed"]]
        assert {item["name"] for item in removed} - {"new"} == set(deleted)
        left = host.run(
            "ls /etc/marzban/tunnels /etc/openvpn/* /etc/swanctl/*; swanctl --list-conns; ls /sys/class/net;"
            " nft list tables"
        ).stdout
        for tunnel in deleted.values():
            interface = next(end["interface"] for end in tunnel["ends"] if end["node"] == name)
            assert tunnel["uuid"] not in left
            assert interface not in left
    world.expect_traffic(("one", "a", "b"))
    for name, address in (("a", "10.99.0.1"), ("b", "10.99.0.0")):
        world.lab.hosts[name].run(["ping", "-n", "-q", "-c", "1", "-W", "5", address])
