# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One tunnel during one run on a node, what its answer says, and how its status is found."""

from __future__ import annotations

from .._errors import FieldError
from .._model import views


class Tunnel:
    """One tunnel in this run. ``view`` is None when the panel's words can't be used, and ``error`` then says why."""

    def __init__(self, raw, template=None):
        self.seen = views.seen(raw)
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
        name = views.title(self.view) if self.view else self.seen["name"] or self.uuid or "?"
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
            view = views.check(raw, panel)
            for key, value in views.claims(view):
                other = taken.setdefault((key, value), tunnel)
                if other is not tunnel:
                    raise FieldError(key, value, "The tunnel %s of this host has it too." % views.title(other.view))
            tunnel.view = view
            if kind not in known and view["active"]:
                hint = "This version sets up %s: choose that, or deactivate the tunnel. What runs is left as it is."
                raise FieldError("type", kind, hint % " or ".join(known))
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
