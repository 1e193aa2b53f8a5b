# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/node-api.openapi.json, and whether what the root half answers is as documented for that call and that status."""

from __future__ import annotations

import functools
import importlib.util
import json
from typing import Any

from tests.support.world import TOP

DOCUMENT: dict[str, Any] = json.loads((TOP / "docs/node-api.openapi.json").read_text())
CALLS = {  # of the root half: which path and method the front makes them of
    "post": ("/api/tunnel", "post"),
    "delete": ("/api/tunnel/{id}", "delete"),
    "status": ("/api/tunnel/{id}/status", "get"),
    "list": ("/api/tunnels", "get"),
}


def check(call: object, status: int, body: object) -> None:
    """Raises where an answer is not as documented. Without schemathesis' validator nothing is looked at."""
    if not isinstance(call, str) or call not in CALLS or importlib.util.find_spec("jsonschema_rs") is None:
        return
    path, method = CALLS[call]
    known = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in known, f"{call}: {status} is not documented: {body}"
    _validator(known[str(status)]["content"]["application/json"]["schema"]["$ref"]).validate(body)


@functools.cache
def _validator(reference: str) -> Any:
    import jsonschema_rs

    schema = {"$ref": reference, "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
