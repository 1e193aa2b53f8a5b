# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The tables of the tunnels API.

They have a base of their own, and know nodes only by number: the foreign keys to ``nodes.id`` are in the migration,
so the same tables serve beside Marzban's models and beside ours.
"""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, ForeignKey, String, Table, Text, UniqueConstraint
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def exact(length: int) -> String:
    """A VARCHAR that tells upper from lower case on MariaDB too."""
    text = String(length)
    return text.with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


class Base(DeclarativeBase):
    """The base of the tunnels' tables; never Marzban's."""


class Panel(Base):
    """One row: who this panel is, and where the next allocation starts looking. Its lock orders all writes."""

    __tablename__ = "tunnel_panel"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uuid: Mapped[str] = mapped_column(String(36))
    writes: Mapped[int] = mapped_column(BigInteger, default=0)
    next_ipv4: Mapped[int] = mapped_column(BigInteger, default=1)
    next_ipv6: Mapped[int] = mapped_column(BigInteger, default=1)
    next_port: Mapped[int] = mapped_column(BigInteger, default=1)
    next_id: Mapped[int] = mapped_column(BigInteger, default=1)  # of a tunnel: none is ever used again
    lease_holder: Mapped[str | None] = mapped_column(String(64))  # the manager that works with this database
    lease_beat: Mapped[int] = mapped_column(BigInteger, default=0)  # grows while it does


class Tunnel(Base):
    """The operator's record. Times are naive UTC in whole seconds."""

    __tablename__ = "tunnels"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # the panel's row counts them
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    version: Mapped[int] = mapped_column(default=1)
    source_node_id: Mapped[int] = mapped_column(index=True)
    target_node_id: Mapped[int] = mapped_column(index=True)
    tunnel_type: Mapped[str] = mapped_column(String(16))
    name: Mapped[str | None] = mapped_column(exact(128), unique=True)
    alike: Mapped[str | None] = mapped_column(String(64), index=True)  # naming.digest; an older version leaves it
    config: Mapped[str] = mapped_column(Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb"))
    is_active: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # The history's: see history.py. An older version leaves them as they are.
    last_status: Mapped[str | None] = mapped_column(String(16))
    status_since: Mapped[datetime | None]
    status_changes: Mapped[int] = mapped_column(default=0)  # how many were ever written


class End(Base):
    """One end of a tunnel: what was allocated or chosen for it, and what runs have told about it."""

    __tablename__ = "tunnel_ends"
    __table_args__ = (
        UniqueConstraint("node_id", "port", name="uq_tunnel_ends_port"),
        UniqueConstraint("node_id", "interface", name="uq_tunnel_ends_interface"),
    )

    tunnel_id: Mapped[int] = mapped_column(ForeignKey("tunnels.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(8), primary_key=True)
    node_id: Mapped[int]
    node_created_at: Mapped[datetime | None]  # tells a node from a later one that got its id
    port: Mapped[int]
    interface: Mapped[str] = mapped_column(exact(15))
    public: Mapped[str | None] = mapped_column(String(4096))  # JSON
    status: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(String(1024))
    symptom: Mapped[str | None] = mapped_column(String(16))  # of that error, one of live.SYMPTOMS
    measured: Mapped[str | None] = mapped_column(String(1024))  # JSON
    reported_at: Mapped[datetime | None]
    gaps: Mapped[str | None] = mapped_column(String(64))  # seconds between the last reports, the newest first
    reported_by: Mapped[str | None] = mapped_column(String(8))  # "run" or "service"
    changed_public: Mapped[str | None] = mapped_column(String(4096))  # JSON: its node shows it, nobody has accepted it


class Address(Base):
    """An address of an end. ``host``, ``first`` and ``last`` (of its network) are 32 hex digits, IPv4 as ::ffff:0:0/96,
    so that text compares as numbers do."""

    __tablename__ = "tunnel_addresses"

    host: Mapped[str] = mapped_column(String(32), primary_key=True)
    tunnel_id: Mapped[int] = mapped_column(ForeignKey("tunnels.id", ondelete="CASCADE"), index=True)
    role: Mapped[str] = mapped_column(String(8))
    position: Mapped[int]
    address: Mapped[str] = mapped_column(String(43))
    first: Mapped[str] = mapped_column(String(32), index=True)
    last: Mapped[str] = mapped_column(String(32))


class NodeService(Base):
    """What the panel knows of a node's service, and who the node is for us. A row is made when it is first needed.

    ``node_created_at`` tells a node from a later one that got its id: a row of the earlier one is no longer used.
    ``name`` and ``address`` are the last that were seen; they serve when the node is deleted while we are not there.
    """

    __tablename__ = "tunnel_nodes"

    node_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node_created_at: Mapped[datetime | None]
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    generation: Mapped[int] = mapped_column(default=1)  # of its access key
    port: Mapped[int | None]
    pin: Mapped[str | None] = mapped_column(exact(64))  # sha256:<base64> of the certificate's public key
    counter: Mapped[int] = mapped_column(BigInteger, default=0)  # the last one that was given out to the node
    seen_counter: Mapped[int] = mapped_column(BigInteger, default=0)  # the last one that the node has taken
    epochs: Mapped[str | None] = mapped_column(String(512))  # of leases that wrote to it: the node shows one of them
    addresses: Mapped[str | None] = mapped_column(String(4096))  # JSON; null until a later version
    name: Mapped[str | None] = mapped_column(exact(256))
    address: Mapped[str | None] = mapped_column(String(256))


class Deletion(Base):
    """A tunnel that a node has to remove. Written with the delete itself: a node removes nothing without one. It has
    what is needed to call the node, because the node may be deleted on the panel as well."""

    __tablename__ = "tunnel_deletions"

    uuid: Mapped[str] = mapped_column(String(36), primary_key=True)
    node_uuid: Mapped[str] = mapped_column(String(36), primary_key=True, index=True)
    node_id: Mapped[int]
    tunnel_id: Mapped[int]
    name: Mapped[str | None] = mapped_column(exact(128))
    tunnel_type: Mapped[str] = mapped_column(String(16))
    node_name: Mapped[str | None] = mapped_column(exact(256))
    address: Mapped[str | None] = mapped_column(String(256))
    port: Mapped[int | None]
    pin: Mapped[str | None] = mapped_column(exact(64))
    generation: Mapped[int]
    counter: Mapped[int] = mapped_column(BigInteger, default=0)  # of a node that is deleted: the last one given out
    deleted_at: Mapped[datetime]
    given_up: Mapped[bool] = mapped_column(default=False)


class Change(Base):
    """A tunnel's status became another one. ``number`` counts them for each tunnel; the last ones are kept. There may
    be rows of tunnels that are deleted: they go within some hours."""

    __tablename__ = "tunnel_changes"
    __table_args__ = {"sqlite_with_rowid": False}

    tunnel_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(String(200))


class Sums(Base):
    """How a tunnel was in a period of ``level`` seconds that began at ``start`` (seconds since 1970). The key is in the
    order in which rows are written and deleted, so that both touch few pages. There may be rows of tunnels that are
    deleted: they go within some hours."""

    __tablename__ = "tunnel_sums"
    __table_args__ = {"sqlite_with_rowid": False}

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tunnel_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    up: Mapped[int]  # seconds
    down: Mapped[int]
    samples: Mapped[int]  # how many measurements there were, of both ends
    rtt_us: Mapped[int | None]  # the median, in microseconds
    rtt_worst_us: Mapped[int | None]
    loss: Mapped[int | None]  # hundredths of a percent
    to_target: Mapped[int | None] = mapped_column(BigInteger)  # bytes
    to_source: Mapped[int | None] = mapped_column(BigInteger)


# The same as tables, for statements that don't pass through classes
TUNNELS, ENDS, ADDRESSES = (cast(Table, table.__table__) for table in (Tunnel, End, Address))
NODE_SERVICES, DELETIONS = (cast(Table, table.__table__) for table in (NodeService, Deletion))
CHANGES, SUMS = (cast(Table, table.__table__) for table in (Change, Sums))
