# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): the app with its own calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from config import DASHBOARD_PATH, SUDO_PASSWORD, SUDO_USERNAME
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from app.db import CERTIFICATE, database
from app.models.admin import admins
from marzban_tunnels.standalone.nodes import nodes_router


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """As Marzban's handler for "startup": the dashboard comes after all routes."""
    build = Path("build")
    build.mkdir(exist_ok=True)
    (build / "index.html").write_text("<title>The stand-in's dashboard</title>")
    app.mount(DASHBOARD_PATH, StaticFiles(directory=build, html=True), name="dashboard")
    yield


app = FastAPI(title="A stand-in for Marzban", lifespan=lifespan)
database.make_tables()
admins.start()
admins.put(SUDO_USERNAME, SUDO_PASSWORD, is_sudo=True)
app.include_router(admins.router())
app.include_router(nodes_router(database, admins.session, admins.current(), admins.sudo(), CERTIFICATE))


@app.exception_handler(RequestValidationError)
def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"detail": {str(found["loc"][-1]): str(found["msg"]) for found in error.errors()}}, 422)
