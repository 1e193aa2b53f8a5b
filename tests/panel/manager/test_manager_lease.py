# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One manager per database, on each database; and what the manager writes."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import responses
from marzban_tunnels.manager.lease import Lease
from marzban_tunnels.manager.store import Changes, LostLease, Store
from marzban_tunnels.node_access import check_key
from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node
from marzban_tunnels.tables import DELETIONS, NODE_SERVICES, NodeService, Panel
from tests.support.managed_panel import FAST, KEY, ManagedPanel, until
from tests.support.panel_api import key, publish
from tests.support.servers import PostgreSQL, Server
from tests.support.simulated_node import Nodes

_numbers = itertools.count(1)
_SERVERS = ("mariadb", "postgresql")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.variation) for name in _SERVERS)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/panel.db"
    return str(request.getfixturevalue(request.param).database(f"manager{next(_numbers)}"))


@pytest.fixture
def database(where: str) -> Iterator[Database]:
    with Database(where) as database:
        database.upgrade()
        with database.reading() as session:
            tunnels_of(database).start(session)
        yield database


def tunnels_of(database: Database) -> Tunnels:
    return Tunnels(Node.__table__, Settings.from_env({}), check_key(KEY))  # type: ignore[arg-type]


class Clock:
    """A clock that a test puts forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def steps(database: Database, lease: Lease) -> bool:
    with Session(database.engine) as session:
        return lease.step(session)


def test_the_second_takes_over_when_the_first_gives_no_sign_of_life(database: Database) -> None:
    clock = Clock()
    first, second = (Lease(30, clock) for _time in range(2))
    assert [steps(database, first), steps(database, second)] == [True, False]
    clock.now += 29
    assert not steps(database, second)
    assert steps(database, first)  # a sign of life
    clock.now += 29
    assert not steps(database, second)
    clock.now += 31
    assert steps(database, second)
    assert not steps(database, first)
    with Session(database.engine) as session:
        second.release(session)
    assert steps(database, first)


def test_a_holder_whose_process_is_gone_is_not_waited_for(database: Database) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lease = Lease(30, Clock())
    machine = lease.me.partition(":")[0]
    for holder, taken in (
        (f"another:{int(dead.stdout)}:7:x", False),  # on another machine: nothing is known of it
        (f"{machine}:1:{Path('/proc/1/stat').read_text().rpartition(')')[2].split()[19]}:x", False),
        (f"{machine}:{int(dead.stdout)}:7:x", True),
        (f"{machine}:{os.getpid()}:7:x", True),  # its number is a later process's now
    ):
        with Session(database.engine) as session:
            session.execute(update(Panel).values(lease_holder=holder))
            session.commit()
        assert steps(database, lease) is taken, holder
        with Session(database.engine) as session:
            lease.release(session)


def test_nobody_waits_for_a_node_whose_service_was_removed(database: Database) -> None:
    store = Store(database.engine, Node.__table__, tunnels_of(database))  # type: ignore[arg-type]
    told = {"uuid": "t", "node_id": 1, "tunnel_id": 1, "tunnel_type": "wireguard", "generation": 1, "port": 62052}
    with Session(database.engine) as session:
        session.add(NodeService(node_id=1, uuid="u", generation=1, counter=0, seen_counter=0))
        for node, needed in (("u", False), ("deleted", True)):
            session.execute(insert(DELETIONS).values(**told, node_uuid=node, deleted_at=responses.now()))
            session.commit()
            assert store.needed(session) is needed


def test_nothing_is_written_without_the_lease(database: Database) -> None:
    store = Store(database.engine, Node.__table__, tunnels_of(database))  # type: ignore[arg-type]
    lease = Lease(30)
    with Session(database.engine) as session:
        session.add(NodeService(node_id=1, uuid="u", generation=1, counter=7, seen_counter=0))
        session.commit()
        with pytest.raises(LostLease):
            store.write(session, Changes(reserve={"u": 3}), lease.me)
        assert lease.step(session)
        assert store.write(session, Changes(reserve={"u": 3, "gone": 1}), lease.me).counters == {"u": 10, "gone": 0}
        store.write(session, Changes(confirm={"u": 50}, seen={"u": 5}), lease.me)
        store.write(session, Changes(confirm={"u": 20}, seen={"u": 4}), lease.me)  # never back
        row: Any = session.execute(select(NODE_SERVICES)).one()
        assert (row.counter, row.seen_counter) == (50, 5)
        writes = session.scalar(select(Panel.writes))
        store.write(session, Changes(reserve={"u": 1}, seen={"u": 51}), lease.me)
        assert session.scalar(select(Panel.writes)) == writes  # nobody reads the list again for a number


def test_a_deletion_is_done_once_and_not_the_next_one(database: Database) -> None:
    store, lease = Store(database.engine, Node.__table__, tunnels_of(database)), Lease(30)  # type: ignore[arg-type]
    first = responses.now()
    again = first + timedelta(seconds=1)  # it was moved back and away since
    told = {"uuid": "t", "node_uuid": "n", "node_id": 1, "tunnel_id": 1, "tunnel_type": "wireguard", "generation": 1}
    with Session(database.engine) as session:
        session.execute(insert(DELETIONS).values(**told, deleted_at=again))
        session.commit()
        assert lease.step(session)
        for moment, left in ((first, [False]), (again, [])):
            store.write(session, Changes(given_up={("t", "n", first)}, done={("t", "n", moment)}), lease.me)
            assert list(session.scalars(select(DELETIONS.c.given_up))) == left


def test_what_was_found_with_an_earlier_lease_is_not_written_with_the_next(tmp_path: Path) -> None:
    with Nodes() as nodes, ManagedPanel(tmp_path / "panel.db") as panel:
        panel.node(nodes.add("one"))
        until(lambda: panel.service(nodes.all[0])["state"] == "ok")
        manager, old = panel.manager, ("t", "n", responses.now())
        write, written = manager._store.write, []

        def failing(session: Session, changes: Changes, me: str) -> Any:
            written.append(set(changes.done))
            if len(written) > 1:
                return write(session, changes, me)
            assert manager._loop
            asyncio.run_coroutine_threadsafe(manager._drop(), manager._loop).result(5)  # as when it lasts
            raise OSError("the database is away")

        def found() -> None:
            manager.changes.done.add(old)
            manager.dirty()

        manager._store.write = failing  # type: ignore[method-assign]
        manager._from_outside(found)
        until(lambda: written)
        panel.node(nodes.add("two"))
        panel.tunnel(*nodes.all)
        until(lambda: len(written) > 1)
        assert written[0] == {old}
        assert not any(written[1:])


def test_a_locked_database_holds_up_no_reader_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "panel.db"
    with Nodes() as nodes, ManagedPanel(path) as panel:
        pair = [nodes.add("one"), nodes.add("two")]
        for node in pair:
            panel.node(node)
            node.down()
        tunnel = panel.tunnel(*pair)
        until(lambda: all(panel.problem(node) == "refused" for node in pair))
        with closing(sqlite3.connect(path, isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            for node in pair:
                node.up()
            until(lambda: all(node.requests for node in pair))
            time.sleep(2 * FAST.patience)  # the manager can't give a sign of life, and nobody can take over
            begun = time.monotonic()
            panel.api.send("GET", "/api/tunnels/nodes")
            assert time.monotonic() - begun < 1
            assert not any(node.tunnels for node in pair)  # the number comes into the database before it is sent
            locker.execute("ROLLBACK")
        until(lambda: panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["status"] == "active")


def test_which_epochs_a_node_may_show(database: Database) -> None:
    store, lease = Store(database.engine, Node.__table__, tunnels_of(database)), Lease(30)  # type: ignore[arg-type]
    with Session(database.engine) as session:
        session.add(NodeService(node_id=1, uuid="u", generation=1, counter=0, seen_counter=0))
        session.commit()
        assert lease.step(session)

        def after(shown: str | None, mine: str) -> list[str]:
            store.write(session, Changes(reserve={"u": 1}, epochs={"u": (shown, mine)}), lease.me)
            return str(session.scalar(select(NODE_SERVICES.c.epochs))).split()

        assert after("z", "a") == ["z", "a"]  # a node that was added again shows one of before
        assert after("z", "b") == ["z", "a", "b"]  # nothing has arrived
        assert after("b", "b") == ["b"]
        for number in range(30):
            last = after("b", f"{number:016}")
        assert (len(last), last[0], last[-1]) == (20, "b", f"{29:016}")
        store.write(session, Changes(accepted={"u": "x"}), lease.me)
        assert after("x", "y") == ["x", "y"]


def test_a_first_half_does_not_replace_what_a_run_has_stored(tmp_path: Path) -> None:
    with Nodes() as nodes, ManagedPanel(tmp_path / "panel.db") as panel:
        pair = [nodes.add("one"), nodes.add("two")]
        for node in pair:
            panel.node(node, publish=False)
        tunnel = panel.tunnel(*pair)
        run, late = key(), key()
        publish(panel.api, tunnel, {"name": "one"}, run)
        with Database(str(tmp_path / "panel.db")) as database, Session(database.engine) as session:
            store, lease = Store(database.engine, Node.__table__, tunnels_of(database)), Lease(30)  # type: ignore[arg-type]
            assert lease.step(session)
            changes = Changes(halves={(tunnel["uuid"], name): half for name, half in (("one", late), ("two", late))})
            store.write(session, changes, lease.me)
        halves = [end["public"] for end in panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]]
        assert halves == [run, late]


def test_a_manager_that_can_not_write_any_more_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("a mistake of ours")

    with Nodes() as nodes, ManagedPanel(tmp_path / "panel.db") as panel:
        monkeypatch.setattr(panel.manager, "_written", broken)
        for node in (pair := [nodes.add("one"), nodes.add("two")]):
            panel.node(node)
        panel.tunnel(*pair)
        until(lambda: panel.api.send("GET", "/api/tunnels/nodes")["manager"]["state"] == "off")
        assert "restart the panel" in panel.api.send("GET", "/api/tunnels/nodes")["manager"]["detail"]


@pytest.mark.variation
def test_a_tunnel_comes_and_goes_on_each_database(where: str) -> None:
    with Nodes() as nodes, ManagedPanel(where) as panel:
        pair = [nodes.add("one"), nodes.add("two")]
        for node in pair:
            panel.node(node)
        tunnel = panel.tunnel(*pair)
        until(lambda: panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["status"] == "active")
        panel.api.send("DELETE", f"/api/tunnels/{tunnel['id']}")
        until(lambda: not any(node.tunnels for node in pair))
        until(lambda: not any(panel.service(node)["deletions"] for node in pair))
