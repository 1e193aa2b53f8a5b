# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a tunnel recovers from without a person, how often it did, and what does not last. Times as in ``board``."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ansible_collections.marzban.tunnels.plugins.module_utils._model.views import title
from ansible_collections.marzban.tunnels.plugins.module_utils._node.measure import passes
from ansible_collections.marzban.tunnels.plugins.module_utils._node.path import LOWERED, narrow_path, narrower
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import ENDED, RENEWED

if TYPE_CHECKING:  # thirty classes, which nothing needs at run time
    from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import NarrowPath, View

_log = logging.getLogger(__name__)
KINDS = ("put_back", "process", "session", "mtu", "peer")
LATEST = 15.0  # seconds between two attempts to put something back, at most
OFTEN, WITHIN = 3, 300.0  # repairs of one thing in these seconds, after which it is said that it does not last
LOOKS = 2  # in a row that show the same: a busy host may answer late once, or lose packets
SILENT, YIELDS = 7.0, 6.0  # seconds without an answer until a session is made again; those of the second end beside
AGAIN, SELDOM = 15.0, 300.0  # seconds until that is done once more; twice as many each time, and at most
UNSTABLE, CALM = 4, 60.0  # times that packets stopped ``WITHIN``, and seconds without a change after which that is over
WIDER = 3600.0  # seconds after which the larger packets of before are tried again
COUNTED = 20  # times that packets stopped which are remembered


@dataclass(frozen=True)
class Repair:
    """What the engine is to do for a tunnel. ``kind``: one of KINDS, or "" for what is not counted.

    ``probe``: the engine finds out by pings whether the peer has moved. ``renew``: the session is made again. ``path``:
    what was found of the path. ``widen``: larger packets are tried, and used if they pass.
    """

    kind: str = "put_back"
    probe: bool = False
    renew: bool = False
    path: NarrowPath | None = None
    widen: bool = False

    @property
    def is_quiet(self) -> bool:
        """Whether the tunnel is told as before until it was looked at again."""
        return self.widen or self.kind in ("session", "mtu", "peer")

    @property
    def path_words(self) -> str:
        """What was done because of the path, for a person."""
        if self.path is None:
            return ""
        mtu, before = self.path["mtu"], self.path["before"]
        return (
            f"packets of {before:,} bytes pass again: the MTU was raised" if self.widen else LOWERED.format(mtu, before)
        )


