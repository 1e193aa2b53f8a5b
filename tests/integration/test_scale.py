# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run costs a host does not grow with the number of its tunnels, and a run with nothing to do is one round."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.world import TYPES, Run, World

pytestmark = pytest.mark.lab
MANY, FIFTY = 12, 51  # a third of each type
WAITING = ("Wait for the traffic of new tunnels", "Wait until traffic passes", "Keep this host's newest answer")
# These happen on the controller.
LOCAL = re.compile(
    r"(ansible\.builtin\.)?(include_\w+|import_\w+|validate_argument_spec|assert|fail|debug|set_fact|meta)"
)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(a="bookworm+tunnels", b="trixie+tunnels")


def tasks(run: Run, host: str) -> list[str]:
    """The tasks that ran for this host, in order. Whether new tunnels have to be waited for is left to chance."""
    names = [event["task"].split(" : ")[-1] for event in run.of(host, ["ok"])]
    return [name for name in names if name not in WAITING]


def rounds(run: Run, host: str) -> list[str]:
    """The modules that ran on this host itself."""
    return [
        event["task"].split(" : ")[-1]
        for event in run.of(host)
        if not event["run_once"] and not LOCAL.fullmatch(event["action"])
    ]


def modules(world: World, host: str) -> int:
    """How many modules have run on a host, as its own journal tells."""
    return int(world.lab.host(host).run("journalctl | grep -c 'ansible.*: Invoked with'", check=False).stdout)


def requests(world: World, run: Callable[[], Run]) -> tuple[Run, list[str]]:
    """A run, and what it asked of the panel."""
    before = len(world.panel.log_lines())
    done = run()
    return done, [f"{line['method']} {line['path'].partition('?')[0]}" for line in world.panel.log_lines()[before:]]


def record(world: World, first: int, last: int) -> None:
    for number in range(first, last + 1):
        ends = ("a", "b") if number % 2 else ("b", "a")
        world.tunnel(f"t{number}", *ends, tunnel_type=TYPES[number % len(TYPES)])


def test_many_tunnels_are_as_many_tasks_as_one_of_each_type(world: World) -> None:
    record(world, 1, len(TYPES))
    one, asked_for_one = requests(world, lambda: world.apply("--diff").expect())
    world.expect_traffic(*((f"t{number}", "a", "b") for number in range(1, len(TYPES) + 1)))
    still_one, still_asked_for_one = requests(world, lambda: world.apply("--diff").expect())
    assert still_one.changed() == []

    record(world, len(TYPES) + 1, MANY)
    many, asked_for_many = requests(world, lambda: world.apply("--diff").expect())
    assert len(many.changes("a")) == len(many.changes("b")) == MANY - len(TYPES)
    before = modules(world, "a"), modules(world, "b")
    still_many, still_asked_for_many = requests(world, lambda: world.apply("--diff").expect())
    assert still_many.changed() == []
    assert {tunnel["status"] for tunnel in world.tunnels().values()} == {"active"}
    world.expect_traffic(*((f"t{number}", "a", "b") for number in range(MANY - len(TYPES) + 1, MANY + 1)))

    for host in "ab":
        assert tasks(many, host) == tasks(one, host)
        assert tasks(still_many, host) == tasks(still_one, host)
        assert rounds(still_many, host) == ["Make the node match its view"], "more than one round"
    assert (modules(world, "a"), modules(world, "b")) == (before[0] + 1, before[1] + 1), "more than one round"
    assert asked_for_many == asked_for_one
    assert still_asked_for_many == still_asked_for_one
    assert len(still_asked_for_many) <= 7


@pytest.mark.variation
def test_fifty_come_and_go_by_one_module(world: World) -> None:
    record(world, len(world.tunnels()) + 1, FIFTY)
    world.apply().expect()
    before = modules(world, "a")
    assert world.apply().expect().changed() == []
    assert modules(world, "a") == before + 1
    removed = world.play("remove", "-e", "marzban_all=true").expect()
    assert len(removed.results("tunnel_apply", "a")[-1]["removed"]) == FIFTY
    assert modules(world, "a") == before + 2
    assert len(rounds(removed, "a")) == 1
    assert "mz" not in world.lab.host("a").run("ip -o link; systemctl list-units --plain; swanctl --list-conns").stdout
