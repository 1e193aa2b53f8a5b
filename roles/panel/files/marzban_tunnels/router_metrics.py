# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""``GET /api/tunnels/metrics``, for Prometheus: with a key of its own, and never with an admin's token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from marzban_tunnels import polling, schemas
from marzban_tunnels.answers import Start, answer, errors, route_class
from marzban_tunnels.metrics_access import VARIABLE
from marzban_tunnels.node_services import NodeServices
from marzban_tunnels.service import Tunnels

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_PAGE = 500  # tunnels that are read in one session
# Seconds for which an answer is given again: two servers that ask at the same time cost as much as one, and who asks
# in a loop does not slow the panel.
FRESH = 2.0
_PATIENCE = 5.0  # seconds that one waits for another's answer: what waits has one of the panel's threads
_BUSY = "The panel is busy with the metrics that were asked for before: ask less often"
NO_LIBRARY = (
    "The Python package prometheus-client is missing on the panel, so there are no metrics; run the playbook "
    "marzban.tunnels.panel, which brings it, or install it where the panel runs"
)
_UNUSABLE = f"{VARIABLE} can't be used, so there are no metrics: the panel's log says why"
_NO_KEY = f"The metrics want the key {VARIABLE} of the panel's environment, as Authorization: Bearer KEY"
_WRONG_KEY = f"This is not the key {VARIABLE} of the panel's environment. An admin's token does not read the metrics"


def metrics_router(tunnels: Tunnels, engine: Engine, start: Start | None = None) -> APIRouter:
    """The call, for either door; ``start`` as in ``tunnels_router``. Include it before the tunnels' own router."""
    router = APIRouter(prefix="/api/tunnels", tags=["Tunnel"], route_class=route_class(tunnels, start))
    kept = _Kept(lambda: _read(tunnels, engine))
    told: set[str] = set()

    def off(detail: str, why: str | None = None) -> Response:
        """503. Prometheus shows nobody what it is answered, so the log has it, once; ``why`` is only there."""
        if (line := why or detail) not in told:
            told.add(line)
            _log.warning("marzban_tunnels: %s", line)
        return answer({"detail": detail}, 503)

    def metrics(request: Request) -> Response:
        """All tunnels and nodes in Prometheus' text format. It wants TUNNEL_METRICS_KEY as a bearer's token."""
        access = tunnels.metrics
        if access.state == "unset":
            return answer({"detail": access.detail}, 404)
        if access.state != "key":  # a stranger does not get to know how long it is, or which other key
            return off(_UNUSABLE, access.detail)
        shown = request.headers.getlist("Authorization")
        if not shown:
            response = answer({"detail": _NO_KEY}, 401)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if len(shown) > 1 or not access.opens(shown[0]):
            return answer({"detail": _WRONG_KEY}, 403)
        try:
            from marzban_tunnels import end_metrics
        except ImportError:
            return off(NO_LIBRARY)
        found = kept.text()
        if found is None:
            return answer({"detail": _BUSY}, 503)
        body, headers = polling.compressed(found, request.headers.get("Accept-Encoding"))
        return Response(body, 200, {"Cache-Control": "no-store", **headers}, end_metrics.CONTENT_TYPE)

    responses: dict[int | str, dict[str, Any]] = {
        **errors(),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"},
        401: {"description": "No key", "model": schemas.Problem},
        403: {"description": "Another key", "model": schemas.Problem},
        404: {"description": f"{VARIABLE} is not set", "model": schemas.Problem},
        503: {
            "description": f"{VARIABLE} can't be used, a package is missing, or as for the other calls",
            "model": schemas.Problem,
        },
    }
    router.add_api_route(
        "/metrics", metrics, methods=["GET"], response_class=Response, responses=responses, name="metrics"
    )
    return router


class _Kept:
    """The last answer. It is made by one thread at a time; the others wait for that one."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made, self._at = b"", float("-inf")

    def text(self) -> bytes | None:
        """None where that one takes too long."""
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            if time.monotonic() - self._at > FRESH:
                self._made = self._make()
                self._at = time.monotonic()
            return self._made
        finally:
            self._lock.release()


def _read(tunnels: Tunnels, engine: Engine) -> bytes:
    """The whole text. No session is open while it is written, nor longer than a page of tunnels takes to read."""
    from marzban_tunnels import end_metrics, metrics

    records: list[dict[str, Any]] = []
    while True:
        with Session(engine) as session:
            page = tunnels.page(session, len(records), _PAGE)
        records += page
        if len(page) < _PAGE:
            break
    with Session(engine) as session:
        services = NodeServices(tunnels).all(session)
    return end_metrics.text(metrics.told(records, services, tunnels.live))
