# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of the tunnels on one host, and waiting for it. Changes nothing."""

from __future__ import annotations

import time

from .._errors import Error
from .._protocols.registry import PROTOCOLS
from .measure import measure
from .tunnel import accept, find_peer

PAUSE = 0.3  # seconds between two looks, where ping gave up at once
HIDDEN = ("public", "publish", "hand", "changes")  # of an answer of tunnel_apply


def health(host, folders, panel, types, raws, wait=0):
    """The answer of tunnel_health. Looks again until all that can be active is, for ``wait`` seconds at most."""
    tunnels = accept(raws, [None] * len(raws), panel, types, list(PROTOCOLS))
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
    protocols = {kind: PROTOCOLS[kind](host, folders) for kind in types if kind in PROTOCOLS}
    end = time.monotonic() + wait
    late = [one for one in tunnels if not one.refused]
    while late:
        measure(host, [(p, [one for one in late if one.seen["type"] == kind], None) for kind, p in protocols.items()])
        for tunnel in late:
            _explain(protocols[tunnel.seen["type"]], tunnel)
        late = [one for one in late if one.wanted and one.status != "active"]
        if not late or time.monotonic() + PAUSE > end:
            break
        time.sleep(PAUSE)
    answers = [{key: value for key, value in one.answer().items() if key not in HIDDEN} for one in tunnels]
    return {"changed": False, "tunnels": answers}


def _explain(protocol, tunnel):
    """A tunnel that should run and doesn't is an error, not one that still connects."""
    if not tunnel.wanted or tunnel.measured is not None:
        return
    interface = (tunnel.state or {}).get("interface")
    if interface != tunnel.view["interface"]:
        tunnel.fail("it was not applied on this host yet: run marzban.tunnels.apply")
    else:
        tunnel.fail("%s is not running: run marzban.tunnels.apply" % protocol.service(interface))
