# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Tells a URL when a tunnel's status has changed, in one thread, which is there while something is to be told.

No line of the log has more of the URL than its host: the rest may be a token. docs/webhook.md says what is sent.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from marzban_tunnels import env_secret, responses
from marzban_tunnels.tables import TUNNELS
from marzban_tunnels.webhook_queue import Pending, Waiting

if TYPE_CHECKING:
    import requests

    from marzban_tunnels.feed import Feed, Step
    from marzban_tunnels.service import Tunnels

URL, SECRET, CA = "TUNNEL_WEBHOOK_URL", "TUNNEL_WEBHOOK_SECRET", "TUNNEL_WEBHOOK_CA"
_OTHERS = ("NODE_API_KEY", "TUNNEL_METRICS_KEY")  # secrets that the receiver must not have
_LONGEST = 2048  # characters of the URL
CONNECT, ANSWER = 5.0, 10.0  # seconds
_LATEST = 60.0  # seconds between two attempts, at most
_ASKED = 3600.0  # the same where the receiver asks for a longer time
# Seconds in which a panel that has just begun gets to know how its tunnels are. Until then, one of which nothing is
# known is not told as another than it was.
BEGINNING = 60
_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_THREAD = "marzban_tunnels webhook"


@dataclass(frozen=True)
class Target:
    """Where changes are told. ``host`` may be in the log; ``verify`` is as requests takes it."""

    host: str
    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    verify: str | bool = True


def check(environ: Mapping[str, str]) -> Target | str | None:
    """What the environment asks for; a sentence where that can't be used; None where it asks for nothing."""
    url, secret, ca = (environ.get(name, "").strip() for name in (URL, SECRET, CA))
    if not url:
        return f"{SECRET} is set, and {URL} is not" if secret else None
    wrong = _problem_of_url(url)
    if wrong:
        return f"{URL} can't be used: {wrong}"
    wrong = env_secret.problem(secret)
    if not wrong and any(_same(secret, environ.get(name, "")) for name in _OTHERS):
        wrong = "it is another key of this panel, and the receiver must not have that"
    if wrong:
        return f"{SECRET} can't be used: {wrong}; {env_secret.MAKE}"
    if ca:
        try:
            ssl.create_default_context(cafile=ca)
        except ssl.SSLError:
            return f"{CA} can't be used: it has no certificate; give the file with the CA's certificate in PEM"
        except OSError as error:
            why = error.strerror or type(error).__name__
            return f"{CA} can't be used: {why}; give the file with the CA's certificate in PEM"
    parts = urlsplit(url)
    verify = (ca or _system_cas()) if parts.scheme == "https" else True
    return Target(str(parts.hostname), url, secret.encode("utf-8", "surrogateescape"), verify)


def _problem_of_url(url: str) -> str | None:
    """Why this is not a URL that can be told something; None where it is."""
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        return f"it has spaces or other signs that a URL does not have, or more than {_LONGEST} characters"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or parts.scheme not in ("https", "http"):
        return "it is not a URL such as https://alarms.example.com/tunnels"
    if parts.username is not None or parts.password is not None:
        return "it has a user or a password in it; give a token in its path or its query instead"
    if parts.scheme == "http" and not _is_near(host):
        return (
            "it is http, and what is sent could be read and changed on its way; only localhost and loopback or "
            "private addresses may be http"
        )
    return None


def _is_near(host: str) -> bool:
    """Whether this is an address that no foreign network leads to."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def _same(one: str, other: str) -> bool:
    texts = (text.strip().encode("utf-8", "surrogateescape") for text in (one, other))
    return hmac.compare_digest(*texts)


def _system_cas() -> str | bool:
    """Where this system has the certificates of its CAs; True for those of requests, where it has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and any(os.scandir(paths.capath)) else True


