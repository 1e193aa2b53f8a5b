# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Things that meet in one run: two lists, batches, a refused tunnel beside a new one, a tunnel that changes type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import TYPES, Run, World

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(login=False, a="bookworm+tunnels", b="trixie+tunnels")
    world.tunnel("one", "a", "b")
    return world


@pytest.fixture
def joined(world: World) -> None:
    world.bring_about(("one", "a", "b"))


def play(**more: Any) -> dict[str, Any]:
    return {"name": "Combined", "hosts": "marzban_nodes", "become": True, "gather_facts": False, **more}


@contextlib.contextmanager
def held_up(world: World, tunnel: str) -> Iterator[None]:
    """The tunnel gets no packet through, so that a run is sure to wait for one if it waits at all."""
    a = world.lab.host("a")
    (port,) = (end["port"] for end in world.tunnels()[tunnel]["ends"] if end["node"] == "a")
    a.run("nft add table inet held; nft 'add chain inet held in { type filter hook input priority 0; }'")
    a.run(f"nft add rule inet held in udp dport {port} drop")
    try:
        yield
    finally:
        a.run("nft delete table inet held")


def test_batches_of_one_host(world: World) -> None:
    """The first host of a new tunnel waits for the second, which comes in a later batch; one more pass joins them."""
    once = play(serial=1, roles=["marzban.tunnels.tunnels"], vars={"tunnels_wait": 1})
    with held_up(world, "one"):
        run = world.play([once, once]).expect()
    assert "waiting for b" in run.text
    for host in "ab":
        # In the first pass nobody waits for traffic: the other end can't know the key. In the second one it can.
        did = [event["action"].rpartition(".")[2] for event in run.of(host) if not event["run_once"]]
        did = [action for action in did if action.startswith("tunnel_")]
        assert did == ["tunnel_apply"] * 4 + ["tunnel_health"], host
    # The first end has made a pre-shared key and the second has taken it: no batch held both, so neither uses it.
    name = world.tunnels()["one"]["ends"][0]["interface"]
    for host in "ab":
        assert world.lab.host(host).run(["wg", "show", name, "preshared-keys"]).stdout.split()[1] == "(none)"
    world.expect_traffic(("one", "a", "b"))


def by_hand(world: World, name: str, number: int) -> dict[str, Any]:
    def end(host: str, last: int) -> dict[str, Any]:
        address = world.lab.host(host).address
        return {"endpoint": address, "port": 21000 + number, "addresses": [f"10.99.{number}.{last}/31"]}

    return {
        "name": name,
        "id": number,
        "source": "a",
        "target": "b",
        "config": {
            "source": {**end("a", 0), "interface": f"hand{number}"},
            "target": {**end("b", 1), "interface": f"hand{number}"},
        },
    }


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_two_lists_in_one_play(world: World) -> None:
    """Each pass of the role acts on its own records, and leaves the other's tunnels and the panel's alone."""

    def role(name: str, number: int) -> dict[str, Any]:
        return {
            "name": f"List {name}",
            "ansible.builtin.include_role": {"name": "marzban.tunnels.wireguard"},
            "vars": {"wireguard_list_name": name, "wireguard_tunnels": [by_hand(world, f"by {name}", number)]},
        }

    plays = [play(tasks=[role("home", 1), role("work", 2)])]
    world.play(plays).expect()
    for number in (1, 2):
        world.lab.host("a").run(["ping", "-n", "-q", "-c", "1", "-W", "2", f"10.99.{number}.1"])
        world.lab.host("b").run(["ping", "-n", "-q", "-c", "1", "-W", "2", f"10.99.{number}.0"])
    assert world.play(plays).expect().changed() == []
    world.expect_traffic(("one", "a", "b"))


def otherwise(world: World) -> Path:
    """An inventory whose hosts are not called as their nodes are."""
    path = world.directory / "otherwise.marzban.yml"
    path.write_text("plugin: marzban.tunnels.nodes\nhostname: host-{{ marzban_node.name }}\n")
    return path


