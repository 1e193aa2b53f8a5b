# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The panels that may call, by their access keys, and how far each one has counted its writes."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._node.files import read, write
from marzban_node.errors import Refused

OLDER = (
    "This node has seen write {have} of this panel, and this is write {got}: the panel's database was restored from a "
    "backup, or is a copy. Nothing was changed."
)
LONGEST = 100  # characters of an epoch
FURTHEST = 10**6  # writes that a panel may be ahead of what was seen: a number at the limit would be the last one


@dataclass(frozen=True)
class Panel:
    """A panel, what it calls this node, and the hashes of the keys that it may show."""

    id: str
    node: str
    hashes: tuple[str, ...]
    certificate: str | None = None  # sha256 of a client certificate, in hex
    metrics: str | None = None  # the hash of the key that reads the metrics, and opens nothing else
    addresses: tuple[str, ...] = ()  # where the panel is: no tunnel takes the way there

    @property
    def place(self) -> str:
        """What it counts for: a node that is added again is another one."""
        return f"{self.id}/{self.node}"


class Counted(NamedTuple):
    """How far a panel has counted, and what it called the time in which it did."""

    counter: int = 0
    epoch: str | None = None


class Panels:
    """The panels of this node, as the role has written them. ``folder``: one file for each."""

    def __init__(self, folder: str, counters: str) -> None:
        self._folder, self._counters = folder, counters
        self._turn = threading.Lock()

    def all(self) -> Iterator[Panel]:
        """All of them. One whose file can't be read is left out: it may not call."""
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:
            return
        for name in names:
            try:
                raw = json.loads(read(os.path.join(self._folder, name)) or "")
                panel = _panel(raw)
            except (Error, ValueError, TypeError, KeyError, AttributeError):
                continue
            if name == panel.id + ".json":
                yield panel

    def caller(self, key: object, certificate: object) -> Panel:
        """The panel that shows this key or this client certificate. Raises Refused."""
        shown = _digest(key)
        certified = certificate if isinstance(certificate, str) and certificate.isascii() else ""
        found = self._with((shown, lambda panel: panel.hashes), (certified, lambda panel: (panel.certificate,)))
        if found:
            return found
        if not isinstance(key, str):
            raise Refused(401, "key_missing", "Show the access key of this node: Authorization: Bearer KEY.")
        raise Refused(
            403,
            "key_wrong",
            "No panel of this node has this access key. Run marzban.tunnels.node_api for this node, which gives it "
            "the hash of the panel's key.",
        )

    def reader(self, key: object) -> Panel:
        """The panel whose metrics this key reads. Raises Refused."""
        found = self._with((_digest(key), lambda panel: (panel.metrics,)))
        if found:
            return found
        if not isinstance(key, str):
            raise Refused(401, "key_missing", "Show the metrics' key: Authorization: Bearer KEY.")
        raise Refused(
            403,
            "key_wrong",
            "No panel of this node has this key for its metrics. Give the panel TUNNEL_METRICS_KEY, and run "
            "marzban.tunnels.node_api for this node, which gives it the key's hash.",
        )

    def _with(self, *proofs: tuple[str, Callable[[Panel], Iterable[str | None]]]) -> Panel | None:
        """The last panel that knows one of these: ``(what was shown, what a panel knows of that kind)``."""
        found = None
        for panel in self.all():  # all of them, whichever it is: the time tells nothing
            for shown, known_to in proofs:
                for known in known_to(panel):
                    if known and hmac.compare_digest(known, shown):
                        found = panel
        return found

    def count(self, panel: Panel, counter: object, epoch: object) -> None:
        """Takes a panel's next write. Raises Refused where its number was seen before, and Error."""
        try:
            got = validators.integer(counter, "counter", 1, 2**53)
            if epoch is not None and not (isinstance(epoch, str) and epoch.isprintable() and len(epoch) <= LONGEST):
                raise FieldError("epoch", epoch, f"Give a text of at most {LONGEST} characters.")
            with self._turn:
                counters = self._read()
                have = counters.get(panel.place, Counted()).counter
                if got <= have:
                    raise Refused(409, "older_database", OLDER.format(have=have, got=got), have=have, got=got)
                if have and got > have + FURTHEST:
                    raise FieldError("counter", got, f"The last one was {have}.")
                counters[panel.place] = Counted(got, epoch)
                told = {place: [count.counter, count.epoch] for place, count in counters.items()}
                write(self._counters, json.dumps(told, sort_keys=True) + "\n")
        except FieldError as error:
            raise Refused(422, "invalid", {error.field: str(error)}) from None

    def counted(self, panel: Panel) -> Counted:
        """The last write of a panel that was taken."""
        return self._read().get(panel.place, Counted())

    def _read(self) -> dict[str, Counted]:
        try:
            raw = json.loads(read(self._counters) or "{}")
            return {str(place): Counted(int(counter), epoch) for place, (counter, epoch) in raw.items()}
        except (Error, ValueError, TypeError, AttributeError):
            return {}


def _digest(key: object) -> str:
    """The hash of an access key; of what can't be one, a text that is nobody's."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if isinstance(key, str) else ""


def _panel(raw: dict[str, Any]) -> Panel:
    hashes = tuple(text for text in raw["hashes"] if isinstance(text, str) and len(text) == 64)
    certificate, metrics = raw.get("certificate"), raw.get("metrics")
    return Panel(
        validators.uuid(raw["panel"]),
        validators.uuid(raw["node"]),
        hashes,
        certificate if isinstance(certificate, str) else None,
        metrics if isinstance(metrics, str) and len(metrics) == 64 and metrics.isascii() else None,
        tuple(validators.ip_address(text, "addresses") for text in raw.get("addresses") or ()),
    )
