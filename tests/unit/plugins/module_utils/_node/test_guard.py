# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._node import lifelines
from ansible_collections.marzban.tunnels.plugins.module_utils._node.guard import Guard
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.net import Session

ROUTES = [
    ("0.0.0.0/0", "eth0", False),
    ("10.5.0.0/16", "eth1", True),
    ("10.6.0.0/16", None, False),
    ("10.203.9.0/24", "mz3", False),
]
ADDRESSES = [("192.0.2.7/24", "eth0"), ("10.201.0.24/31", "mz3")]


SESSIONS = [Session("198.51.100.7", "192.0.2.7", False), Session("fd99::7", "fd99::1", True)]
APPLIED = {"addresses": ["10.201.0.24/31"], "routes": ["10.203.9.0/24"]}


def guard(*sessions, **more):
    endpoints = {"203.0.113.3": {"mine"}, "203.0.113.4": {"other"}, "10.203.9.9": {"other"}}
    return Guard(sessions or SESSIONS, endpoints, more.get("routes", ROUTES), more.get("addresses", ADDRESSES))


def view(routes=(), addresses=("10.201.0.24/31",)):
    return {"interface": "mz3", "routes": list(routes), "local": {"addresses": list(addresses)}}


def state(**applied):
    return {"interface": "mz3", "applied": {**APPLIED, **applied}}


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ("198.51.100.0/24", "SSH connection"),
        ("fd99::/64", "SSH connection"),
        ("203.0.113.0/30", "where the tunnel's own packets go"),
        ("203.0.113.4/32", "where the packets of the tunnel other go"),
        ("10.5.0.0/16", "by eth1"),
        ("10.6.0.0/16", "by hand"),
        ("10.203.8.0/24", None),
        ("10.203.9.0/24", "packets of the tunnel other go"),
        ("10.5.1.0/24", None),
        ("2001:db8::/32", None),
    ],
)
def test_routes(route, why):
    if why is None:
        guard().check(view([route]), "mine", {"mz3"})
        return
    with pytest.raises(FieldError, match=why) as refused:
        guard().check(view([route]), "mine", {"mz3"})
    assert (refused.value.field, refused.value.value) == ("routes", route)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.7/32", "This host has it already, on eth0"),
        ("198.51.100.9/24", "SSH connection"),
        ("128.0.0.1/1", "SSH connection"),
        ("203.0.113.5/24", "packets go"),
        ("10.5.0.1/16", "by eth1"),
        ("10.201.0.24/31", None),
        ("fd6d:7a00::18/127", None),
    ],
)
def test_addresses(address, why):
    if why is None:
        guard().check(view(addresses=[address]), "mine", {"mz3"})
        return
    with pytest.raises(FieldError, match=why) as refused:
        guard().check(view(addresses=[address]), "mine", {"mz3"})
    assert (refused.value.field, refused.value.value) == ("addresses", address)


def test_a_route_is_taken_once():
    guarding = guard()
    guarding.check(view(["192.168.7.0/24"]), "first", {"mz3"})
    guarding.take(view(["192.168.7.0/24"]), "first")
    with pytest.raises(FieldError, match="The tunnel first takes it already"):
        guarding.check(view(["192.168.7.0/24"], ["10.201.0.26/31"]), "second", {"mz4"})


# What runs already


def test_what_a_tunnel_has_it_keeps():
    """A session through the tunnel, somebody's route beside it, or another tunnel's packets in it: all is as it was."""
    inside = [
        Session("10.201.0.25", "10.201.0.24", False),  # somebody's rsync
        Session("10.203.9.5", "192.0.2.7", True),  # this run, from a network behind the peer
        Session("10.201.0.25", "192.0.2.7", False),  # what only a route leads through the tunnel
    ]
    more = [*ROUTES, ("10.201.0.24/31", "eth1", False), ("10.203.9.0/24", "eth1", False)]
    given = guard(*inside, routes=more, addresses=[*ADDRESSES, ("10.201.0.24/24", "eth2")])
    given.check(view(["10.203.9.0/24"]), "mine", {"mz3"}, state())
    with pytest.raises(FieldError, match="own packets"):  # which are lost in it at once
        given.check(view(["10.203.9.0/24"]), "other", {"mz3"}, state())


