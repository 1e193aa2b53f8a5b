# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What may be in a config and in a name: the allow-lists, without a server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._model import config as model_config
from marzban_tunnels import checks, errors, tunnel_config
from marzban_tunnels.errors import Refused
from marzban_tunnels.settings import Settings


def problems(chosen: Any, tunnel_type: str = "wireguard") -> dict[str, str]:
    with pytest.raises(Refused) as caught:
        tunnel_config.parse(chosen if isinstance(chosen, str) else json.dumps(chosen), tunnel_type)
    assert caught.value.status == 422
    assert isinstance(caught.value.detail, dict)
    return caught.value.detail


@pytest.mark.parametrize(
    "name",
    [
        "de-fi",
        "a",
        "DE 1 (new) #2",
        "تونل ۱",
        "café",
        "🇩🇪 to 🇫🇮",
        "👩‍💻",
        "👍🏽",
        "❤️",
        "东京",
        "x" * 128,
        "1.2_3",
    ],
)
def test_good_names(name: str) -> None:
    assert checks.name(name) == name


def test_a_name_is_composed() -> None:
    """And then it is looked at: some signs become another one, such as an accent without a letter a backtick."""
    assert checks.name("cafe\u0301") == "caf\u00e9"
    assert checks.name("e\u0301" * 128) == "\u00e9" * 128
    with pytest.raises(ValueError, match="'`' can't be in a name"):
        checks.name("a\u1fef")


