# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What only the manager knows while it runs, as the API asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

# Seconds after which what a node's service has measured is stale. It measures every 5 s, which takes some, and is asked
# every 10 s where it can't be listened to; a page that reads every 5 s must not show `active` by it at 30 s.
STALE_BY_SERVICE = 22


# What is wrong with an end, in one word, as node services and runs say it: the anchors of docs/trouble.md. The
# collection has the same list, and what each word means, in module_utils/_model/symptoms.py.
SYMPTOMS = (
    *("not-installed", "no-answer", "keys", "connecting", "no-packets", "large-packets"),
    *("flapping", "dies", "taken-away", "reinstalled", "unreachable"),
)


def symptom(value: object) -> str | None:
    """``value`` where it is a symptom that this panel knows; else None, because a later version may know more."""
    return value if isinstance(value, str) and value in SYMPTOMS else None


class Live(Protocol):
    """Called from any thread. None of it raises, and none but ``refresh`` waits."""

    def manager_state(self) -> dict[str, Any]:
        """``{"state": "on", "off" or "elsewhere", "detail"?}``."""

    def leads(self) -> bool:
        """Whether this process is the one that works with the nodes of this database."""

    def node(self, node_id: int) -> dict[str, Any]:
        """``{"state", "problem"?, "contact_age"?, "engine"?, "missing", "recoveries", "orphans"}`` of NODE_SERVICE."""

    def deleted(self, uuid: str) -> dict[str, Any]:
        """The same of a node that is deleted, by our uuid of it."""

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        """What the node of this end has measured: ``{"status", "error", "symptom", "measured", "age"}``, the age in
        seconds, ``version``, that of the record that it was about, and ``recoveries``, how often its service brought
        it back, by kind. None where nothing is known."""

    def revision(self) -> int:
        """Grows when any answer of this object is another one than before, but for ages; also when one gets stale."""

    def wake(self, node_ids: Iterable[int]) -> None:
        """Records of these nodes have changed, and the change is in the database."""

    def renew(self) -> None:
        """Answers are others than before, and no write of a call says so: ``revision`` has to grow."""

    def refresh(self, node_ids: Iterable[int], seconds: float) -> None:
        """Ask these nodes now, and come back when they have answered, at the latest after so many seconds."""

    def confirm_database(self, node_id: int, deleted: str | None = None) -> None:
        """An admin says that this panel's database is the right one, though this node has seen a newer one.
        ``deleted``: our uuid of a node that is deleted; its number may be another node's by now."""


class Nothing:
    """No manager runs in this process. ``detail`` is the sentence that says why."""

    def __init__(self, detail: str | None = None) -> None:
        self._detail = detail

    def manager_state(self) -> dict[str, Any]:
        return {"state": "off", "detail": self._detail}

    def leads(self) -> bool:
        return False

    def node(self, node_id: int) -> dict[str, Any]:
        nothing: dict[str, Any] = {
            "problem": None,
            "contact_age": None,
            "engine": None,
            "missing": [],
            "recoveries": {},
            "orphans": [],
        }
        return {"state": "asking", **nothing}

    def deleted(self, uuid: str) -> dict[str, Any]:
        return self.node(0)

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        return None

    def revision(self) -> int:
        return 0

    def wake(self, node_ids: Iterable[int]) -> None:
        return None

    def renew(self) -> None:
        return None

    def refresh(self, node_ids: Iterable[int], seconds: float) -> None:
        return None

    def confirm_database(self, node_id: int, deleted: str | None = None) -> None:
        return None
