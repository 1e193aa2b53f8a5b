# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the protocols share on a host: files, units, interfaces, tables of nftables; the words are those of netdev.

A protocol is a subclass in a folder of its own, listed in ``registry``, made with ``(host, folders)``. ``uuid`` names a
tunnel's folder, a *public half* is a dict of docs/development/contract.md, ``?`` may be None. It gives:

- ``name``, ``session_limit`` (seconds after which a session without a new handshake is dead, or None),
  ``forgets_sessions`` (of one that has ended nothing is known, so that ``up`` does not measure silence)
- ``missing()`` → capabilities that this host lacks, ``packages`` (``_node.packages.Packages``) what brings them;
  ``check(view)`` raises FieldError for what it can't run
- keys, where they are not X25519, or more than that: see ``keys``
- ``units(interface)`` → all units that may run it, ``unit(view)`` the one that does, ``files(interface, uuid)`` what
  ``release`` has to remove beside the folder
- ``observe_briefly(observation, interfaces)`` → what ``up`` and ``measured`` want, in one go, ``units`` among it;
  ``observe_applied`` adds what ``lacking`` compares, and ``observe`` what a plan needs
- ``brief_queries()``, ``applied_queries()``, ``queries()`` → the commands that these three ask
- ``make_plan(situation)`` → a ``netdev.Plan`` (or a subclass)
- ``find_hung(observation, interfaces)`` → those whose process runs and does not answer; ``end_hung(interfaces)``
- ``up(view, live)`` → (runs, seconds?); ``measured(view, live, ping)`` → MEASURED

and, where the defaults below don't do: ``exchange``, ``sealed``, ``acknowledge``, ``applied``, ``lacking``,
``ping_from``, ``note_silence``, ``tried_out``, ``change``, ``ready``, ``released``, ``without_ipv6``, ``all_units``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterable, List, NamedTuple, Sequence

from .._errors import Error, FieldError
from .._model import symptoms
from .._node import files as node_files
from .._node import netdev
from .._node import path as node_path
from .._node import units as node_units
from .._node.host import Host
from .._node.net import Route
from .._node.netdev import Live, Plan
from .._node.observation import Observation
from .._node.packages import TUN, Packages
from .._node.state import Folders
from . import x25519
from .keys import Keys

if TYPE_CHECKING:
    from .._model.shapes import Applied, NarrowPath, Public, State, View

IPV6_OFF = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # what a new interface gets
RULES = "rules.nft"
ENDED, RENEWED = "ended: it did not answer", "session made again"  # of ``changes``
GONE = 2.0  # seconds that systemd may take to see that a process was killed
START_TIMEOUT = 60  # seconds, and some more for each tunnel
HELD = (
    "It is lost, and what runs would have to be started again, which needs it. What runs goes on as it is, until %s "
    "has the next key: run apply with both nodes, or put the file back."
)


class DidNotStart(Error):
    """A unit that ended at once."""

    symptom = symptoms.DIES


class Pending(FieldError):
    """What can't be applied until both ends have the same key: they have to go on exchanging it."""

    symptom = symptoms.KEYS


class Held(Pending):
    """What would end a process that alone has this end's key, or a part of it. ``path``: its file."""

    def __init__(self, path: str, peer: str) -> None:
        super().__init__(os.path.basename(path), path, HELD % peer)


class Exchanged(NamedTuple):
    """What became of key material."""

    public: Public | None  # the public half now
    needs_peer: bool  # both ends have to be applied once more in this run
    changes: List[str]
    peer_public: Public | None = None  # the peer's, where more is known of it now than the record has


