# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One node: it is asked again and again, and told what differs. Everything here runs in the manager's event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from marzban_tunnels import responses
from marzban_tunnels.manager import answers, problems, refusals, replies
from marzban_tunnels.manager.answers import Listing, Shown
from marzban_tunnels.manager.client import Client
from marzban_tunnels.manager.compare import Plan, Post, Removal, Wanted, compare, facts, learn, overdue
from marzban_tunnels.manager.ear import Ear
from marzban_tunnels.manager.hub import DatabaseAway, Hub
from marzban_tunnels.manager.known import Known, Seen, Try
from marzban_tunnels.manager.problems import Place, Problem, Say
from marzban_tunnels.manager.store import Target

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_AWAY = ("refused", "timed_out", "busy")  # it may be back at any moment
_ENDLESS = "it says each time that this goes on, so it fails there: its journal says why"
_LASTS = 3  # failures in a row for the same of these reasons, until the log says so


class Watch(Known):
    """The loop around what is known. ``listening``: the client on whose connection the node says what is new."""

    def __init__(self, target: Target, hub: Hub, client: Client, listening: Client) -> None:
        super().__init__(target, hub)
        self.client, self._pace = client, hub.pace
        self._wake = asyncio.Event()
        self._ear = Ear(listening, hub.pace, self._wake.set)
        self._ask = False  # what was heard is not enough: somebody wants to know how it is now
        self._news: str | None = None
        self.node_counter = 0
        self.node_epoch: str | None = None
        self._not_removed: dict[str, Try] = {}
        self._not_yet: dict[str, int] = {}  # how often a removal was said to go on
        # uuid → when the tunnel was deleted: removed, and the database has not been read since
        self._done: dict[str, datetime] = {}
        self._overdue: dict[str, float] = {}  # deletions that are too old by the clock, and since when
        self._given = 0
        self._taken = 0  # the last number of a write that the node has taken
        self._failures = 0
        self._alike = 0  # failures in a row for the same reason
        self._logged: str | None = None  # the reason that the log has said last
        self._quick = 0
        self._settle_until = 0.0
        self._lookers: list[asyncio.Future[None]] = []

    def kick(self) -> None:
        """Look now, whatever went wrong before."""
        self._failures = self._alike = self._quick = 0
        self._tries, self._not_removed = (
            {uuid: replace(tried, due=0.0) for uuid, tried in tries.items()}
            for tries in (self._tries, self._not_removed)
        )
        self._ask = True
        self._wake.set()

    def aim(self, pin: str, headers: dict[str, str]) -> None:
        """``target`` is another one, and maybe its place, its pin or the key that it takes."""
        place = place_of(self.target)
        if (place, pin, headers) != (self.client.place, self.client.pin, self.client.headers):
            for client in (self.client, self._ear.client):
                client.place, client.pin, client.headers = place, pin, headers
            self._ear.aim()
            self._ask = True
            self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        self._ear.start()
        try:
            while True:
                self._wake.clear()
                lookers, self._lookers = self._lookers, []
                delay = await self._once()
                for looked in lookers:
                    if not looked.done():
                        looked.set_result(None)
                try:
                    await asyncio.wait_for(self._wake.wait(), delay)
                except TimeoutError:
                    continue
        finally:
            self.client.close()
            await self._ear.end()

    async def _once(self) -> float:
        """One visit; answers the seconds until the next. No answer of a node can end the loop."""
        try:
            delay = await self._visit()
        except Problem as problem:
            self._failures += 1
            self._set(problem)
            most = self._pace.away if problem.code in _AWAY or problem.passes else self._pace.slow
            return float(min(self._pace.retry * 2 ** min(self._failures - 1, 10), most))
        except Exception as error:  # a mistake of ours; or the database, which the manager reports
            if isinstance(error, DatabaseAway):
                return self._pace.tick
            self._set(self._say(problems.bad_answer(f"{type(error).__name__} in the panel's manager")), error)
            return self._pace.away
        self._failures = 0
        if self._news is not None:
            self._ear.listen(self._news, len(self._seen))
        refusal = next((tried.refusal for tried in self._not_removed.values() if tried.refusal), None)
        self._set(self._say(problems.not_removed(refusal)) if refusal else None)
        return delay

    def _set(self, problem: Problem | None, error: Exception | None = None) -> None:
        """One line in the log when a problem begins, becomes another, or ends.

        Why one is away is told only when it lasts: while it starts it is now refusing, now silent.
        """
        if problem:  # it is kept for as long as it lasts, and these hold what the node has sent
            problem.__traceback__ = problem.__context__ = problem.__cause__ = None
        known, self.problem = self.problem, problem
        code = problem.code if problem else None
        self._alike = self._alike + 1 if known and known.code == code else 1
        if code != self._logged and (code not in _AWAY or self._alike >= _LASTS):
            self._logged = code
            if problem:
                _log.warning("marzban_tunnels: %s", problem.detail, exc_info=error)
            else:
                _log.warning("marzban_tunnels: %s: works again", self.client.place)
        if (known.detail if known else None) != (problem.detail if problem else None):
            self._hub.changed()
            self._hub.touch(nodes=True)

    def _say(self, say: Say) -> Problem:
        return say(self.client.place)

    async def _visit(self) -> float:
        target = self.target
        self._give_up(target)  # also where the node is never reached again
        answer = await self._list()
        self._news = answer.news
        plan = compare(target.wanted, target.removals, answer, self._peer_shows)
        self._remember(target, answer, plan)
        known = max(target.counter, self._given)
        if answer.counter > known:
            raise self._is_older(answer.counter, known)
        # A copy of the panel can only raise the number: a node that is behind it was set back to an earlier state
        behind = answer.counter < max(target.seen, self._taken)
        if answer.epoch and target.epochs and not behind and answer.epoch not in (*target.epochs, self._hub.epoch):
            raise self._say(problems.another_copy())
        posts = [post for post in plan.posts if self._is_due(post)]
        posts.sort(key=self._is_known)
        gone = {uuid: item.deleted_at for uuid, item in target.removals.items()}
        self._done = {uuid: moment for uuid, moment in self._done.items() if gone.get(uuid) == moment}
        waiting = [uuid for uuid in plan.removals if uuid not in self._done]
        self._not_removed = {uuid: tried for uuid, tried in self._not_removed.items() if uuid in waiting}
        self._not_yet = {uuid: often for uuid, often in self._not_yet.items() if uuid in waiting}
        now = time.monotonic()
        removals = [uuid for uuid in waiting if uuid not in self._not_removed or self._not_removed[uuid].due <= now]
        if posts or removals:
            await self._change(target, posts, removals)
        self._report(target)
        return self._next(target, not (self._done.keys() | self._not_removed.keys()).issuperset(removals))

    def _is_known(self, post: Post) -> bool:
        """Whether the node has this version of the record already: what a person has changed just now goes first."""
        seen = self.shown(post.wanted.uuid)
        return seen is not None and seen.version == post.wanted.version

    def _is_over(self, target: Target, removing: bool) -> bool:
        """Whether a record was changed, created or deleted since: then what differs is looked for again."""
        now = self.target
        if now is target:
            return False
        versions = {uuid: item.version for uuid, item in target.wanted.items()}
        if any(versions.get(uuid) != item.version for uuid, item in now.wanted.items()):
            return True
        return not removing and now.removals.keys() != target.removals.keys()

    async def _list(self) -> Listing:
        heard = self._ear.take()
        if self._ask or heard is None:
            self._ask = False
            return self._read(*await self.client.call("GET", "/api/tunnels"))
        self.client.let_go_unused()
        return self._read(200, heard)

    def _read(self, status: int, body: Any) -> Listing:
        return replies.listing(self.client.place, status, body, self.target.uuid, self._hub.panel_id, self.shown)

    def _peer_shows(self, item: Wanted) -> dict[str, str] | None:
        seen = self._hub.shown_at(item.uuid, "target" if item.role == "source" else "source")
        return seen.public if seen else None

    def _remember(self, target: Target, answer: Listing, plan: Plan) -> None:
        self.tell_stale()
        now = time.monotonic()
        before, orphans = self._seen, self.orphans
        known = (self.contact is None, self.engine, self.recoveries())
        self._seen = {uuid: Seen(item, now) for uuid, item in answer.tunnels.items()}
        self.orphans, self.engine, self.contact = plan.orphans, answer.engine, now
        self.node_counter, self.node_epoch = answer.counter, answer.epoch
        self._tries = {
            uuid: tried
            for uuid, tried in self._tries.items()
            if any(post.wanted.uuid == uuid and _what(post) == tried.what for post in plan.posts)
            or (uuid in self._seen and self._seen[uuid].shown.doing)
        }
        told, old = ({uuid: facts(seen.shown) for uuid, seen in some.items()} for some in (self._seen, before))
        if told != old or [item.uuid for item in orphans] != [item.uuid for item in plan.orphans]:
            self._hub.changed()
            self._hub.touch(nodes=True)
        elif self._seen:  # measured again
            self._hub.changed(soon=False)
        self._hub.touch({*target.wanted, *before}, nodes=known != (False, self.engine, self.recoveries()))
        self.tell_stale(looked=True)
        self._learn(plan)
        if plan.void:
            gone = ((uuid, target.uuid, target.removals[uuid].deleted_at) for uuid in plan.void)
            self._hub.changes.done.update(gone)
            self._hub.dirty()

    def _give_up(self, target: Target) -> None:
        now = time.monotonic()
        self._overdue = {uuid: self._overdue.get(uuid, now) for uuid in overdue(target.removals, responses.now())}
        if late := [uuid for uuid, since in self._overdue.items() if now - since >= self._pace.sure]:
            records = ((uuid, target.uuid, target.removals[uuid].deleted_at) for uuid in late)
            self._hub.changes.given_up.update(records)
            self._hub.dirty()

    def _learn(self, plan: Plan) -> None:
        changes = self._hub.changes
        for item, half in plan.halves:
            if not self._rejection(item.uuid):
                changes.halves[item.uuid, self.target.name] = half
        changes.changed.update((item.key, half) for item, half in plan.changed)
        if plan.halves or plan.changed:
            self._hub.dirty()

    def _is_due(self, post: Post) -> bool:
        tried = self._tries.get(post.wanted.uuid)
        return tried is None or tried.what != _what(post) or time.monotonic() >= tried.due

    async def _change(self, target: Target, posts: list[Post], removals: list[str]) -> None:
        """Each change has a number of its own, and the database has it before the node."""
        number = await self._hub.reserve(self.target.uuid, len(posts) + len(removals), self.node_epoch)
        self._given = max(self._given, number)
        number -= len(posts) + len(removals)
        changes: list[str | Post] = [*removals, *posts]
        for change in changes:
            number += 1
            if isinstance(change, Post):
                await self._post(change, number)
            else:
                await self._remove(target.removals[change], number)
            if self._is_over(target, isinstance(change, str)):
                break
        self._hub.changes.seen[self.target.uuid] = self._taken
        self._hub.dirty()
        self._settle_until = time.monotonic() + self._pace.settling

    async def _post(self, post: Post, number: int) -> None:
        item = post.wanted
        body = {"panel": self._hub.panel_id, "node": self.target.name, "counter": number, "revision": item.revision}
        body["epoch"] = self._hub.epoch
        body |= {"tunnel": item.record} | ({"accept_key": post.accept_key} if post.accept_key else {})
        status, answer = await self.client.call("POST", "/api/tunnel", body)
        tried = self._tries.get(item.uuid)
        count = tried.count + 1 if tried and tried.what == _what(post) else 1
        refusal = None
        if status in (200, 202):
            self._taken = number
            try:
                seen = answers.tunnel(answer)
                if seen.uuid != item.uuid:
                    raise ValueError("another tunnel than the one that was sent")
            except ValueError as error:
                raise self._say(problems.bad_answer(str(error))) from None
            self._seen = {**self._seen, item.uuid: Seen(seen, time.monotonic())}
            plan = Plan()
            learn(plan, item, seen)
            self._learn(plan)
        else:
            refusal = self._refusal(status, answer)
        self._tries = {**self._tries, item.uuid: Try(_what(post), count, self._later(count), refusal)}
        if refusal or status == 200:
            self._hub.changed()
        self._hub.touch([item.uuid])

    def _refusal(self, status: int, answer: Any) -> str | None:
        """Why the node did not take one tunnel. Raises Problem where it is about the node."""
        replies.check_there(self.client.place, status, answer)
        if refusals.is_older(status, answer):
            self._older(answer)
            return None
        if said := refusals.sentence(status, answer):
            return said
        raise self._say(problems.bad_answer(f"status {status} to a tunnel"))

    def _older(self, body: Mapping[str, Any]) -> None:
        """Where the node's counter is one of ours, an earlier call came late: the next number is a good one."""
        try:
            have = answers.counter(body.get("have"))
        except ValueError as error:
            raise self._say(problems.bad_answer(str(error))) from None
        if have > self._given:
            self.node_counter = have
            raise self._is_older(have, self._given)

    def _is_older(self, have: int, known: int) -> Problem:
        deleted = self.target.uuid if self.target.node_id is None else None
        return self._say(problems.older_database(have, known, deleted))

    async def _remove(self, removal: Removal, number: int) -> None:
        uuid = removal.uuid
        headers = {"Marzban-Counter": str(number), "Marzban-Epoch": self._hub.epoch}
        status, answer = await self.client.call("DELETE", f"/api/tunnel/{uuid}", headers=headers)
        if status in (200, 202):
            self._taken = number
        if status in (200, 404):
            self._hub.changes.done.add((uuid, self.target.uuid, removal.deleted_at))
            self._done[uuid] = removal.deleted_at
            self._seen = {known: seen for known, seen in self._seen.items() if known != uuid}
            return
        replies.check_there(self.client.place, status, answer)
        if refusals.is_older(status, answer):
            self._older(answer)
        elif status != 202 or self._goes_on(uuid):
            tried = self._not_removed.get(uuid)
            said = _ENDLESS if status == 202 else refusals.sentence(status, answer) or f"status {status}"
            count = tried.count + 1 if tried else 1
            self._not_removed[uuid] = Try(("", None), count, self._later(count), said)

    def _goes_on(self, uuid: str) -> bool:
        """Whether the node has said so often that a removal goes on that the one before must have failed."""
        self._not_yet[uuid] = self._not_yet.get(uuid, 0) + 1
        return self._not_yet[uuid] >= _LASTS

    def _later(self, count: int) -> float:
        """When to try again what has failed so often."""
        return float(time.monotonic() + min(self._pace.retry * 2 ** min(count - 1, 10), self._pace.slow))

    def _next(self, target: Target, removing: bool) -> float:
        now = time.monotonic()
        seen = [found for uuid in target.wanted if (found := self.shown(uuid))]
        going_on = any(item.doing for item in self._shown()) or removing
        self._quick = self._quick + 1 if going_on else 0
        listening = self._news is not None and not self._ear.failures
        waits = [self._pace.silent if listening else self._pace.poll]
        if going_on:
            waits.append(self._pace.soon * 2 ** min(self._quick - 1, 10))
        if not listening:  # else it says when it has measured
            if any(item.status == "active" and (item.measured or {}).get("loss_percent") == 100 for item in seen):
                waits.append(self._pace.doubtful)
            if now < self._settle_until and any(item.status not in ("active", "inactive") for item in seen):
                waits.append(self._pace.settle)
        tries = (*self._tries.values(), *self._not_removed.values())
        waits += [max(self._pace.soon, tried.due - now) for tried in tries]
        return min(waits)

    def _shown(self) -> list[Shown]:
        return [seen.shown for seen in self._seen.values()]

    async def look(self) -> None:
        """Until a visit is over that has begun after this call."""
        looked = asyncio.get_running_loop().create_future()
        self._lookers.append(looked)
        self._ask = True
        self._wake.set()
        await looked


def _what(post: Post) -> tuple[str, str | None]:
    return post.wanted.revision, post.accept_key


def place_of(target: Target) -> Place:
    """Where its service is."""
    return Place(target.name, target.address, target.port)
