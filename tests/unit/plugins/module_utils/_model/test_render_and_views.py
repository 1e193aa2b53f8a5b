# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a panel's words to the text that root runs: nothing that passes the checks can add a line to it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render, views
from ansible_collections.marzban.tunnels.plugins.module_utils._node import netdev
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import conf as wireguard_conf
from tests.support.views import KEY, NODE, PANEL, UUID, conf, view


def test_the_conf_of_a_plain_view():
    lines = conf(view()).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "[Interface]",
        "Address = 10.201.0.2/31",
        "Address = fd6d:7a00::2/127",
        "ListenPort = 20003",
        "MTU = 1420",
        "Table = off",
        f"PostUp = wg set %i private-key /etc/marzban/tunnels/{UUID}/private.key",
        f"PostUp = wg set %i peer {KEY} preshared-key /dev/null",
        f"PostUp = nft -f /etc/marzban/tunnels/{UUID}/rules.nft",
        "PostUp = ip route add 192.168.7.0/24 dev %i",
        f"PostDown = nft 'add table inet marzban-{UUID}; delete table inet marzban-{UUID}'",
        "",
        "[Peer]",
        f"PublicKey = {KEY}",
        "AllowedIPs = 10.201.0.3/32, fd6d:7a00::3/128, 192.168.7.0/24",
        "Endpoint = 203.0.113.3:20003",
        "PersistentKeepalive = 25",
    ]


def test_an_end_that_does_not_dial_and_keeps_nothing_alive():
    made = conf(view(dial=False, keepalive=0, name=None, routes=[]))
    assert "Endpoint" not in made
    assert "Keepalive" not in made
    assert "route" not in made
    assert "None" not in made


def test_an_ipv6_endpoint_is_bracketed():
    assert "Endpoint = [2001:db8::1]:20003\n" in conf(view(**{"peer.endpoint": "2001:db8::1"}))
    mapped = conf(view(**{"local.endpoint_port": 80, "peer.endpoint_port": 443}))
    assert "ListenPort = 20003\n" in mapped
    assert "Endpoint = 203.0.113.3:443\n" in mapped


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.text("ab01.:/-_ \n\r\t;$(){}'\"`@%#=[]\\\x00\x85\u2028\u202e", max_size=40),
    st.lists(st.text("01.:/a \n;", max_size=30), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=2),
    st.sampled_from(
        ["mz1\nPostUp = id", "@node.dir@", "{{ 7 * 7 }}", "a\u2028b", "10.0.0.0/24 dev lo; id", "%i", "x # y"]
    ),
)
FIELDS = [*view(), *(f"{side}.{key}" for side in ("local", "peer") for key in view()["local"])]


@given(st.dictionaries(st.sampled_from(FIELDS), HOSTILE, min_size=1, max_size=4))
def test_no_view_that_passes_adds_a_line(changes):
    ordered = dict(sorted(changes.items(), key=lambda item: "." in item[0]))
    try:
        raw = view(**ordered)
    except TypeError:  # an end replaced by something that has no keys
        return
    try:
        checked = views.check(raw, PANEL)
    except FieldError:
        return
    made = conf(raw)
    routes, addresses = len(checked["routes"]), len(checked["local"]["addresses"])
    wanted = 14 + routes + addresses + int(checked["dial"]) + int(bool(checked["keepalive"]))
    # Whatever separates lines for somebody: nothing but our own line feeds.
    assert made.count("\n") == len(made.splitlines()) == wanted
    assert "@" not in made
    assert not set(made) & set('`"\\\x00;') - {";"}
    assert made.count(";") == 1
    assert [line for line in made.split("\n") if line.startswith("PostUp")][:3] == [
        f"PostUp = wg set %i private-key {NODE['dir']}/private.key",
        f"PostUp = wg set %i peer {KEY} preshared-key /dev/null",
        f"PostUp = nft -f {NODE['dir']}/rules.nft",
    ]
    parsed = wireguard_conf.parse_conf(made)
    assert list(parsed["peers"]) == [KEY]
    rules = netdev.rules(checked, 1420)
    assert rules.count("\n") == len(rules.splitlines()) == 14 + addresses


@pytest.mark.parametrize("raw", [None, [], "x", 7, {}, {"uuid": []}, {"local": []}])
def test_what_is_not_a_view_is_refused_and_can_be_talked_about(raw):
    with pytest.raises(FieldError):
        views.check(raw, PANEL)
    assert set(views.seen(raw).values()) == {None}


def test_another_panels_view_is_refused():
    with pytest.raises(FieldError, match="panel"):
        views.check(view(), UUID)


def test_what_tunnels_of_a_host_can_not_share():
    port, uuid, interface = ("port", 20003), ("uuid", UUID), ("interface", "mz3")
    assert set(views.claims(views.check(view(), PANEL))) == {port, uuid, interface}
    ipsec = view(type="ipsec", **{"local.port": 4500, "peer.port": 4500})
    assert set(views.claims(views.check(ipsec, PANEL))) == {uuid, interface}
    for side in ("local", "peer"):
        with pytest.raises(FieldError, match=side + r"\.port: 20003"):
            views.check(dict(ipsec, **{side: view()[side]}), PANEL)


def test_the_view_is_not_changed():
    raw = view()
    before = copy.deepcopy(raw)
    assert views.check(raw, PANEL) == before
    assert raw == before


def test_templates_see_no_python():
    for nasty in (
        "{{ view.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ view.nothing }}",
        "{{ node.private_key }}",
        "{{ view | to_json }}",
        "{{ 1 / 0 }}",
        "{% if %}",
    ):
        with pytest.raises(Error, match="can't be rendered"):
            render.render(view(), nasty)


def test_a_template_error_names_its_line():
    with pytest.raises(Error, match="line 3"):
        render.render(view(), "a\nb\n{% if %}")


def test_fill_refuses_what_the_node_does_not_know():
    assert render.fill("a @node.mtu@ b", {"mtu": 1420}) == "a 1420 b"
    with pytest.raises(Error, match=r"node\.secret"):
        render.fill("@node.secret@", NODE)
    with pytest.raises(Error):
        render.fill("@node.dir@", {})
