# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""WireGuard's texts and its plan, without a host."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._node import netdev
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import Situation
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import conf as wireguard_conf
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import plan as wireguard_plan
from tests.support.views import KEY, UUID, conf, view

OWN = base64.b64encode(b"o" * 32).decode()
SECRET = base64.b64encode(b"s" * 32).decode()
NOW = 1_800_000_000
CONF = conf(view())
TABLE = f"marzban-{UUID}"
ALLOWED = "10.201.0.3/32, 192.168.7.0/24, fd6d:7a00::3/128"
KEYS = wireguard_plan.Keys("/k/private.key", "/k/preshared.key")
UNIT = "wg-quick@mz3.service"


def dump(**changes):
    """`wg show all dump` of the interface that CONF asks for, but for ``changes``."""
    found = {
        "public": OWN,
        "port": "20003",
        "fwmark": "off",
        "key": KEY,
        "endpoint": "203.0.113.3:20003",
        "allowed": "192.168.7.0/24,10.201.0.3/32,fd6d:7a00::3/128",
        "handshake": str(NOW - 20),
        "keepalive": "25",
        "psk": "(none)",
        **changes,
    }
    return (
        f"mz3\t{SECRET}\t{found['public']}\t{found['port']}\t{found['fwmark']}\n"
        f"mz3\t{found['key']}\t{found['psk']}\t{found['endpoint']}\t{found['allowed']}\t{found['handshake']}\t100\t200\t{found['keepalive']}\n"
    )


def test_the_keys_that_an_interface_runs_with():
    assert wireguard_conf.parse_running(dump(), "mz3") == (SECRET, OWN, {})
    assert wireguard_conf.parse_running(dump(psk=OWN), "mz3") == (SECRET, OWN, {KEY: OWN})
    assert wireguard_conf.parse_running(dump(), "mz4") is None
    assert wireguard_conf.parse_running("mz3\t(none)\t(none)\t0\toff\n", "mz3") is None


def live(wg=None, **changes):
    link = {"up": True, "mtu": 1420, "ipv6": True, "addresses": ["10.201.0.2/31", "fd6d:7a00::2/127"]}
    return {
        "wg": wireguard_conf.parse_dump(dump() if wg is None else wg),
        "units": {UNIT: {"active": "active", "enabled": True}},
        "links": {"mz3": link},
        "tables": {TABLE: "digest"},
        "ports": set(),
        "now": NOW,
        **changes,
    }


ROUTES = [("192.168.7.0/24", "mz3", False), ("10.201.0.2/31", "mz3", True), ("0.0.0.0/0", "eth0", False)]
APPLIED = {"addresses": ["10.201.0.2/31", "fd6d:7a00::2/127"], "routes": ["192.168.7.0/24"], "rules": "digest"}


def plan(found=None, before=CONF, applied=None, routes=None, raw=None, resolved=None):
    applied = APPLIED if applied is None else applied
    routes = ROUTES if routes is None else routes
    wanted_view = raw or view()
    wanted = conf(wanted_view)
    made = wireguard_plan.Plan(wanted_view, UNIT, wireguard_conf.parse_conf(wanted), KEYS)
    made.write("/etc/wireguard/mz3.conf", before, wanted)
    there = wireguard_plan.Before(rules="", conf=before, applied=applied)
    situation = Situation(
        view=wanted_view,
        template="",
        public={"public_key": OWN},
        peer_public={},
        state=None,
        live=found or live(),
        routes=routes,
        resolved=resolved or {"203.0.113.3": ["203.0.113.3"]},
        mtus={},
    )
    wireguard_plan.compare(made, there, situation)
    return made


def test_nothing_to_do():
    made = plan()
    assert made.changes == made.hot == made.files == []
    assert not any((made.start, made.settings, made.load, made.enable))


