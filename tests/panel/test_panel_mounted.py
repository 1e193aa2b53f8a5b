# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The tunnels API beside somebody else's nodes, sessions and admins: it must not lean on the standalone door.

The other panel here is made as Marzban is: a session without autoflush, and SQLite that enforces no foreign key.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import String, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.responses import JSONResponse

from marzban_tunnels import migrate, mounted, nodes
from marzban_tunnels.router import tunnels_router
from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.serve import listen
from tests.support.panel_api import Api


class Base(DeclarativeBase):
    pass


class ForeignNode(Base):
    __tablename__ = "nodes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(256), unique=True)
    address: Mapped[str] = mapped_column(String(256))
    uplink: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime | None] = mapped_column(default=datetime.now)


nodes.follow(ForeignNode)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    engine = create_engine(f"sqlite:///{tmp_path}/other.db", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        migrate.upgrade(connection, "tunnels")
    made = sessionmaker(engine, autoflush=False)
    with made.begin() as session:
        session.add_all(ForeignNode(name=f"node-{number}", address="203.0.113.1") for number in range(3))
    yield made
    engine.dispose()


@contextmanager
def serving(sessions: sessionmaker[Session], tunnels: Tunnels, start: Callable[[], int] | None = None) -> Iterator[Api]:
    """A client of the other panel with our routes in it."""

    def get_db() -> Iterator[Session]:
        with sessions() as session:
            yield session

    def check_sudo_admin(request: Request, session: Session = Depends(get_db)) -> None:  # noqa: B008
        session.scalars(select(ForeignNode)).all()  # the login reads in the same session
        if request.headers.get("Authorization") != "Bearer right":
            raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})

    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    def other_shape(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "in another shape"}, 422)

    app.include_router(tunnels_router(tunnels, get_db, check_sudo_admin, start))
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    bound.listen()
    thread.start()
    api = Api(f"http://127.0.0.1:{bound.getsockname()[1]}", "", "", True)
    api.session.headers["Authorization"] = "Bearer right"
    try:
        yield api
    finally:
        api.session.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def our_tunnels() -> Tunnels:
    return Tunnels(ForeignNode.__table__, Settings.from_env({}))  # type: ignore[arg-type]


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
