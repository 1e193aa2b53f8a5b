# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the front answers: JSON, and an error always with ``detail`` and ``code``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp.web import Response

RETRY_AFTER = 2  # seconds
SERVER = "marzban-node"  # and not the versions of Python and aiohttp


def answered(status: int, body: Mapping[str, Any], **headers: str) -> Response:
    """An answer with a body of JSON."""
    given = {
        "Cache-Control": "no-store",
        "Server": SERVER,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    if status == 503:
        given.setdefault("Retry-After", str(RETRY_AFTER))
    content = json.dumps(body, separators=(",", ":")).encode("ascii")
    return Response(status=status, body=content, headers=given, content_type="application/json")


def refusal(status: int, code: str, detail: str | dict[str, str], **headers: str) -> Response:
    """An error; ``detail`` is a sentence or, with 422, ``{field: sentence}``."""
    return answered(status, {"detail": detail, "code": code}, **headers)
