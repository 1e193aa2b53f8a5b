# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role wireguard by itself: from a list written by hand, without any panel, and from a panel's records."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.world import Run, World, until

pytestmark = [pytest.mark.lab, pytest.mark.variation]  # molecule shows the same role on other hosts


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Two bare hosts."""
    return make_world(a="bookworm", b="trixie")


class ByHand:
    """The role with a list, and a panel that would be noticed if it were asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.inventory = world.static()

    def tunnel(self, number: int, **fields: Any) -> dict[str, Any]:
        ends = {
            role: {
                "endpoint": self.world.lab.hosts[host].address,
                "port": 20000 + number,
                "addresses": [f"10.9.{number}.{last}/31", f"fd09::{number}:{last}/127"],
            }
            for role, host, last in (("source", "a", 0), ("target", "b", 1))
        }
        return {"name": f"t{number}", "id": number, "source": "a", "target": "b", "config": ends, **fields}

    def run(self, tunnels: list[dict[str, Any]] | None, *words: str, **variables: Any) -> Run:
        given = {} if tunnels is None else {"wireguard_tunnels": tunnels}
        role = {"role": "marzban.tunnels.wireguard", **given, **variables}
        play = {"name": "By hand", "hosts": "marzban_nodes", "become": True, "gather_facts": False, "roles": [role]}
        before = len(self.world.panel.log_lines())
        nowhere = {"MARZBAN_URL": "https://127.0.0.1:1"}
        done = self.world.play([play], *words, inventory=self.inventory, env=nowhere)
        assert len(self.world.panel.log_lines()) == before
        return done

    def bring_about(self, *tunnels: dict[str, Any]) -> list[dict[str, Any]]:
        """The active ones of these carry packets. A run only where a test comes alone."""
        active = [tunnel["id"] for tunnel in tunnels if tunnel.get("active", True)]
        if not all(map(self.passes, active)):
            self.run(list(tunnels)).expect()
            until("packets", lambda: all(map(self.passes, active)))
        return list(tunnels)

    def passes(self, number: int) -> bool:
        return all(self.answered(host, address) for host, address in self.pairs(number))

    def silent(self, number: int) -> bool:
        return not any(self.answered(host, address) for host, address in self.pairs(number))

    def pairs(self, number: int) -> list[tuple[str, str]]:
        addresses = self.tunnel(number)["config"]
        return [
            (host, address.split("/")[0])
            for host, role in (("a", "target"), ("b", "source"))
            for address in addresses[role]["addresses"]
        ]

    def answered(self, host: str, address: str) -> bool:
        ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
        return self.world.lab.host(host).run(ping, check=False).returncode == 0


@pytest.fixture(scope="module")
def by_hand(world: World) -> ByHand:
    return ByHand(world)


def interfaces(world: World, host: str) -> list[str]:
    links = json.loads(world.lab.host(host).run("ip -j link").stdout)
    return sorted(link["ifname"] for link in links if link["ifname"].startswith("mz"))


def test_the_quartet_by_hand_on_bare_hosts(world: World, by_hand: ByHand) -> None:
    tunnels = [by_hand.tunnel(1), by_hand.tunnel(2)]
    predicted = by_hand.run(tunnels, "--check", "--diff").expect()
    for name in "ab":
        assert "Make the node match its view" in predicted.changed(name)
        assert "Say which packages would be installed" in predicted.changed(name)
        assert world.lab.host(name).run("ls /etc/marzban /etc/wireguard; command -v wg", check=False).stdout == ""

    done = by_hand.run(tunnels, "--diff").expect()
    assert "Install packages" in done.changed("a")
    assert "Install packages" in done.changed("b")
    until("both tunnels carry packets", lambda: by_hand.passes(1) and by_hand.passes(2))

    assert by_hand.run(tunnels, "--check", "--diff").expect().changed() == []
    assert by_hand.run(tunnels, "--diff").expect().changed() == []


def test_a_peer_that_is_not_in_the_run(by_hand: ByHand) -> None:
    """It keeps the key that was last applied for it."""
    tunnels = by_hand.bring_about(by_hand.tunnel(1), by_hand.tunnel(2))
    assert by_hand.run(tunnels, "--limit", "a", "--diff").expect().changed() == []
    assert by_hand.passes(1)
    changed = copy.deepcopy(tunnels)
    changed[0]["config"]["mtu"] = 1380
    run = by_hand.run(changed, "--limit", "b", "--diff").expect()
    assert list(run.changes("b")) == ["t1"]
    assert by_hand.passes(1)
    assert by_hand.passes(2)
    # A third tunnel, whose other end has never been seen, waits for it.
    waiting = by_hand.run([*changed, by_hand.tunnel(3)], "--limit", "a", "--diff").expect()
    assert "waiting for b" in waiting.text
    assert by_hand.silent(3)
    assert by_hand.passes(1)


