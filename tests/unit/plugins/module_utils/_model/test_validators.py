# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The allow-lists: what passes, what doesn't, and that an error names field, value and hint."""

from __future__ import annotations

import ipaddress
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError, PanelError, printable, shown
from ansible_collections.marzban.tunnels.plugins.module_utils._model import names, validators

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
ED25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
PRINT, OTHER_PRINT = "0123456789abcdef" * 4, "f" * 64
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

GOOD = [
    (
        validators.node_name,
        ["de-1", "DE 1 (Frankfurt) #2", "تهران ۱", "🇩🇪 Berlin", "👨‍👩‍👧 home", "a" * 128, "नमस्ते", "1", "👍🏽"],
    ),
    (validators.tunnel_name, ["localhost", "all", "de_fi.1"]),
    (
        validators.endpoint,
        ["203.0.113.7", "2001:db8::1", "node-1.example.com", "xn--bcher-kva.example", "127.0.0.1", "_x.y"],
    ),
    (validators.port, [1, 65535]),
    (validators.interface, ["mz12", "aBb0c.d_e-f", "wg0", "x" * 15, "tun0"]),
    (
        validators.interface_address,
        ["10.201.0.24/31", "fd6d:7a00::18/127", "10.0.0.1/24", "10.9.9.9/32", "169.254.1.1/30"],
    ),
    (validators.network, ["192.168.1.0/24", "2001:db8::/32", "0.0.0.0/0"]),
    (validators.route, ["192.168.1.0/24", "10.0.0.0/8", "fd00::/8", "203.0.113.7/32"]),
    (validators.mtu, [1280, 1420, 9200]),
    (validators.keepalive, [0, 25, 65535]),
    (validators.uuid, ["1b4e28ba-2fa1-41d2-883f-0016d3cca427"]),
    (validators.tunnel_type, ["wireguard", "openvpn", "ipsec"]),
    (validators.wireguard_key, [KEY]),
    (validators.ed25519_key, [ED25519]),
    (validators.fingerprint, [PRINT, OTHER_PRINT]),
    (
        validators.algorithm,
        [
            "AES-256-GCM",
            "CHACHA20_POLY1305",
            "CURVE_25519/KE1_ML_KEM_768",
            "AES_GCM_16-256",
            "x25519 + PSK (v2)",
            "a" * 64,
        ],
    ),
    (validators.boolean, [True, False]),
    (validators.non_negative, [0, 0.5, 12]),
]
BAD = [
    (
        validators.node_name,
        [
            *(
                "",
                " a",
                "a ",
                "a  b",
                "a\nb",
                "a'b",
                'a"b',
                "a;b",
                "$(a)",
                "../a",
                "a/b",
                "a" * 300,
                "a\u202eb",
                "a\u200db",
            ),
            *(
                "a@b",
                "{{ a }}",
                "a:b",
                "a,b",
                "a*",
                "[a]",
                "!a",
                "&a",
                "~a",
                "-a",
                ".a",
                "_a",
                "a\\b",
                "a\x00b",
                "a\u00a0b",
            ),
            *(
                "localhost",
                "LocalHost",
                "localhost.",
                "localhost.localdomain",
                "foo.localhost",
                "ip6-localhost",
                "127.0.0.1",
            ),
            *(
                "127.1",
                "0.0.0.0",
                "::1",
                "all",
                "ALL",
                "ungrouped",
                "marzban_nodes",
                "Marzban_x",
                "ｌｏｃａｌｈｏｓｔ",
                "\ud800",
            ),
            *(None, 1, True, ["a"], {"a": 1}, b"a", "\u200d", "🇩🇪\u200d", "\u0301a"),
        ],
    ),
    (validators.tunnel_name, ["", "a\r", "a`b`", "<b>", "a%s", "\ufeffa", "a\u2028b"]),
    (
        validators.endpoint,
        [
            *(
                "",
                " not a host ",
                "[2001:db8::1]",
                "1.2.3.4:5",
                "http://a",
                "-oProxyCommand=x",
                "a b",
                "a\n",
                "1.2.3",
                "0x7f.1",
            ),
            *(
                "999.1.1.1",
                "01.2.3.4",
                "fe80::1%eth0",
                "::ffff:1.2.3.4",
                "a..b",
                "a.",
                ".",
                "bücher.example",
                "a" * 64,
                "a@b",
            ),
            *("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "a-.b", "2130706433", None, 16909060, True, ["a"]),
        ],
    ),
    (validators.port, [0, -1, 65536, 99999, "22", True, 22.0, None, [22]]),
    (
        validators.interface,
        [
            *(
                "",
                ".",
                "..",
                "lo",
                "all",
                "default",
                "eth0",
                "ens3",
                "enp1s0",
                "wlan0",
                "x" * 16,
                "a b",
                "a/b",
                "-a",
                "a\n",
            ),
            *("mz%d", "a;b", "ü", None, 5, "a=b", "a+b", "=", "+x"),
        ],
    ),
    (
        validators.interface_address,
        [
            *(
                "10.0.0.1",
                "10.0.0.1/33",
                "10.0.0.0/24",
                "10.0.0.255/24",
                "127.0.0.1/8",
                "0.0.0.0/0",
                "10.0.0.1/0",
                "10.0.0.1/7",
                "128.0.0.1/1",
                "fd00::1/6",
                "fe80::1/64",
            ),
            *(
                "fd00::/64",
                "224.0.0.1/32",
                "10.0.0.1/24 ",
                "10.0.0.1/+24",
                "10.0.0.1/024",
                "10.0.0.1/255.255.255.0",
                "a/24",
            ),
            *(None, 5, "10.0.0.1/24/24", "/24", "10.0.0.1/２４"),
        ],
    ),
    (validators.network, ["192.168.1.1/24", "192.168.1.0", "2001:db8::1/32", "", None, "192.168.1.0/24\n"]),
    (
        validators.route,
        [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "::/1",
            "2000::/3",
            "127.0.0.0/8",
            "224.0.0.0/4",
            "fe80::/10",
        ],
    ),
    (validators.mtu, [1279, 9201, "1420", True, None]),
    (validators.keepalive, [-1, 65536, "25", False]),
    (validators.uuid, ["", "1B4E28BA-2FA1-41D2-883F-0016D3CCA427", "1b4e28ba2fa141d2883f0016d3cca427", "../x", None]),
    (validators.tunnel_type, ["gre", "WireGuard", None, ["wireguard"], {}]),
    (
        validators.wireguard_key,
        ["", KEY[:-1], KEY + "=", KEY.replace("Y=", "Z="), "A" * 43 + "=", KEY + "\n", None, "é" * 44],
    ),
    (
        validators.ed25519_key,
        [
            *(
                "",
                KEY,
                ED25519[:-1],
                ED25519 + "=",
                ED25519 + "\n",
                ED25519[:-2] + "F=",
                "é" * 60,
                None,
                ED25519.encode(),
            ),
            "MCowBQYDK2VuAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",  # X25519
            "MCowBQYDK2VwAyEA" + "A" * 43 + "=",
            "MC4CAQAwBQYDK2VwBCIEIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh",  # a private key
        ],
    ),
    (
        validators.fingerprint,
        ["", PRINT[:-1], PRINT + "0", PRINT.upper(), "g" * 64, PRINT + "\n", ":".join(["ab"] * 32), None, 5],
    ),
    (
        validators.algorithm,
        [
            "",
            " AES",
            "-AES",
            "a" * 65,
            "a\nb",
            "a@b",
            "a;b",
            "{{ a }}",
            "a\u202eb",
            "ü",
            "<b>",
            "a'b",
            'a"b',
            None,
            5,
            True,
            ["AES"],
        ],
    ),
    (validators.boolean, [1, 0, "true", None]),
    (validators.non_negative, [-1, "1", True, float("nan"), float("inf"), 2**63, None]),
]


def cases(table):
    return [
        pytest.param(check, value, id=f"{check.__name__}-{n}")
        for check, values in table
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(("check", "value"), cases(GOOD))
def test_good_values_pass_and_are_canonical(check, value):
    assert check(value, "here") == value


@pytest.mark.parametrize(("check", "value"), cases(BAD))
def test_bad_values_are_refused_with_field_value_and_hint(check, value):
    with pytest.raises(FieldError) as caught:
        check(value, "config.source.x")
    text = str(caught.value)
    problem = f"config.source.x: {shown(value)} can't be used. "
    if value is None:
        problem = "config.source.x is required. "
    assert text.startswith(problem)
    assert len(text) > len(problem) + 10
    assert text.isprintable()
    assert len(text) < 500


@pytest.mark.parametrize(
    ("check", "value", "canonical"),
    [
        (validators.endpoint, "Node.Example.COM", "node.example.com"),
        (validators.endpoint, "2001:DB8:0::1", "2001:db8::1"),
        (validators.interface_address, "FD00:0::5/127", "fd00::5/127"),
        (validators.network, "2001:DB8::/32", "2001:db8::/32"),
    ],
)
def test_canonical_forms(check, value, canonical):
    assert check(value, "x") == canonical


def test_a_default_route_says_why():
    with pytest.raises(FieldError, match="cuts the node off from its operator"):
        validators.route("0.0.0.0/0", "routes[0]")


@pytest.mark.parametrize("name", ["a\U0001fae9", "\U0001fae9 de-1", "a\u0378", "a\U00016d80"])
def test_a_name_may_hold_what_this_python_does_not_know_yet(name):
    """Letters and emoji that only a later Unicode has: the panel's Python may be newer than the node's."""
    assert validators.tunnel_name(name) == name


def test_no_name_holds_what_can_not_be_seen_or_turns_the_text():
    """By the tables of this Python, for every character that there is: controls, format characters, half characters,
    private use, and all spaces but the plain one. A joiner is good between emoji only."""
    unseen = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs")
    found = [char for char in map(chr, range(0x110000)) if unicodedata.category(char) in unseen and char != " "]
    assert len(found) > 130_000
    assert [char for char in found if not names.NOT_IN_NAME.search(f"a{char}b")] == []
    punctuation = set(map(chr, range(0x21, 0x7F))) - set(string.ascii_letters + string.digits + "._-()#")
    assert [char for char in sorted(punctuation) if not names.NOT_IN_NAME.search(char)] == []


def test_host_bits_name_the_right_network():
    with pytest.raises(FieldError, match=r"did you mean 192\.168\.1\.0/24\?"):
        validators.network("192.168.1.5/24", "routes[0]")


@given(st.sampled_from([check for check, _values in BAD]), anything)
def test_a_check_raises_field_errors_only_and_passes_nothing_dangerous(check, value):
    try:
        passed = check(value, "x")
    except FieldError as refused:
        error, passed = str(refused), ""
    else:
        error = ""
    assert error.isprintable()
    assert not set(str(passed)) & set("@\n\r'\"\\;$`{}<>|&*?!~\x00%")


@given(st.ip_addresses(), st.integers(0, 128))
def test_addresses_and_networks_agree_with_ipaddress(address, prefix):
    text = f"{address}/{min(prefix, address.max_prefixlen)}"
    try:
        passed = validators.interface_address(text)
    except FieldError:
        return
    assert ipaddress.ip_interface(passed) == ipaddress.ip_interface(text)


@given(anything)
def test_shown_is_short_and_printable(value):
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 120


def test_printable_keeps_words_and_escapes_the_rest():
    assert printable("one\n two\u202e\x1b[31m") == "one two\\u202e\\x1b[31m"
    assert len(printable("x" * 10_000)) == 500


def test_panel_error_says_what_to_do():
    error = PanelError("login", "https://panel.example answered 401", 401)
    assert (error.kind, error.status) == ("login", 401)
    assert str(error).startswith("https://panel.example answered 401. Check username")
