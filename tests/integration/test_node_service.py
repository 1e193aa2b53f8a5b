# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two nodes and a panel, and no run after the one that gives them the service: what the panel says, the nodes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from tests.support.service_hosts import MANAGED, access_key, ask, nodes, with_service
from tests.support.world import World, unanswered, until

pytestmark = pytest.mark.lab
TYPES = ("wireguard", "openvpn", "ipsec")
SOON, RETURN = 5, 30  # seconds: for a change; for one that waits for a node that was away
BUSY = 3  # times as long it may take here, where other tests share the machine; a quiet one keeps to the seconds


class Timed:
    """How long the things took that are promised within a time."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    def until(self, what: str, begun: float, holds: Callable[[], object]) -> None:
        until(what, holds, 60)
        self.took[what] = round(time.monotonic() - begun, 2)

    def within(self, seconds: float) -> None:
        print(self.took)
        assert max(self.took.values()) < seconds * BUSY, self.took


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return with_service(make_world(login=False, env=MANAGED, a="bookworm+tunnels", b="trixie+tunnels"))


def folders(world: World, host: str) -> list[str]:
    return world.lab.host(host).run("ls /etc/marzban/tunnels 2>/dev/null || true").stdout.split()


def status(world: World, name: str) -> str:
    return str(world.tunnels()[name]["status"])


def is_active(world: World, name: str) -> bool:
    return status(world, name) == "active"


def now() -> datetime:
    """As the panel tells moments."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def history(world: World, name: str) -> list[tuple[datetime, str]]:
    """When the tunnel had which status from then on."""
    changes = world.api("GET", f"/tunnels/{world.tunnels()[name]['id']}/history")["changes"]
    return [(datetime.fromisoformat(change["at"]), change["status"]) for change in changes]


def is_active_by_its_history(world: World, name: str) -> bool:
    return history(world, name)[-1][1] == "active"


def is_measured(world: World, name: str) -> bool:
    """Whether both services have measured the tunnel since it was changed, and lately."""
    return [(end["by"], end["stale"]) for end in world.tunnels()[name]["ends"]] == [("service", False)] * 2


def is_listened_to(world: World, host: str) -> bool:
    """Whether a call waits for news there: a connection of the front to the root half that lasts."""
    count = "ss -Hx state connected | grep -c /run/marzban-node/root.sock || true"
    return all(world.lab.host(host).run(count).stdout.strip() != "0" for _look in range(3))


def test_what_the_panel_says_is_done_within_seconds(world: World) -> None:
    timed, away = Timed(), Timed()
    for kind in TYPES:
        name = f"ab-{kind}"
        begun = time.monotonic()
        record = world.tunnel(name, "a", "b", tunnel_type=kind)
        timed.until(f"packets pass: {kind}", begun, partial(world.passes, name, "a", "b"))
        until(f"active: {kind}", partial(is_active, world, name))
        until(f"both services have measured it: {kind}", partial(is_measured, world, name))

        begun = time.monotonic()
        world.api("POST", f"/tunnels/{record['id']}/deactivate")
        timed.until(f"nothing passes: {kind}", begun, partial(world.silent, name, "a", "b"))
        begun = time.monotonic()
        world.api("POST", f"/tunnels/{record['id']}/activate")
        timed.until(f"packets pass again: {kind}", begun, partial(world.passes, name, "a", "b"))
    world.lab.host("b").stop()
    for kind in TYPES:
        world.api("DELETE", f"/tunnels/{world.tunnels()[f'ab-{kind}']['id']}")
    begun = time.monotonic()
    away.until("gone from the node that is there", begun, lambda: not folders(world, "a"))
    until("the other one is told to be away", lambda: nodes(world)["b"]["state"] == "problem")
    assert len(nodes(world)["b"]["deletions"]) == 3
    world.lab.host("b").start()
    begun = time.monotonic()
    away.until("gone from the node that was away", begun, lambda: not folders(world, "b"))
    until("nothing is left to delete", lambda: not nodes(world)["b"]["deletions"])
    timed.within(SOON)
    away.within(RETURN)


