# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A client of ``GET /api/tunnels/events``, and a page that keeps up with it.

with EventStream(api) as stream:
    stream.until("tunnels", lambda data: data["deleted"] == [3])
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.panel_api import Api

PATH = "/api/tunnels/events"


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: Any


class EventStream:
    """One that is open; ``hello`` was read. ``seconds`` is how long it waits for bytes."""

    def __init__(self, api: Api, last: str | None = None, seconds: float = 20, **headers: str) -> None:
        place = urlsplit(api.url)
        assert place.hostname
        self._connection: http.client.HTTPConnection
        if place.scheme == "https":
            context = ssl.create_default_context(cafile=str(api.ca))
            self._connection = http.client.HTTPSConnection(place.hostname, place.port, timeout=seconds, context=context)
        else:
            self._connection = http.client.HTTPConnection(place.hostname, place.port, timeout=seconds)
        sent = {"Authorization": str(api.session.headers["Authorization"]), **headers}
        self._connection.request("GET", PATH, headers=sent | ({"Last-Event-ID": last} if last else {}))
        self.answer = self._connection.getresponse()
        assert self.answer.status == 200, (self.answer.status, self.answer.read())
        self.last = ""
        hello = self.next()
        assert hello.name == "hello", hello
        self.resumed = hello.data["resumed"]

    def next(self) -> Event:
        """The next event. Raises EOFError where the stream has ended in order."""
        fields: dict[str, str] = {}
        while True:
            line = self.answer.readline()
            if not line:
                raise EOFError
            text = line.decode().rstrip("\n")
            if not text and fields:
                self.last = fields["id"]
                return Event(fields["id"], fields["event"], json.loads(fields["data"]))
            name, colon, value = text.partition(": ")
            if colon and name:
                fields[name] = value

    def until(self, name: str, what: Callable[[Any], bool] = lambda data: True) -> Event:
        """Skip events, up to one of this name of whose data this is true."""
        while True:
            event = self.next()
            if event.name == name and what(event.data):
                return event

    def tunnel(self, number: int, what: Callable[[Any], bool] = lambda tunnel: True) -> Any:
        """Skip events, up to one that tells of this tunnel, as it should be."""
        found: list[Any] = []

        def tells(data: Any) -> bool:
            found[:] = [item for item in data["tunnels"] if item["id"] == number and what(item)]
            return bool(found)

        self.until("tunnels", tells)
        return found[0]

    def ends(self) -> bool:
        """Whether it ends now, in order, whatever it says before."""
        try:
            while True:
                self.next()
        except EOFError:
            return True
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> None:
        self.answer.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Page:
    """What a page knows: it has read all once, and then takes events."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.tunnels: dict[int, Any] = {}
        self.nodes: dict[str, Any] = {}

    def read(self) -> Page:
        self.tunnels = {item["id"]: item for item in self._api.send("GET", "/api/tunnels?limit=2000")}
        self.nodes = {key(item): item for item in self._api.send("GET", "/api/tunnels/nodes")["nodes"]}
        return self

    def take(self, event: Event) -> None:
        data = event.data
        if event.name == "tunnels":
            self.tunnels.update({item["id"]: item for item in data["tunnels"]})
            for number in data["deleted"]:
                self.tunnels.pop(number, None)
        elif event.name == "measured":
            for told in data["ends"]:
                ends = self.tunnels[told["tunnel_id"]]["ends"]
                end = next(end for end in ends if end["role"] == told["role"])
                end.update({name: told[name] for name in ("measured", "age", "by", "stale")})
        elif event.name == "nodes":
            self.nodes.update({key(item): item for item in data["nodes"]})
            for gone in data["gone"]:
                self.nodes.pop(gone, None)

    def lasting(self) -> Any:
        """All of it that does not change all the time."""
        text = json.dumps([sorted(self.tunnels.items()), sorted(self.nodes.items())])
        return _ageless(json.loads(text))


def key(node: Any) -> str:
    return str(node["uuid"] if node["deleted"] else node["node_id"])


def _ageless(value: Any) -> Any:
    if isinstance(value, dict):
        changing = ("age", "contact_age", "measured")
        return {name: _ageless(item) for name, item in value.items() if name not in changing}
    return [_ageless(item) for item in value] if isinstance(value, list) else value
