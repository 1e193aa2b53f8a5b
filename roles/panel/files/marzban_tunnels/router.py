# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The routes under ``/api/tunnels``, for either door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Header, Query, Response
from sqlalchemy.orm import Session

from marzban_tunnels import polling, router_nodes, schemas
from marzban_tunnels.answers import (
    API_HEADER,
    API_VERSION,
    NOT_STARTED,
    PANEL_HEADER,
    Start,
    answer,
    errors,
    route_class,
)
from marzban_tunnels.service import Tunnels

__all__ = ["API_HEADER", "API_VERSION", "LARGEST_PAGE", "NOT_STARTED", "PANEL_HEADER", "Start", "tunnels_router"]
LARGEST_PAGE = 2000  # about 0.1 s of a panel's time; version 2 gave 1000
_UNCHANGED = "Nothing of this page has changed since If-None-Match, but for ages, and which runs' reports are stale"


def tunnels_router(
    tunnels: Tunnels, get_session: Callable[..., Any], require_sudo: Callable[..., Any], start: Start | None = None
) -> APIRouter:
    """All calls of the tunnels API.

    ``get_session`` is a dependency that gives a SQLAlchemy session, ``require_sudo`` one that raises 401 or 403 for
    everybody but a sudo admin. ``start`` is called before a call is answered while ``tunnels`` has not started.
    """
    router = APIRouter(
        prefix="/api/tunnels",
        tags=["Tunnel"],
        dependencies=[Depends(require_sudo)],
        route_class=route_class(tunnels, start),
    )
    given = Depends(get_session)
    matching = Header(None, description='A version, such as "4": 412 when it is old')

    def list_tunnels(
        session: Session = given,
        skip: int = Query(0, ge=0, le=2**31 - 1),
        limit: int = Query(100, ge=1, le=LARGEST_PAGE),
        if_none_match: str | None = Header(None, description="An ETag of this page: 304 when nothing has changed"),
        accept_encoding: str | None = Header(None, include_in_schema=False),
    ) -> Response:
        """A page of tunnels, ordered by id."""
        tag = tunnels.revision(session, skip, limit)
        if polling.has(if_none_match, tag):
            return Response(status_code=304, headers={"ETag": tag, "Vary": "Accept-Encoding"})
        response = answer(tunnels.page(session, skip, limit))
        response.body, headers = polling.compressed(bytes(response.body), accept_encoding)
        response.headers.update({"ETag": tag, "Content-Length": str(len(response.body)), **headers})
        return response

    def create_tunnel(body: schemas.TunnelCreate, session: Session = given) -> Response:
        """Record a tunnel; what config doesn't choose is allocated."""
        return _tunnel(tunnels.create(session, body))

    def create_tunnels(body: schemas.Creates, session: Session = given) -> Response:
        """Record many tunnels. Each is created or refused as by a call of its own; one that is refused stops no other.

        Not in one transaction: where the answer is lost, the list says which of them are there.
        """
        return answer(tunnels.create_many(session, body.tunnels))

    def publish_keys(body: schemas.Keys, session: Session = given) -> Response:
        """Merge the public halves of many ends, in one transaction."""
        return answer(tunnels.store_keys(session, body))

    def report_status(body: schemas.Reports, session: Session = given) -> Response:
        """Take in what a run measured at many ends, in one transaction."""
        return answer(tunnels.store_reports(session, body))

    def get_tunnel(tunnel_id: int, session: Session = given) -> Response:
        """One tunnel."""
        return _tunnel(tunnels.get(session, tunnel_id))

    def update_tunnel(
        tunnel_id: int,
        body: schemas.TunnelUpdate,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Change a tunnel; what is left out stays."""
        return _tunnel(tunnels.update(session, tunnel_id, body, if_match))

    def delete_tunnel(
        tunnel_id: int,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Remove a tunnel."""
        tunnels.delete(session, tunnel_id, if_match)
        return answer({"message": f"Tunnel {tunnel_id} deleted"})

    def activate_tunnel(
        tunnel_id: int,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Switch a tunnel on."""
        tunnels.switch(session, tunnel_id, True, if_match)
        return answer({"message": f"Tunnel {tunnel_id} activated"})

    def deactivate_tunnel(
        tunnel_id: int,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Switch a tunnel off."""
        tunnels.switch(session, tunnel_id, False, if_match)
        return answer({"message": f"Tunnel {tunnel_id} deactivated"})

    def tunnel_status(tunnel_id: int, session: Session = given) -> Response:
        """A tunnel's status, with the measurements of both ends and their age."""
        return answer(tunnels.status(session, tunnel_id))

    def tunnel_history(
        tunnel_id: int,
        session: Session = given,
        accept_encoding: str | None = Header(None, include_in_schema=False),
    ) -> Response:
        """When a tunnel's status has changed, and how the tunnel was in the last day and in the last month."""
        response = answer(tunnels.history(session, tunnel_id))
        response.body, headers = polling.compressed(bytes(response.body), accept_encoding)
        response.headers.update({"Content-Length": str(len(response.body)), **headers})
        return response

    router_nodes.add(router, tunnels, given)  # before the calls whose paths begin with a number
    unknown, changed = errors(404), errors(404, 412)
    for method, path, endpoint, model, told in (
        ("GET", "", list_tunnels, list[schemas.TunnelOut], {304: {"description": _UNCHANGED}, **errors()}),
        ("POST", "", create_tunnel, schemas.TunnelOut, errors(400, 404, 409, 507)),
        ("POST", "/bulk", create_tunnels, schemas.CreatedOut, errors()),
        ("POST", "/keys", publish_keys, schemas.BulkOut, errors()),
        ("POST", "/status", report_status, schemas.BulkOut, errors()),
        ("GET", "/{tunnel_id}", get_tunnel, schemas.TunnelOut, unknown),
        ("PUT", "/{tunnel_id}", update_tunnel, schemas.TunnelOut, errors(400, 404, 409, 412, 507)),
        ("DELETE", "/{tunnel_id}", delete_tunnel, schemas.Message, changed),
        ("POST", "/{tunnel_id}/activate", activate_tunnel, schemas.Message, errors(404, 409, 412)),
        ("POST", "/{tunnel_id}/deactivate", deactivate_tunnel, schemas.Message, changed),
        ("GET", "/{tunnel_id}/status", tunnel_status, schemas.StatusOut, unknown),
        ("GET", "/{tunnel_id}/history", tunnel_history, schemas.HistoryOut, unknown),
    ):
        router.add_api_route(
            path, endpoint, methods=[method], response_model=model, responses=told, name=endpoint.__name__
        )  # fmt: skip
    return router


def _tunnel(record: dict[str, Any]) -> Response:
    return answer(record, version=record["version"])
