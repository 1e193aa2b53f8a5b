# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Nodes, answered as Marzban answers them.

There is no Xray behind this door: a node says ``connecting`` in the answer to a change, and ``connected`` from then on
unless it is disabled. Nobody has spoken to it. What Marzban accepts unchecked (empty names, invalid addresses,
impossible ports) is accepted here too; what makes Marzban answer 500 is a clean 4xx.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy import select
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from marzban_tunnels.standalone import schemas
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node

MARZBAN_VERSION = "0.8.4"  # whose behaviour this is
LARGEST_ID = 2**31 - 1


def nodes_router(
    database: Database,
    get_session: Callable[..., Any],
    current: Callable[..., schemas.AdminOut],
    sudo: Callable[..., schemas.AdminOut],
    certificate: str,
) -> APIRouter:
    """The calls for nodes, and ``/api/system``. ``certificate`` is PEM text for ``/api/node/settings``."""
    router = APIRouter(prefix="/api", tags=["Node"])

    def existing(node_id: int, session: Session = Depends(get_session)) -> Node:
        return _find(session, node_id)  # before the token is looked at, as on Marzban

    def get_nodes(session: Session = Depends(get_session), _admin: Any = Depends(sudo)) -> list[Node]:
        """All nodes."""
        return list(session.scalars(select(Node).order_by(Node.id)))

    def get_usage(
        start: str = "", end: str = "", session: Session = Depends(get_session), _admin: Any = Depends(sudo)
    ) -> schemas.NodesUsage:
        """What each node has carried for users between two times in ISO 8601: 0, as there is no Xray here."""
        _check_period(start, end)
        names = session.execute(select(Node.id, Node.name).order_by(Node.id))
        nodes = [schemas.NodeUsage(node_id=row.id, node_name=row.name) for row in names]
        return schemas.NodesUsage(usages=[schemas.NodeUsage(node_id=None, node_name="Master"), *nodes])

    def get_node_settings(_admin: Any = Depends(sudo)) -> schemas.NodeSettings:
        """What a node needs to know of its panel."""
        return schemas.NodeSettings(certificate=certificate)

    def add_node(body: schemas.NodeCreate, _admin: Any = Depends(sudo)) -> schemas.NodeOut:
        """Add a node."""
        node = Node(status="connected", name=body.name, address=body.address, port=body.port, api_port=body.api_port)
        with database.writing() as session:
            session.add(node)
            return _changed(session, node)

    def get_node(node: Node = Depends(existing), _admin: Any = Depends(sudo)) -> Node:
        """One node."""
        return node

    def modify_node(
        node_id: int, body: schemas.NodeModify, _node: Any = Depends(existing), _admin: Any = Depends(sudo)
    ) -> schemas.NodeOut:
        """Change a node. Without ``"status": "disabled"`` it is enabled again."""
        with database.writing() as session:
            node = _find(session, node_id)
            for field in ("name", "address", "port", "api_port"):
                value = getattr(body, field)
                if value is not None:
                    setattr(node, field, value)
            if body.usage_coefficient:
                node.usage_coefficient = body.usage_coefficient
            node.status = "disabled" if body.status == "disabled" else "connected"
            node.message = None
            return _changed(session, node)

    def reconnect_node(_node: Any = Depends(existing), _admin: Any = Depends(sudo)) -> schemas.Detail:
        """Nothing to reconnect here; answers as Marzban does."""
        return schemas.Detail(detail="Reconnection task scheduled")

    def remove_node(node_id: int, _node: Any = Depends(existing), _admin: Any = Depends(sudo)) -> dict[str, Any]:
        """Delete a node, and the tunnels that end at it."""
        with database.writing() as session:
            session.delete(_find(session, node_id))
        return {}

    def get_system_stats(_admin: Any = Depends(current)) -> schemas.System:
        """The version whose API this is, and the machine's memory."""
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        return schemas.System(
            version=MARZBAN_VERSION, mem_total=total, mem_used=total - free, cpu_cores=os.cpu_count() or 1
        )  # fmt: skip

    none: dict[int | str, dict[str, Any]] = {}
    missing, taken = none | {404: {"model": schemas.Detail}}, none | {409: {"model": schemas.Detail}}
    taken |= {400: {"model": schemas.Detail}}  # a body that is not text
    for method, path, endpoint, model, responses in (
        ("GET", "/nodes", get_nodes, list[schemas.NodeOut], none),
        ("GET", "/nodes/usage", get_usage, schemas.NodesUsage, none | {400: {"model": schemas.Detail}}),
        ("GET", "/node/settings", get_node_settings, schemas.NodeSettings, none),
        ("POST", "/node", add_node, schemas.NodeOut, taken),
        ("GET", "/node/{node_id}", get_node, schemas.NodeOut, missing),
        ("PUT", "/node/{node_id}", modify_node, schemas.NodeOut, missing | taken),
        ("DELETE", "/node/{node_id}", remove_node, None, missing),
        ("POST", "/node/{node_id}/reconnect", reconnect_node, schemas.Detail, missing),
        ("GET", "/system", get_system_stats, schemas.System, none),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=model,
            responses={
                401: {"model": schemas.Detail},
                403: {"model": schemas.Detail},
                422: {"model": schemas.FieldDetail},
                **responses,
            },
        )
    return router


def _check_period(start: str, end: str) -> None:
    """Raises what Marzban answers to times that it can't read, or that are in the wrong order."""
    try:
        times = [datetime.fromisoformat(text).astimezone(UTC) for text in (start, end) if text]
    except (ValueError, OverflowError):
        raise HTTPException(400, "Invalid date range or format") from None
    if times != sorted(times):
        raise HTTPException(400, "Start date must be before end date")


def _find(session: Session, node_id: int) -> Node:
    node = session.get(Node, node_id) if 1 <= node_id <= LARGEST_ID else None
    if node is None:
        raise HTTPException(404, "Node not found")
    return node


def _changed(session: Session, node: Node) -> schemas.NodeOut:
    """Write the node; the answer says ``connecting``, as on Marzban, where a task connects it afterwards."""
    name = node.name
    try:
        session.flush()
    except IntegrityError:
        raise HTTPException(409, f'Node "{name}" already exists') from None
    except DataError:
        raise HTTPException(422, {"name": "Too long for this database"}) from None
    answer = schemas.NodeOut.model_validate(node)
    return answer if answer.status == "disabled" else answer.model_copy(update={"status": "connecting"})
