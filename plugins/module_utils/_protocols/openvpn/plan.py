# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to happen to one OpenVPN tunnel: what is wanted, compared with what is there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._node import netdev
from ..._node.netdev import Live
from ..base import Situation
from . import conf as openvpn_conf

if TYPE_CHECKING:
    from ..._model.shapes import Applied, View


class Before(NamedTuple):
    """What the last run left."""

    conf: str | None  # the text of the file; None: there is no such file
    active: bool  # the unit
    applied: Applied


class Plan(netdev.Plan):
    """With the conf, and the key that wraps the handshake, which no diff shows."""

    def __init__(self, view: View, unit: str, conf: str) -> None:
        super().__init__(view, unit)
        self.conf = conf
        self.wrap_changes = False
        self.wrap: str | None = None  # the text of its file, if that changes and is known


def compare(plan: Plan, before: Before, situation: Situation, mtu: int) -> None:
    """Fills ``plan``, whose files and wrap key are known. Raises Error."""
    name, live, public = plan.interface, situation.live, situation.public
    for path, old, _new in plan.files:
        if path.endswith("/%s.conf" % name):
            plan.changes.append("conf written" if old is None else "conf changed")
        elif plan.unit in path:
            plan.units = True
            if old is not None:
                plan.changes.append("unit changed")
    if plan.wrap_changes:
        plan.changes.append("wrap key derived")
    netdev.compare_unit(plan, live, name in live["links"])
    certificate = before.applied.get("fingerprint")
    renewed = public is not None and certificate not in (None, public["fingerprint"])
    if not plan.start and (plan.wrap_changes or renewed or not openvpn_conf.same_process(before.conf, plan.conf)):
        plan.start = True
        plan.changes.append("restarted")
    if plan.start:  # a process that runs keeps the address that it has
        netdev.check_endpoint(plan.view, situation.resolved)
    else:
        written = any(path.endswith(".nft") for path, _old, _new in plan.files)
        netdev.compare_rules(plan, before.applied, live, written)
        ours = set(before.applied.get("addresses") or [])
        routes_lost = netdev.compare_link(plan, live["links"][name], plan.view["local"]["addresses"], mtu, ours)
        netdev.compare_routes(plan, situation.routes, before.applied, routes_lost)
    if plan.files and not plan.changes:
        plan.changes.append("files put back")


def check_port(plan: Plan, before: Before, live: Live) -> None:
    """Refuses a port that somebody else listens at. Raises FieldError."""
    place = openvpn_conf.listens(plan.conf)
    ours = before.active and openvpn_conf.listens(before.conf or plan.conf) == place
    if place and plan.start and not ours:
        netdev.check_port(plan, place[1], {port for kind, port in live["ports"] if kind == place[0]}, False)