def test_a_lost_interface_is_put_back_in_spite_of_sessions_through_it():
    lost = {"routes": ROUTES[:2], "addresses": ADDRESSES[:1]}
    stale = [Session("10.201.0.25", "10.201.0.24", False), Session("10.203.9.5", "192.0.2.7", False)]
    guard(*stale, **lost).check(view(["10.203.9.0/24"]), "mine", {"mz3"}, state())
    with pytest.raises(FieldError, match=r"10\.203\.9\.5, where an SSH connection to this host comes from"):
        guard(stale[1], **lost).check(view(["10.203.9.0/24"]), "mine", {"mz3"})  # a new tunnel
    now = Session("10.203.9.5", "192.0.2.7", True)
    with pytest.raises(FieldError, match=r"10\.203\.9\.5, where an SSH connection to this host comes from"):
        guard(now, **lost).check(view(["10.203.9.0/24"]), "mine", {"mz3"}, state())


def test_more_of_the_network_that_a_session_comes_by_does_no_harm():
    inside = [Session("10.203.9.5", "192.0.2.7", True), Session("10.201.0.25", "10.201.0.24", True)]
    given = Guard(inside, {}, ROUTES, ADDRESSES)
    given.check(view(["10.203.8.0/23"], ["10.201.0.24/28"]), "mine", {"mz3"}, state())
    with pytest.raises(FieldError, match=r"198\.51\.100\.7, where an SSH"):
        guard().check(view(["198.51.0.0/16"]), "mine", {"mz3"}, state())


def test_what_came_by_a_tunnel_that_moves_comes_by_it_afterwards():
    """Its old interface was taken down in this run, and the routes with it."""
    moved = {**view(["10.203.9.0/24"]), "interface": "mz9"}
    left = [route for route in ROUTES if route[1] != "mz3"]
    given = ([Session("10.203.9.5", "192.0.2.7", True)], {}, left, [], (), lambda: {"10.203.9.53": "a name server"})
    Guard(*given, ways=ROUTES).check(moved, "mine", {"mz9"}, state())
    with pytest.raises(FieldError, match=r"10\.203\.9\.5, where an SSH"):
        Guard(*given).check(moved, "mine", {"mz9"}, state())


@pytest.mark.parametrize(
    ("session", "changed", "cut_by"),
    [
        (Session("10.203.9.5", "10.201.0.24", True), view([]), "10.203.9.0/24"),
        (Session("10.203.9.5", "192.0.2.7", True), view([]), "10.203.9.0/24"),
        (Session("10.201.0.25", "10.201.0.24", True), view(["10.203.9.0/24"], ["10.201.0.26/31"]), "10.201.0.24/31"),
        (Session("10.203.9.5", "10.201.0.24", True), view(["10.203.9.0/24"], ["10.201.0.26/31"]), "10.201.0.24/31"),
        (Session("10.201.0.25", "10.201.0.24", True), view(["10.203.9.0/24"], ["10.201.0.24/30"]), None),
        (Session("10.203.9.5", "10.201.0.24", True), view(["10.203.9.0/25"]), None),
        (Session("10.201.0.25", "10.201.0.24", True), view([]), None),
        (Session("10.203.9.5", "10.201.0.24", False), view([]), None),
        (Session("198.51.100.7", "192.0.2.7", True), view([]), None),
    ],
)
def test_the_way_of_the_run_itself_is_not_taken_away(session, changed, cut_by):
    leaving = {(text, "mz3") for text in [*APPLIED["addresses"], *APPLIED["routes"]]}
    leaving -= {(text, "mz3") for text in [*changed["routes"], *changed["local"]["addresses"]]}
    given = Guard([session], {}, ROUTES, ADDRESSES, leaving)
    if cut_by is None:
        given.check(changed, "mine", {"mz3"}, state())
        return
    with pytest.raises(Error, match=f"This run comes through this tunnel, from {session.address}. Without {cut_by}"):
        given.check(changed, "mine", {"mz3"}, state())


