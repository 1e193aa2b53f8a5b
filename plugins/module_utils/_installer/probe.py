# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a panel on this host answers, and whether with the add-on; and what of its log may be shown."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote

from ansible.module_utils.urls import open_url

from .._errors import printable

PANEL_ID = "Marzban-Panel-Id"
TIMEOUT = 5  # seconds for one answer
LINES = 6  # of the log
_SECRET = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|URL|URI|DSN|WEBHOOK|DATABASE|AUTH|CRED|PROXY", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")  # of a terminal: colours, and Compose's moving lines
# Python's warnings, with the line of code that comes after: no reason why anything ended
_WARNING = re.compile(r"^.*\b[A-Z][a-z]+Warning: .*\n(?:[ \t]+.*\n)?", re.MULTILINE)
_TROUBLE = re.compile(r"marzban_tunnels|error|exception|can't|cannot", re.IGNORECASE)


class Seen(NamedTuple):
    """What a panel answers. ``marzban``, ``addon``: whether each answers as it should; ``panel``: its id;
    ``absent``: it has no tunnels API; ``text``: all that, for a person."""

    marzban: bool
    addon: bool
    panel: str | None
    absent: bool
    text: str


def _get(url: str, socket: str | None) -> tuple[int | None, Any, str]:
    """``(status, headers, text)`` of a GET without a login; status None, and why, where there is no answer."""
    try:
        # Not validated: the certificate is for another name than loopback's, and nothing secret is sent.
        answer = open_url(
            url,
            unix_socket=socket,
            validate_certs=False,
            use_proxy=False,
            use_netrc=False,
            follow_redirects="none",
            timeout=TIMEOUT,
        )
        return answer.getcode(), answer.headers, answer.read(2000).decode("utf-8", "replace")
    except HTTPError as error:
        try:
            return error.code, error.headers, error.read(2000).decode("utf-8", "replace")
        except Exception:  # cut off in the middle
            return error.code, error.headers, ""
    except Exception as error:  # whatever the network, TLS and HTTP raise
        return None, {}, str(getattr(error, "reason", error))


def query(url: str, socket: str | None) -> Seen:
    """What the panel at ``url`` answers now."""
    place = "%s (%s)" % (url, socket) if socket else url
    status, _headers, text = _get(url + "/api/admin", socket)
    if status != 401:
        said = "no answer: %s" % printable(text, 200) if status is None else str(status)
        return Seen(False, False, None, False, "%s/api/admin: %s" % (place, said))
    status, headers, text = _get(url + "/api/tunnels", socket)
    panel = headers.get(PANEL_ID)
    # Marzban's own detail, or, with the dashboard at /, a page; the add-on tells in JSON what is wrong with it.
    told = "" if text.lstrip().startswith("<") else " " + printable(text, 200)
    said = "no answer: %s" % printable(text, 200) if status is None else "%d%s" % (status, told)
    if status == 401:
        said += " with %s" % PANEL_ID if panel else " without %s" % PANEL_ID
    addon = status == 401 and bool(panel)
    return Seen(True, addon, panel if addon else None, status == 404, "%s/api/tunnels: %s" % (place, said))


def wait(address: Callable[[], tuple[str, str | None]], wanted: Callable[[Seen], bool], seconds: float) -> Seen:
    """The first Seen of the panel that ``wanted`` is true of, or the last one after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        seen = query(*address())
        if wanted(seen) or time.monotonic() > end:
            return seen
        time.sleep(0.3)


# The log


def secrets_of(environment: Mapping[str, Any]) -> set[str]:
    """Texts out of settings that must not be shown."""
    found: set[str] = set()
    for name, value in environment.items():
        value = str(value or "")
        if _SECRET.search(name):
            found.add(value)
        for login in re.findall(r"://([^/@\s]*)@", value):
            password = login.partition(":")[2]
            found.update((password, unquote(password)))
    return {text for text in found if len(text) >= 4}


def redacted(text: str, secrets: Collection[str]) -> str:
    """A text without the secrets, and without logins in addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "********")
    return re.sub(r"://[^/@\s]+@", "://********@", text)


def last_words(log: str | None, secrets: Collection[str]) -> str:
    """What the end of a log reports of trouble, as one line without secrets."""
    text = _WARNING.sub("", _CONTROL.sub("", redacted(log or "", secrets)) + "\n")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and '"GET /api/' not in line]
    trouble = [line for line in lines if _TROUBLE.search(line)]
    return printable(" / ".join((trouble or lines)[-LINES:]), 700)