@pytest.mark.parametrize(
    "name",
    ["", "x" * 129, " a", "a ", "a  b", "a\nb", "a\tb", "a\0b", 'a"b', "a'b", "a`b", "a;b", "a$(b)", "../a", "a/b",
     "a\\b",
     "a@b", "a:b", "a,b", "a&b", "a!b", "a*b", "a?b", "[a]", "{a}", "a~b", "<a>", "a|b", "a%b", "a=b", "a+b",
     "\u202ea", "a\u202eb",
     "a\u200db", "a\u200d", "\u200da", "a\u200eb", "a\u00a0b", "a\u2028b", "a\ufeffb", ".", "..", "-a", "#a", "_a",
     "\u0301a", "a\ue000"],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        checks.name(name)
    assert not any(char in str(caught.value) for char in "\n\t\0\u202e"), "an error is safe to print"


@given(st.text(max_size=140))
def test_no_name_holds_what_a_shell_or_a_terminal_takes_for_its_own(name: str) -> None:
    try:
        checks.name(name)
    except ValueError:
        return
    assert not set(name) & set(
        "\"'`;$/\\@:,&!*?[]{}~<>|%=+^\n\r\t\0\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


@pytest.mark.parametrize(
    ("chosen", "field", "hint"),
    [
        ({"source": {"port": 0}}, "config.source.port", "0"),
        ({"source": {"port": 65536}}, "config.source.port", "65536"),
        ({"source": {"port": "80"}}, "config.source.port", "80"),
        ({"source": {"port": True}}, "config.source.port", "True"),
        ({"source": {"port": 80.0}}, "config.source.port", "80.0"),
        ({"source": {"endpoint_port": 0}}, "config.source.endpoint_port", "0"),
        ({"source": {"endpoint_port": 65536}}, "config.source.endpoint_port", "65536"),
        ({"source": {"endpoint_port": "80"}}, "config.source.endpoint_port", "80"),
        ({"target": {"interface": "a" * 16}}, "config.target.interface", "1 to 15"),
        ({"target": {"interface": "a b"}}, "config.target.interface", "1 to 15"),
        ({"target": {"interface": "-a"}}, "config.target.interface", "1 to 15"),
        ({"target": {"interface": "../x"}}, "config.target.interface", "1 to 15"),
        ({"target": {"interface": "wg0\n"}}, "config.target.interface", "1 to 15"),
        *(({"target": {"interface": name}}, "config.target.interface", "another") for name in
          ("lo", "all", "default", ".", "..", "eth0", "ens3", "enp0s1", "wlan0")),
        ({"source": {"endpoint": "[2001:db8::1]"}}, "config.source.endpoint", "brackets"),
        ({"source": {"endpoint": "host:51820"}}, "config.source.endpoint", "port"),
        *(({"source": {"endpoint": name}}, "config.source.endpoint", "") for name in
          ("", "a b", "-a", "a..b", "1.2.3", "1.2.3.999", "0x7f.1", "a;b", "x" * 254, "a." + "b" * 64, "höst",
           "\u017f.example.org",
           "fe80::1%eth0",
           "127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1", "255.255.255.255", "localhost",
           "x.localhost",
           "::ffff:192.0.2.1", "host\n")),
        *(({"source": {"addresses": [text]}, "target": {"addresses": ["10.0.0.2/24", "fd00::2/64"]}},
           "config.source.addresses.0", "") for text in
          ("10.0.0.1", "10.0.0.0/24", "10.0.0.255/24", "127.0.0.1/8", "224.0.0.1/24", "0.0.0.0/0", "10.0.0.1/0",
           "10.0.0.1/7", "fd00::1/6",
           "10.0.0.1/33",
           "10.0.0.1/255.255.255.0", "10.0.0.01/24", "::1/64", "::1/128", "ff00::1/64", "::/64", "fd00::/64",
           "fe80::1/64",
           "FD00::1/64", "fd00:0::1/64", "240.0.0.1/24", "x", "::ffff:10.0.0.1/127", "10.0.0.1/24\n")),
        ({"source": {"addresses": []}, "target": {"addresses": ["10.0.0.2/24"]}}, "config.source.addresses", "[]"),
        ({"source": {"addresses": "10.0.0.1/24"}}, "config.source.addresses", "'10.0.0.1/24'"),
        ({"source": {"routes": ["10.0.0.0/24"] * 65}}, "config.source.routes", "64 at most (got ['10.0.0.0/24'"),
        ({"source": {"addresses": ["10.0.0.1/24"]}}, "config.target.addresses", "both ends"),
        ({"source": {"addresses": ["10.0.0.1/24", "fd00::1/64"]}, "target": {"addresses": ["10.0.0.2/24"]}},
         "config.target.addresses", "each address of the source"),
        ({"source": {"addresses": ["10.0.0.1/24"]}, "target": {"addresses": ["10.0.0.1/25"]}},
         "config.target.addresses", "10.0.0.1"),
        ({"source": {"routes": ["0.0.0.0/0"]}}, "config.source.routes.0", "'0.0.0.0/0': a default route"),
        ({"source": {"routes": ["::/0"]}}, "config.source.routes.0", "default route"),
        *(({"source": {"routes": ["10.0.0.0/24", text]}}, "config.source.routes.1", "") for text in
          ("0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/2", "2000::/3", "10.0.0.1/24", "10.0.0.0", "127.0.0.0/8",
          "224.0.0.0/8", "fe80::/64",
           "ff00::/8", "10.0.0.0/255.0.0.0", "FD00::/8", "x", "10.0.0.0/24; reboot")),
        ({"source": {"routes": ["10.0.0.0/24", "10.0.0.0/24"]}}, "config.source.routes", "10.0.0.0/24 is there"),
        ({"source": {"routes": ["10.0.0.0/24"]}, "target": {"routes": ["10.0.0.0/24"]}}, "config.target.routes",
         "10.0.0.0/24"),
        ({"source": []}, "config.source", "Has to be an object, such as {} (got [])"),
        ({"target": "x"}, "config.target", "Has to be an object, such as {} (got 'x')"),
        ({"mtu": 1279}, "config.mtu", "1279"),
        ({"mtu": 9201}, "config.mtu", "9201"),
        ({"keepalive": -1}, "config.keepalive", "-1"),
        ({"keepalive": 65536}, "config.keepalive", "65536"),
        ({"dial": "none"}, "config.dial", "none"),
        ({"transport": "tcp"}, "config.transport", "'tcp': only an openvpn tunnel can"),
        ({"post_quantum": "required"}, "config.post_quantum", "required"),
        ({"transport": "quic"}, "config.transport", "quic"),
        ({"post_quantum": True}, "config.post_quantum", "True"),
        ({"source": {"private_key": "x"}}, "config.source.private_key", "no secret"),
        ({"notes": [{"PresharedKey": "x"}]}, "config.notes.0.PresharedKey", "no secret"),
        ("", "config", "JSON object"),
        ("[]", "config", "JSON object"),
        ("null", "config", "JSON object"),
        ('{"a": 1, "a": 2}', "config", "twice"),
        ('{"a": NaN}', "config", "NaN"),
        ('{"a": 1e999}', "config", "JSON"),
        ('{"a": "\\ud800"}', "config", "surrogate"),
        ('{"a": ' + "[" * 17 + "]" * 17 + "}", "config", "deep"),
        ('{"a": ' + "[" * 30000 + "]" * 30000 + "}", "config", "deep"),
        ('{"a": "' + "é" * 32768 + '"}', "config", "65536"),
    ],
)  # fmt: skip
def test_bad_configs(chosen: Any, field: str, hint: str) -> None:
    found = problems(chosen)
    assert set(found) == {field}
    assert hint in found[field]
    assert "\n" not in found[field]


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"source": None, "mtu": None, "target": {"port": None, "addresses": None, "routes": []}},
        {"source": {"endpoint": "de-1.example.org", "interface": "wg-x.1_2-"}, "target": {"endpoint": "2001:db8::1"}},
        {"source": {"addresses": ["10.0.0.0/31"]}, "target": {"addresses": ["10.0.0.1/31"]}},
        {
            "source": {"addresses": ["10.0.0.1/30", "fd00::1/64", "10.1.0.9/24"]},
            "target": {"addresses": ["fd00::2/64", "10.1.0.8/24", "10.0.0.2/30"]},
        },
        {"source": {"addresses": ["fd00::/127"]}, "target": {"addresses": ["fd00::1/127"]}},
        {"source": {"routes": ["10.0.0.0/8", "192.0.2.7/32", "fc00::/7", "2001:db8::/32"]}},
        {
            "mtu": 1280,
            "keepalive": 0,
            "dial": "target",
            "transport": "udp",
            "post_quantum": "off",
            "x": [1.5, "y", None],
        },
        {"post_quantum": "require"},
        {"source": {"port": 4500}},
        {"source": {"endpoint_port": None}, "target": {"endpoint_port": 443}},
    ],
)
@pytest.mark.parametrize("tunnel_type", ["wireguard", "openvpn", "ipsec"])
def test_good_configs(chosen: dict[str, Any], tunnel_type: str) -> None:
    assert tunnel_config.parse(json.dumps(chosen), tunnel_type).model_dump(exclude_unset=True) == chosen
    assert model_config.check(chosen) == chosen, "a run takes it as well"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (["10.69.0.1/32"], ["10.69.0.2/32"]),
        (["fd00::1/128"], ["fd00::2/128"]),
        (["10.9.0.1/24"], ["10.9.1.1/24"]),
        (["10.9.0.1/24"], ["10.9.0.2/25"]),
        (["10.9.0.1/24"], ["fd00::1/64"]),
        (["10.9.0.1/24"], ["10.9.0.2/24", "10.8.0.2/24"]),
        (["10.9.0.1/24", "10.8.0.1/24"], ["10.9.0.2/24"]),
        (["10.9.0.1/24", "10.9.0.3/24"], ["10.9.0.2/24"]),
        (["10.9.0.1/24"], ["10.9.0.2/24", "10.9.0.3/24"]),
        (["10.9.0.1/24", "10.9.0.3/24"], ["10.9.0.2/24", "10.9.0.4/24"]),
        (["10.9.0.1/24", "fd00::1/64"], ["fd00::2/64", "10.9.1.2/24"]),
    ],
)
def test_addresses_go_in_pairs(source: list[str], target: list[str]) -> None:
    found = problems({"source": {"addresses": source}, "target": {"addresses": target}}, "openvpn")
    assert set(found) == {"config.target.addresses"}
    (text,) = found.values()
    assert text.startswith(repr(target)), text
    assert repr(source) in text
    hint = re.search(r"; write for example (\S+) at the source and (\S+) here\Z", text)
    assert hint, text
    near, far = hint.groups()
    assert near.split("/")[0] == source[0].split("/")[0]
    repaired = {"source": {"addresses": [near]}, "target": {"addresses": [far]}}
    assert tunnel_config.parse(json.dumps(repaired), "wireguard").end("target").addresses == [far]


