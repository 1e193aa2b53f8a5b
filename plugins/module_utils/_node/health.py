# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of the tunnels on one host, and waiting for it. Changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Collection, Dict, NamedTuple, Sequence

from .._errors import Error
from .._model import symptoms
from .._protocols import registry
from .._protocols.base import Protocol
from .host import Host
from .measure import Work, measure
from .netdev import Live
from .observation import APPLIED, Observation
from .state import Folders
from .tunnel import Tunnel, accept, find_peer

if TYPE_CHECKING:
    from .._model.shapes import HealthAnswer

PAUSE = 0.3  # seconds between two looks, where ping gave up at once
HIDDEN = ("public", "publish", "needs_peer", "hand", "new", "had_session", "changes")  # of an answer of tunnel_apply


def health(
    host: Host, folders: Folders, panel: str, types: Collection[str], raws: Sequence[object], wait: float = 0
) -> HealthAnswer:
    """The answer of tunnel_health. Looks again until all that can be active is, for ``wait`` seconds at most."""
    tunnels = check(host, folders, panel, types, raws, wait)
    answers = [{key: value for key, value in tunnel.answer().items() if key not in HIDDEN} for tunnel in tunnels]
    return {"changed": False, "tunnels": answers}  # type: ignore[typeddict-item]


def check(
    host: Host,
    folders: Folders,
    panel: str,
    types: Collection[str],
    raws: Sequence[object],
    wait: float = 0,
    repaired: Collection[str] = (),
) -> list[Tunnel]:
    """The tunnels of ``raws``, each with its status, what was measured, and what others have taken from it.

    ``repaired``: the types that the caller puts right by itself, so that nobody has to.
    """
    tunnels = accept(raws, [None] * len(raws), panel, types, registry.TYPES)
    for tunnel in tunnels:
        if tunnel.refused:
            continue
        try:
            tunnel.state = folders.own(tunnel.uuid, panel, tunnel.view["type"])
        except Error as error:
            tunnel.refuse(error)
        else:
            if tunnel.view["active"]:
                find_peer(tunnel)
    end = time.monotonic() + wait
    late = [tunnel for tunnel in tunnels if not tunnel.refused]
    kinds = dict.fromkeys(tunnel.view["type"] for tunnel in late)
    protocols = {kind: registry.protocol(kind)(host, folders) for kind in kinds}
    seen = _observe(host, protocols, [tunnel for tunnel in late if tunnel.last_interface])
    works = [
        Work(p, [t for t in late if t.view["type"] == kind], seen.lives.get(kind)) for kind, p in protocols.items()
    ]
    waited = False
    while late:
        measure(host, works)
        for tunnel in late:
            _explain(protocols[tunnel.view["type"]], tunnel, tunnel.view["type"] in repaired)
        late = [tunnel for tunnel in late if tunnel.wanted and tunnel.status != "active"]
        if not late or time.monotonic() + PAUSE > end:
            break
        time.sleep(PAUSE)
        waited = True
        works = [Work(p, [t for t in late if t.view["type"] == kind]) for kind, p in protocols.items()]
    running = [tunnel for tunnel in tunnels if tunnel.measured is not None]
    if waited:  # what was there before it is not what is there now
        seen = _observe(host, protocols, running)
    _explain_gaps(protocols, running, seen, repaired)
    host.drop_prefetched()
    return tunnels


class Seen(NamedTuple):
    """What was observed for all protocols. ``lives``: by type."""

    observation: Observation
    lives: Dict[str, Live]


def _observe(host: Host, protocols: dict[str, Protocol], tunnels: list[Tunnel]) -> Seen:
    """What is there of these tunnels, asked for at once."""
    wanted = [tunnel.view for tunnel in tunnels if tunnel.wanted]
    names = {kind: sorted(view["interface"] for view in wanted if view["type"] == kind) for kind in protocols}
    observation = Observation(host, (unit for kind, p in protocols.items() for unit in p.all_units(names[kind])))
    asked = [argv for kind, protocol in protocols.items() if names[kind] for argv in protocol.applied_queries()]
    observation.prefetch(*(APPLIED if wanted else ()), *asked)
    lives = {kind: p.observe_applied(observation, names[kind]) for kind, p in protocols.items() if names[kind]}
    return Seen(observation, lives)


def _explain_gaps(protocols: dict[str, Protocol], running: list[Tunnel], seen: Seen, repaired: Collection[str]) -> None:
    """Names what others have taken from a tunnel that runs: pings may pass, or fail as they do with a firewall."""
    for tunnel in running:
        if tunnel.state is None:
            continue
        kind, applied = tunnel.view["type"], tunnel.state["applied"]
        lacks = protocols[kind].lacking(tunnel.view, applied, seen.observation, seen.lives[kind])
        tunnel.lacks = lacks
        if lacks:
            who = "this host's node service" if kind in repaired else "run marzban.tunnels.apply, which"
            said = "something else on this host has taken away %s: %s puts it back" % (", ".join(lacks), who)
            tunnel.fail(said, symptoms.TAKEN_AWAY)
            tunnel.note = None


def _explain(protocol: Protocol, tunnel: Tunnel, repaired: bool) -> None:
    """A tunnel that should run and doesn't is an error, not one that still connects.

    One that has a key here and nothing else waits for a run, as tunnel_apply says: its peer was not known then. Where
    there is not even a key, no run has reached this host, or it refused the tunnel.
    """
    interface = tunnel.view["interface"] if tunnel.checked else ""
    advice = "this host's node service sees to it" if repaired else "run marzban.tunnels.apply"
    if tunnel.hangs:
        tunnel.fail("%s runs and does not answer: %s" % (tunnel.hangs, advice), symptoms.DIES)
    if not tunnel.wanted or tunnel.measured is not None or tunnel.hangs:
        return
    late = "it was not applied on this host yet: %s" % advice
    if tunnel.state is None:
        tunnel.fail(late, symptoms.NOT_INSTALLED)
    elif tunnel.last_interface is None:
        tunnel.note = late
    elif tunnel.last_interface != interface:
        hint = "its record has the interface %s, and %s runs here: %s"
        tunnel.fail(hint % (interface, tunnel.last_interface, advice), symptoms.NOT_INSTALLED)
    else:
        tunnel.fail("%s is not running: %s" % (protocol.service(interface), advice), symptoms.DIES)