def test_what_waits_for_a_run(world: World) -> None:
    """A pre-shared key: both ends have to agree on it, which the panel can't see to without seeing the key."""
    world.tunnel("auto", "a", "b")
    world.tunnel("require", "a", "b", config={"post_quantum": "require"})
    until("traffic without it", lambda: world.passes("auto", "a", "b"))
    until("active", lambda: status(world, "auto") == "active")
    # One end that works is enough for "active": what the other one has said before may be there for a moment.
    until("it says so", lambda: "without the pre-shared key" in (world.tunnels()["auto"]["ends"][0]["error"] or ""))
    until("what requires it says so", lambda: "run apply with both nodes" in why(world, "require"))
    assert status(world, "require") == "error"
    world.apply().expect()
    for name in ("auto", "require"):
        until(f"{name} is active", partial(is_active, world, name))
        held = [end["public"].get("psk_fingerprint") for end in world.tunnels()[name]["ends"]]
        assert held[0] is not None
        assert held[0] == held[1]
    for host in "ab":
        used = world.lab.host(host).run("wg show all preshared-keys").stdout
        assert used.count("\n") == 2
        assert "(none)" not in used, "it is agreed on, and not used"
    until("nothing is left to say", lambda: not why(world, "auto") + why(world, "require"))
    again = world.apply().expect()
    assert again.changed() == [], "the service had undone what a run had done"


def test_a_panel_that_is_down_is_not_missed(world: World) -> None:
    """The nodes go on, and repair what needs no panel."""
    world.bring_about(("kept", "a", "b"))
    until("active", partial(is_active, world, "kept"))
    a, record = world.lab.host("a"), world.tunnels()["kept"]
    interface, there = record["ends"][0]["interface"], world.addresses("kept", "b")
    number = f"cat /sys/class/net/{interface}/ifindex"
    before = a.run(number).stdout
    world.panel.stop()
    a.run(f"nft delete table inet marzban-{record['uuid']}; ip link delete {interface}")
    until("another interface is there", lambda: a.run(number, check=False).stdout not in ("", before))
    until("packets pass again", lambda: not unanswered(a, there))
    look = ["nft", "list", "table", "inet", f"marzban-{record['uuid']}"]
    until("the rules are back", lambda: a.run(look, check=False).returncode == 0)
    world.panel.restart()
    until("the panel sees it again", partial(is_active, world, "kept"))

    # A call that waits for news does not hold up a service's end, and the panel listens again.
    timed = Timed()
    for unit in ("marzban-node-root", "marzban-node-front"):
        until("the panel listens", partial(is_listened_to, world, "a"))
        begun = time.monotonic()
        a.run(f"systemctl restart {unit}")
        timed.until(f"{unit} is there again", begun, lambda: True)
    timed.within(2)
    until("the panel listens again", partial(is_listened_to, world, "a"))


def test_the_key_of_one_node_is_of_no_use_on_another(world: World) -> None:
    keys = {name: access_key(world, name) for name in "ab"}
    for name, key in keys.items():
        for shown_to in "ab":
            status, told = ask(world.lab.host(shown_to), "/api/tunnels", key)
            assert (status, told.get("code")) == ((200, None) if shown_to == name else (403, "key_wrong"))


@pytest.mark.variation  # with simulated nodes, and on hosts without a panel, in other files
def test_a_node_that_was_set_up_again(world: World) -> None:
    """Its certificate and its keys are new: neither is taken by itself."""
    names = ("auto", "openvpn", "ipsec")
    world.bring_about(*((name, "a", "b") for name in names))
    before = {name: world.tunnels()[name]["ends"][1]["public"]["public_key"] for name in names}
    world.lab.host("b").replace()
    until("it is told to be away", lambda: nodes(world)["b"]["problem"])
    world.play("node_api", "--limit", "b").expect()
    until("its new keys are shown", lambda: len(nodes(world)["b"]["changed_keys"]) == len(names))
    ends = {name: world.tunnels()[name]["ends"][1] for name in names}
    for name, known in before.items():
        end = ends[name]
        assert end["public"]["public_key"] == end["changed_key"]["known"] == known
        assert end["changed_key"]["seen"] != known
        assert not world.passes(name, "a", "b")
    timed = Timed()
    for name in names:
        key = {"public_key": ends[name]["changed_key"]["seen"]}
        if name == "openvpn":
            key = {"fingerprint": ends[name]["changed_key"]["seen_fingerprint"]}
        begun = time.monotonic()
        body = {"tunnel_id": world.tunnels()[name]["id"], **key}
        world.api("POST", f"/tunnels/nodes/{nodes(world)['b']['node_id']}/confirm", json=body)
        timed.until(f"{name}, once an admin has said so", begun, partial(world.passes, name, "a", "b"))
    for name in names:
        until(f"{name} is active", partial(is_active, world, name))
    timed.within(RETURN)


