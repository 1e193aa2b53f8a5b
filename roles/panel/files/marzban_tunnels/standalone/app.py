# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The standalone panel as an ASGI application."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from marzban_tunnels import __version__, nodes, webhook
from marzban_tunnels.events import Events
from marzban_tunnels.feed import Feed
from marzban_tunnels.manager.hub import Pace
from marzban_tunnels.manager.loop import Manager
from marzban_tunnels.metrics_access import MetricsAccess
from marzban_tunnels.node_access import Access
from marzban_tunnels.page import page_router
from marzban_tunnels.recorder import Recorder
from marzban_tunnels.router import tunnels_router
from marzban_tunnels.router_events import events_router
from marzban_tunnels.router_metrics import metrics_router
from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.access_log import AccessLog, Lines
from marzban_tunnels.standalone.admins import Admins
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.nodes import nodes_router
from marzban_tunnels.standalone.tables import Node

nodes.follow(Node)


def build(
    database: Database,
    admins: Admins,
    settings: Settings,
    access: Access,
    lines: Lines,
    certificate: str,
    dashboard_path: str,
    pace: Pace = Pace(),
    metrics: MetricsAccess | None = None,
    environ: Mapping[str, str] = {},
) -> tuple[ASGIApp, Manager, Events]:
    """The application over a database whose tables are up to date, and the manager and the events' feed, to be started
    with it. There is no dashboard, only the tunnels page. ``environ`` may name a webhook."""
    admins.start()
    tunnels = Tunnels(Node.__table__, settings, access, metrics=metrics)  # type: ignore[arg-type]
    with database.reading() as session:
        tunnels.start(session)
    tunnels.live = manager = Manager(database.engine, tunnels, pace=pace)
    tunnels.feed = feed = Feed(database.engine, tunnels)
    events = Events(tunnels, feed)
    webhook.add(feed, tunnels, environ)
    recorder = Recorder(feed.read_again)
    feed.add(recorder, tunnels.live.leads, recorder.end)
    app = FastAPI(title="marzban_tunnels", version=__version__, docs_url=None, redoc_url=None)
    current, sudo = admins.current(), admins.sudo()
    app.include_router(admins.router())
    app.include_router(nodes_router(database, admins.session, current, sudo, certificate))
    app.include_router(metrics_router(tunnels, database.engine))
    app.include_router(events_router(events, tunnels, sudo))
    app.include_router(tunnels_router(tunnels, admins.session, sudo))
    app.include_router(page_router(dashboard_path, dashboard=False))
    app.add_exception_handler(RequestValidationError, _invalid)
    return AccessLog(app, lines), manager, events


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Marzban's shape of a 422: messages by the last part of the field's place."""
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": {str(found["loc"][-1]): str(found["msg"]) for found in error.errors()}}, 422)