def test_from_nothing():
    empty = live("", units={}, links={}, tables={})
    made = plan(empty, before=None, applied={}, routes=[])
    assert made.changes == ["conf written", "enabled", "started"]
    assert made.start
    assert made.enable
    assert not made.unlink
    assert made.hot == []


@pytest.mark.parametrize(
    ("changes", "said", "words"),
    [
        ({"public": KEY}, "private key loaded", "private-key /k/private.key"),
        ({"public": "(none)"}, "private key loaded", "private-key /k/private.key"),
        ({"port": "1"}, "listen port 20003 instead of 1", "listen-port 20003"),
        ({"fwmark": "0x20"}, "firewall mark 0 instead of 32", "fwmark 0"),
        ({"keepalive": "off"}, "keepalive 25 s instead of 0", f"peer {KEY} persistent-keepalive 25"),
        ({"psk": SECRET}, "pre-shared key switched off", f"peer {KEY} preshared-key /dev/null"),
        ({"allowed": "(none)"}, f"allowed IPs {ALLOWED}", f"peer {KEY} allowed-ips {ALLOWED.replace(' ', '')}"),
        ({"allowed": "0.0.0.0/0"}, f"allowed IPs {ALLOWED}", f"peer {KEY} allowed-ips {ALLOWED.replace(' ', '')}"),
    ],
)
def test_what_wg_has_wrong_is_named_and_nothing_else_is_set(changes, said, words):
    made = plan(live(dump(**changes)))
    assert made.changes == [said]
    assert made.settings == words.split(" ")
    assert not made.start
    assert made.hot == []


def test_another_peer_is_replaced():
    assert plan(live(dump(key=SECRET))).changes == [f"peer {SECRET[:8]}… removed", f"peer {KEY[:8]}… added"]


def test_a_peer_may_roam_while_its_session_lasts():
    assert not plan(live(dump(endpoint="198.51.100.1:5", handshake=str(NOW - 180)))).settings
    assert plan(live(dump(endpoint="198.51.100.1:5", handshake=str(NOW - 181)))).settings
    assert plan(live(dump(endpoint="198.51.100.1:5", handshake="0"))).settings
    assert plan(live(dump(endpoint="(none)", handshake="0"))).settings
    assert not plan(live(dump(handshake="0"))).settings


def test_an_endpoint_that_the_record_changes_is_set_at_once():
    raw = view(**{"peer.endpoint": "203.0.113.9"})
    made = plan(raw=raw, resolved={"203.0.113.9": ["203.0.113.9"]})
    assert made.changes == ["conf changed", "endpoint 203.0.113.9 port 20003"]


def test_a_name_that_cannot_be_resolved_matters_only_when_something_is_set():
    raw = view(**{"peer.endpoint": "fi.example"})
    there = conf(raw)
    resolved = {"fi.example": []}
    assert plan(raw=raw, before=there, resolved=resolved).changes == []
    for found in (live(dump(port="1")), live("", units={}, links={})):
        with pytest.raises(FieldError, match=r"fi\.example"):
            plan(found, raw=raw, before=there, resolved=resolved)


def test_the_link_is_put_right_in_order():
    found = live(links={"mz3": {"up": False, "mtu": 1300, "ipv6": True, "addresses": ["10.99.0.1/32"]}})
    made = plan(found, routes=[])
    assert [argv[1:4] for argv in made.hot] == [
        ("link", "set", "dev"),
        ("link", "set", "dev"),
        ("addr", "add", "10.201.0.2/31"),
        ("addr", "add", "fd6d:7a00::2/127"),
        ("route", "add", "192.168.7.0/24"),
    ]
    assert made.hot[0][-1] == "up"


def test_only_what_was_ours_is_taken_off():
    found = live()
    found["links"]["mz3"]["addresses"] += ["10.99.0.1/32", "10.201.9.9/31"]
    applied = {**APPLIED, "addresses": ["10.201.9.9/31"], "routes": ["192.168.8.0/24"]}
    made = plan(
        found, applied=applied, routes=[*ROUTES, ("192.168.8.0/24", "mz3", False), ("192.168.9.0/24", "mz3", False)]
    )
    assert made.changes == ["address 10.201.9.9/31 removed", "route 192.168.8.0/24 removed"]