@pytest.mark.variation  # with simulated nodes, and on hosts without a panel, in other files
def test_no_tunnel_of_a_node_that_is_cut_off_is_active_half_a_minute_later(world: World) -> None:
    """Neither its peer nor the panel reaches it. The list is read as the page reads it: by its tag. Afterwards the
    history has the moments at which it was cut off and was there again."""
    names = [f"cut-{kind}" for kind in TYPES]
    for name, kind in zip(names, TYPES, strict=True):
        world.tunnel(name, "a", "b", tunnel_type=kind)
    for name in names:
        until(f"active: {name}", partial(is_active, world, name))
    records: dict[str, Any] = {}
    tag = ""

    def seen() -> set[str]:
        nonlocal records, tag
        headers = {"If-None-Match": tag} if tag else {}
        answer = world.session.get(f"{world.panel.url}/api/tunnels", headers=headers, timeout=30)
        if answer.status_code == 200:
            records, tag = {record["name"]: record for record in answer.json()}, answer.headers["ETag"]
        alone = [world.api("GET", f"/tunnels/{records[name]['id']}")["status"] for name in names]
        return {*alone, *(records[name]["status"] for name in names)}

    assert seen() == {"active"}
    cut = now()
    world.lab.host("b").cut()
    begun = time.monotonic()
    try:
        until("none is active", lambda: "active" not in seen(), 60)
        took = time.monotonic() - begun
        print(f"seconds until none was active: {took:.1f}")
        assert took < 25 + BUSY, "the page needs 5 more"
        for name in names:
            assert world.api("GET", f"/tunnels/{records[name]['id']}/status")["status"] != "active"
    finally:
        repaired = now()
        world.lab.host("b").repair()
    for name in names:
        until(f"active again: {name}", partial(is_active, world, name))
        until(f"that is written: {name}", partial(is_active_by_its_history, world, name))
        *broken, back = (change for change in history(world, name) if change[0] >= cut)
        print(f"{name}: cut off {cut}, told {broken}, there again {repaired}, told {back}")
        assert (broken[0][0] - cut).total_seconds() < 25 + BUSY
        assert back[0] >= repaired
        assert "active" not in [state for at, state in broken if at < repaired]


@pytest.mark.variation  # with simulated nodes, and on hosts without a panel, in other files
def test_a_certificate_that_is_lost_alone(world: World) -> None:
    """The key stays, and the node makes another certificate: the other one takes it when an admin says so."""
    name = "lost-openvpn"
    number = world.tunnel(name, "a", "b", tunnel_type="openvpn")["id"]
    until("traffic", partial(world.passes, name, "a", "b"))
    world.api("POST", f"/tunnels/{number}/deactivate")
    until("nothing passes", partial(world.silent, name, "a", "b"))
    world.lab.host("b").run(f"rm /etc/marzban/tunnels/{world.tunnels()[name]['uuid']}/tls.pem")
    world.api("POST", f"/tunnels/{number}/activate")
    changed = until("its new half is shown", lambda: nodes(world)["b"]["changed_keys"])[0]
    assert changed["known"] == changed["seen"]
    assert changed["known_fingerprint"] != changed["seen_fingerprint"]
    assert not world.passes(name, "a", "b")
    body = {"tunnel_id": number, "fingerprint": changed["seen_fingerprint"]}
    world.api("POST", f"/tunnels/nodes/{nodes(world)['b']['node_id']}/confirm", json=body)
    until("traffic, once an admin has said so", partial(world.passes, name, "a", "b"))
    until("it is active", partial(is_active, world, name))


def why(world: World, name: str) -> str:
    return " ".join(end["error"] for end in world.tunnels()[name]["ends"] if end["error"])
