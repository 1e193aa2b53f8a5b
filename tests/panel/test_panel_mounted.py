# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The tunnels API beside somebody else's nodes, sessions and admins: it must not lean on the standalone door.

The other panel here is made as Marzban is: a session without autoflush, and SQLite that enforces no foreign key.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from marzban_tunnels import mounted
from tests.support.beside import Base, ForeignNode, our_tunnels, serving, sessions
from tests.support.panel_api import Api

__all__ = ["sessions"]


@pytest.fixture
def other(sessions: sessionmaker[Session]) -> Iterator[Api]:
    tunnels = our_tunnels()
    with sessions() as session:
        tunnels.start(session)
    with serving(sessions, tunnels) as api:
        yield api


class Later:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_calls_beside_other_nodes(other: Api, sessions: sessionmaker[Session]) -> None:
    first, second, third = ({"id": number} for number in (1, 2, 3))
    tunnel = other.tunnel(first, second, name="a-b")
    kept = other.tunnel(second, third)
    assert (tunnel["source_node_name"], tunnel["ends"][0]["addresses"][0]) == ("node-0", "10.201.0.2/31")
    changed = other.send("PUT", f"/api/tunnels/{tunnel['id']}", {"source_node_id": 3, "config": '{"mtu": 1400}'})
    assert (changed["version"], changed["source_node_name"]) == (2, "node-2")
    behind = '{"target": {"routes": ["10.5.0.0/16"]}}'
    other.send("PUT", f"/api/tunnels/{kept['id']}", {"config": behind})
    assert 'from node "node-1" into tunnel' in other.tunnel(second, first, config=behind, status=409)["detail"]
    bad = other.bare("POST", "/api/tunnels", json={"source_node_id": 1})
    assert (bad.status_code, set(bad.json()["detail"])) == (422, {"target_node_id", "tunnel_type"})
    assert bad.headers["Marzban-Panel-Id"]
    nobody = other.bare("GET", "/api/tunnels", headers={"Authorization": "Bearer wrong"})
    assert (nobody.status_code, nobody.json()) == (401, {"detail": "Not authenticated"})
    assert (nobody.headers["WWW-Authenticate"], bool(nobody.headers["Marzban-Panel-Id"])) == ("Bearer", True)

    with sessions() as session:
        kept_node = session.get_one(ForeignNode, 2)
        session.delete(session.get_one(ForeignNode, 3))
        session.commit()
        assert kept_node.name == "node-1"
    for gone in (tunnel, kept):
        assert other.refused("GET", f"/api/tunnels/{gone['id']}", None, 404) == "Tunnel not found"
    with sessions() as session:
        assert [table(session, name) for name in ("tunnels", "tunnel_ends", "tunnel_addresses")] == [0, 0, 0]


def table(session: Session, name: str) -> Any:
    return session.scalar(text(f"SELECT count(*) FROM {name}"))


def test_a_node_with_an_id_of_before_inherits_nothing(other: Api, sessions: sessionmaker[Session]) -> None:
    tunnel = other.tunnel({"id": 2}, {"id": 3})
    with sessions.begin() as session:
        session.execute(text("DELETE FROM nodes WHERE id = 3"))  # past the listener, and no foreign key is enforced
    assert other.send("GET", "/api/tunnels") == []
    with sessions.begin() as session:
        later = ForeignNode(name="later", address="x")
        session.add(later)
        session.flush()
        assert later.id == 3
    assert other.refused("GET", f"/api/tunnels/{tunnel['id']}", None, 404) == "Tunnel not found"
    assert other.tunnel({"id": 2}, {"id": 3})["id"] > tunnel["id"]


def test_a_database_that_was_locked_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As soon as it is not any more, the tunnels are there, and nobody has to restart the panel."""
    engine = create_engine(f"sqlite:///{tmp_path}/other.db", connect_args={"check_same_thread": False, "timeout": 0.05})
    Base.metadata.create_all(engine)
    clock, tunnels = Later(), our_tunnels()
    start = mounted.Start(tunnels, engine, ForeignNode, clock)
    somebody = sqlite3.connect(tmp_path / "other.db", isolation_level=None, check_same_thread=False)
    somebody.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.INFO, "uvicorn.error"), serving(sessionmaker(engine), tunnels, start) as api:
        start()
        for _time in range(3):
            answer = api.bare("GET", "/api/tunnels")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, str(round(mounted.SOON)))
            assert "Marzban-Panel-Id" not in answer.headers
        clock.now += mounted.SOON
        assert api.bare("GET", "/api/tunnels").status_code == 503
        somebody.execute("ROLLBACK")
        assert api.bare("GET", "/api/tunnels").status_code == 503, "not tried at every call"
        clock.now += mounted.SOON
        assert api.send("GET", "/api/tunnels") == []
        assert api.bare("GET", "/api/tunnels").headers["Marzban-Panel-Id"] == tunnels.panel_id
    said = [record.getMessage().split(";")[0] for record in caplog.records if "marzban_tunnels" in record.getMessage()]
    assert said[0] == "marzban_tunnels: could not start"
    assert len(said) == 2, "the same reason is told once, and that it serves"
    somebody.close()
    engine.dispose()


def test_what_waits_for_a_person_is_tried_less_often(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/other.db", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tunnels (id INTEGER PRIMARY KEY)"))
    clock, tunnels = Later(), our_tunnels()
    start = mounted.Start(tunnels, engine, ForeignNode, clock)
    assert start() == mounted.LATER
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tunnels RENAME TO theirs"))
    clock.now += mounted.SOON
    assert start() == mounted.LATER - mounted.SOON
    clock.now += mounted.LATER - mounted.SOON
    start()
    assert tunnels.panel_id
    engine.dispose()