def test_rules_are_loaded_when_they_are_gone_or_others():
    for tables in ({}, {TABLE: "another"}):
        made = plan(live(tables=tables))
        assert made.changes == ["firewall rules loaded"]
        assert made.load


@pytest.mark.parametrize("gone", ["wg", "links", "units"])
def test_half_of_a_tunnel_is_started_again(gone):
    made = plan({**live(), gone: {}})
    assert made.start
    assert "started" in made.changes
    assert made.unlink == (gone != "links")
    assert made.hot == []


def test_a_port_of_somebody_else_is_refused():
    with pytest.raises(FieldError, match="20003"):
        plan(live("", units={}, links={}, ports={20003}))
    with pytest.raises(FieldError, match="20003"):
        plan(live(dump(port="20004"), ports={20003}))


def test_the_dump_is_parsed_without_its_secrets():
    parsed = wireguard_conf.parse_dump(dump() + "wgx\t(none)\t(none)\t0\toff\n")
    assert SECRET not in repr(parsed)
    assert parsed["mz3"]["peers"][KEY]["endpoint"] == ("203.0.113.3", 20003)
    assert parsed["wgx"]["public"] is None
    assert wireguard_conf.parse_dump(dump(endpoint="[2001:db8::1]:7"))["mz3"]["peers"][KEY]["endpoint"] == (
        "2001:db8::1",
        7,
    )


def test_a_new_peer_gets_all_that_it_needs():
    wanted = wireguard_conf.parse_conf(CONF)
    wanted["peers"][KEY]["psk"] = "f" * 64
    found = wireguard_conf.parse_dump(dump(key=SECRET))["mz3"]
    _texts, words = wireguard_plan.differences(wanted, found, OWN, None, {}, NOW, KEYS)
    assert words == [
        *("peer", SECRET, "remove"),
        *("peer", KEY, "allowed-ips", "10.201.0.3/32,192.168.7.0/24,fd6d:7a00::3/128"),
        *("persistent-keepalive", "25", "preshared-key", "/k/preshared.key", "endpoint", "203.0.113.3:20003"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("ListenPort = 20003\n", "", "ListenPort"),
        ("[Peer]", "", "PublicKey"),
        (f"PublicKey = {KEY}\n", "", "does not begin"),
        ("Table = off", f"PrivateKey = {SECRET}", "has PrivateKey"),
        ("Table = off", "SaveConfig = true", "has SaveConfig"),
        ("PersistentKeepalive = 25", f"PresharedKey = {SECRET}", "PresharedKey"),
        ("PersistentKeepalive = 25", "PersistentKeepalive = often", "often"),
        ("Table = off", "Nonsense = 1", "Nonsense"),
        ("Table = off", "nonsense", "not a setting"),
        ("[Peer]", "[Pear]", r"\[Pear\]"),
    ],
)
def test_a_conf_that_would_do_harm_is_refused(old, new, why):
    with pytest.raises(Error, match=why) as caught:
        wireguard_conf.parse_conf(CONF.replace(old, new))
    assert SECRET not in str(caught.value)


def test_a_broken_conf_on_the_disk_says_nothing():
    made = plan(before="garbage")
    assert made.changes == ["conf changed"]


def test_rules_guard_each_address_and_clamp_both_ways():
    made = netdev.rules(view(), 1420)
    assert made.startswith(f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n")
    assert 'iifname != "mz3" ip daddr 10.201.0.2 fib saddr type != local drop' in made
    assert 'iifname != "mz3" ip6 daddr fd6d:7a00::2 fib saddr type != local drop' in made
    assert made.count("set 1380") == made.count("set 1360") == 2
    assert made.count('oifname "mz3"') == made.count('iifname "mz3"') == 2
