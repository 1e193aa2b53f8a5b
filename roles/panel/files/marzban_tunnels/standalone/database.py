# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The database of the standalone door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from marzban_tunnels import migrate

BUSY_TIMEOUT = 60  # seconds: SQLite lets writers in without order, and on a busy machine the last of many waits long


class Database:
    """An engine and its sessions. ``where`` is a file (SQLite, made with mode 0600) or a SQLAlchemy URL."""

    def __init__(self, where: str) -> None:
        url = make_url(where if "://" in where else f"sqlite:///{Path(where).absolute()}")
        if url.get_backend_name() == "sqlite":
            if url.database:
                # an existing file is left as it is; SQLite gives the journal beside it the same mode
                os.close(os.open(url.database, os.O_CREAT | os.O_RDWR, 0o600))
            options: dict[str, Any] = {"connect_args": {"check_same_thread": False, "timeout": BUSY_TIMEOUT}}
        else:
            options = {"pool_recycle": 3600, "pool_pre_ping": True}
        # parameters may be secrets: they stay out of error messages
        self.engine: Engine = create_engine(url, hide_parameters=True, pool_size=20, max_overflow=30, **options)
        if url.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _connected)
            event.listen(self.engine, "begin", _begun)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.engine.dispose()

    def upgrade(self) -> None:
        """Bring all tables up to date."""
        with migrate.locked(self.engine) as connection:
            for tree in migrate.TREES:
                migrate.upgrade(connection, tree)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session; on SQLite its reads see one moment. Writes are for the one that locks first (see ``Tunnels``)."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in a write transaction from its first instant, committed at the end."""
        with Session(self.engine) as session:
            session.connection(execution_options={"sqlite_begin": "IMMEDIATE"})
            yield session
            session.commit()


def _connected(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # BEGIN comes from us, or reads would see several moments
    # FULL: a number that a node was told is still there after a power cut
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begun(connection: Connection) -> None:
    kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")
