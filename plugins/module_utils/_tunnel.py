# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One tunnel during one run on a node, what its answer says, and how its status is found."""

from __future__ import annotations

from ansible_collections.marzban.tunnels.plugins.module_utils import _probe, _received
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._protocol import ipv6_is_off


class Tunnel:
    """One tunnel in this run. ``view`` is None when the panel's words can't be used, and ``error`` then says why."""

    def __init__(self, raw, template=None):
        self.seen = _received.seen(raw)
        self.uuid = self.seen["uuid"]
        self.template = template  # {"text": …} or {"error": …}, what the controller made of its view
        self.view = self.state = self.plan = None
        self.former = None  # the state of what the tunnel was before its type changed
        self.public = self.peer_public = None
        self.error = self.waiting_for = self.measured = None
        self.refused = self.hand = False
        self.status = "connecting"
        self.changes, self.diff = [], []

    def refuse(self, error):
        """This tunnel is left as it is, and the others go on."""
        self.refused = True
        self.fail(error)

    def fail(self, error):
        """Something is wrong with this tunnel."""
        name = _received.title(self.view) if self.view else self.seen["name"] or self.uuid or "?"
        where = " on %s" % self.seen["node"] if self.seen["node"] else ""
        self.status, self.error = "error", "tunnel %s%s: %s" % (name, where, error)

    @property
    def wanted(self):
        """Whether it should run, as far as is known by now."""
        return self.view is not None and not self.refused and self.view["active"] and not self.waiting_for

    def answer(self):
        """Its part of the answer of tunnel_apply."""
        published = (self.view or {}).get("local", {}).get("public")
        return dict(
            self.seen,
            status=self.status,
            error=self.error,
            refused=self.refused,
            waiting_for=self.waiting_for,
            public=self.public,
            publish=self.public is not None and self.public != published,
            hand=self.hand,
            changes=self.changes,
            measured=self.measured,
        )


def accept(raws, templates, panel, types, known):
    """The Tunnels of the views of these types; those that can't be used are refused. ``raws`` holds anything.

    ``known``: the types that this version can set up at all. One of another type is refused: nobody else will do it.
    """
    tunnels: list = []
    taken: dict = {}
    for raw, template in zip(raws, templates):
        tunnel = Tunnel(raw, template)
        kind = tunnel.seen["type"]
        if kind in known and kind not in types:
            continue
        tunnels.append(tunnel)
        try:
            view = _received.view(raw, panel)
            for key, value in _received.claims(view):
                other = taken.setdefault((key, value), tunnel)
                if other is not tunnel:
                    raise FieldError(key, value, "The tunnel %s of this host has it too." % _received.title(other.view))
            tunnel.view = view
            if kind not in known and view["active"]:
                mend = "This version sets up %s: choose that, or deactivate the tunnel. What runs is left as it is."
                raise FieldError("type", kind, mend % " or ".join(known))
            tunnel.status = "connecting" if view["active"] else "inactive"
        except FieldError as error:
            tunnel.refuse(error)
    return tunnels


def find_peer(tunnel):
    """Finds the peer's public half: the view's, else the one last applied for the same node. Else the tunnel waits."""
    peer = tunnel.view["peer"]
    last = (tunnel.state or {}).get("peer") or {}
    tunnel.peer_public = peer["public"] or (last.get("public") if last.get("node") == peer["node"] else None)
    tunnel.waiting_for = None if tunnel.peer_public else peer["node"]


def measure(host, work, probe=True):
    """Finds the status of the tunnels that were not refused; all pings run at the same time.

    ``work``: ``[(protocol, its tunnels, what its look said a moment ago or None)]``.
    """
    running, named = {}, []
    for protocol, tunnels, live in work:
        names = sorted(one.view["interface"] for one in tunnels if one.wanted)
        live = live or (protocol.look_briefly(names) if names else None)
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            tunnel.status, tunnel.error = ("connecting" if tunnel.view["active"] else "inactive"), None
            if tunnel.wanted and protocol.up(tunnel.view, live)[0]:
                running[tunnel.uuid] = (protocol, tunnel)
        named.append((protocol, names, live))
    pings = {}
    if probe and running:
        targets = {u: (protocol.ping_from(one.view), _inside(one.view)) for u, (protocol, one) in running.items()}
        pings = _probe.measure(host, targets)
    seen = {p.name: p.look_briefly(names) if pings and names else live for p, names, live in named}
    for uuid, (protocol, tunnel) in running.items():
        live = seen[protocol.name]
        tunnel.measured = dict(_probe.NOTHING, **protocol.measured(tunnel.view, live, pings.get(uuid) or {}))
        up = protocol.up(tunnel.view, live)[1]
        tunnel.status, error = _probe.status(tunnel.view, tunnel.measured, up, protocol)
        if error:
            tunnel.fail(error)


def _inside(view):
    """The peer's address that a ping goes to: the first one, of a family that this host has."""
    addresses = [one.split("/")[0] for one in view["peer"]["addresses"]]
    if ":" in addresses[0] and ipv6_is_off():
        return next((one for one in addresses if ":" not in one), addresses[0])
    return addresses[0]