@dataclasses.dataclass
class Situation:
    """What a plan is made of: what is wanted of one tunnel, and what is there."""

    view: View
    template: str  # the rendered text with its tokens
    public: Public | None  # this end's half; None: check mode, no key yet
    peer_public: Public
    state: State | None
    live: Live  # what ``observe`` answered
    routes: list[Route]  # of the main table
    resolved: dict[str, list[str]]  # name or address of a peer: its addresses
    mtus: dict[str, int]  # address: bytes of the MTU of the route there
    held: bool = False  # only what runs has this end's key: there is no file of it
    narrow: NarrowPath | None = None  # what is known of the path; after the plan, what counted of it

    @property
    def applied_here(self) -> bool:
        """Whether the last run left this tunnel on the host under this interface."""
        return self.state is not None and self.state["interface"] == self.view["interface"]

    @property
    def applied(self) -> Applied:
        """What the last run applied."""
        return self.state["applied"] if self.state else {}


def ipv6_is_off() -> bool:
    """Whether a new interface of this host gets no IPv6."""
    return node_files.read(IPV6_OFF) != "0\n"


class Protocol(Keys):
    """The base of the protocols."""

    name = ""
    role = ""  # that installs what it needs, where it has another name
    session_limit: int | None = None
    forgets_sessions = False
    needs_answer = False  # without one it is not known whether a tunnel runs
    carries = True  # its processes carry the packets, so that nothing passes when they hang
    packages: Packages
    outside = {4: 60, 6: 80}  # bytes that the protocol and the outer packet take
    program = ""  # whose last words in the journal say why a unit did not start

    def __init__(self, host: Host, folders: Folders, **_options: Any) -> None:
        self.host = host
        self.folders = folders
        self.paired: set[str] = set()  # uuids of the tunnels whose other end is applied in the same round
        self.new_keys: set[str] = set()  # of those: where a key was made in this run, so that no traffic can be lost
        self.renew: Collection[str] = ()  # uuids of the tunnels whose session is to be made again

    def missing(self) -> list[str]:
        """The capabilities that a tunnel needs and this host lacks."""
        raise NotImplementedError

    def check(self, view: View) -> None:
        """Refuses a view that this protocol can't run. Raises FieldError."""

    # Keys

    def exchange(
        self, view: View, public: Public | None, peer_public: Public, state: State | None, handed: str | None
    ) -> Exchanged:
        """What has to happen to key material now that both public halves are known: an Exchanged. Raises Error.

        ``handed`` is what the peer sealed for this end in this run, or None. In check mode nothing is written.
        """
        return Exchanged(public, False, [])

    def sealed(self, uuid: str) -> str | None:
        """What ``exchange`` has sealed for the peer, as a text, or None."""
        return None

    def acknowledge(self, public: Public, state: State) -> Public:
        """``public`` with what it says about what was applied, which ``state`` (or None) remembers."""
        return public

    # Observing

    def unit(self, view: View) -> str:
        """The unit that runs a view."""
        return self.units(view["interface"])[0]

    def files(self, interface: str, uuid: str) -> list[str]:
        """What belongs to a tunnel beside its folder, and what in it goes when it stops."""
        return [self.folders.path(uuid, RULES)]

    def all_units(self, interfaces: Iterable[str]) -> list[str]:
        """The units to observe."""
        return [unit for name in interfaces for unit in self.units(name)]

    def queries(self) -> list[tuple[str, ...]]:
        """The commands of its own that ``observe`` asks, whatever the number of tunnels."""
        return self.applied_queries()

    def applied_queries(self) -> list[tuple[str, ...]]:
        """Those of ``observe_applied``."""
        return self.brief_queries()

    def brief_queries(self) -> list[tuple[str, ...]]:
        """Those of ``observe_briefly``."""
        return []

    def observe(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """The live state; each protocol adds its own. ``interfaces`` are the names that units are looked up for."""
        return self.observe_applied(observation, interfaces)

    def observe_applied(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself, and what ``lacking`` compares; each protocol adds its own."""
        live = self.observe_briefly(observation, interfaces)
        return dict(live, links=observation.links, tables=observation.tables)

    def observe_briefly(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself; each protocol adds its own to the units.

        ``hangs``: the interfaces of which the process runs and does not answer.
        """
        return {"units": observation.units, "now": observation.now, "hangs": set()}

    # Processes that hang

    def process(self, interface: str) -> str:
        """The unit of the process that carries an interface's packets, or agrees on its keys."""
        return self.units(interface)[0]

    def find_hung(self, observation: Observation, interfaces: Sequence[str]) -> set[str]:
        """The interfaces of which the process runs and does not answer."""
        return set()

    def end_hung(self, interfaces: Collection[str]) -> None:
        """Ends the processes of these interfaces, which do not end by themselves. What is missing then is started."""
        units = sorted({self.process(name) for name in interfaces})
        self.host.try_run("systemctl", "kill", "--signal=KILL", *units)
        end = time.monotonic() + GONE
        while time.monotonic() < end:  # a plan that is made before systemd has seen it would find nothing to do
            if all(unit["active"] != "active" for unit in node_units.states(self.host, units).values()):
                return
            time.sleep(0.05)

    def note_silence(self, views: list[View], live: Live, resolved: dict[str, list[str]]) -> None:
        """Finds out, by pings, which peers of ``views`` are not where they were, and notes it in ``live``."""

    def lacking(self, view: View, applied: Applied, observation: Observation, live: Live) -> list[str]:
        """What of a tunnel that was applied others have taken away, for a person."""
        return netdev.lacking(view, applied, live, observation.routes, not ipv6_is_off())

    def find(self, uuid: str) -> str | None:
        """The interface of a tunnel, as the files outside of its folder say that have its uuid in them, or None."""
        for pattern in self.files("*", uuid):
            before, star, after = pattern.partition("*")
            for path in sorted(glob.glob(pattern)) if star else ():
                if os.path.isfile(path) and uuid in (node_files.read(path) or ""):
                    return path[len(before) : -len(after)]
        return None

    def recovered(self, interface: str) -> Applied:
        """What of the state of a tunnel that runs can be told without its state."""
        return {}

    def in_the_way(self, live: Live, interface: str) -> str | None:
        """What on this host already has the name of an interface, as a text, or None."""
        if interface in live["links"]:
            return "the interface %s" % interface
        return next((path for path in self.files(interface, _NOBODY) if os.path.lexists(path)), None)

    def lacks(self, wanted: list[tuple[str, str]]) -> list[str]:
        """The capabilities of ``wanted`` ``[(capability, program)]`` and of all protocols that are not there."""
        lacks = [] if x25519.HAS_CRYPTOGRAPHY else ["cryptography"]
        # Pings are sent without ping: it is there for those who look into a tunnel by hand.
        common = [("nftables", "nft"), ("ping", "ping"), ("iproute2", "ip")]
        return lacks + [name for name, program in [*wanted, *common] if not self.host.has(program)]

    @staticmethod
    def lacks_tun() -> list[str]:
        """The capability ``tun``, where a process can't carry packets."""
        return [] if os.path.exists(TUN) else ["tun"]

    # Planning

    def plan(self, situation: Situation) -> Plan:
        """What has to happen so that this host matches an active view. Reads, and changes nothing. Raises Error."""
        if ipv6_is_off():
            situation = self.without_ipv6(situation)
        if not situation.applied_here:
            # What has the name now is another tunnel of ours, which leaves before this one comes.
            interface = situation.view["interface"]
            live = netdev.leave_out(situation.live, interface, self.units(interface))
            situation = dataclasses.replace(situation, live=live)
        plan = self.make_plan(situation)
        plan.narrow = situation.narrow
        return plan

    def without_ipv6(self, situation: Situation) -> Situation:
        """The situation on a host where IPv6 is off. Raises FieldError when nothing is left of the tunnel."""
        return dataclasses.replace(situation, view=netdev.without_ipv6(situation.view))

    def make_plan(self, situation: Situation) -> Plan:
        """The plan of a protocol, for what of the view this host can have."""
        raise NotImplementedError

    def tried_out(self) -> None:
        """The plans so far were a trial: what was noted for them does not count any more."""

    def mtu(self, situation: Situation, before: int | None = None) -> int:
        """The MTU inside: the view's, else that of the way to the peer less what the protocol takes, or less.

        ``before`` is the one of the last run: it stays when there is no way now.
        """
        view, narrow = situation.view, situation.narrow
        if view["mtu"] is not None:
            situation.narrow = None
            return view["mtu"]
        found = [
            min(situation.mtus[address], netdev.MOST) - self.outside[6 if ":" in address else 4]
            for address in situation.resolved.get(view["peer"]["endpoint"]) or []
            if address in situation.mtus
        ]
        if not found:
            return before or netdev.USUAL
        way = max(netdev.LEAST, min(found))
        if narrow is None or not node_path.holds(narrow, way):
            situation.narrow = None
            return way
        situation.narrow = {"mtu": narrow["mtu"], "before": narrow["before"], "way": way}
        return narrow["mtu"]

    # Doing it

    def do(self, plans: list[Plan]) -> dict[str, Error]:
        """Carries the plans out: what runs is changed hot, the rest started together. Failed: ``{uuid: Error}``."""
        failed: dict[str, Error] = {}
        for step in (self._do_first, self._do_files):
            plans = self._each(step, plans, failed)
        failed.update(self.ready(plans))
        plans = self._each(self._do_hot, [plan for plan in plans if plan.view["uuid"] not in failed], failed)
        failed.update(self._start(plans))
        return failed

    @staticmethod
    def _each(step: Callable[[Any], None], plans: list[Any], failed: dict[str, Error]) -> list[Any]:
        for plan in plans:
            try:
                step(plan)
            except Error as error:
                failed[plan.view["uuid"]] = error
        return [plan for plan in plans if plan.view["uuid"] not in failed]

    def _do_first(self, plan: Plan) -> None:
        for argv in plan.first:
            self.host.run(*argv)

    def _do_files(self, plan: Plan) -> None:
        for path, _before, after in plan.files:
            folder = os.path.dirname(path)
            if after is None:
                node_files.remove(path)
                continue
            try:
                for_all, new = path in plan.whole_host or folder.endswith(".service.d"), not os.path.isdir(folder)
                os.makedirs(folder, 0o755 if for_all else 0o700, exist_ok=True)
                if for_all and new:  # root's umask may have taken that from networkd, which is not root
                    os.chmod(folder, 0o755)  # noqa: S103
            except OSError as error:
                raise Error("%s can't be made: %s." % (folder, error.strerror)) from None
            node_files.write(path, after, 0o644 if path in plan.whole_host else 0o600)

    def ready(self, plans: list[Plan]) -> dict[str, Error]:
        """What has to happen once, after the files of all ``plans`` are there. Failed: ``{uuid: Error}``."""
        return {}

    def change(self, plan: Plan) -> None:
        """Changes what runs and is the protocol's own."""

    def _do_hot(self, plan: Plan) -> None:
        # The rules first: an address is never there without what guards it.
        if plan.load:
            self.host.run("nft", "-f", self.folders.path(plan.view["uuid"], RULES))
        self.change(plan)
        for argv in plan.hot:
            self.host.run(*argv)

    def _start(self, plans: list[Plan]) -> dict[str, Error]:
        """Starts and enables what is to be, all in one go. Failed: ``{uuid: Error}``."""
        starts = [plan for plan in plans if plan.start]
        for plan in starts:
            if plan.unlink:
                self.host.try_run("ip", "link", "delete", "dev", plan.interface)
        enable = [plan.unit for plan in plans if plan.enable]
        try:
            if any(plan.units for plan in plans) and not enable:  # enabling reads them again, too
                self.host.run("systemctl", "daemon-reload")
        except Error as error:
            return {plan.view["uuid"]: error for plan in plans}
        disabled = self._enable(enable)
        failed = {plan.view["uuid"]: disabled[plan.unit] for plan in plans if plan.unit in disabled}
        if not starts:
            return failed
        names = [plan.unit for plan in starts]
        try:
            self.host.start_units("restart", *names, timeout=START_TIMEOUT + 2 * len(names))
        except Error:  # of one of them, and the units say which
            units = node_units.states(self.host, names)
            for plan in starts:
                if units.get(plan.unit, {}).get("active") != "active":
                    said = node_units.last_words(self.host, plan.unit, self.program)
                    failed.setdefault(plan.view["uuid"], DidNotStart("%s did not start: %s" % (plan.unit, said)))
        return failed

    def _enable(self, names: list[str]) -> dict[str, Error]:
        """``{unit: Error}`` of those that can't be enabled: where one can't, systemd enables none of a list."""
        try:
            if names:
                self.host.run("systemctl", "enable", "--quiet", *names)
        except Error as error:
            if len(names) == 1:
                return {names[0]: Error("%s can't be enabled: %s" % (names[0], error))}
            return {failed: why for name in names for failed, why in self._enable([name]).items()}
        return {}

    def applied(self, view: View, live: Live) -> Applied:
        """What goes into the state about what was applied, to tell later what is ours on the interface."""
        return {
            "addresses": list(view["local"]["addresses"]),
            "routes": list(view["routes"]),
            "rules": live["tables"].get(netdev.table(view["uuid"])),
        }

    def release(self, places: dict[str, str]) -> dict[str | None, Error]:
        """Takes ``{interface: uuid}`` down and removes what belongs to them. What failed: ``{interface: Error}``."""
        failed: dict[str | None, Error] = {}
        if not places:
            return failed
        units = [unit for name in sorted(places) for unit in self.units(name)]
        # What didn't come down is found below.
        self.host.try_run("systemctl", "stop", *units, timeout=START_TIMEOUT + 2 * len(units))
        self.host.try_run("systemctl", "disable", "--quiet", *units)
        self.host.try_run("systemctl", "reset-failed", *units)
        observation = Observation(self.host, ())
        for name, uuid in places.items():
            try:
                if name in observation.links:
                    self.host.run("ip", "link", "delete", "dev", name)
                if netdev.table(uuid) in observation.tables:
                    self.host.run("nft", "delete", "table", "inet", netdev.table(uuid))
                for unit in self.units(name):
                    for link in glob.glob("/etc/systemd/system/*.wants/" + glob.escape(unit)):
                        node_files.remove(link)  # where the packages, and with them the unit, are gone already
                for path in self.files(name, uuid):
                    node_files.remove(path)
            except Error as error:
                failed[name] = error
        self.released(places)
        return failed

    def released(self, places: dict[str, str]) -> None:
        """What has to happen once, after ``{interface: uuid}`` are down and their files are gone."""

    # Measuring

    def service(self, interface: str) -> str:
        """The name of what runs an interface, for messages."""
        return self.units(interface)[0]

    def ping_from(self, view: View) -> str:
        """What a ping inside the tunnel is bound to: an interface or an address."""
        return view["interface"]

    def up(self, view: View, live: Live) -> tuple[bool, float | None]:
        """Whether a tunnel runs, and for how many seconds (or None)."""
        raise NotImplementedError

    def measured(self, view: View, live: Live, ping: dict[str, Any]) -> dict[str, Any]:
        """MEASURED of one end, of what the protocol knows. ``ping`` is what the probe said."""
        raise NotImplementedError

    def runs(self, view: View, live: Live, there: bool, conf: str | None = None) -> tuple[bool, float | None]:
        """``(runs, seconds?)`` out of the unit, and whether its interface is ``there``.

        ``conf`` is the path of what the service was given: its time begins again when that is written.
        """
        service = live["units"].get(self.unit(view), {})
        since = service.get("since")
        there = there and service.get("active") == "active"
        seconds = None if since is None else time.monotonic() - since
        if conf and seconds is not None:
            with contextlib.suppress(OSError):
                seconds = max(0.0, min(seconds, time.time() - os.stat(conf).st_mtime))
        return there, seconds


_NOBODY = "00000000-0000-0000-0000-000000000000"  # a uuid that no tunnel has: no file is its own