def add(feed: Feed, tunnels: Tunnels, environ: Mapping[str, str]) -> Webhook | None:
    """Have the feed tell a webhook, where the environment names one."""
    found = check(environ)
    if found is None:
        return None
    webhook = Webhook(tunnels, found)
    feed.add(webhook, webhook.needs)
    return webhook


class Webhook:
    """``marzban_tunnels.feed.Listener``. ``target``: a sentence where it can't be used, for the log at the start."""

    def __init__(self, tunnels: Tunnels, target: Target | str, clock: Callable[[], float] = time.monotonic) -> None:
        self._tunnels, self._clock = tunnels, clock
        self._target = None if isinstance(target, str) else target
        self._problem = target if isinstance(target, str) else None
        self._begun: datetime | None = None  # since when this process tells
        self._announced = False  # in the log
        self._known: dict[int, str] = {}  # the status of each tunnel, as it was when it was known last
        self._late: set[int] = set()  # tunnels of which nothing is known yet
        self._pending, self._condition = Pending(), threading.Condition()
        self._thread: threading.Thread | None = None
        # Only in its thread:
        self._not_before = 0.0  # of the next attempt
        self._failures = 0
        self._said: set[str] = set()  # problems in the log, until it works again

    def needs(self) -> bool:
        """Whether the feed has to step for this."""
        return self._target is not None or not self._announced

    # in the feed's thread

    def step(self, step: Step) -> None:
        """Find out which tunnels have another status than they had."""
        self._announce()
        if self._target is None:
            return
        for number in step.deleted:
            self._known.pop(number, None)
            self._late.discard(number)
            with self._condition:
                self._pending.forget(number)
        if not step.leads and self._tunnels.live.manager_state()["state"] == "elsewhere":
            # What this process sees without its nodes is not a change; the process that tells writes down what it sees
            self._begun = None
            return
        if self._begun is None:
            self._begin(step)
        beginning = 0 <= (step.moment - (self._begun or step.moment)).total_seconds() < BEGINNING
        touched, self._late = step.told | self._late, set()
        for number in sorted(touched & step.records.keys()):
            record = step.records[number]
            if beginning and record["stale"]:
                self._late.add(number)
                continue
            before, status = self._known.get(number), record["status"]
            self._known[number] = status
            if before not in (None, status):
                self._put(record, str(before), step.moment)

    def _announce(self) -> None:
        if self._announced:
            return
        self._announced = True
        if self._target is None:
            _log.warning("marzban_tunnels: the webhook is off: %s", self._problem)
        else:
            _log.info("marzban_tunnels: changes of status are told to the webhook at %s", self._target.host)

    def _begin(self, step: Step) -> None:
        """At the start, and when this process works with the nodes (again)."""
        self._begun, self._known, self._late = step.moment, {}, set(step.records)
        try:
            with Session(step.engine) as session:
                rows = session.execute(select(TUNNELS.c.id, TUNNELS.c.last_status)).all()
        except SQLAlchemyError:  # then the first status that becomes known is not told as a change
            return
        self._known = {row.id: row.last_status for row in rows if row.last_status}

    def _put(self, record: Mapping[str, Any], before: str, moment: datetime) -> None:
        with self._condition:
            self._pending.put(_change(record, moment), before, self._clock())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
                self._thread.start()
            self._condition.notify()

    # in its own thread

    def _run(self) -> None:
        import requests

        logging.getLogger("urllib3.connectionpool").addFilter(_not_ours)  # its lines have the URL's path
        with requests.Session() as session:
            while (items := self._next()) is not None:
                delay = None
                try:
                    delay = self._send(session, items) if items else None
                except Exception:  # a mistake of ours: it must not end the thread, nor come again and again
                    _log.exception("marzban_tunnels: the webhook failed")
                self._sent(items, delay)

    def _next(self) -> list[Waiting] | None:
        """Waits until a message is due, and answers what is in it; None: nothing waits, and the thread ends."""
        with self._condition:
            while (due := self._pending.due()) is not None:
                now, due = self._clock(), max(due, self._not_before)
                if due <= now:
                    return self._pending.take(now)
                self._condition.wait(due - now)
            self._thread = None
            return None

    def _sent(self, items: list[Waiting], delay: float | None) -> None:
        now = self._clock()
        with self._condition:
            if delay is None:
                self._pending.delivered(items, now)
                return
            self._not_before = now + delay
            if dropped := self._pending.put_back(items, now):
                self._say("dropped", "%d changes could not be told within a day and are dropped", dropped)

    def _send(self, session: requests.Session, items: list[Waiting]) -> float | None:
        """Send one message. Answers in how many seconds to try again; None: there is nothing more to do about it."""
        import requests

        assert self._target is not None
        target, moment = self._target, datetime.now(UTC)
        changes = [item.change | {"before": item.before, "times": item.times} for item in items]
        message = {"panel": self._tunnels.panel_id, "sent_at": _time(moment), "changes": changes}
        body = json.dumps(message, ensure_ascii=False).encode()
        timestamp = str(int(moment.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "marzban-tunnels",
            "Marzban-Timestamp": timestamp,
            "Marzban-Signature": "sha256=" + sign(target.secret, timestamp, body),
        }
        try:
            with session.post(
                target.url,
                data=body,
                headers=headers,
                timeout=(CONNECT, ANSWER),
                verify=target.verify,
                allow_redirects=False,
                stream=True,  # what it answers is of no interest
                auth=_unchanged,  # else requests takes one of ~/.netrc
            ) as answer:
                status, asked = answer.status_code, answer.headers.get("Retry-After")
        except requests.RequestException as error:  # its text has the URL in it
            return self._again(_reason(error))
        if status == 429 or status >= 500:
            return self._again(f"it answered {status}", _seconds(asked))
        if status >= 300:
            self._say(str(status), "it answered %d, so %d changes are dropped", status, len(items))
        elif self._said:
            self._said.clear()
            _log.info("marzban_tunnels: the webhook at %s takes changes again", target.host)
        self._failures = 0
        return None

    def _again(self, why: str, asked: float | None = None) -> float:
        self._say("away", "%s; it is tried again, for a day", why)
        delay = min(_LATEST, 2.0 ** min(self._failures, 16))
        self._failures += 1
        return max(delay, min(asked or 0.0, _ASKED))

    def _say(self, what: str, text: str, *values: object) -> None:
        """Once each, until it works again."""
        if what not in self._said and self._target is not None:
            self._said.add(what)
            _log.warning("marzban_tunnels: the webhook at %s: " + text, self._target.host, *values)


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the receiver compares: the HMAC-SHA256 of the timestamp, a dot and the body, in hex."""
    return hmac.new(secret, timestamp.encode() + b"." + body, "sha256").hexdigest()


def _change(record: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    """What is told about a tunnel, and nothing else of its record."""
    since = record.get("since")
    failed = responses.failed_end(record["status"], record["ends"]) or {}
    return {
        "id": record["id"],
        "uuid": record["uuid"],
        "name": record["name"],
        "type": record["tunnel_type"],
        "source": record["source_node_name"],
        "target": record["target_node_name"],
        "status": record["status"],
        "error": failed.get("error"),
        "symptom": failed.get("symptom"),
        "since": f"{since}Z" if since else _time(moment),
        "at": _time(moment),
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str | None) -> float | None:
    """What a Retry-After asks for: a number of seconds, or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _reason(error: Exception) -> str:
    """Why it could not be reached, without what the library says: that has the URL in it."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate or its TLS can't be used; {CA} names the file of a private CA"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {CONNECT:.0f} s"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {ANSWER:.0f} s"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "it can't be reached, or closed the connection"
    return type(error).__name__


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _not_ours(record: logging.LogRecord) -> bool:
    return record.threadName != _THREAD
