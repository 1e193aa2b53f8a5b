# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A STAND-IN for Marzban, for where its source is not given: the modules that the add-on asks for, by the names and
in the way Marzban has them (a session without autoflush, SQLite that enforces no foreign key, a dashboard that is
mounted at the start, 422 in its shape, `main.py` that serves "main:app"). Admins and nodes are the standalone door's.
"""

from __future__ import annotations

from os import environ

SQLALCHEMY_DATABASE_URL = environ.get("SQLALCHEMY_DATABASE_URL", "sqlite:///db.sqlite3")
DASHBOARD_PATH = environ.get("DASHBOARD_PATH", "/dashboard/")
UVICORN_PORT = int(environ.get("UVICORN_PORT", "8000"))
UVICORN_SSL_CERTFILE, UVICORN_SSL_KEYFILE = environ.get("UVICORN_SSL_CERTFILE"), environ.get("UVICORN_SSL_KEYFILE")
SUDO_USERNAME, SUDO_PASSWORD = environ["SUDO_USERNAME"], environ["SUDO_PASSWORD"]
