# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Admins, nodes and secrets of the standalone door. The nodes' columns are named as Marzban's."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Float, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from marzban_tunnels.tables import exact


class Base(DeclarativeBase):
    """The base of the standalone tables."""


class Admin(Base):
    """Who may log in. ``password_set_at`` is in Unix seconds: older tokens are no longer taken."""

    __tablename__ = "admins"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(exact(64), unique=True)
    password_hash: Mapped[str] = mapped_column(String(256))
    password_set_at: Mapped[int] = mapped_column(BigInteger)
    is_sudo: Mapped[bool]


class Node(Base):
    """A node. Its id is used again by SQLite, as on Marzban."""

    __tablename__ = "nodes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(exact(256), unique=True)
    address: Mapped[str] = mapped_column(String(256))
    port: Mapped[int]
    api_port: Mapped[int]
    usage_coefficient: Mapped[float] = mapped_column(Float, default=1.0)
    xray_version: Mapped[str | None] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    message: Mapped[str | None] = mapped_column(String(1024))
    created_at: Mapped[datetime | None] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))


class Secret(Base):
    """What the panel made for itself at its first start: the key that signs tokens."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
