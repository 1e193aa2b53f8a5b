# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What leads packets to charon in userspace: what is there, what is gone, and how it is put back."""

from __future__ import annotations

import json

from ansible_collections.marzban.tunnels.plugins.module_utils._node import netdev
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.ipsec import charon_routes, swanctl
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.ipsec import plan as ipsec_plan
from tests.support.views import UUID, view

DEFAULT = charon_routes.Settings()
OWN = ["10.201.0.2/31", "fd6d:7a00::2/127"]
RULE = {"priority": 220, "src": "all", "table": "strongswan"}  # its name, where rt_tables has one
OTHERS = [{"priority": 100, "src": "192.0.2.1", "table": "220"}]
SESSION = {
    "remote-host": "203.0.113.3",
    "established": "15",
    "child-sas": {
        "mz3-1": {"state": "INSTALLED", "remote-ts": ["10.201.0.3/32", "192.168.7.0/24", "fd6d:7a00::3/128"]}
    },
}
ROUTES = ["10.201.0.3/32", "192.168.7.0/24", "fd6d:7a00::3/128"]


def outputs(rules=((RULE,), (RULE,)), routes=(("10.201.0.3", "192.168.7.0/24"), ("fd6d:7a00::3",))):
    """What ip prints, of both families; ``None`` for a table that does not exist."""
    told = [json.dumps([*OTHERS, *some]) for some in rules]
    tables = [None if some is None else json.dumps([{"dst": d, "dev": "ipsec0"} for d in some]) for some in routes]
    return [*told, *tables]


def live(device=True, sas="same", **found):
    sas = SESSION if sas == "same" else sas
    links = {"ipsec0": {"up": device}} if device is not None else {}
    seen = charon_routes.found(DEFAULT, outputs(**found))
    return {"links": links, "sas": {"mz3": [sas] if sas else []}, "charon": seen, "units": {}, "tables": {}}


def compared(found):
    given = view(type="ipsec")
    made = ipsec_plan.Plan(given, "u.service", swanctl.USERSPACE, "")
    ipsec_plan._compare_routes(made, found)
    return made


def test_what_is_there_is_left_alone():
    assert live()["charon"] == charon_routes.Found(DEFAULT, [4, 6], ROUTES)
    made = compared(live())
    assert (made.changes, made.hot, made.rules, made.charon) == ([], [], [], None)


def test_rules_that_were_taken_away_are_named_and_added():
    made = compared(live(rules=((), ())))
    assert made.changes == ["routing rule 220 (IPv4) added", "routing rule 220 (IPv6) added"]
    assert made.rules == [4, 6]
    assert charon_routes.add_rule(DEFAULT, 6) == (*("ip", "-6", "rule", "add"), *("priority", "220", "table", "220"))
    assert compared(live(rules=((RULE,), ()))).rules == [6]


def test_another_rule_is_not_it():
    assert compared(live(rules=(({"priority": 221, "table": "220"},), (RULE,)))).rules == [4]


def test_routes_that_were_taken_away_are_added_as_charon_makes_them():
    made = compared(live(routes=(None, ("fd6d:7a00::3",))))
    assert made.changes == ["route 10.201.0.3/32 added to table 220", "route 192.168.7.0/24 added to table 220"]
    place = ("dev", "ipsec0", "table", "220", "proto", "static", "src", "10.201.0.2", "scope", "global")
    assert made.hot[1] == ("ip", "-4", "route", "replace", "192.168.7.0/24", *place)
    six = charon_routes.add_route(DEFAULT, "fd6d:7a00::3/128", OWN)
    assert six[:5] == ("ip", "-6", "route", "replace", "fd6d:7a00::3/128")
    assert six[-1] == "fd6d:7a00::2"


def test_without_a_session_there_are_no_routes_to_miss():
    nothing = ((), ())
    assert compared(live(sas=None, routes=nothing)).changes == []
    connecting = {**SESSION, "child-sas": {}}
    assert compared(live(sas=connecting, routes=nothing)).changes == []


def test_the_way_of_the_session_itself_never_leads_into_it():
    child = {"state": "INSTALLED", "remote-ts": ["203.0.113.0/24", "10.201.0.3/32"]}
    found = live(sas={**SESSION, "child-sas": {"mz3-1": child}}, routes=((), ()))
    assert compared(found).changes == ["route 10.201.0.3/32 added to table 220"]


def test_the_device_is_put_back():
    down = compared(live(device=False))
    assert down.changes == ["ipsec0 up"]
    gone = compared(live(device=None))
    assert (gone.changes, gone.charon) == (["strongSwan restarted for its device ipsec0"], "restart")


def test_the_owners_settings_count():
    text = "charon {\n  # routing_table = 7\n  routing_table = 9\n    routing_table_prio=8\n}\n"
    assert charon_routes.settings_of(["", text]) == charon_routes.Settings(9, 8, True)
    assert charon_routes.settings_of([]) == DEFAULT
    off = charon_routes.settings_of(["install_routes = no"])
    assert not off.routes
    found = live(rules=((), ()), routes=((), ()))
    found["charon"] = found["charon"]._replace(settings=off)
    assert compared(found).changes == []


def test_what_is_gone_is_told():
    lacks = charon_routes.lacking(
        live(device=False, rules=((), (RULE,)), routes=((), ())), "mz3", OWN[:1], live()["charon"]
    )
    assert lacks == charon_routes.Lacking("down", [], [])
    found = live(rules=((), (RULE,)), routes=((), ()))
    lacks = charon_routes.lacking(found, "mz3", OWN[:1], found["charon"])
    assert lacks.sentences(DEFAULT) == [
        *("the routing rule 220 (IPv4)", "the route 10.201.0.3/32 in table 220"),
        "the route 192.168.7.0/24 in table 220",
    ]


def test_what_any_tunnel_lacks_is_told():
    applied = {"addresses": OWN, "routes": ["192.168.7.0/24", "fd77::/64"], "rules": "digest"}
    link = {"up": True, "mtu": 1400, "ipv6": True, "addresses": list(OWN)}
    routes = [("192.168.7.0/24", "mz3", False), ("fd77::/64", "mz3", False)]
    there = {"links": {"mz3": link}, "tables": {f"marzban-{UUID}": "another digest"}}
    assert netdev.lacking(view(), applied, there, routes, True) == []
    assert netdev.lacking(view(), applied, {**there, "links": {}}, [], True) == []
    link.update(up=False, addresses=[])
    assert netdev.lacking(view(), applied, {**there, "tables": {}}, [], True) == [
        *("the interface (down)", "the address 10.201.0.2/31", "the address fd6d:7a00::2/127"),
        *("the route 192.168.7.0/24", "the route fd77::/64", "the firewall rules"),
    ]
    assert len(netdev.lacking(view(), applied, there, [], False)) == 3, "IPv6 is off"


def test_ipv6_that_was_switched_off_on_the_interface_comes_before_its_addresses():
    made = netdev.Plan(view(), "u.service")
    link = {"up": True, "mtu": 1400, "ipv6": False, "addresses": OWN[:1]}
    netdev.compare_link(made, link, OWN, 1400, [])
    assert made.changes == ["IPv6 switched on", "address fd6d:7a00::2/127 added"]
    assert made.hot[0][-1] == "/proc/sys/net/ipv6/conf/mz3/disable_ipv6"
    other = netdev.Plan(view(), "u.service")
    netdev.compare_link(other, link, OWN[:1], 1400, [])
    assert other.changes == []
