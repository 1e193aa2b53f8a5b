# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The calls of a panel, as the front hands them on: ``answer`` takes a request, and gives a status and a body.

The front may be in wrong hands: all that it says is checked here again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import (
    KeptView,
    Older,
    check_not_older,
    of_what_was_here,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import STATE
from marzban_node.board import Board
from marzban_node.engine import Engine
from marzban_node.errors import Refused
from marzban_node.panels import Panel, Panels
from marzban_node.recoveries import KINDS
from marzban_node.work import Job, Worker

_log = logging.getLogger(__name__)
API = 1
WAIT = 1.0  # seconds that a call waits for its change, most of which take less; then it answers that it goes on
LONGEST = 100  # characters of a revision
DOING: Mapping[str, Any] = {"doing": True}
GOES_ON: Mapping[str, Any] = {"message": "is being removed", **DOING}
FOREIGN = "This node has a tunnel with this uuid, and it belongs to another panel: remove it there first."
Answer = tuple[int, dict[str, Any]]


class Calls:
    """What a panel may ask."""

    def __init__(self, engine: Engine, board: Board, panels: Panels, worker: Worker) -> None:
        self._engine, self._board, self._panels, self._worker = engine, board, panels, worker
        self._turn = threading.Lock()  # held from a call's number until its change waits for the worker, in this order
        self._calls: dict[str, Callable[[Panel, dict[str, Any]], Answer]] = {
            "post": self._post,
            "delete": self._delete,
            "status": self._status,
            "list": self._list,
        }

    def answer(self, request: object) -> Answer:
        """A status of HTTP, and a body. Never raises."""
        try:
            asked = request if isinstance(request, dict) else {}
            panel = self._panels.caller(asked.get("key"), asked.get("certificate"))
            call = self._calls.get(str(asked.get("call")))
            if call is None:
                raise Refused(404, "unknown", "There is no such call.")
            return call(panel, asked)
        except Refused as refused:
            return refused.status, refused.body
        except Exception:
            _log.exception("a call failed")
            return 503, {"detail": "The node service failed: see journalctl -u marzban-node-root.", "code": "failed"}

    def _post(self, panel: Panel, asked: dict[str, Any]) -> Answer:
        with self._turn:
            job = self._take(panel, asked)
        return self._ended(job, lambda: self._board.tunnel(job.uuid) or {}, DOING)

    def _take(self, panel: Panel, asked: dict[str, Any]) -> Job:
        body = asked.get("body")
        if not isinstance(body, dict):
            raise Refused(422, "invalid", {"body": "Give a JSON object."})
        self._panels.count(panel, body.get("counter"), body.get("epoch"))
        try:
            if body.get("panel") != panel.id:
                raise FieldError("panel", body.get("panel"), "This access key is of another panel.")
            node = validators.node_name(body.get("node"), "node")
            revision = _text(body.get("revision"), "revision")
            trusted = _text(body.get("accept_key"), "accept_key")
            view = self._engine.view(body.get("tunnel"), node, panel.id)
            if view["type"] not in self._engine.settings.types:
                hint = "This node service handles %s: run marzban.tunnels.node_api with other tunnels_types."
                raise FieldError("type", view["type"], hint % ", ".join(self._engine.settings.types))
        except FieldError as error:
            raise Refused(422, "invalid", {error.field: str(error)}) from None
        uuid = view["uuid"]
        state = self._engine.folders.state(uuid)
        known = self._engine.kept.view(uuid)
        others = {other.id for other in self._panels.all()} - {panel.id}  # what is left of one that is gone is nobody's
        if (state and state["panel"] != panel.id) or (known and known.view["panel"] in others):
            raise Refused(409, "foreign", FOREIGN)
        kept = known.view["version"] if known and known.view["panel"] == panel.id else None
        try:
            removals = of_what_was_here(self._engine.kept.removals())  # a call about what was not here came before this
            check_not_older(view, (state["version"] if state else None, kept), removals)
        except Older as error:
            code = "removed" if error.applied is None else "older_record"
            raise Refused(409, code, str(error), have=error.applied, got=view["version"]) from None
        wanted = KeptView(view, revision)
        self._engine.kept.keep([wanted])  # first, so that it is not lost when the node goes down
        return self._worker.apply(panel, wanted, trusted)

    def _delete(self, panel: Panel, asked: dict[str, Any]) -> Answer:
        with self._turn:
            here = self._find(panel, asked)
            self._panels.count(panel, asked.get("counter"), asked.get("epoch"))
            uuid, was_here = (here, True) if here else self._find_removed(panel, str(asked.get("id")))
            job = self._worker.remove(panel, uuid)
        words = {True: "removed", False: "was removed before"}
        answer = self._ended(job, lambda: {"uuid": uuid, "message": words[bool(here) or job.found]}, GOES_ON)
        if answer[0] == 200 and not job.found and not was_here:
            raise _unknown()
        return answer

    def _find_removed(self, panel: Panel, given: str) -> tuple[str, bool]:
        """``(uuid, was_here)`` of what is not here. What was here and is gone is said to be; 404 is for what this panel
        never had here, or not for a day.

        A run may be making it at this moment, with a record that it read before it was deleted: when that run has
        ended it is taken down, and none makes it after this.
        """
        removals = self._engine.kept.removals()
        its = {uuid: gone for uuid, gone in of_what_was_here(removals).items() if gone.may_be_of(panel.id)}
        before = next((uuid for uuid, gone in its.items() if given in (uuid, str(gone.id))), None)
        try:
            uuid = before or validators.uuid(given)
        except Error:
            raise _unknown() from None
        kept = self._engine.kept.view(uuid)
        state = self._engine.folders.state(uuid)  # a run may have made it a moment ago
        owners = {state["panel"] if state else None, kept.view["panel"] if kept else None}
        owners.add(removals[uuid].panel if uuid in removals else None)
        if owners - {None, panel.id}:
            raise _unknown()  # another panel's
        return uuid, before is not None

    def _status(self, panel: Panel, asked: dict[str, Any]) -> Answer:
        uuid = self._find(panel, asked)
        told = self._board.tunnel(uuid) if uuid else None
        told = told or next((found for found in self._unwatched(panel, set()) if found["uuid"] == uuid), None)
        if told is None:
            raise Refused(404, "unknown", "This node has no such tunnel.")
        return 200, told

    def _list(self, panel: Panel, asked: dict[str, Any]) -> Answer:
        told, counted = self._board.tunnels(panel.id), self._panels.counted(panel)
        return 200, {
            "api": API,
            "engine": self._engine.settings.engine,
            "panel": panel.id,
            "node": panel.node,
            "time": time.time(),
            "counter": counted.counter,
            "epoch": counted.epoch,
            "types": list(self._engine.settings.types),
            "tunnels": told + self._unwatched(panel, {tunnel["uuid"] for tunnel in told}),
        }

    def _unwatched(self, panel: Panel, known: set[str]) -> list[dict[str, Any]]:
        """What a run has made before there was a service: it runs, and nobody measures it."""
        found = []
        for uuid, state in self._engine.folders.states().items():
            if uuid in known or not state or state["panel"] != panel.id:
                continue
            about = {key: state[key] for key in ("uuid", "id", "name", "type", "version", "interface", "node")}
            nothing = ("revision", "error", "symptom", "waiting_for", "role", "public", "peer_key", "measured", "age")
            told = {"note": "A run has made it; the service does not know its record yet.", "status": "connecting"}
            flags = {"active": state["interface"] is not None, "refused": False, "doing": False, "missing": []}
            peer = state["peer"]["node"] if state["peer"] else None
            recoveries = dict.fromkeys(KINDS, 0)
            found.append({**about, **dict.fromkeys(nothing), **told, **flags, "peer": peer, "recoveries": recoveries})
        return found

    def _find(self, panel: Panel, asked: dict[str, Any]) -> str | None:
        """The uuid of the tunnel that a call is about, if it is this panel's."""
        given = str(asked.get("id"))
        found = self._board.find(panel.id, given)
        if found:
            return found
        for uuid, state in self._engine.folders.states().items():
            if state and state["panel"] == panel.id and given in (uuid, str(state["id"])):
                return uuid
            if state is None and given == uuid:
                path = self._engine.folders.path(uuid, STATE)
                raise Refused(503, "failed", f"{path} can't be read, so nobody can tell whose it is: see to it there.")
        return None

    def _ended(self, job: Job, told: Callable[[], dict[str, Any]], meanwhile: Mapping[str, Any]) -> Answer:
        """``meanwhile``: what is told beside, or instead, while it goes on."""
        if not job.done.wait(WAIT):
            return 202, {**told(), **meanwhile}
        if job.busy:
            raise Refused(503, "busy", job.error or "")
        if job.error:
            raise Refused(503, "failed", job.error)
        return 200, told()


def _unknown() -> Refused:
    return Refused(404, "unknown", "This node has no such tunnel, and has not removed one today.")


def _text(value: object, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST or not value.isprintable():
        raise FieldError(field, value, f"Give a text of at most {LONGEST} characters.")
    return value
