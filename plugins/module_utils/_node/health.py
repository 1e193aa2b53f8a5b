# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of the tunnels on one host, and waiting for it. Changes nothing."""

from __future__ import annotations

import time
from typing import Collection, Sequence

from .._errors import Error
from .._model.types import HealthAnswer
from .._protocols import registry
from .._protocols.base import Protocol
from . import net
from .host import Host
from .measure import Work, measure
from .observation import TABLES, Observation
from .state import Folders
from .tunnel import Tunnel, accept, find_peer

PAUSE = 0.3  # seconds between two looks, where ping gave up at once
HIDDEN = ("public", "publish", "needs_peer", "hand", "new", "had_session", "changes")  # of an answer of tunnel_apply


def health(
    host: Host, folders: Folders, panel: str, types: Collection[str], raws: Sequence[object], wait: float = 0
) -> HealthAnswer:
    """The answer of tunnel_health. Looks again until all that can be active is, for ``wait`` seconds at most."""
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
    while late:
        measure(host, [Work(p, [t for t in late if t.view["type"] == kind]) for kind, p in protocols.items()])
        for tunnel in late:
            _explain(protocols[tunnel.view["type"]], tunnel)
        late = [tunnel for tunnel in late if tunnel.wanted and tunnel.status != "active"]
        if not late or time.monotonic() + PAUSE > end:
            break
        time.sleep(PAUSE)
    _explain_gaps(host, protocols, [tunnel for tunnel in tunnels if tunnel.measured is not None])
    answers = [{key: value for key, value in tunnel.answer().items() if key not in HIDDEN} for tunnel in tunnels]
    return {"changed": False, "tunnels": answers}  # type: ignore[typeddict-item]


def _explain_gaps(host: Host, protocols: dict[str, Protocol], running: list[Tunnel]) -> None:
    """Names what others have taken from a tunnel that runs: pings may pass, or fail as they do with a firewall."""
    if not running:
        return
    names = {kind: [t.view["interface"] for t in running if t.view["type"] == kind] for kind in protocols}
    observation = Observation(host, (unit for kind, p in protocols.items() for unit in p.all_units(names[kind])))
    asked = [argv for protocol in protocols.values() for argv in protocol.queries()]
    host.prefetch(net.LINKS, *net.ROUTES, net.LISTENING, TABLES, *asked)
    lives = {kind: protocol.observe(observation, names[kind]) for kind, protocol in protocols.items() if names[kind]}
    for tunnel in running:
        kind, state = tunnel.view["type"], tunnel.state
        lacks = protocols[kind].lacking(tunnel.view, state["applied"], observation, lives[kind]) if state else []
        if lacks:
            hint = "something else on this host has taken away %s: run marzban.tunnels.apply, which puts it back"
            tunnel.fail(hint % ", ".join(lacks))
            tunnel.note = None
    host.drop_prefetched()


def _explain(protocol: Protocol, tunnel: Tunnel) -> None:
    """A tunnel that should run and doesn't is an error, not one that still connects.

    One that has a key here and nothing else waits for a run, as tunnel_apply says: its peer was not known then. Where
    there is not even a key, no run has reached this host, or it refused the tunnel.
    """
    if not tunnel.wanted or tunnel.measured is not None:
        return
    interface = tunnel.view["interface"]
    late = "it was not applied on this host yet: run marzban.tunnels.apply"
    if tunnel.state is None:
        tunnel.fail(late)
    elif tunnel.last_interface is None:
        tunnel.note = late
    elif tunnel.last_interface != interface:
        hint = "its record has the interface %s, and %s runs here: run marzban.tunnels.apply"
        tunnel.fail(hint % (interface, tunnel.last_interface))
    else:
        tunnel.fail("%s is not running: run marzban.tunnels.apply" % protocol.service(interface))
