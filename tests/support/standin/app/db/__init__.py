# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): the database, opened as Marzban opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from config import SQLALCHEMY_DATABASE_URL
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from app.certificate import own_certificate
from marzban_tunnels import migrate
from marzban_tunnels.standalone.database import Database

sqlite = SQLALCHEMY_DATABASE_URL.startswith("sqlite")
CERTIFICATE, KEY = own_certificate()
# A request for a node has two sessions here (the standalone door opens a second one to write): a larger pool
options: dict[str, Any] = {"connect_args": {"check_same_thread": False}} if sqlite else {"pool_recycle": 3600}
options |= {"pool_size": 20, "max_overflow": 30}
engine = create_engine(SQLALCHEMY_DATABASE_URL, **options)
SessionLocal = sessionmaker(engine, autoflush=False)


def get_db() -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


def get_tls_certificate(db: Session) -> Any:
    """The row with the certificate that it shows to its nodes, and its key."""
    return SimpleNamespace(certificate=CERTIFICATE, key=KEY)


class MarzbanDatabase(Database):
    """What the standalone door's routers want, over Marzban's sessions: no pragma, no lock at the first instant."""

    def __init__(self) -> None:
        self.engine = engine

    def make_tables(self) -> None:
        with engine.connect() as connection:  # as Marzban: a start that has nothing to migrate takes no lock
            if migrate.current(connection, "standalone") == migrate.HEADS["standalone"]:
                return
        with migrate.locked(engine) as connection:
            migrate.upgrade(connection, "standalone")

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with SessionLocal() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with SessionLocal() as session:
            yield session
            session.commit()


database = MarzbanDatabase()
