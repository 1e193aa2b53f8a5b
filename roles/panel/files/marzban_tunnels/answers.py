# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The shape of all answers under ``/api/tunnels``, errors included."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from marzban_tunnels import schemas
from marzban_tunnels.errors import Refused, by_field, codes, say
from marzban_tunnels.service import Tunnels

PANEL_HEADER = "Marzban-Panel-Id"
API_HEADER = "Marzban-Tunnels-Api"
# Grows when a client has to know that the panel takes or answers more than before;
# docs/development/contract.md says what is in each. A panel that sends no header is of version 1.
API_VERSION = 6
NOT_STARTED = say(
    "not_started",
    "The tunnels could not be started with this panel: its log says why, and the panel serves all the rest",
)
#: Tries to start the tunnels, and answers in how many seconds a further call is worth it.
Start = Callable[[], int]
_TEXTS = {
    400: "The tunnel's ends are the same node",
    401: "No token, or one that isn't valid",
    403: "The admin isn't sudo",
    404: "Tunnel or node not found",
    409: "The name, or a chosen port, endpoint_port, address, interface or route is taken; or a node shows another key",
    412: "If-Match names an older version",
    503: "The database is busy, or the tunnels could not be started",
    507: "A pool of addresses or ports is used up",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _TEXTS[status], "model": schemas.Problem} for status in (401, 403, 503, *statuses)
    }
    responses[422] = {"description": "A field isn't valid", "model": schemas.FieldProblems}
    return responses


def answer(body: Any, status: int = 200, version: int | None = None) -> Response:
    """Plain dicts straight to JSON: a page of 1000 tunnels isn't walked through a model first."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    return Response(json.dumps(body, ensure_ascii=False), status, headers, "application/json")


def problem(status: int, detail: Any, told: dict[str, Any]) -> Response:
    """An error; beside its sentences is what they were made of, where that is known."""
    return answer({"detail": detail, **({"codes": told} if told else {})}, status)


def route_class(tunnels: Tunnels, start: Start | None) -> type[APIRoute]:
    """Routes whose answers, errors included, have our shape and name the panel and the API's version, in any app."""

    class TunnelRoute(APIRoute):
        def get_route_handler(self) -> Callable[..., Any]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                wait = await run_in_threadpool(start) if start and not tunnels.panel_id else None
                if not tunnels.panel_id:
                    response = problem(503, NOT_STARTED, codes({"": NOT_STARTED}))
                    if wait is not None:
                        response.headers["Retry-After"] = str(wait)
                    return response
                try:
                    response = await handler(request)
                except RequestValidationError as error:
                    fields = by_field(error.errors(), skip=1)
                    response = problem(422, fields, codes(fields))
                except Refused as error:
                    response = problem(error.status, error.detail, error.codes)
                    if error.status == 503:
                        response.headers["Retry-After"] = "2"
                except HTTPException as error:
                    if error.status_code == 400:  # FastAPI's, for a body that is not text; ours are Refused
                        response = answer({"detail": {"body": "Has to be JSON, in UTF-8"}}, 422)
                    else:
                        response = answer({"detail": error.detail}, error.status_code)
                    response.headers.update(error.headers or {})
                response.headers[PANEL_HEADER] = tunnels.panel_id
                response.headers[API_HEADER] = str(API_VERSION)
                return response

            return handle

    return TunnelRoute
