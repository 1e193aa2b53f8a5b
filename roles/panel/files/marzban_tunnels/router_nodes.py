# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The routes under ``/api/tunnels/nodes``: the nodes' services."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from marzban_tunnels import schemas_nodes as schemas
from marzban_tunnels.answers import answer, errors
from marzban_tunnels.node_services import NodeServices
from marzban_tunnels.service import Tunnels


def add(router: APIRouter, tunnels: Tunnels, given: Any) -> None:
    """Add the calls to the router of the tunnels API; ``given`` is the dependency that gives a session."""
    services = NodeServices(tunnels)

    def list_node_services(session: Session = given) -> Response:
        """Each node's service: how it is reached, whether it can be worked with, and what is open there."""
        return answer(services.all(session))

    def node_access(body: schemas.AccessWanted, session: Session = given) -> Response:
        """What these nodes need to let this panel in."""
        return answer(services.access(session, body))

    def publish_node_services(body: schemas.Services, session: Session = given) -> Response:
        """Store ports and pins of the nodes' services."""
        return answer(services.publish(session, body))

    def revoke_node_access(node_id: int, session: Session = given) -> Response:
        """Use another access key for this node from now on."""
        return answer(services.revoke(session, node_id))

    def confirm_node(node_id: int, body: schemas.Confirmation, session: Session = given) -> Response:
        """Say that this database is the right one, or that this node was set up again."""
        return answer(services.confirm(session, node_id, body))

    for method, path, endpoint, model, told in (
        ("GET", "/nodes", list_node_services, schemas.NodesOut, errors()),
        ("PUT", "/nodes", publish_node_services, schemas.ServicesOut, errors()),
        ("POST", "/nodes/access", node_access, schemas.AccessesOut, errors()),
        ("POST", "/nodes/{node_id}/revoke", revoke_node_access, schemas.NodeService, errors(404, 409)),
        ("POST", "/nodes/{node_id}/confirm", confirm_node, schemas.NodeService, errors(404, 409)),
    ):
        router.add_api_route(
            path, endpoint, methods=[method], response_model=model, responses=told, name=endpoint.__name__
        )  # fmt: skip
