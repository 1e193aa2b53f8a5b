# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The errors that reach an operator. Each text says what was seen and what to do; none holds a secret."""

from __future__ import annotations

from typing import Optional, TypeVar

T = TypeVar("T")

SHOWN = 80  # characters of a value that an error shows


def shown(value: object, limit: int = SHOWN) -> str:
    """``value`` as one short printable line, escaped like a Python literal: no control or bidi character survives."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an integer with thousands of digits
        return "a %s that is too large to show" % type(value).__name__
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str, limit: int = 500) -> str:
    """Foreign free text (an error message of the panel) as one bounded line without control or bidi characters."""
    line = " ".join(str(text[: limit * 4]).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def not_none(value: Optional[T], why: str) -> T:
    """``value``, which can't be None here, and ``why``: for the reader, for mypy, and for the day it is wrong."""
    if value is None:
        raise AssertionError(why)
    return value


class Error(Exception):
    """What a module reports with ``fail_json``: its text is for the operator."""

    symptom: Optional[str] = None  # of a tunnel that is refused by it, where _model/symptoms.py has one


class FieldError(Error):
    """A value that can't be used, or one that is missing (None). ``hint``: a sentence that says what to write."""

    def __init__(self, field: str, value: object, hint: str) -> None:
        problem = "%s is required." % field if value is None else "%s: %s can't be used." % (field, shown(value))
        super().__init__("%s %s" % (problem, hint))
        self.field = field
        self.value = value
        self.hint = hint


class PanelError(Error):
    """The panel could not be asked, or refused. ``kind`` is a key of HINTS; ``status`` the HTTP status, if any."""

    HINTS = {
        "unreachable": "Check url, and that the panel runs and can be reached from here.",
        "tls": "Give ca_path (the file with the panel's CA certificate), or a url with the name in the certificate. "
        "validate_certs: false is for a lab only.",
        "login": "Check username and password, or ask for a new token: tokens expire.",
        "forbidden": "Use a sudo admin of the panel.",
        "not_panel": "Not the panel answered, but something before it, such as a web application firewall, a CDN or a "
        "proxy: have it let the API's calls pass, or give the panel's own address.",
        "not_found": "It may have been deleted in the meantime: run again.",
        "no_tunnels_api": "Use a panel that has the tunnels API, such as the embedded one (docs/panel.md). "
        "Nothing was removed anywhere.",
        "not_started": "The panel runs. Search its log for marzban_tunnels, correct what it says, and run again; if "
        "the answer stays the same, restart the panel.",
        "database_busy": "Something else has been writing to the panel's database for long, such as a backup: run "
        "again when it has ended.",
        "old_panel": "The panel is older than this collection and does not know this. Update the panel: run the "
        "playbook marzban.tunnels.panel.",
        "conflict": "Choose another value, or leave it out where the panel can choose one.",
        "full": "Enlarge the pool in the settings of the panel, or choose the value yourself, and run again.",
        "outdated": "The record was changed by somebody else in the meantime: look at it, and run again.",
        "busy": "The panel limits how often it is asked: wait a minute and run again.",
        "invalid": "Correct the value and run again.",
        "bad_answer": "Check that url is the panel's own address (not its dashboard's), and look into the panel's log.",
    }

    def __init__(self, kind: str, seen: str, status: int | None = None) -> None:
        super().__init__("%s %s" % (seen if seen.endswith((".", "!", "?")) else seen + ".", self.HINTS[kind]))
        self.kind = kind
        self.status = status