def test_what_one_type_can_and_another_can_not() -> None:
    chosen = {"transport": "tcp", "source": {"port": 443}, "target": {"port": 4500}}
    assert tunnel_config.parse(json.dumps(chosen), "openvpn").model_dump(exclude_unset=True) == chosen
    assert set(problems(chosen, "wireguard")) == {"config.transport"}
    found = problems(chosen, "ipsec")
    assert set(found) == {"config.transport", "config.source.port"}
    assert found["config.source.port"] == "443: IPsec speaks at UDP 500 and 4500 only; leave it out"
    mapped = {"source": {"endpoint_port": 500}, "target": {"endpoint_port": 4500}}
    assert tunnel_config.parse(json.dumps(mapped), "openvpn").model_dump(exclude_unset=True) == mapped
    found = problems(mapped, "ipsec")
    assert set(found) == {"config.source.endpoint_port"}
    assert found["config.source.endpoint_port"].startswith("500: to this port IPsec speaks in another way than to 4500")


@pytest.mark.parametrize("tunnel_type", ["wireguard", "openvpn", "ipsec"])
@pytest.mark.parametrize("name", ["wg=0", "wg+0", "+", "="])
def test_each_interface_has_a_unit(tunnel_type: str, name: str) -> None:
    found = problems({"target": {"interface": name}}, tunnel_type)
    assert set(found) == {"config.target.interface"}
    assert found["config.target.interface"].startswith(f"'{name}': systemd can't run a unit")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"source": 3}', "\0", '{"source": {"port": "x"}}'])
def test_a_broken_stored_config_chooses_nothing(text: str) -> None:
    assert tunnel_config.stored(text).end("source").port is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TUNNEL_IPV4_POOL", "10.0.0.1/16"),
        ("TUNNEL_IPV4_POOL", "10.0.0.0/31"),
        ("TUNNEL_IPV6_POOL", "10.0.0.0/16"),
        ("TUNNEL_IPV6_POOL", "fd00::/127"),
        ("TUNNEL_PORT_RANGE", "20000"),
        ("TUNNEL_PORT_RANGE", "2-1"),
        ("TUNNEL_PORT_RANGE", "1-65536"),
    ],
)
def test_bad_settings_say_which(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Settings.from_env({name: value})


def test_a_value_in_an_error_can_be_read() -> None:
    assert errors.shown("تونل آلمان") == "'تونل آلمان'"
    assert errors.shown({"Финляндия": "芬兰"}) == "{'Финляндия': '芬兰'}"
    assert errors.shown("a\u202eb\u2066\u200f\n\x1b\ud800") == r"'a\u202eb\u2066\u200f\n\x1b\ud800'"
