# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The door into a real Marzban: its app, its database, its admins. ``start.py`` beside the package comes in here.

Marzban's modules (``app``, ``config``) are found in the working directory, and only when a function here is called.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine
from sqlalchemy.orm import Session

from marzban_tunnels import __version__, migrate, nodes
from marzban_tunnels.page import page_router
from marzban_tunnels.router import tunnels_router
from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_NODES = Table(
    "nodes", MetaData(), Column("id", Integer, primary_key=True), Column("name", String), Column("address", String)
)
_PAGE = 1000


def mount() -> None:
    """Add the routes to Marzban's app, and have the rest done when it starts (its tables may not be there before).

    Raises whatever is wrong, with the app left as it was.
    """
    app = importlib.import_module("app").app
    database = importlib.import_module("app.db")
    node = importlib.import_module("app.db.models").Node
    admin = importlib.import_module("app.models.admin").Admin
    dashboard = importlib.import_module("config").DASHBOARD_PATH
    tunnels = Tunnels(node.__table__, Settings.from_env(os.environ))
    routers = [tunnels_router(tunnels, database.get_db, admin.check_sudo_admin), page_router(dashboard)]
    for router in routers:
        app.include_router(router)
    app.router.lifespan_context = _after(app.router.lifespan_context, partial(start, tunnels, database.engine, node))


def _after(lifespan: Callable[[Any], Any], begin: Callable[[], None]) -> Callable[[Any], Any]:
    """A lifespan that does what this one does, and then ``begin``. Later Starlettes have no handlers for "startup"."""

    @asynccontextmanager
    async def longer(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            begin()
            yield state

    return longer


def start(tunnels: Tunnels, engine: Engine, node: type[Any]) -> None:
    """Migrate, purge, and follow the nodes. What fails here leaves Marzban as it is: our calls answer 503 then."""
    try:
        with migrate.locked(engine) as connection:
            migrate.upgrade(connection, "tunnels")
        with Session(engine) as session:
            tunnels.start(session)
        nodes.follow(node)
    except Exception:
        _log.exception("marzban_tunnels: could not start; Marzban serves without it, and /api/tunnels answers 503")
    else:
        _log.info("marzban_tunnels %s: serves /api/tunnels", __version__)


def command(words: list[str]) -> int:
    """``records`` or ``remove`` (see ``start.py``); Marzban need not run. Answers the exit code."""
    if words not in (["records"], ["remove"]):
        print("usage: start.py [records | remove]", file=sys.stderr)
        return 2
    engine = create_engine(importlib.import_module("config").SQLALCHEMY_DATABASE_URL, hide_parameters=True)
    if words == ["remove"]:
        with migrate.locked(engine) as connection:
            migrate.remove(connection, "tunnels")
        return 0
    with engine.connect() as connection:
        revision = migrate.current(connection, "tunnels")
    found: list[dict[str, Any]] = []
    if revision is not None:
        tunnels = Tunnels(_NODES, Settings.from_env({}))
        with Session(engine) as session:
            while page := tunnels.page(session, len(found), _PAGE):
                found += page
    print(json.dumps({"version": __version__, "revision": revision, "tunnels": found}, indent=2))
    return 0