# What the host has to reach

LINES = {"192.0.2.1": "the gateway of this host", "10.255.255.53": "a name server of this host"}


@pytest.mark.parametrize(
    ("route", "refused"),
    [
        ("10.255.255.53/32", "10.255.255.53, a name server of this host, which could not be reached"),
        ("10.255.0.0/16", "10.255.255.53, a name server"),
        ("192.0.2.1/32", "192.0.2.1, the gateway"),
        ("192.0.0.0/16", None),  # the network of the card is narrower, and stays the way there
        ("10.254.0.0/16", None),
    ],
)
def test_what_the_host_has_to_reach_is_not_taken(route, refused):
    routes = [*ROUTES, ("192.0.2.0/24", "eth0", True)]
    given = Guard([], {}, routes, ADDRESSES, (), lambda: LINES)
    for changed in (view([route]), view(addresses=[route])):
        if refused is None:
            given.check(changed, "mine", {"mz3"}, state())
            continue
        with pytest.raises(FieldError, match=refused):
            given.check(changed, "mine", {"mz3"}, state())


def test_what_is_reached_through_the_tunnel_may_be_and_nothing_is_asked_where_nothing_is_new():
    asked = []

    def lines():
        asked.append(1)
        return {"10.203.9.53": "a name server of this host"}

    given = Guard([], {}, ROUTES, ADDRESSES, (), lines)
    given.check(view(["10.203.9.0/24"]), "mine", {"mz3"}, state())
    assert not asked
    given.check(view(["10.203.9.0/24", "10.203.9.0/25"]), "mine", {"mz3"}, state())
    given.check(view(["10.203.9.0/24", "10.203.9.0/26"]), "mine", {"mz3"}, state())
    assert len(asked) == 1


def test_the_list_is_read_from_the_host(tmp_path):
    for name, text in {
        "etc/resolv.conf": "search x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver ?\nnameserver\n",
        "run/systemd/resolve/resolv.conf": "nameserver 10.255.255.53\n",
        "etc/apt/apt.conf.d/01proxy": '#Acquire::http::Proxy "http://10.9.9.9";\nAcquire::http::Proxy "http://a@10.0.0.7:3142/";\n'
        'Acquire::https::Proxy::deb.example.com "DIRECT";\nAcquire { http { Proxy "10.0.0.8:3142"; }; };\n',
        "etc/dnf/dnf.conf": "[main]\nproxy=http://[fd00::7]:3128\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/apt/apt.conf.d/folder").mkdir()
    said = (
        '[{"dst":"default","gateway":"192.0.2.1","dev":"eth0"},{"dst":"10.1.0.0/16","gateway":"192.0.2.2"},'
        '{"dst":"default","nexthops":[{"gateway":"192.0.2.3"},{"via":{"family":"inet6","host":"fd00::1"}}]}]'
    )
    told = type("Told", (Host,), {"query": lambda self, *argv, **options: said})()
    gateway = dict.fromkeys(("192.0.2.1", "192.0.2.3", "fd00::1"), "the gateway of this host")
    assert lifelines.find(told, ["203.0.113.9"], str(tmp_path)) == {
        **gateway,
        "10.255.255.53": "a name server of this host",
        "fe80::1": "a name server of this host",
        "10.0.0.7": "the proxy of apt",
        "10.0.0.8": "the proxy of apt",
        "fd00::7": "the proxy of dnf",
        "203.0.113.9": "the panel",
    }
