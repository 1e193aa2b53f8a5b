# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The door into a real Marzban: its app, its database, its admins. ``start.py`` beside the package comes in here.

Marzban's modules (``app``, ``config``) are found in the working directory, and only when a function here is called.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from marzban_tunnels import __version__, exits, metrics_access, migrate, node_access, nodes, webhook
from marzban_tunnels.errors import Refused
from marzban_tunnels.events import Events
from marzban_tunnels.feed import Feed
from marzban_tunnels.manager.loop import Manager
from marzban_tunnels.page import page_router, place
from marzban_tunnels.recorder import Recorder
from marzban_tunnels.router import tunnels_router
from marzban_tunnels.router_events import events_router
from marzban_tunnels.router_metrics import metrics_router
from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_NODES = Table(
    "nodes", MetaData(), Column("id", Integer, primary_key=True), Column("name", String), Column("address", String)
)
_PAGE = 1000
# Seconds until a start that has failed is tried again: what holds the database lets go of it soon, and everything else
# waits for a person.
SOON, LATER = 5.0, 60.0


def mount() -> None:
    """Add the routes to Marzban's app, and have the rest done when it starts (its tables may not be there before).

    Raises whatever is wrong, with the app left as it was.
    """
    app = importlib.import_module("app").app
    database = importlib.import_module("app.db")
    node = importlib.import_module("app.db.models").Node
    admin = importlib.import_module("app.models.admin").Admin
    dashboard = importlib.import_module("config").DASHBOARD_PATH
    access, metrics = node_access.from_env(os.environ), metrics_access.from_env(os.environ)
    tunnels = Tunnels(node.__table__, Settings.from_env(os.environ), access, _certificate(database), metrics)
    tunnels.live = manager = Manager(database.engine, tunnels, _client_certificate(database))
    tunnels.feed = feed = Feed(database.engine, tunnels)
    events = Events(tunnels, feed)
    webhook.add(feed, tunnels, os.environ)
    recorder = Recorder(feed.read_again)
    feed.add(recorder, tunnels.live.leads, recorder.end)

    def started() -> None:
        manager.start()
        feed.start()

    def stop() -> None:
        events.end()
        feed.stop()
        manager.stop()

    start = Start(tunnels, database.engine, node, page=place(dashboard), started=started)
    routers = [
        metrics_router(tunnels, database.engine, start),
        events_router(events, tunnels, admin.check_sudo_admin, start),
        tunnels_router(tunnels, database.get_db, admin.check_sudo_admin, start),
        page_router(dashboard),
    ]
    for router in routers:
        app.include_router(router)
    app.router.lifespan_context = _around(app.router.lifespan_context, start, stop)
    exits.watch(events.end)


def _certificate(database: Any) -> Callable[[Session], str | None]:
    """What gives the certificate that Marzban shows to its nodes, and ``GET /api/node/settings`` to its admins."""

    def read(session: Session) -> str | None:
        row = database.get_tls_certificate(session)
        return None if row is None else str(row.certificate)

    return read


def _client_certificate(database: Any) -> Callable[[], tuple[str, str] | None]:
    """What gives the same certificate with its key, for calls to nodes that trust it."""

    def read() -> tuple[str, str] | None:
        with Session(database.engine) as session:
            row = database.get_tls_certificate(session)
            return None if row is None else (str(row.certificate), str(row.key))

    return read


def _around(
    lifespan: Callable[[Any], Any], begin: Callable[[], object], end: Callable[[], object]
) -> Callable[[Any], Any]:
    """A lifespan that does what this one does, and then ``begin``; when it is over, ``end`` comes first. Later
    Starlettes have no handlers for "startup"."""

    @asynccontextmanager
    async def longer(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            begin()
            try:
                yield state
            finally:
                end()

    return longer


class Start:
    """Migrates, follows the nodes, and purges: when Marzban starts, and where that failed, again with later calls.

    What fails leaves Marzban as it is, and our calls answer 503. A database that is locked for a moment must not switch
    the tunnels off until somebody restarts the panel.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        engine: Engine,
        node: type[Any],
        clock: Callable[[], float] = time.monotonic,
        page: str = "",
        started: Callable[[], object] = lambda: None,
    ) -> None:
        self._started = started  # called once, after it has worked
        self._page = page  # where it is, for the log
        self._tunnels, self._engine, self._node, self._clock = tunnels, engine, node, clock
        self._lock = threading.Lock()
        self._follows = False
        self._next = 0.0  # when it may be tried again
        self._told = ""

    def __call__(self) -> int:
        """Try, unless that is going on or was done just now. Answers in how many seconds a further call is worth it."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._tunnels.panel_id and self._clock() >= self._next:
                    self._try()
            finally:
                self._lock.release()
        return max(1, math.ceil(self._next - self._clock()))

    def _try(self) -> None:
        try:
            with migrate.locked(self._engine) as connection:
                migrate.upgrade(connection, "tunnels")
            if not self._follows:
                nodes.follow(self._node)
                self._follows = True
            with Session(self._engine) as session:
                self._tunnels.start(session)
        except Exception as error:
            busy = isinstance(error, (OperationalError, PoolTimeout, TimeoutError, Refused))
            self._next = self._clock() + (SOON if busy else LATER)
            if str(error) != self._told:  # once each: it may be tried a thousand times
                self._told = str(error)
                _log.exception(
                    "marzban_tunnels: could not start; Marzban serves without it, /api/tunnels answers 503, and a call "
                    "of it in %d s tries again",
                    SOON if busy else LATER,
                )
        else:
            self._started()
            _log.info("marzban_tunnels %s: serves /api/tunnels%s", __version__, self._page and f" and {self._page}")


def command(words: list[str]) -> int:
    """``records``, ``remove`` or ``downgrade`` (see ``start.py``); Marzban need not run. Answers the exit code."""
    if words not in (["records"], ["remove"]) and not (len(words) == 2 and words[0] == "downgrade"):
        print("usage: start.py [records | remove | downgrade REVISION]", file=sys.stderr)
        return 2
    engine = create_engine(importlib.import_module("config").SQLALCHEMY_DATABASE_URL, hide_parameters=True)
    try:
        if words == ["records"]:
            _print_records(engine)
            return 0
        with migrate.locked(engine) as connection:
            if words == ["remove"]:
                migrate.remove(connection, "tunnels")
            elif words[1] in migrate.revisions("tunnels"):  # "base" would be a removal
                migrate.downgrade(connection, "tunnels", words[1])
            else:
                raise ValueError(f"{words[1]} is not a revision of the tunnels' tables")
    except ValueError as error:
        print(f"marzban_tunnels: {error}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    return 0


def _print_records(engine: Engine) -> None:
    with engine.connect() as connection:
        revision = migrate.usable(connection, "tunnels")
    found: list[dict[str, Any]] = []
    if revision is not None:
        tunnels = Tunnels(_NODES, Settings.from_env({}))
        with Session(engine) as session:
            while page := tunnels.page(session, len(found), _PAGE):
                found += page
    print(json.dumps({"version": __version__, "revision": revision, "tunnels": found}, indent=2))