def waited_for(run: Run, host: str) -> list[set[str]]:
    """The tunnels whose traffic was waited for on this host, for each time."""
    return [{tunnel["name"] for tunnel in answer["tunnels"]} for answer in run.results("tunnel_health", host)]


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_a_refused_tunnel_beside_a_new_one(world: World) -> None:
    """What was refused stays refused in the report and in the exit code, also when the run waits for another tunnel."""
    world.lab.host("a").run("ip link add taken type bridge")
    world.tunnel("refused", "a", "b", {"source": {"interface": "taken"}})
    world.tunnel("new", "a", "b")
    with held_up(world, "new"):
        run = world.apply("-e", "tunnels_wait=1", inventory=otherwise(world)).expect(2)
    assert "was not made by marzban.tunnels" in run.text
    assert "was not applied on this host yet" not in run.text
    for host in ("host-a", "host-b"):
        assert waited_for(run, host) == [{"new"}], (
            "it waits for the new one, and not for the one that the other end refused"
        )
    world.expect_traffic(("one", "a", "b"), ("new", "a", "b"))
    number = world.tunnels()["refused"]["id"]
    world.api("DELETE", f"/tunnels/{number}")
    world.lab.host("a").run("ip link delete taken")
    world.apply().expect()


@pytest.mark.variation
@pytest.mark.parametrize("after", [("openvpn", "ipsec", "wireguard"), ("ipsec", "wireguard", "openvpn")], ids="-".join)
def test_tunnels_that_change_their_types(world: World, after: tuple[str, ...]) -> None:
    """Each is taken down as what it was, and set up as what it is."""
    for before in TYPES:
        world.tunnel(f"was-{before}", "a", "b", tunnel_type=before)
    world.apply().expect()
    world.expect_traffic(*((f"was-{before}", "a", "b") for before in TYPES))
    for before, kind in zip(TYPES, after, strict=True):
        world.change(f"was-{before}", tunnel_type=kind)
    run = world.apply("--diff").expect()
    for host in "ab":
        for before in TYPES:
            assert run.changes(host)[f"was-{before}"][0] == f"{before} taken down"
    world.expect_traffic(*((f"was-{before}", "a", "b") for before in TYPES), ("one", "a", "b"))
    assert world.apply().expect().changed() == []
    for before in TYPES:
        world.api("DELETE", f"/tunnels/{world.tunnels()[f'was-{before}']['id']}")
    world.apply().expect()
    assert set(world.lab.host("a").run("ls /etc/marzban/tunnels").stdout.split()) >= {world.tunnels()["one"]["uuid"]}


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_another_folder_by_the_environment(world: World) -> None:
    world.play("remove", "-e", "marzban_all=true").expect()
    assert world.silent("one", "a", "b")
    world.apply(env={"TUNNEL_CONFIG_DIR": "/etc/elsewhere"}).expect()
    world.expect_traffic(("one", "a", "b"))
    assert world.lab.host("a").run("ls /etc/elsewhere/*/private.key").stdout


def test_hosts_with_lists_of_their_own_are_refused(world: World) -> None:
    """One list is read for all: what the other hosts' lists hold would be taken off them."""
    role = {"role": "marzban.tunnels.wireguard", "wireguard_tunnels": "{{ mine[inventory_hostname] }}"}
    lists = {"a": [by_hand(world, "of a", 5)], "b": [by_hand(world, "of b", 6)]}
    run = world.play([play(roles=[role], vars={"mine": lists})])
    assert run.code == 2, run.text
    assert "b: its list of tunnels is not the one that the run has read" in " ".join(run.text.split())
    assert [end["name"] for end in run.results("tunnel_apply", "a")[0]["tunnels"]] == ["of a"]
    assert "tunnels" not in run.results("tunnel_apply", "b")[0], "b was not touched"
    applied = [event for event in run.events if event["action"] == "marzban.tunnels.tunnel_apply"]
    assert {event["host"] for event in applied if event["outcome"] == "ok"} == {"a"}


@pytest.mark.parametrize(
    ("options", "more", "says"),
    [
        ({"tunnels_remove": "one"}, {"serial": 1}, "Leave serial out"),
        ({"tunnels_remove": ""}, {}, "Say what to remove"),
        pytest.param(
            {"tunnels_remove": "one", "tunnels_remove_all": True}, {}, "Say what to remove", marks=pytest.mark.variation
        ),
    ],
)
def test_a_removal_that_is_not_clear_is_refused(
    world: World, options: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    before = len(world.panel.writes())
    remove = {
        "ansible.builtin.include_role": {"name": "marzban.tunnels.tunnels", "tasks_from": "remove"},
        "vars": options,
    }
    run = world.play([play(tasks=[remove], **more)])
    assert run.code == 2, run.text
    assert says in " ".join(run.text.split())
    assert run.results("tunnel_apply") == []
    assert len(world.panel.writes()) == before
