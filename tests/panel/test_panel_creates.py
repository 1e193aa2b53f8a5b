# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""How new tunnels are written: in short transactions, by few steps of the database, and as far as it is free."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.orm import Session

from marzban_tunnels import allocate, service
from marzban_tunnels.errors import Refused
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node
from marzban_tunnels.tables import ADDRESSES, Base, Panel

MANY = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with two nodes."""
    path = tmp_path / "panel.db"
    with Database(str(path)) as database:
        database.upgrade()
        with database.writing() as session:
            for number in (1, 2):
                session.add(Node(name=f"n{number}", address="x", port=1, api_port=2, status="connected"))
    return path


@pytest.fixture
def session(file: Path) -> Iterator[Session]:
    """A session as Marzban has them, but for its 5 seconds of waiting: on SQLite's defaults."""
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.01})
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def tunnels(session: Session) -> service.Tunnels:
    made = service.Tunnels(Node.__table__, Settings.from_env({}))  # type: ignore[arg-type]
    made.start(session)
    return made


def bodies(count: int) -> list[Any]:
    body = {"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard"}
    return [{**body, "name": f"t{number}"} for number in range(count)]


def writes(session: Session) -> int:
    """How many transactions of ours have written."""
    count = session.scalars(select(Panel.writes)).one()
    session.rollback()
    return count


def test_a_transaction_ends_when_its_time_is_over(
    tunnels: service.Tunnels, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LONGEST", 3600)
    before = writes(session)
    assert tunnels.create_many(session, bodies(MANY))["created"] == MANY
    assert writes(session) == before + 1
    monkeypatch.setattr(service, "LONGEST", 0)
    more: list[Any] = [{**body, "name": f"more {body['name']}"} for body in bodies(MANY)]
    more[3] = more[5] = None
    answer = tunnels.create_many(session, [more[0], *more])
    assert [tunnel and tunnel["name"] for tunnel in answer["tunnels"]] == [
        more[0]["name"],
        None,
        *(body and body["name"] for body in more[1:]),
    ]
    assert [(refusal["index"], refusal["status"]) for refusal in answer["rejected"]] == [(1, 409), (4, 422), (6, 422)]
    assert writes(session) == before + 1 + MANY - 2, "one for each that was not refused"
    assert [tunnel for tunnel in answer["tunnels"] if tunnel] == tunnels.page(session, MANY, 1000)


def test_a_database_that_is_busy_from_then_on(
    tunnels: service.Tunnels, session: Session, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has the lock: from after the first transaction, and then before one."""
    monkeypatch.setattr(service, "LONGEST", 0)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        event.listen(session, "after_commit", lambda session: other.execute("BEGIN EXCLUSIVE"), once=True)
        answer = tunnels.create_many(session, [*bodies(3), {}, *bodies(1)])
        assert answer["created"] == 1
        assert answer["tunnels"][0]["name"] == "t0"
        assert [(refusal["index"], refusal["status"]) for refusal in answer["rejected"]] == [
            (1, 503),
            (2, 503),
            (3, 422),
            (4, 503),
        ]
        with pytest.raises(Refused) as caught:
            tunnels.create_many(session, bodies(3))
        assert caught.value.status == 503, "where nothing was written it is the answer for all"
        other.execute("ROLLBACK")
    assert [tunnel["name"] for tunnel in tunnels.page(session, 0, 10)] == ["t0"]


def steps(session: Session, work: Callable[[], object]) -> int:
    """How many hundreds of steps SQLite's machine takes for it."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection: Any = session.connection().connection.dbapi_connection
    connection.set_progress_handler(step, 100)
    work()
    connection.set_progress_handler(None, 100)
    return count


def test_a_create_takes_as_many_steps_among_thousands(tunnels: service.Tunnels, session: Session) -> None:
    first, *more = bodies(MANY)
    tunnels.create_many(session, [first])
    few = steps(session, lambda: tunnels.create_many(session, more[:5]))
    rows = [
        allocate.address_row(1, "source", 0, f"{base}/31")
        for start in (2**24 * 9, 2**24 * 11)
        for base in (str(IPv4Network(start + 2 * number).network_address) for number in range(2000))
    ]
    rows += [
        allocate.address_row(1, "source", 0, f"{IPv6Network(start + 2 * number).network_address}/127")
        for start in (0x2001 << 112, 0xFE00 << 112)
        for number in range(2000)
    ]
    session.execute(insert(ADDRESSES), rows)
    session.commit()
    assert steps(session, lambda: tunnels.create_many(session, more[5:10])) < 2 * few


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Close enough to each other that many overlap."""
    if draw(st.booleans()):
        length = draw(st.integers(24, 32))
        return str(ip_network((0x0A000000 + draw(st.integers(0, 255)), length), strict=False))
    return str(ip_network(((0xFD << 120) + draw(st.integers(0, 255)), draw(st.integers(120, 128))), strict=False))


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(taken=st.lists(networks(), unique=True), wanted=networks())
def test_what_overlaps_is_found(taken: list[str], wanted: str) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number, text in enumerate(taken):
            session.execute(insert(ADDRESSES), allocate.address_row(1, "source", 0, text) | {"host": str(number)})
        found = session.scalar(allocate.OVERLAPPING, allocate.around(*allocate.edges(ip_network(wanted))))
        overlapping = {
            str(number)
            for number, text in enumerate(taken)
            if ip_network(text).version == ip_network(wanted).version and ip_network(text).overlaps(ip_network(wanted))
        }
        assert found in overlapping if overlapping else found is None
    engine.dispose()
