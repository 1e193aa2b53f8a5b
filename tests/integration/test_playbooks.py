# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks as an operator calls them: what they ask for, what they say, and what they leave alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.support.world import Run, World

pytestmark = pytest.mark.lab
BOTH = (("one", "a", "b"), ("two", "b", "a"))


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(login=False, a="bookworm+tunnels", b="trixie+tunnels")
    for name, source, target in BOTH:
        world.tunnel(name, source, target)
    return world


@pytest.fixture
def joined(world: World) -> None:
    world.bring_about(*BOTH)


def files(world: World, host: str) -> str:
    """What is on a host, with the times of its last change."""
    found = "find /etc/marzban /etc/wireguard -printf '%p %m %s %T@ %i\\n'; ip -o addr; nft -s list ruleset"
    return world.lab.host(host).run(found).stdout


def row(text: str, name: str) -> str:
    """The tunnel's row of the table that a run has printed, with its notes."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name} "))
    notes = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
    return "\n".join([lines[start], *notes])


def test_apply_with_the_login_in_variables(world: World) -> None:
    """As from a vault, with nothing of the panel in the environment."""
    variables = {
        "marzban_url": world.panel.url,
        "marzban_username": world.panel.username,
        "marzban_password": world.panel.password,
        "marzban_ca_path": world.panel.ca_path,
    }
    words = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    empty = {f"MARZBAN_{name}": "" for name in ("URL", "USERNAME", "PASSWORD", "CA_PATH", "TOKEN")}
    run = world.apply(*words, inventory=world.static(), env=empty).expect()
    world.expect_traffic(*BOTH)
    assert "active" in row(run.text, "one")
    assert world.panel.password not in run.text


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_apply_on_chosen_hosts(world: World) -> None:
    run = world.apply("-e", "marzban_hosts=a").expect()
    assert run.changed() == []
    assert run.of("a")
    assert not run.of("b")


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_status_in_check_mode_tells_the_panel_nothing(world: World) -> None:
    before = len(world.panel.writes())
    run = world.play("status", "--check").expect()
    assert run.changed() == []
    assert "active" in row(run.text, "one")
    assert len(world.panel.writes()) == before


@pytest.mark.usefixtures("joined")
def test_status_measures_and_changes_nothing(world: World) -> None:
    """Of a tunnel that carries nothing it is said what was expected, what was seen and where; the other tunnel is as it
    was. Then both carry."""
    a = world.lab.host("a")
    port = next(end["port"] for end in world.tunnels()["one"]["ends"] if end["node"] == "a")
    other = next(end["port"] for end in world.tunnels()["one"]["ends"] if end["node"] == "b")
    a.run("nft add table inet blocked")
    a.run("nft 'add chain inet blocked in { type filter hook input priority 0; }'")
    a.run(f"nft add rule inet blocked in udp dport {port} drop")
    a.run(f"nft add rule inet blocked in udp sport {other} drop")
    try:
        run = world.play("status").expect()
        assert "error" in row(run.text, "one")
        assert "active" in row(run.text, "two")
        problems = run.results("tunnel_report")[-1]["problems"]
        assert [problem.split(":")[0] for problem in problems] == ["one on a", "one on b"]
        there = world.tunnels()
        assert {name: tunnel["status"] for name, tunnel in there.items()} == {"one": "error", "two": "active"}
        (symptom,) = {end["symptom"] for end in there["one"]["ends"]}
        assert symptom in ("no-packets", "no-answer")
        assert run.text.count(f"    see docs/trouble.md#{symptom}\n") == 1
    finally:
        a.run("nft delete table inet blocked")
    world.expect_traffic(*BOTH)
    before = files(world, "a"), files(world, "b")
    run = world.play("status", "--diff").expect()
    assert run.changed() == []
    assert (files(world, "a"), files(world, "b")) == before
    for name in ("one", "two"):
        assert "active" in row(run.text, name)
        number = world.tunnels()[name]["id"]
        told = world.api("GET", f"/tunnels/{number}/status")
        assert (told["status"], told["stale"]) == ("active", False)
        assert all(end["measured"]["rtt_ms"] > 0 for end in told["ends"])
        assert all(end["measured"]["loss_percent"] == 0 for end in told["ends"])


@pytest.mark.usefixtures("joined")
def test_a_change_that_cuts_a_tunnel_off_fails_the_run(world: World) -> None:
    """The new port is closed at both hosts. A status is a failure only where tunnels_strict says so."""
    world.apply("-e", "tunnels_strict=error,connecting").expect()
    port = 31999
    for host in "ab":
        world.lab.host(host).run(
            "nft add table inet blocked && nft 'add chain inet blocked in { type filter hook input priority 0; }' && "
            f"nft add rule inet blocked in udp dport {port} drop && nft add rule inet blocked in udp sport {port} drop"
        )
    try:
        world.change("one", config={"target": {"port": port}})
        run = world.apply("-e", "tunnels_wait=3")
        assert run.code == 2, run.text
        seen = "tunnel one had a session before this run changed it, and no ping passes through it now"
        assert seen in " ".join(run.text.split())  # older cores fold the lines
        assert "~ one: changed on " in run.text
        world.apply("-e", "tunnels_wait=3").expect()  # this one has changed nothing
        strict = world.play("status", "-e", "tunnels_strict=error,connecting")
        assert strict.code == 2, strict.text
        assert "tunnel one (a -> b): " in strict.text
    finally:
        for host in "ab":
            world.lab.host(host).run("nft delete table inet blocked")
    world.expect_traffic(*BOTH)


@pytest.mark.usefixtures("joined")
def test_status_while_a_node_is_off(world: World) -> None:
    b = world.lab.host("b")
    b.stop()
    soon = {"ANSIBLE_SSH_ARGS": "-o ConnectTimeout=3"}
    run = world.play("status", env=soon)
    assert run.code == 4, run.text
    assert "b could not be reached" in run.text
    assert "b is unreachable" in row(run.text, "one")
    (problem,) = run.results("tunnel_report")[-1]["problems"]
    assert problem.startswith("b could not be reached"), "once, and not for each tunnel"
    # Where all hosts of the play are off, there is a table all the same.
    expect_b_is_unreachable(world.play("apply", "--limit", "b", env=soon))
    b.start()
    world.expect_traffic(*BOTH)


def expect_b_is_unreachable(run: Run) -> None:
    assert run.code == 4, run.text
    assert "b is unreachable" in row(run.text, "one")
    assert "! b could not be reached" in run.text
    assert [event["host"] for event in run.events if event["outcome"] == "unreachable"] == ["b", "b"]


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_status_where_all_nodes_are_off(world: World) -> None:
    b = world.lab.host("b")
    b.stop()
    expect_b_is_unreachable(world.play("status", "--limit", "b", env={"ANSIBLE_SSH_ARGS": "-o ConnectTimeout=3"}))
    b.start()
    world.expect_traffic(*BOTH)


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    "words",
    [(), pytest.param(("-e", "marzban_tunnel=one", "-e", "marzban_all=true"), marks=pytest.mark.variation)],
    ids=["nothing", "both"],
)
def test_remove_asks_what_to_remove(world: World, words: tuple[str, ...]) -> None:
    before = len(world.panel.writes())
    run = world.play("remove", *words).expect(2)
    said = run.of("a", ["failed"])[0]["result"]["msg"]
    assert "-e marzban_tunnel=NAME" in said
    assert "-e marzban_all=true" in said
    assert run.results("tunnel_apply") == []
    assert len(world.panel.writes()) == before
    world.expect_traffic(*BOTH)


@pytest.mark.usefixtures("joined")
def test_what_a_lost_panel_has_left_is_removed_where_it_is_named(world: World) -> None:
    place, another = "/etc/marzban/tunnels", str(uuid4())
    mine, theirs = world.tunnels()["one"]["uuid"], str(uuid4())
    a = world.lab.host("a")
    a.run(
        f"cp -r {place}/{mine} {place}/{theirs}; cd {place}/{theirs};"
        f' sed -i \'s/"panel": ".*"/"panel": "{another}"/; s/"mz[0-9]*"/"mz77"/; s/{mine}/{theirs}/\' state.json'
    )
    own = a.run(f'grep -ho \'"panel": ".*"\' {place}/{mine}/state.json').stdout.split('"')[3]
    refused = world.play("remove", "-e", f"marzban_foreign={own}").expect(2)
    assert f"{own} is the panel of this inventory" in refused.text
    run = world.play("remove", "-e", f"marzban_foreign={another}").expect()
    assert [item["uuid"] for answer in run.results("tunnel_apply") for item in answer["removed"]] == [theirs]
    assert a.run(f"ls -d {place}/{theirs}", check=False).returncode == 2
    world.expect_traffic(*BOTH)
    assert world.apply().expect().changed() == []


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_remove_of_a_tunnel_that_is_not_there(world: World) -> None:
    run = world.play("remove", "-e", "marzban_tunnel=onne").expect(2)
    assert "The panel has no tunnel onne; it has one, two" in run.text
    assert run.results("tunnel_apply") == []
    world.expect_traffic(*BOTH)


@pytest.mark.usefixtures("joined")
def test_remove_in_check_mode_says_what_would_go(world: World) -> None:
    before = len(world.panel.writes())
    run = world.play("remove", "-e", "marzban_tunnel=two", "--check", "--diff").expect()
    for host in "ab":
        assert [item["name"] for answer in run.results("tunnel_apply", host) for item in answer["removed"]] == ["two"]
    assert "to be removed: two" in run.text
    assert len(world.panel.writes()) == before
    world.expect_traffic(*BOTH)


@pytest.mark.usefixtures("joined")
@pytest.mark.variation
def test_remove_one_end_after_the_other(world: World) -> None:
    """A host that is not in the run takes the tunnel off with its next one."""
    interface = world.tunnels()["two"]["ends"][0]["interface"]
    run = world.play("remove", "-e", "marzban_tunnel=two", "--limit", "a", "--diff").expect()
    assert [item["name"] for answer in run.results("tunnel_apply", "a") for item in answer["removed"]] == ["two"]
    assert sorted(world.tunnels()) == ["one"]
    assert interface in world.lab.host("b").run("ip -o link").stdout
    later = world.apply("--diff").expect()
    assert [item["name"] for answer in later.results("tunnel_apply", "b") for item in answer["removed"]] == ["two"]
    assert interface not in world.lab.host("b").run("ip -o link").stdout
    assert world.apply("--diff").expect().changed() == []
    world.expect_traffic(BOTH[0])
