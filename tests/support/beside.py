# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Somebody else's panel with our routes in it, in this process: other nodes, sessions and admins.

It is made as Marzban is: a session without autoflush, and SQLite that enforces no foreign key.
"""

from __future__ import annotations

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
from sqlalchemy import Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.responses import JSONResponse

from marzban_tunnels import migrate, nodes
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
    yield with_nodes(engine)
    engine.dispose()


def with_nodes(engine: Engine) -> sessionmaker[Session]:
    """Sessions of an empty database, which gets all tables and three nodes."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        migrate.upgrade(connection, "tunnels")
    made = sessionmaker(engine, autoflush=False)
    with made.begin() as session:
        session.add_all(ForeignNode(name=f"node-{number}", address="203.0.113.1") for number in range(3))
    return made


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


def our_tunnels(**options: Any) -> Tunnels:
    return Tunnels(ForeignNode.__table__, Settings.from_env({}), **options)  # type: ignore[arg-type]
