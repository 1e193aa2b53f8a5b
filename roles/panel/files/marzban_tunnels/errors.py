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
    """A value as it is shown in an error: quoted, on one line, cut."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


_WORDS = {  # where pydantic's own speak of its classes
    "extra_forbidden": "Unknown field: leave it out",
    "model_type": "Has to be an object, such as {{}}",
    "model_attributes_type": "Has to be an object, such as {{}}",
    "too_short": "Has to hold at least {min_length}, or be left out",
    "too_long": "Can hold {max_length} at most",
}


def explain(error: Mapping[str, Any], field: str) -> str:
    """One of pydantic's errors as a sentence that holds the value where there is one to show."""
    kind, value = error["type"], error.get("input")
    if kind == "value_error":
        return str(error["ctx"]["error"])
    message = _WORDS[kind].format(**error.get("ctx", {})) if kind in _WORDS else str(error["msg"])
    if kind in ("missing", "json_invalid", "extra_forbidden") or not _may_show(field, value):
        return message
    return f"{message} (got {shown(value)})"


def _may_show(field: str, value: Any) -> bool:
    """What is in a key's place may be a secret; so may what is in an object, except in a config, where names that
    say so were refused before."""
    if field.partition(".")[0] in ("body", "keys"):
        return False
    return not isinstance(value, (dict, list)) or field.startswith("config.")


def by_field(errors: Iterable[Mapping[str, Any]], prefix: str = "", skip: int = 0) -> dict[str, str]:
    """pydantic's list of errors as ``{dotted field: sentence}``; the first error of a field wins.

    ``skip`` drops that many leading parts of the location (FastAPI puts ``body``, ``query`` or ``path`` in front).
    """
    found: dict[str, str] = {}
    for error in errors:
        parts = [str(part) for part in error["loc"][skip:]]
        field = ".".join([prefix, *parts] if prefix else parts) or "body"
        found.setdefault(field, explain(error, field))
    return found