@dataclass
class Recoveries:
    """Of one tunnel."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    lacked: str = ""  # what was to be put back last
    repairs: dict[str, list[float]] = field(default_factory=dict)  # since it was well: what was put back, and when
    unsteady: str | None = None  # why it is an error although it was repaired a moment ago
    hung: int = 0  # looks in a row in which its process did not answer
    passing: bool | None = None  # whether packets passed in the last look; None: that says nothing
    turned: float = 0.0  # when that was another one last
    lost: float | None = None  # since when packets do not pass
    had_session: bool = False  # they have passed since something was changed
    received: int | None = None  # bytes, as the last look has found
    heard: bool = False  # packets came in before that look: the session carries them, whatever drops the pings
    stops: list[float] = field(default_factory=list)  # when packets stopped
    unstable: str | None = None  # why it is an error although packets pass now and then
    attempts: int = 0  # to make the session again, since packets passed
    next_attempt: float = 0.0
    narrow: int = 0  # looks in a row in which the packets of its MTU did not pass
    next_path: float = 0.0  # when the MTU may be lowered again
    widen_at: float | None = None  # when larger packets are tried
    way: str | None = None  # the route to the peer when the MTU was lowered

    # What does not last

    def is_steady(self, now: float) -> bool:
        """Whether nothing was to be put back for long."""
        return all(now - times[-1] > WITHIN for times in self.repairs.values())

    def well(self) -> None:
        """What did not last before is forgotten."""
        self.repairs, self.unsteady = {}, None

    def lacks(self, view: View, missing: Collection[str], now: float) -> None:
        """Something is to be put back. Where that was done often just now, the next time won't last either."""
        self.lacked = ", ".join(missing)
        times = [at for at in self.repairs.get(self.lacked, []) if now - at <= WITHIN]
        self.repairs = {what: known for what, known in self.repairs.items() if now - known[-1] <= WITHIN}
        if len(times) < OFTEN or self.unsteady:  # it is told once
            return
        interface = view["interface"]
        seen = f"{OFTEN} times in {now - times[0]:.0f} s, and"
        if self.lacked:
            said = f"{self.lacked}: put back {seen} gone again. See what else on this host takes it away, and "
        else:
            said = f"{interface} was started {seen} does not stay up. See "
        units = f"-u '*{interface}*'" + (" -u strongswan" if view["type"] == "ipsec" else "")
        self.unsteady = f"{said}journalctl {units}. The service tries again every {LATEST:.0f} s."

    # What was done

    def done(self, repair: Repair | None, tunnel: Tunnel, now: float) -> None:
        """The engine has changed something. ``repair``: None where somebody has asked for it."""
        kind = _kind(repair, tunnel)
        if kind:
            self.counts[kind] += 1
        if repair and not repair.is_quiet:
            self.repairs[self.lacked] = [*self.repairs.get(self.lacked, []), now][-OFTEN:]
        if tunnel.changes != [RENEWED]:  # it is not known yet whether that helps
            self.passing = self.lost = None
            self.had_session, self.hung = False, 0

    def accepted(self) -> None:
        """The key of a peer that was set up again was taken."""
        self.counts["peer"] += 1

    # What a look has found

    def look(self, tunnel: Tunnel, begun: float) -> None:
        """Takes in what a look that began at ``begun`` has found."""
        self.hung = self.hung + 1 if tunnel.hangs else 0
        self.narrow = self.narrow + 1 if tunnel.narrow else 0
        loss = tunnel.measured["loss_percent"] if tunnel.measured else None
        received = (tunnel.measured or {}).get("rx_bytes")
        self.heard, self.received = bool(received) and self.received not in (None, received), received
        if tunnel.hangs or tunnel.lacks or loss is None:
            self.passing = None  # there is a reason, and it is seen to
            return
        if loss < 100:
            self._passes(tunnel, begun)
        elif self.lost is None:
            self.lost = begun
        if self.passing is not None and self.passing != (loss < 100):
            self.turned = begun
            if self.passing:
                self._stops(tunnel.view, begun)
        self.passing = loss < 100
        if self.unstable and begun - self.turned > CALM:
            self.unstable = None

    def _passes(self, tunnel: Tunnel, begun: float) -> None:
        age = (tunnel.measured or {}).get("handshake_age")
        if self.lost is not None and age is not None and self.had_session:
            outage = begun - self.lost
            if age <= outage + 1 and not self.unstable:
                self.counts["session"] += 1
                _log.info("tunnel %s: packets pass again in %.1f s, in a new session", title(tunnel.view), outage)
        self.lost, self.attempts, self.next_attempt, self.had_session = None, 0, 0.0, True

    def _stops(self, view: View, begun: float) -> None:
        self.stops = [*[at for at in self.stops if begun - at <= WITHIN][-COUNTED:], begun]
        if len(self.stops) < UNSTABLE or self.unstable:
            return
        seconds = begun - self.stops[0]
        span = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        ends = f"{view['local']['node']} and {view['peer']['node']}"
        self.unstable = (
            f"its packets came and went {len(self.stops)} times in {span}: the path between {ends} is unstable. "
            "See what is between them; nothing is restarted because of it."
        )
        _log.warning("tunnel %s: %s", title(view), self.unstable)

    # What is to be done

    def silence(self, tunnel: Tunnel, now: float) -> Repair | None:
        """What to do where packets have not passed for long though nothing is missing. Called once a look."""
        view = tunnel.view
        patience = SILENT if view["local"]["role"] == "source" else SILENT + YIELDS  # one end is enough
        if self.lost is None or self.unstable or now - self.lost < patience or now < self.next_attempt:
            return None
        self.next_attempt = now + min(SELDOM, AGAIN * 2.0**self.attempts)
        self.attempts = min(self.attempts + 1, 16)
        return Repair("session", renew=not self.heard)

    def path(self, tunnel: Tunnel, now: float) -> Repair | None:
        """Whether the MTU has to be lowered, or larger packets are to be tried."""
        if tunnel.view["mtu"] is not None:
            return None
        known = narrow_path(tunnel.state["applied"] if tunnel.state else {})
        if tunnel.narrow and tunnel.narrow[1] is not None:
            if self.narrow < LOOKS or now < self.next_path:
                return None
            stays = known is not None and tunnel.narrow[0] > known["mtu"]  # a template of the owner's may say the MTU
            self.next_path, self.widen_at = now + (SELDOM if stays else AGAIN), None
            return Repair("mtu", path=narrower(known, tunnel.narrow[0], tunnel.narrow[1]))
        if known is None:
            self.widen_at = self.way = None
            return None
        self.widen_at = self.widen_at or now + WIDER
        if now < self.widen_at or not passes(tunnel):
            return None
        self.widen_at = None
        return Repair("", path=known, widen=True)

    def route(self, way: str | None, now: float) -> None:
        """The route to the peer of a tunnel with a lower MTU: where that is another one, another size may pass."""
        if way and self.way and way != self.way:
            self.widen_at = now
        self.way = way or self.way


def _kind(repair: Repair | None, tunnel: Tunnel) -> str:
    """What is counted."""
    if any(change.endswith(ENDED) for change in tunnel.changes):
        return "process"
    if repair is None or tunnel.changes == [RENEWED]:
        return ""
    if repair.probe or repair.renew:  # its name had another address, or something of it was not as it is wanted
        return "peer" if any(change.startswith("endpoint ") for change in tunnel.changes) else "session"
    return repair.kind
