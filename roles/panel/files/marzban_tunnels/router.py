# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The routes under ``/api/tunnels``, for either door."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from marzban_tunnels import polling, schemas
from marzban_tunnels.errors import Refused, by_field, codes, say
from marzban_tunnels.service import Tunnels

PANEL_HEADER = "Marzban-Panel-Id"
API_HEADER = "Marzban-Tunnels-Api"
# Grows when a client has to know that the panel takes or answers more than before;
# docs/development/contract.md says what is in each. A panel that sends no header is of version 1.
API_VERSION = 4
LARGEST_PAGE = 2000  # about 0.1 s of a panel's time; version 2 gave 1000
NOT_STARTED = say(
    "not_started",
    "The tunnels could not be started with this panel: its log says why, and the panel serves all the rest",
)
_UNCHANGED = "Nothing of this page has changed since If-None-Match, but for ages"
#: Tries to start the tunnels, and answers in how many seconds a further call is worth it.
Start = Callable[[], int]
_TEXTS = {
    400: "The tunnel's ends are the same node",
    401: "No token, or one that isn't valid",
    403: "The admin isn't sudo",
    404: "Tunnel or node not found",
    409: "The name, or a chosen port, endpoint_port, address, interface or route is taken",
    412: "If-Match names an older version",
    503: "The database is busy, or the tunnels could not be started",
    507: "A pool of addresses or ports is used up",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _TEXTS[status], "model": schemas.Problem} for status in (401, 403, 503, *statuses)
    }
    responses[422] = {"description": "A field isn't valid", "model": schemas.FieldProblems}
    return responses


def _answer(body: Any, status: int = 200, version: int | None = None) -> Response:
    """Plain dicts straight to JSON: a page of 1000 tunnels isn't walked through a model first."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    return Response(json.dumps(body, ensure_ascii=False), status, headers, "application/json")


def _problem(status: int, detail: Any, told: dict[str, Any]) -> Response:
    """An error; beside its sentences is what they were made of, where that is known."""
    return _answer({"detail": detail, **({"codes": told} if told else {})}, status)


def _route_class(tunnels: Tunnels, start: Start | None) -> type[APIRoute]:
    """Routes whose answers, errors included, have our shape and name the panel and the API's version, in any app."""

    class TunnelRoute(APIRoute):
        def get_route_handler(self) -> Callable[..., Any]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                wait = await run_in_threadpool(start) if start and not tunnels.panel_id else None
                if not tunnels.panel_id:
                    response = _problem(503, NOT_STARTED, codes({"": NOT_STARTED}))
                    if wait is not None:
                        response.headers["Retry-After"] = str(wait)
                    return response
                try:
                    response = await handler(request)
                except RequestValidationError as error:
                    fields = by_field(error.errors(), skip=1)
                    response = _problem(422, fields, codes(fields))
                except Refused as error:
                    response = _problem(error.status, error.detail, error.codes)
                    if error.status == 503:
                        response.headers["Retry-After"] = "2"
                except HTTPException as error:
                    if error.status_code == 400:  # FastAPI's, for a body that is not text; ours are Refused
                        response = _answer({"detail": {"body": "Has to be JSON, in UTF-8"}}, 422)
                    else:
                        response = _answer({"detail": error.detail}, error.status_code)
                    response.headers.update(error.headers or {})
                response.headers[PANEL_HEADER] = tunnels.panel_id
                response.headers[API_HEADER] = str(API_VERSION)
                return response

            return handle

    return TunnelRoute


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
        route_class=_route_class(tunnels, start),
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
        response = _answer(tunnels.page(session, skip, limit))
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
        return _answer(tunnels.create_many(session, body.tunnels))

    def publish_keys(body: schemas.Keys, session: Session = given) -> Response:
        """Merge the public halves of many ends, in one transaction."""
        return _answer(tunnels.store_keys(session, body))

    def report_status(body: schemas.Reports, session: Session = given) -> Response:
        """Take in what a run measured at many ends, in one transaction."""
        return _answer(tunnels.store_reports(session, body))

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
        return _answer({"message": f"Tunnel {tunnel_id} deleted"})

    def activate_tunnel(
        tunnel_id: int,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Switch a tunnel on."""
        tunnels.switch(session, tunnel_id, True, if_match)
        return _answer({"message": f"Tunnel {tunnel_id} activated"})

    def deactivate_tunnel(
        tunnel_id: int,
        session: Session = given,
        if_match: str | None = matching,
    ) -> Response:
        """Switch a tunnel off."""
        tunnels.switch(session, tunnel_id, False, if_match)
        return _answer({"message": f"Tunnel {tunnel_id} deactivated"})

    def tunnel_status(tunnel_id: int, session: Session = given) -> Response:
        """A tunnel's status, with the measurements of both ends and their age."""
        return _answer(tunnels.status(session, tunnel_id))

    unknown, changed = _errors(404), _errors(404, 412)
    for method, path, endpoint, model, errors in (
        ("GET", "", list_tunnels, list[schemas.TunnelOut], {304: {"description": _UNCHANGED}, **_errors()}),
        ("POST", "", create_tunnel, schemas.TunnelOut, _errors(400, 404, 409, 507)),
        ("POST", "/bulk", create_tunnels, schemas.CreatedOut, _errors()),
        ("POST", "/keys", publish_keys, schemas.BulkOut, _errors()),
        ("POST", "/status", report_status, schemas.BulkOut, _errors()),
        ("GET", "/{tunnel_id}", get_tunnel, schemas.TunnelOut, unknown),
        ("PUT", "/{tunnel_id}", update_tunnel, schemas.TunnelOut, _errors(400, 404, 409, 412, 507)),
        ("DELETE", "/{tunnel_id}", delete_tunnel, schemas.Message, changed),
        ("POST", "/{tunnel_id}/activate", activate_tunnel, schemas.Message, _errors(404, 409, 412)),
        ("POST", "/{tunnel_id}/deactivate", deactivate_tunnel, schemas.Message, changed),
        ("GET", "/{tunnel_id}/status", tunnel_status, schemas.StatusOut, unknown),
    ):
        router.add_api_route(
            path, endpoint, methods=[method], response_model=model, responses=errors, name=endpoint.__name__
        )  # fmt: skip
    return router


def _tunnel(record: dict[str, Any]) -> Response:
    return _answer(record, version=record["version"])
