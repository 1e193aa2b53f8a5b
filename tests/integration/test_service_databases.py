# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that are not what the nodes remember, and panels that share nodes: nothing is removed or changed that
nobody has deleted or changed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.panel import Panel
from tests.support.service_hosts import MANAGED, agree, nodes, whole, with_service
from tests.support.world import World, until

pytestmark = pytest.mark.lab
#: What another panel on the same nodes has of its own: pools that do not meet the defaults, and a secret.
OTHERS = {
    "TUNNEL_IPV4_POOL": "10.230.0.0/16",
    "TUNNEL_IPV6_POOL": "fd7b::/64",
    "TUNNEL_PORT_RANGE": "40000-40999",
    "NODE_API_KEY": "fedcba9876543210" * 4,
}
OLDER = {"a": "older_database", "b": "older_database"}
OLD = ("changed", "doomed")  # tunnels whose records yesterday's database has as they were


@dataclass
class Both:
    """Two panels with the same nodes."""

    one: World
    two: World

    def agree(self) -> None:
        for world in (self.one, self.two):
            agree(world, alone=False)

    def hosts(self) -> dict[str, list[str]]:
        return {name: whole(host) for name, host in self.one.lab.hosts.items()}


@pytest.fixture(scope="module")
def both(make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    one = with_service(make_world(login=False, env=MANAGED, a="bookworm+tunnels", b="trixie+tunnels"))
    directory = tmp_path_factory.mktemp("two")
    with Panel.start(directory / "panel", env=OTHERS) as panel:
        two = World(directory, panel, one.lab, login=False)
        two.register()
        yield Both(one, with_service(two))


def theirs(two: World, name: str) -> None:
    """A tunnel of the other panel. Their numbers are the same, so it has interfaces of its own."""
    ends = {role: {"interface": name} for role in ("source", "target")}
    two.tunnel(name, "a", "b", {**ends, "post_quantum": "off"})


def ours(one: World, *names: str) -> None:
    for name in names:
        one.tunnel(name, "a", "b", {"post_quantum": "off"})


def looked(world: World, act: Callable[[], object]) -> None:
    """Does something, and waits until the manager has looked at both nodes after it."""
    ages = dict.fromkeys("ab", -1)

    def older(node: str) -> bool:
        ages[node] = nodes(world)[node]["contact_age"]
        return ages[node] > 0

    def asked(node: str) -> bool:
        return bool(nodes(world)[node]["contact_age"] < ages[node])

    for node in ages:
        until(f"a while without a look at {node}", partial(older, node), every=0.3)
    act()
    for node in ages:
        until(f"a look at {node}", partial(asked, node), every=0.2)


def problems(world: World) -> dict[str, Any]:
    return {name: node["problem"]["code"] if node["problem"] else None for name, node in nodes(world).items()}


def copy(panel: Panel, to: Path) -> None:
    """The database's file, as a backup has it."""
    with closing(sqlite3.connect(panel.database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def listed(world: World) -> list[dict[str, Any]]:
    return list(world.api("GET", "/tunnels/nodes")["nodes"])


def clear(both: Both) -> None:
    """Ours are removed, the other panel has one, and what our panel does not know is left."""
    for record in both.one.tunnels().values():
        both.one.api("DELETE", f"/tunnels/{record['id']}")
    if not both.two.tunnels():
        theirs(both.two, "theirs")
    agree(both.two, alone=False)
    until("nothing is left to remove", lambda: not any(node["deletions"] for node in listed(both.one)))


@pytest.mark.variation  # the calls of another panel are in test_service_hosts.py
def test_two_panels_on_one_node(both: Both) -> None:
    one, two = both.one, both.two
    clear(both)
    with_theirs = both.hosts()
    ours(one, "kept")
    both.agree()
    with_all = both.hosts()
    theirs(two, "gone")
    both.agree()
    assert all(not node["orphans"] for world in (one, two) for node in nodes(world).values())
    two.api("DELETE", f"/tunnels/{two.tunnels()['gone']['id']}")
    both.agree()
    assert both.hosts() == with_all, "the other panel has touched ours"
    for record in one.tunnels().values():
        one.api("DELETE", f"/tunnels/{record['id']}")
    both.agree()
    assert both.hosts() == with_theirs, "our panel has touched the other's"


@pytest.mark.variation  # with simulated nodes in tests/panel/manager
def test_a_copy_of_the_panel_beside_it(both: Both, tmp_path: Path) -> None:
    one = both.one
    clear(both)
    ours(one, "kept", "changed")
    both.agree()
    shutil.copytree(one.panel.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("panel.db*", "*.log"))
    one.panel.stop()  # what has the lease in a copy of a running panel's database is waited for, for 30 s
    copy(one.panel, tmp_path / "copy/panel.db")
    one.panel.restart()
    agree(one, alone=False)
    before = both.hosts()
    with Panel.start(tmp_path / "copy", password=one.panel.password, env=MANAGED) as panel:
        copied = World(tmp_path, panel, one.lab, login=False)
        agree(copied, alone=False)
        assert both.hosts() == before, "a copy has changed something when it was started"
        one.change("changed", config={"mtu": 1313, "post_quantum": "off"})
        both.agree()
        after = both.hosts()
        assert after != before
        until("the copy is told to be one", lambda: problems(copied) == OLDER)
        looked(copied, lambda: copied.api("DELETE", f"/tunnels/{copied.tunnels()['kept']['id']}"))
        assert both.hosts() == after, "a copy has removed something"
        assert set(problems(one).values()) == {None}
        one.change("changed", config={"mtu": 1300, "post_quantum": "off"})
        both.agree()


@pytest.mark.variation  # with simulated nodes in tests/panel/manager
def test_a_database_of_yesterday(both: Both, tmp_path: Path) -> None:
    one = both.one
    clear(both)
    ours(one, "kept", "doomed", "changed")
    both.agree()
    copy(one.panel, tmp_path / "yesterday.db")
    ours(one, "new")
    one.api("DELETE", f"/tunnels/{one.tunnels()['doomed']['id']}")
    one.change("changed", config={"mtu": 1313, "post_quantum": "off"})
    both.agree()
    before = both.hosts()

    one.panel.stop()
    for old in one.panel.database.parent.glob(f"{one.panel.database.name}-*"):
        old.unlink()
    shutil.copy(tmp_path / "yesterday.db", one.panel.database)
    one.panel.restart()
    until("both nodes say that the database is old", lambda: problems(one) == OLDER)
    looked(one, lambda: one.change("kept", config={"keepalive": 7, "post_quantum": "off"}))
    assert problems(one) == OLDER
    assert set(one.tunnels()) == {"kept", "doomed", "changed"}
    assert both.hosts() == before, "an old database has changed a node"
    for node in nodes(one).values():
        assert [orphan["name"] for orphan in node["orphans"]] == ["new"]
        assert "restored" in node["problem"]["detail"], node

    for node in nodes(one).values():
        one.api("POST", f"/tunnels/nodes/{node['node_id']}/confirm", json={"database": True})
    until("both nodes are worked with again", lambda: set(problems(one).values()) == {None})
    until("what is as it was before is changed", lambda: keepalives(one, "kept") == ["7", "7"])
    until("the others are told to be old", lambda: all(one.tunnels()[old]["status"] == "error" for old in OLD))
    told = {old: {end["error"] for end in one.tunnels()[old]["ends"]} for old in OLD}
    print(told)
    assert all("restored from a backup" in error for error in told["changed"])
    assert all("removed this tunnel" in error for error in told["doomed"])
    assert changed_lines(one, before, both.hosts(), "kept") == {}, "something else than the change of today was done"
    # The next record has the number, the addresses and the ports of the one that this database does not know.
    ours(one, "newest")
    until("it is refused", lambda: one.tunnels()["newest"]["status"] == "error")
    print({end["error"] for end in one.tunnels()["newest"]["ends"]})
    one.api("DELETE", f"/tunnels/{one.tunnels()['newest']['id']}")
    until("it is removed", lambda: not any(node["deletions"] for node in listed(one)))
    assert changed_lines(one, before, both.hosts(), "kept") == {}, "the one that is not known was touched"
    for node in nodes(one).values():
        assert [orphan["name"] for orphan in node["orphans"]] == ["new"]
    agree(both.two, alone=False)


def keepalives(world: World, name: str) -> list[str]:
    interface = world.tunnels()[name]["ends"][0]["interface"]
    shown = [host.run(f"wg show {interface} persistent-keepalive").stdout for host in world.lab.hosts.values()]
    return [text.split()[-1] for text in shown]


def changed_lines(
    world: World, before: dict[str, list[str]], after: dict[str, list[str]], name: str
) -> dict[str, list[str]]:
    """Lines about the hosts that have come or gone, less those about one tunnel."""
    record = world.tunnels()[name]
    words = (record["uuid"], f"{record['ends'][0]['interface']}.conf")
    found = {}
    for host in before:
        lines = sorted(set(before[host]) ^ set(after[host]))
        found[host] = [line for line in lines if not any(word in line for word in words)]
    return {host: lines for host, lines in found.items() if lines}


@pytest.mark.variation  # with simulated nodes in tests/panel/manager
def test_a_node_deleted_while_it_is_off(both: Both) -> None:
    one, two = both.one, both.two
    clear(both)
    with_theirs = both.hosts()
    ours(one, "kept", "changed")
    one.expect_traffic(("kept", "a", "b"), ("changed", "a", "b"))
    host = one.lab.host("b")
    host.stop()
    gone = nodes(one)["b"]["node_id"]
    one.api("DELETE", f"/node/{gone}")
    one.register("b")  # another node of this name, which has no service yet; its number may be the same
    until("gone from a", lambda: whole(one.lab.host("a")) == with_theirs["a"], every=0.5)
    deleted = [node for node in listed(one) if node["deleted"]]
    assert [len(node["deletions"]) for node in deleted] == [2]
    host.start()
    until("gone from b", lambda: whole(host) == with_theirs["b"], every=0.5)
    until("nothing is left to remove", lambda: not any(node["deleted"] for node in listed(one)))
    agree(two, alone=False)
    assert both.hosts() == with_theirs
