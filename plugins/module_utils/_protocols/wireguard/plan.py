# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to happen to one WireGuard tunnel: what is wanted, compared with what is there. Pure."""

from __future__ import annotations

from ..._errors import Error, FieldError
from ..._model.types import Applied, View
from ..._node import netdev
from ..base import Situation
from . import conf as wireguard_conf
from .conf import Conf, Keys


class Before:
    """What the last run left: the texts on the disk (None: no such file), and ``applied`` of the state."""

    def __init__(self, rules: str | None = None, conf: str | None = None, applied: Applied | None = None) -> None:
        self.rules, self.conf = rules, conf
        self.applied: Applied = applied or {}
        self.parsed: Conf | None
        try:
            self.parsed = wireguard_conf.parse_conf(conf) if conf else None
        except Error:  # somebody broke it: then it says nothing
            self.parsed = None


class Plan(netdev.Plan):
    """With the conf that is wanted, as ``parse_conf`` answers it."""

    def __init__(self, view: View, unit: str, conf: Conf, keys: Keys) -> None:
        super().__init__(view, unit)
        self.conf, self.keys = conf, keys
        self.settings: list[str] = []  # the words for `wg set`


def compare(plan: Plan, before: Before, situation: Situation) -> None:
    """Fills ``plan``, whose files are known. Raises Error."""
    name, conf, live, resolved = plan.interface, plan.conf, situation.live, situation.resolved
    public = situation.public["public_key"] if situation.public else None
    for path, old, _new in plan.files:
        if path.endswith(".conf"):
            plan.changes.append("conf written" if old is None else "conf changed")
    link, wg = live["links"].get(name), live["wg"].get(name)
    netdev.compare_unit(plan, live, link is not None and wg is not None)
    if not plan.start and link and wg:
        written = any(path.endswith(".nft") for path, _old, _new in plan.files)
        netdev.compare_rules(plan, before.applied, live, written)
        ours = {*(before.applied.get("addresses") or []), *(before.parsed["addresses"] if before.parsed else [])}
        routes_lost = netdev.compare_link(plan, link, conf["addresses"], conf["mtu"], ours)
        netdev.compare_routes(plan, situation.routes, before.applied, routes_lost)
        wrong, plan.settings = wireguard_conf.differences(
            conf, wg, public, before.parsed, resolved, live["now"], plan.keys
        )
        plan.changes += wrong
    netdev.check_port(plan, conf["port"], live["ports"], bool(wg and not plan.start and wg["port"] == conf["port"]))
    if plan.start or plan.settings:
        for peer in conf["peers"].values():
            if peer["endpoint"] and not resolved.get(peer["endpoint"][0], True):
                hint = "This host can't resolve the name: correct it, or the host's DNS."
                raise FieldError("peer.endpoint", peer["endpoint"][0], hint)