def test_a_tunnel_that_carries_nothing(world: World, by_hand: ByHand) -> None:
    """Both ends are up and a port between them is blocked: too new for an error, and not what the role promises."""
    by_hand.bring_about(by_hand.tunnel(1), by_hand.tunnel(2))
    a, b = world.lab.host("a"), world.lab.host("b")
    a.run(
        "nft add table inet blocked; nft 'add chain inet blocked in { type filter hook input priority 0; }';"
        " nft add rule inet blocked in udp dport '{20003, 20004}' drop"
    )
    tunnels = [by_hand.tunnel(number) for number in (1, 2, 3, 4)]
    run = by_hand.run(tunnels, "--diff", wireguard_wait=1).expect(2)
    a.run("nft delete table inet blocked")
    for here, there in ((a, b), (b, a)):
        assert run.of(here.name, ["failed"])[0]["result"]["msg"].splitlines() == [
            f"tunnel t{n} on {here.name}: both ends were applied, and within 1 s no ping to {there.name} came back"
            f" through mz{n}: is UDP 2000{n} open at {there.address} ({there.name}),"
            f" and is UDP 2000{n} open at {here.address} ({here.name})?"
            for n in (3, 4)
        ]
    assert by_hand.passes(1)
    until("the third carries packets", lambda: by_hand.passes(3))


def test_what_leaves_the_list_leaves_the_hosts(world: World, by_hand: ByHand) -> None:
    by_hand.bring_about(*(by_hand.tunnel(number) for number in (1, 2, 3, 4)))
    rest = [by_hand.tunnel(2), by_hand.tunnel(3, active=False)]
    predicted = by_hand.run(rest, "--check", "--diff").expect()
    going = {item["name"] for answer in predicted.results("tunnel_apply", "a") for item in answer["removed"]}
    assert going == {"t1", "t4"}
    assert interfaces(world, "a") == ["mz1", "mz2", "mz3", "mz4"]
    done = by_hand.run(rest, "--diff").expect()
    for name in "ab":
        removed = {item["name"] for answer in done.results("tunnel_apply", name) for item in answer["removed"]}
        assert removed == {"t1", "t4"}
        assert interfaces(world, name) == ["mz2"]
    assert by_hand.passes(2)
    assert by_hand.silent(3)


def test_an_empty_list_and_a_list_of_another_name_remove_nothing(world: World, by_hand: ByHand) -> None:
    by_hand.bring_about(by_hand.tunnel(2))
    assert by_hand.run([], "--diff").expect().changed() == []
    other = [by_hand.tunnel(7)]
    by_hand.run(other, "--diff", wireguard_list_name="other").expect()
    until("the other list's tunnel carries packets", lambda: by_hand.passes(7))
    assert by_hand.passes(2)
    by_hand.run(None, "--diff", wireguard_tunnels=[], wireguard_list_name="other", wireguard_state="absent").expect()
    assert interfaces(world, "a") == interfaces(world, "b") == ["mz2"]
    assert by_hand.passes(2)


def test_absent_by_hand(world: World, by_hand: ByHand) -> None:
    by_hand.bring_about(by_hand.tunnel(2), by_hand.tunnel(3))
    tunnels = [by_hand.tunnel(2)]
    predicted = by_hand.run(tunnels, "--check", "--diff", wireguard_state="absent").expect()
    assert predicted.changed("a")
    assert by_hand.passes(2)
    done = by_hand.run(tunnels, "--diff", wireguard_state="absent", wireguard_remove_packages=True).expect()
    for name in "ab":
        assert {result["name"] for result in done.results("tunnel_apply", name)[-1]["removed"]} == {"t2", "t3"}
        host = world.lab.host(name)
        left = "ls -d /etc/marzban; ls -A /etc/wireguard; nft list tables | grep marzban; command -v wg"
        assert host.run(left, check=False).stdout == ""
        assert interfaces(world, name) == []
    for words in (["--check"], []):
        again = by_hand.run(tunnels, "--diff", *words, wireguard_state="absent", wireguard_remove_packages=True)
        assert again.expect().changed() == []


def test_the_quartet_from_a_panel(world: World) -> None:
    """Also from bare hosts."""
    world.tunnel("a-b", "a", "b")

    def run(*words: str, **variables: Any) -> Run:
        role = {"role": "marzban.tunnels.wireguard", **variables}
        return world.play([{"hosts": "marzban_nodes", "become": True, "gather_facts": False, "roles": [role]}], *words)

    before = len(world.panel.writes())
    predicted = run("--check", "--diff").expect()
    assert predicted.changed("a")
    assert len(world.panel.writes()) == before, "check mode wrote to the panel"
    assert interfaces(world, "a") == []
    run("--diff").expect()
    world.expect_traffic(("a-b", "a", "b"))
    before = len(world.panel.writes())
    assert run("--check", "--diff").expect().changed() == []
    assert len(world.panel.writes()) == before, "check mode wrote to the panel"
    assert run("--diff").expect().changed() == []

    # The record stays, and so would anything that is not a tunnel of this panel.
    run("--diff", wireguard_state="absent").expect()
    assert interfaces(world, "a") == interfaces(world, "b") == []
    assert sorted(world.tunnels()) == ["a-b"]
    assert run("--diff", wireguard_state="absent").expect().changed() == []
