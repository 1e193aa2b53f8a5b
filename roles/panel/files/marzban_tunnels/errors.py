# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the service refuses, and how pydantic's findings are put into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Sentence(str):
    """A sentence for people, in English, with what it was made of, so that the page can say it in another language.

    ``code`` names it, ``text`` has ``{names}``, ``values`` what is put in for them: a text, a number, or a Sentence.
    """

    code: str
    text: str
    values: dict[str, Any]

    def parts(self) -> dict[str, Any]:
        """The same as JSON."""
        values = {name: value.parts() if isinstance(value, Sentence) else value for name, value in self.values.items()}
        return {"code": self.code, "text": self.text, "values": values}


def say(code: str, text: str, **values: Any) -> Sentence:
    """A sentence with a code. Each code is in the page's locales (``refused.<code>``), with the same ``{names}``."""
    sentence = Sentence(text.format(**values))
    sentence.code, sentence.text, sentence.values = code, text, values
    return sentence


def wrong(code: str, text: str, **values: Any) -> ValueError:
    """A value that is refused, for a check."""
    return ValueError(say(code, text, **values))


def told(error: ValueError) -> str:
    """What a check has said. ``str(error)`` would lose what the sentence was made of."""
    return error.args[0] if error.args and isinstance(error.args[0], str) else str(error)


class Refused(Exception):
    """A request that is answered with an error.

    ``detail`` is a sentence (400, 404, 409, 412, 503, 507) or a dict ``{dotted field: sentence}`` (422). A sentence
    about one ``field`` begins with its name.
    """

    def __init__(self, status: int, detail: str | dict[str, str], field: str = "") -> None:
        self.status = status
        self.detail = f"{field}: {detail}" if field else detail
        self.codes = codes(detail if isinstance(detail, dict) else {field: detail})
        super().__init__(self.detail)


def codes(detail: Mapping[str, str]) -> dict[str, Any]:
    """What each sentence was made of, by field (``""`` for one that is about no field), where that is known."""
    return {field: sentence.parts() for field, sentence in detail.items() if isinstance(sentence, Sentence)}


def invalid(field: str, message: str) -> Refused:
    """A 422 about one field."""
    return Refused(422, {field: message})


def shown(value: Any, length: int = 60) -> str:
    """A value as it is shown in an error: quoted, on one line, cut. Letters of any language stay what they are; what
    has no shape of its own, or turns the direction of what follows, is escaped."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in repr(value))
    return text if len(text) <= length else text[: length - 1] + "…"


_WORDS = {  # where pydantic's own speak of its classes
    "extra_forbidden": "Unknown field: leave it out",
    "model_type": "Has to be an object, such as {{}}",
    "model_attributes_type": "Has to be an object, such as {{}}",
}
_GOT = " (got {got})"
# What people meet on the page. Its locales have these by the same codes.
CODED = {
    "too_short": "Has to hold at least {min_length}, or be left out",
    "too_long": "Can hold {max_length} at most",
    "int_type": "Has to be a whole number",
    "greater_than_equal": "Has to be at least {ge}",
    "less_than_equal": "Can be {le} at most",
    "literal_error": "Has to be {expected}",
}


def explain(error: Mapping[str, Any], field: str) -> str:
    """One of pydantic's errors as a sentence that holds the value where there is one to show."""
    kind, value = error["type"], error.get("input")
    if kind == "value_error":
        return told(error["ctx"]["error"])
    if kind in CODED and _may_show(field, value):
        return say(kind, CODED[kind] + _GOT, **error.get("ctx", {}), got=shown(value))
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
