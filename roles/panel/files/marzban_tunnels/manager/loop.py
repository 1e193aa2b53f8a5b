# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager: one event loop in a thread of its own, with a task for each node. Requests only read what it knows."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from marzban_tunnels.live import Nothing
from marzban_tunnels.manager import pins
from marzban_tunnels.manager.answers import Shown
from marzban_tunnels.manager.client import Client
from marzban_tunnels.manager.hub import DatabaseAway, Pace
from marzban_tunnels.manager.lease import Lease
from marzban_tunnels.manager.store import Changes, LostLease, Snapshot, Store, Target, Written
from marzban_tunnels.manager.threads import Worker
from marzban_tunnels.manager.watch import Watch, place_of
from marzban_tunnels.service import Tunnels

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
_MOST_REPORTS = 200  # ends written in one transaction: others wait for it
_ELSEWHERE = "Another process of this panel works with the nodes; this one takes over when that one ends"
T = TypeVar("T")
#: A client certificate and its key, as PEM texts, where a door has one that nodes trust.
Certificate = Callable[[], tuple[str, str] | None]


class Manager:
    """``marzban_tunnels.live.Live``. ``tunnels`` has started before ``start`` is called."""

    def __init__(
        self,
        engine: Engine,
        tunnels: Tunnels,
        certificate: Certificate | None = None,
        pace: Pace = Pace(),
    ) -> None:
        self.pace, self.changes, self.panel_id, self.epoch = pace, Changes(), "", ""
        self._store, self._tunnels, self._access = Store(engine, tunnels.nodes, tunnels), tunnels, tunnels.access
        self._certificate = certificate
        self._lease = Lease(pace.patience)
        self._off: str | None = "The panel has not started yet"
        self._held = self._idle = False
        self._beat = self._read_at = self._sent = 0.0
        self._revision = 0
        self._known: tuple[Any, ...] | None = None
        self._snapshot = Snapshot()
        self._watches: dict[str, Watch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._kicked: set[str] = set()  # nodes to look at now
        self._reservations: list[tuple[str, int, str | None, asyncio.Future[int]]] = []
        self._silent_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    # from any thread

    def start(self) -> None:
        """Once; where the nodes can't be called, nothing is started, and ``manager_state`` says why."""
        with self._lock:
            if self._thread is not None:
                return
            tls = self._tls()
            if tls is None:
                self._say_off()
                return
            self._off, self.panel_id, self._context = None, self._tunnels.panel_id, tls
            self._loop = asyncio.new_event_loop()
            self._wake, self._dirty, self._end = asyncio.Event(), asyncio.Event(), asyncio.Event()
            self._thread = threading.Thread(target=self._run, name="marzban_tunnels manager", daemon=True)
            self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """End it, and let another have the lease. Doesn't wait for nodes, nor long for the database."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                self._from_outside(self._end.set)
                self._thread.join(seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def manager_state(self) -> dict[str, Any]:
        if self._off is not None:
            return {"state": "off", "detail": self._off}
        return (
            {"state": "on", "detail": None}
            if self._held or self._idle
            else {"state": "elsewhere", "detail": _ELSEWHERE}
        )

    def leads(self) -> bool:
        return self._held

    def node(self, node_id: int) -> dict[str, Any]:
        return self.deleted(self._snapshot.by_node_id.get(node_id, ""))

    def deleted(self, uuid: str) -> dict[str, Any]:
        watch = self._watches.get(uuid)
        return watch.state() if watch is not None else Nothing().node(0)

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        watch = self._watches.get(self._snapshot.places.get((uuid, role), ""))
        return watch.end(uuid, role) if watch is not None else None

    def revision(self) -> int:
        return self._revision

    def wake(self, node_ids: Iterable[int]) -> None:
        nodes = list(node_ids)

        def wake() -> None:
            self._kicked.update(self._snapshot.by_node_id.get(node, f"id {node}") for node in nodes)
            self._wake.set()

        self._from_outside(wake)

    def renew(self) -> None:
        self._from_outside(self.changed)

    def confirm_database(self, node_id: int, deleted: str | None = None) -> None:
        def confirm() -> None:
            uuid = deleted or self._snapshot.by_node_id.get(node_id, "")
            watch = self._watches.get(uuid)
            if watch is not None and watch.problem is not None and watch.problem.code == "older_database":
                self.changes.confirm[uuid] = watch.node_counter
                if watch.node_epoch:
                    self.changes.accepted[uuid] = watch.node_epoch
                self.dirty()

        self._from_outside(confirm)

    def refresh(self, node_ids: Iterable[int], seconds: float) -> None:
        places = [self._snapshot.by_node_id.get(node_id, "") for node_id in node_ids]
        watches = [watch for place in places if (watch := self._watches.get(place)) and watch.problem is None]
        loop = self._loop
        if not watches or loop is None or not self._held:
            return

        async def all_of_them() -> None:
            looks = [asyncio.ensure_future(watch.look()) for watch in watches]
            _done, late = await asyncio.wait(looks, timeout=seconds)
            for look in late:
                look.cancel()

        try:
            asyncio.run_coroutine_threadsafe(all_of_them(), loop).result(seconds + 0.5)
        except Exception:  # it has just ended, or is slow: what is known is answered
            return

    def _from_outside(self, work: Callable[[], None]) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(work)
            except RuntimeError:  # it has ended
                return

    def _tls(self) -> ssl.SSLContext | None:
        """The context for all nodes; None where they can't be called."""
        if self._access.state == "key":
            return pins.context()
        self._off = self._access.detail
        if self._access.state != "unset" or self._certificate is None:
            return None
        try:
            pair = self._certificate()
            return pins.context(pair) if pair else None
        except Exception as error:
            self._off = f"The panel's client certificate can't be used ({type(error).__name__}): {self._access.detail}"
            return None

    def _say_off(self) -> None:
        """Once, at the start. Where nobody has set a key, nobody waits for the manager."""
        level = logging.INFO if self._off == self._access.detail and self._access.state == "unset" else logging.WARNING
        _log.log(level, "marzban_tunnels: the manager is off: %s", self._off)

    # the loop

    def _run(self) -> None:
        assert self._loop is not None
        try:
            self._loop.run_until_complete(self._main())
        except Exception:
            _log.exception("marzban_tunnels: the manager ended")
            self._off = "The manager ended by a mistake of its own: the panel's log says which; restart the panel"
        finally:
            self._held = False
            self._loop.close()

    async def _main(self) -> None:
        self._worker = Worker("marzban_tunnels manager's database")
        flusher = asyncio.create_task(self._flush_always())
        ending = asyncio.create_task(self._end.wait())
        try:
            while not self._end.is_set():
                self._wake.clear()
                delay = self.pace.tick
                try:
                    delay = await self._round()
                except Exception as error:
                    self._tell(error)
                    if self._held and time.monotonic() - self._beat > self.pace.patience * 0.7:
                        await self._drop()
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait([waking, ending, flusher], timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if flusher.done():  # a mistake of ours: nothing would be written any more, and nobody would know
                    flusher.result()
        finally:
            held = self._held
            await self._drop()
            flusher.cancel()
            if held:
                await asyncio.wait([asyncio.create_task(self._database(self._lease.release))], timeout=1.0)
            self._worker.stop()
            await asyncio.sleep(0.01)  # connections that were let go end in the loop

    async def _round(self) -> float:
        """Keep the lease, and see whether the database has changed; answers the seconds until the next."""
        now = time.monotonic()
        for watch in self._watches.values():
            watch.tell_stale()
        if not self._held:
            self._idle = not await self._database(self._store.needed)
            if self._idle:  # no node has a service: nothing is written into the database
                return self.pace.idle
        if not self._held or now >= self._beat + self.pace.beat:
            held = await self._database(self._lease.step if self._held else self._lease.watched)
            if held and not self._held:
                self._known, self.epoch = None, secrets.token_hex(8)
            if held:
                self._held, self._beat = True, now
            elif self._held:
                await self._drop()
        if not self._held:
            return self.pace.tick
        if now < self._read_at:
            return min(self._read_at - now, self.pace.tick)
        known = await self._database(self._store.revision)
        kicked, self._kicked = self._kicked, set()
        if known != self._known or kicked:
            begun = time.monotonic()
            snapshot = await self._database(self._store.read)
            # a panel that is written to all the time must not be busy with reading it again and again
            self._read_at = time.monotonic() + max(0.2, 5 * (time.monotonic() - begun)) if self._known else 0.0
            self._known = known
            self._reconcile(snapshot, kicked)
        return self.pace.tick

    def _reconcile(self, snapshot: Snapshot, kicked: set[str]) -> None:
        kicked = {snapshot.by_node_id.get(int(name[3:]), "") if name.startswith("id ") else name for name in kicked}
        before, self._snapshot = self._snapshot, snapshot
        for uuid in self._watches.keys() - snapshot.targets.keys():
            self._tasks.pop(uuid).cancel()
            del self._watches[uuid]
        for number, (uuid, target) in enumerate(snapshot.targets.items()):
            watch = self._watches.get(uuid)
            if watch is None:
                clients = self._client(target), self._client(target, self.pace.listen)
                self._watches[uuid] = watch = Watch(target, self, *clients)
                delay = self.pace.tick * number / len(snapshot.targets)  # not all at the same moment, nor later
                self._tasks[uuid] = asyncio.create_task(_later(delay, watch))
                continue
            old, watch.target = watch.target, target
            watch.aim(target.pin, self._headers(target))
            if uuid in kicked or old.work() != target.work() or (old.counter < target.counter and watch.problem):
                watch.kick()
        if before.by_node_id != snapshot.by_node_id:
            self.changed()
        self.touch(snapshot.different(before))

    def _client(self, target: Target, waits: float = 0.0) -> Client:
        """``waits``: seconds that the node may wait before it answers."""
        place, headers, call = place_of(target), self._headers(target), self.pace.call + waits
        return Client(place, target.pin, headers, self._context, self.pace.connect, call)

    def _headers(self, target: Target) -> dict[str, str]:
        if self._access.state != "key":
            return {}
        return {"Authorization": f"Bearer {self._access.key(self.panel_id, target.uuid, target.generation)}"}

    async def _drop(self) -> None:
        """Work with no node any more."""
        uuids = {uuid for uuid, _role in self._snapshot.places}
        self._held, self._known, self._snapshot = False, None, Snapshot()
        tasks, self._tasks, self._watches, self.changes = list(self._tasks.values()), {}, {}, Changes()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.changed()
        self.touch(uuids, nodes=True)

    async def _database(self, work: Callable[..., T], *arguments: Any) -> T:
        def in_session() -> T:
            with Session(self._store.engine) as session:
                return work(session, *arguments)

        return await self._worker.do(in_session)

    def _tell(self, error: Exception) -> None:
        """Once a minute at most: it may happen each second."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + 60
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            _log.warning("marzban_tunnels: the manager can't use the database at the moment: %s", text[:300])

    # what a node's watch needs

    async def reserve(self, uuid: str, number: int, shown: str | None) -> int:
        assert self._loop is not None
        future: asyncio.Future[int] = self._loop.create_future()
        self._reservations.append((uuid, number, shown, future))
        self.dirty()
        return await future

    def dirty(self) -> None:
        self._dirty.set()

    def changed(self, soon: bool = True) -> None:
        if soon or time.monotonic() - self._sent >= self.pace.measured:
            self._sent = time.monotonic()
            self._revision += 1

    def touch(self, uuids: Iterable[str] = (), nodes: bool = False) -> None:
        if uuids or nodes:
            self._tunnels.feed.touch(uuids, nodes)

    def shown_at(self, uuid: str, role: str) -> Shown | None:
        watch = self._watches.get(self._snapshot.places.get((uuid, role), ""))
        return watch.shown(uuid) if watch is not None else None

    async def _flush_always(self) -> None:
        while True:
            await self._dirty.wait()
            if not self._reservations:
                await asyncio.sleep(self.pace.flush)
            self._dirty.clear()
            changes, self.changes = self.changes, Changes()
            epoch = self.epoch
            for key in list(changes.reports)[_MOST_REPORTS:]:
                self.changes.reports[key] = changes.reports.pop(key)
                self.dirty()
            waiting, self._reservations = self._reservations, []
            for uuid, number, shown, _future in waiting:
                changes.reserve[uuid] = changes.reserve.get(uuid, 0) + number
                changes.epochs[uuid] = (shown, self.epoch)
            try:
                written = await self._database(self._store.write, changes, self._lease.me)
            except Exception as error:
                for _uuid, _number, _shown, future in waiting:
                    if not future.done():
                        future.set_exception(DatabaseAway())
                if isinstance(error, LostLease):
                    await self._drop()
                else:
                    self._tell(error)
                    changes.reserve, changes.epochs = {}, {}
                    if self._held and self.epoch == epoch:  # else it is from an earlier lease, or from none
                        self.changes = changes.followed_by(self.changes)
                    await asyncio.sleep(self.pace.tick)
                    self.dirty()
                continue
            for uuid, _number, _shown, future in waiting:
                if not future.done():
                    future.set_result(written.counters[uuid])
            self._written(changes, written)

    def _written(self, changes: Changes, written: Written) -> None:
        for (uuid, node), why in written.rejected.items():
            for watch in self._watches.values():
                if watch.target.name == node and uuid in watch.target.wanted:
                    watch.reject(uuid, changes.halves[uuid, node], why)
        if changes.visible():
            self._tunnels.feed.touch()
        if changes.visible() or changes.confirm:
            self._kicked.update(changes.confirm)
            self._wake.set()


async def _later(delay: float, watch: Watch) -> None:
    await asyncio.sleep(delay)
    await watch.run()
