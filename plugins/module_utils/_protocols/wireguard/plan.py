# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to happen to one WireGuard tunnel: what is wanted, compared with what is there. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._errors import Error, FieldError
from ..._node import netdev
from ..base import Situation
from . import conf as wireguard_conf
from .conf import Conf

if TYPE_CHECKING:
    from ..._model.shapes import Applied, View


class Keys(NamedTuple):
    """Files that `wg set` reads, so that no key is in its arguments or in what it says."""

    private: str
    preshared: str


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
        self.lookup: str | None = None  # what systemctl has to do with the timer that looks a name up again


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
        wrong, plan.settings = differences(conf, wg, public, before.parsed, resolved, live["now"], plan.keys)
        plan.changes += wrong
    netdev.check_port(plan, conf["port"], live["ports"], bool(wg and not plan.start and wg["port"] == conf["port"]))
    if plan.start or plan.settings:
        for peer in conf["peers"].values():
            if peer["endpoint"] and not resolved.get(peer["endpoint"][0], True):
                hint = "This host can't resolve the name: correct it, or the host's DNS."
                raise FieldError("peer.endpoint", peer["endpoint"][0], hint)


# What `wg set` has to put right


def differences(
    conf: Conf,
    live: dict[str, Any],
    public: str | None,
    before: Conf | None,
    resolved: dict[str, list[str]],
    now: float,
    keys: Keys,
) -> tuple[list[str], list[str]]:
    """What has to be put right on an interface: texts for ``changes``, and the words for `wg set`; [] where nothing is.

    ``conf`` is what is wanted, ``live`` what the dump says, ``before`` the conf written last (or None), ``resolved``
    ``{host: [addresses]}``, ``now`` seconds of the clock. A peer may have moved: its live endpoint counts only when
    there is no session that uses it, or one that carries nothing any more (``silence``).

    Nothing is set that is right already: `wg syncconf` sets all, for which it takes the allowed IPs away for a moment,
    and wireguard-go opens its socket again, each of which loses packets.
    """
    texts: list[str] = []
    words: list[str] = []
    if live["public"] != public:
        texts.append("private key loaded")
        words += ["private-key", keys.private]
    if live["port"] != conf["port"]:
        texts.append("listen port %d instead of %d" % (conf["port"], live["port"]))
        words += ["listen-port", str(conf["port"])]
    if live["fwmark"] != conf["fwmark"]:
        texts.append("firewall mark %d instead of %d" % (conf["fwmark"], live["fwmark"]))
        words += ["fwmark", str(conf["fwmark"])]
    for key in live["peers"]:
        if key not in conf["peers"]:
            texts.append("peer %s… removed" % key[:8])
            words += ["peer", key, "remove"]
    for key, wanted in conf["peers"].items():
        peer = live["peers"].get(key)
        lost = peer is None or _lost(key, wanted["endpoint"], peer, before, resolved, now)
        its_texts, its_words = _peer_differences(wanted, peer or wireguard_conf.new_peer(), lost, keys.preshared)
        texts += its_texts if peer else ["peer %s… added" % key[:8]]
        words += ["peer", key, *its_words] if its_words or not peer else []
    return texts, words


def _peer_differences(
    wanted: dict[str, Any], peer: dict[str, Any], lost: bool, preshared: str
) -> tuple[list[str], list[str]]:
    """The texts and words of one peer. ``lost``: its endpoint has to be set; ``preshared`` is the key's file."""
    texts: list[str] = []
    words: list[str] = []
    if {_canonical(network) for network in peer["allowed"]} != wanted["allowed"]:
        allowed = sorted(wanted["allowed"])
        texts.append("allowed IPs %s" % ", ".join(allowed))
        words += ["allowed-ips", ",".join(allowed)]
    if peer["keepalive"] != wanted["keepalive"]:
        texts.append("keepalive %d s instead of %d" % (wanted["keepalive"], peer["keepalive"]))
        words += ["persistent-keepalive", str(wanted["keepalive"])]
    if peer["psk"] != wanted["psk"]:
        texts.append("pre-shared key switched %s" % ("on" if wanted["psk"] else "off"))
        words += ["preshared-key", preshared if wanted["psk"] else wireguard_conf.NO_KEY]
    if lost and wanted["endpoint"]:
        host, port = wanted["endpoint"]
        texts.append("endpoint %s port %d" % (host, port))
        words += ["endpoint", _joined(host, port)]
    return texts, words


def _joined(host: str, port: int) -> str:
    return ("[%s]:%d" if ":" in host else "%s:%d") % (host, port)


def _canonical(network: str) -> str:
    return str(ipaddress.ip_network(network))


def _lost(
    key: str,
    endpoint: tuple[str, int] | None,
    peer: dict[str, Any],
    before: Conf | None,
    resolved: dict[str, list[str]],
    now: float,
) -> bool:
    """Whether the endpoint of a peer has to be set."""
    if not endpoint:
        return False
    if before and key in before["peers"] and before["peers"][key]["endpoint"] != endpoint:
        return True
    if now - peer["handshake"] <= wireguard_conf.STALE and not peer.get("silent"):
        return False
    host, port = endpoint
    return is_elsewhere(peer, resolved.get(host) or [], port)


def is_elsewhere(peer: dict[str, Any], addresses: list[str], port: int) -> bool:
    """Whether the packets for a peer of the dump go to none of ``addresses``: it, or its name, has moved."""
    return bool(addresses) and peer["endpoint"] not in [(address, port) for address in addresses]
