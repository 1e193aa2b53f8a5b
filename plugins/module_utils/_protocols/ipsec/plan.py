# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to happen to one IPsec tunnel: what is wanted, compared with what is there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._errors import FieldError
from ..._node import net, netdev
from ..._node.net import Links
from ..._node.netdev import Live
from ..base import Situation
from . import charon_routes, swanctl

if TYPE_CHECKING:
    from ..._model.shapes import Applied, View

CHARON = "strongswan.service"


class Before(NamedTuple):
    """What the last run left."""

    key_there: bool  # the key in swanctl's folder is the tunnel's
    key_open: bool  # and others can read it
    right_kind: bool  # of interface
    applied: Applied


class Plan(netdev.Plan):
    """With what charon has to be told."""

    def __init__(self, view: View, unit: str, path: str, conf: str) -> None:
        super().__init__(view, unit)
        self.path = path  # the data path
        self.conf, self.digest = conf, swanctl.digest(conf)
        self.settings = False  # charon has to read them again
        self.charon: str | None = None  # "start" or "restart"
        self.watch: str | None = None  # the same, of what calls again
        self.key = False  # into swanctl's folder
        self.give = False  # the key and the connection to charon
        self.renew = False  # the associations
        self.rules: list[int] = []  # families (4, 6) whose routing rule has to be added


def compare(plan: Plan, before: Before, situation: Situation, mtu: int) -> None:
    """Fills ``plan``, whose files are known. ``mtu`` is the one inside."""
    name, view, live = plan.interface, plan.view, situation.live
    written = [path for path, _before, _after in plan.files]
    plan.units = any(path.endswith(".service") for path in written)
    for path, old, _new in plan.files:
        if path.endswith("/marzban-%s.conf" % name):
            plan.changes.append("connection written" if old is None else "connection changed")
        elif path.endswith("/strongswan.d/marzban.conf"):
            plan.settings = True
            plan.changes.append("strongSwan's settings written")
        elif path.endswith(".service") and plan.unit in path and old is not None:
            plan.changes.append("unit changed")
        elif path in plan.whole_host:
            plan.changes.append("%s written" % path)
    _compare_charon(plan, live)
    link = live["links"].get(name)
    netdev.compare_unit(plan, live, link is not None and before.right_kind)
    if not plan.start and link:
        netdev.compare_rules(plan, before.applied, live, any(path.endswith(".nft") for path in written))
        routes_lost = netdev.compare_link(
            plan, link, view["local"]["addresses"], mtu, set(before.applied.get("addresses") or [])
        )
        netdev.compare_routes(plan, situation.routes, before.applied, routes_lost)
    _compare_routes(plan, live)
    _compare_watch(plan, live, written)
    if not before.key_there:
        plan.key = plan.give = True
        plan.changes.append("private key given to strongSwan")
    elif before.key_open:
        plan.key = True
        plan.changes.append("private key closed to others")
    known = before.applied.get("conf")
    if plan.digest != known or name not in live["conns"]:
        plan.give = True
        plan.changes.append("connection loaded")
    plan.renew = plan.digest != known or not before.key_there
    if plan.files and not plan.changes:
        plan.changes.append("files put back")


def _compare_charon(plan: Plan, live: Live) -> None:
    if live["plugins"] is None:
        plan.charon = "start"
        plan.changes.append("strongSwan started")
    elif ("kernel-libipsec" in live["plugins"]) != (plan.path == swanctl.USERSPACE):
        plan.charon = "restart"
        plan.changes.append("strongSwan restarted for its %s data path" % plan.path)


def _compare_routes(plan: Plan, live: Live) -> None:
    """On the userspace data path: what leads packets to charon, which makes it once."""
    if plan.path != swanctl.USERSPACE or plan.charon:
        return
    seen, addresses = live["charon"], plan.view["local"]["addresses"]
    lacks = charon_routes.lacking(live, plan.interface, addresses, seen)
    if lacks.device == "missing":
        plan.charon = "restart"
        plan.changes.append("strongSwan restarted for its device %s" % swanctl.USERSPACE_DEVICE)
        return
    if lacks.device:
        device = swanctl.USERSPACE_DEVICE
        plan.command("%s up" % device, "ip", "link", "set", "dev", device, "up")
    for family in lacks.rules:
        plan.rules.append(family)
        plan.changes.append("routing rule %d (IPv%d) added" % (seen.settings.priority, family))
    for network in lacks.routes:
        change = "route %s added to table %d" % (network, seen.settings.table)
        plan.command(change, *charon_routes.add_route(seen.settings, network, addresses))


def _compare_watch(plan: Plan, live: Live, written: list[str]) -> None:
    if any("marzban-ipsec-call" in path or path.endswith("/" + swanctl.WATCH_UNIT) for path in written):
        plan.watch = "restart"
        plan.changes.append("%s written" % swanctl.WATCH_UNIT)
    elif not plan.start and live["units"].get(swanctl.WATCH_UNIT, {}).get("active") != "active":
        plan.watch = "start"
        plan.changes.append("%s started" % swanctl.WATCH_UNIT)


def check_overlap(taken: dict[str, str], there: list[str]) -> None:
    """Refuses what kernel-libipsec can't tell apart. Raises FieldError.

    ``taken``: ``{network: name of the tunnel}`` of this host's other tunnels, ``there`` the networks behind this one.
    """
    shared = swanctl.overlap(there, taken)
    if shared:
        hint = (
            "It shares addresses with %s of the tunnel %s, and strongSwan's userspace data path can't tell them apart: "
            "choose networks apart, or a kernel with ESP and XFRM interfaces."
        )
        raise FieldError("routes", shared[0], hint % (shared[1], taken[shared[1]]))


def check_selectors(view: View, links: Links) -> None:
    """Refuses a selector that charon's userspace can't use. Raises FieldError. ``links`` as ``net.links`` has them."""
    # Before 5.9.12 charon takes no such selector at all; later its route for it hides the one that names the tunnel's
    # address, and what the host itself sends to the peer leaves from another.
    addresses = [address.split("/")[0] for link in links.values() for address in link["addresses"]]
    for route in view["local"]["routes"]:
        if not net.covers(route, addresses):
            hint = (
                "This host has no address in it, and strongSwan's userspace data path wants one: give it an address "
                "there, or use a kernel with ESP and XFRM interfaces."
            )
            raise FieldError("local.routes", route, hint)
