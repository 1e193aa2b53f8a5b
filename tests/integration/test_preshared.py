# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""WireGuard's pre-shared keys: made at one end, handed over sealed, switched on by both, and never shown."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.world import Pings, World, until

pytestmark = pytest.mark.lab
BOTH = (("one", "a", "b"), ("one", "b", "a"))


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(login=False, a="bookworm+tunnels", b="trixie+tunnels")
    world.tunnel("one", "a", "b")
    return world


def held(world: World, host: str, name: str = "one") -> str:
    """The pre-shared key in a host's folder of a tunnel."""
    uuid = world.tunnels()[name]["uuid"]
    done = world.lab.host(host).run(f"cat /etc/marzban/tunnels/{uuid}/preshared.key", check=False)
    return done.stdout.strip()


def used(world: World, host: str, name: str = "one") -> str:
    """The pre-shared key that the interface uses, or (none)."""
    end = next(end for end in world.tunnels()[name]["ends"] if end["node"] == host)
    return world.lab.host(host).run(["wg", "show", end["interface"], "preshared-keys"]).stdout.split()[1]


def sealed(world: World, host: str) -> str:
    uuid = world.tunnels()["one"]["uuid"]
    return world.lab.host(host).run(f"cat /etc/marzban/tunnels/{uuid}/preshared.sealed", check=False).stdout


def bring_up(world: World, name: str) -> None:
    """Both ends hold the key, and use it. A run only where a test comes alone."""
    if "off" in world.tunnels()[name]["config"]:
        world.change(name, config={})
    if not held(world, "b", name) or held(world, "a", name) != held(world, "b", name):
        world.apply().expect()


def test_one_end_alone_uses_none_and_both_switch_in_one_run_under_traffic(world: World) -> None:
    world.apply("--limit", "b").expect()  # so that a knows b's key
    run = world.apply("--limit", "a", "-vvv").expect()
    assert "pre-shared key made" in run.changes("a")["one"]
    assert held(world, "a")
    assert used(world, "a") == "(none)"
    assert held(world, "b") == ""
    ciphertext = json.loads(sealed(world, "a"))["sealed"]
    assert ciphertext not in run.text
    assert run.changed("a"), "the first run"
    assert world.apply("--limit", "a").expect().changes("a") == {}, "what waits for the peer is not a change"

    world.apply("--limit", "b").expect()
    world.expect_traffic(("one", "a", "b"))
    before = held(world, "a")
    pings = Pings(world.lab.host("a"), world.addresses("one", "b")[0], interval=0.01).start()
    run = world.apply("-vvv", "--diff").expect()
    assert pings.stop() == set()
    assert "pre-shared key taken" in run.changes("b")["one"]
    for host in "ab":
        assert "pre-shared key switched on" in run.changes(host)["one"]
        assert held(world, host) == used(world, host) == before
        assert before not in run.text


def test_what_was_negotiated_is_told_and_only_after_a_handshake(world: World) -> None:
    bring_up(world, "one")
    a, b = world.lab.host("a"), world.lab.host("b")
    name = world.tunnels()["one"]["ends"][0]["interface"]
    for host in (a, b):
        host.run(["systemctl", "restart", f"wg-quick@{name}"])  # also: it is loaded at a start, as at a boot
    world.expect_traffic(("one", "a", "b"))

    def negotiated() -> bool:
        answers = world.play("status").expect().results("tunnel_health")
        found = [tunnel["measured"] for answer in answers for tunnel in answer["tunnels"]]
        return all(item["post_quantum"] and item["key_exchange"] == "X25519 and pre-shared key" for item in found)

    until("both ends report a handshake with the key", negotiated)
    ends = world.tunnels()["one"]["ends"]
    assert [end["measured"]["post_quantum"] for end in ends] == [True, True]
    assert {end["measured"]["data_path"] for end in ends} == {"userspace"}


def test_a_replaced_host_gets_a_new_one_and_traffic_goes_on(world: World) -> None:
    bring_up(world, "one")
    before = held(world, "b")
    world.lab.host("b").replace()
    world.apply().expect()
    world.expect_traffic(("one", "a", "b"))
    assert held(world, "a") == held(world, "b") == used(world, "a") == used(world, "b") != before


@pytest.mark.variation
def test_off_takes_it_away_and_require_brings_it_at_once(world: World) -> None:
    bring_up(world, "one")
    world.change("one", config={"post_quantum": "off"})
    world.apply().expect()
    for host in "ab":
        assert (held(world, host), used(world, host)) == ("", "(none)")
    assert all("psk_fingerprint" not in end["public"] for end in world.tunnels()["one"]["ends"])
    world.expect_traffic(("one", "a", "b"))
    world.tunnel("two", "b", "a", {"post_quantum": "require"})
    run = world.apply("--limit", "b")
    assert run.code == 0, "it only waits for the other end's key"
    run = world.apply().expect()
    assert len(run.results("tunnel_apply", "a")) == 3, (
        "keys, tunnels, the pre-shared key: with new keys nothing is lost"
    )
    world.expect_traffic(("two", "a", "b"))
    assert used(world, "a", "two") == used(world, "b", "two") != "(none)"
    again = world.apply("--diff").expect()
    assert again.changed() == [], again.text


@pytest.mark.variation
def test_required_and_not_held_is_an_error_that_names_the_peer(world: World) -> None:
    """A run that reaches one end only leaves what runs as it is, and a new key of the peer's can't be handed over."""
    if "two" not in world.tunnels():
        world.tunnel("two", "b", "a", {"post_quantum": "require"})
    bring_up(world, "two")
    world.lab.host("b").replace()
    world.apply("--limit", "b").expect(2)
    run = world.apply("--limit", "a").expect(2)
    (error,) = [tunnel["error"] for tunnel in run.results("tunnel_apply", "a")[-1]["tunnels"] if tunnel["refused"]]
    assert error.startswith("tunnel two on a: post_quantum: 'require' can't be used. b does not use")
    assert "run apply with both nodes" in error
    world.apply().expect()
    world.expect_traffic(("two", "a", "b"), ("one", "a", "b"))
