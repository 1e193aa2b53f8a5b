# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the service refuses, and how pydantic's findings are put into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Refused(Exception):
    """A request that is answered with an error.

    ``detail`` is a sentence (400, 404, 409, 412, 503, 507) or a dict ``{dotted field: sentence}`` (422).
    """

    def __init__(self, status: int, detail: str | dict[str, str]) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def invalid(field: str, message: str) -> Refused:
    """A 422 about one field."""
    return Refused(422, {field: message})


def shown(value: Any, length: int = 60) -> str:
    """A value as it stands in an error: quoted, on one line, cut."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def explain(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a sentence that holds the value where there is one to show."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = str(error["msg"])
    if error["type"] == "extra_forbidden":
        return "Unknown field: leave it out"
    value = error.get("input")
    if error["type"] in ("missing", "json_invalid") or isinstance(value, (dict, list)):
        return message
    return f"{message} (got {shown(value)})"


def by_field(errors: Iterable[Mapping[str, Any]], prefix: str = "", skip: int = 0) -> dict[str, str]:
    """pydantic's list of errors as ``{dotted field: sentence}``; the first error of a field wins.

    ``skip`` drops that many leading parts of the location (FastAPI puts ``body``, ``query`` or ``path`` in front).
    """
    found: dict[str, str] = {}
    for error in errors:
        parts = [str(part) for part in error["loc"][skip:]]
        field = ".".join([prefix, *parts] if prefix else parts) or "body"
        found.setdefault(field, explain(error))
    return found
