# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes of tunnels that run and do not answer: they are ended, so that the run starts what is missing then.

systemd would wait long for one to end by itself, and nothing else notices that it hangs.
"""

from __future__ import annotations

from .._errors import Error
from .._protocols.base import ENDED, Protocol
from .host import Host
from .measure import inside
from .observation import Observation
from .ping import ping_all
from .plans import Part
from .tunnel import Tunnel


def end(host: Host, parts: list[Part], observation: Observation, resolved: dict[str, list[str]]) -> bool:
    """Ends those of the tunnels of ``parts``; in check mode they are told only. Whether the host is another one now.

    Where a process carries packets, those of its tunnel have to fail as well. A name that can't be resolved keeps a
    process busy, and would do so with the next one.
    """
    found: dict[str, tuple[Protocol, Tunnel]] = {}  # by interface
    for part in parts:
        here = [t for t in part.tunnels if not t.refused and t.view["active"] and t.last_interface]
        names = part.protocol.find_hung(observation, part.interfaces) if here else set()
        for tunnel in here:
            known = resolved.get(tunnel.view["peer"]["endpoint"], True)
            if tunnel.view["interface"] in names and (known or not part.protocol.carries):
                found[tunnel.view["interface"]] = (part.protocol, tunnel)
    asked = {name: (p.ping_from(t.view), inside(t.view)) for name, (p, t) in found.items() if p.carries}
    answers = ping_all(asked).answers if asked else {}
    hung = {n: its for n, its in found.items() if n not in asked or answers[n]["loss_percent"] in (None, 100)}
    for name, (protocol, tunnel) in found.items():
        if name not in hung and protocol.needs_answer:
            hint = "%s runs, carries packets and does not answer: it is left as it is. Is this host too busy?"
            tunnel.refuse(Error(hint % protocol.process(name)))
    for name, (protocol, tunnel) in hung.items():
        tunnel.changes.append("%s %s" % (protocol.process(name), ENDED))
        if host.check:  # as it would be without the process
            port = tunnel.view["local"]["port"]
            observation.listening.difference_update({("udp", port), ("tcp", port)})
            observation.units.setdefault(protocol.process(name), {})["active"] = "failed"
    for part in () if host.check else parts:
        names = {name for name, (protocol, _tunnel) in hung.items() if protocol is part.protocol}
        if names:
            part.protocol.end_hung(sorted(names))
    return bool(hung) and not host.check
