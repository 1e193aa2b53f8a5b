# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has several fields: a config, a public half, measurements. An error names the field."""

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import config as model_config
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
ED25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
PRINT, OTHER_PRINT = "0123456789abcdef" * 4, "f" * 64


def test_config_is_returned_as_given_with_unknown_keys():
    config = {"mtu": 1400, "later": {"x": [1, None, "é"]}, "source": {"port": 20000, "colour": "red"}, "dial": None}
    assert model_config.check(config) is config


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ([], "config"),
        ("{}", "config"),
        ({1: 2}, "config"),
        ({"mtu": "1400"}, "config.mtu"),
        ({"mtu": 100}, "config.mtu"),
        ({"dial": "nobody"}, "config.dial"),
        ({"transport": "sctp"}, "config.transport"),
        ({"post_quantum": True}, "config.post_quantum"),
        ({"keepalive": -1}, "config.keepalive"),
        ({"source": "de-1"}, "config.source"),
        ({"source": {"port": 0}}, "config.source.port"),
        ({"target": {"endpoint_port": 65536}}, "config.target.endpoint_port"),
        ({"target": {"endpoint_port": "443"}}, "config.target.endpoint_port"),
        ({"target": {"addresses": []}}, "config.target.addresses"),
        ({"target": {"addresses": ["10.0.0.1/31", "10.0.0.1/31"]}}, "config.target.addresses[1]"),
        ({"target": {"routes": ["10.0.0.0/8"] * 65}}, "config.target.routes"),
        ({"target": {"routes": ["0.0.0.0/0"]}}, "config.target.routes[0]"),
        ({"target": {"endpoint": "a b"}}, "config.target.endpoint"),
        ({"source": {"interface": "eth0"}}, "config.source.interface"),
        ({"x": float("inf")}, "config"),
        ({"x": "\ud800"}, "config"),
        ({"x": {1, 2}}, "config"),
    ],
)
def test_config_names_what_is_wrong(config, field):
    with pytest.raises(FieldError) as caught:
        model_config.check(config)
    assert caught.value.field == field


def test_config_that_is_nested_deep_is_refused():
    deep: dict = {}
    for _level in range(100_000):
        deep = {"x": deep}
    with pytest.raises(FieldError, match="nested too deep"):
        model_config.check(deep)


def keys(key):
    return dict.fromkeys(("public_key", "next_public_key", "accepts_public_key"), key)


HALVES = {
    "wireguard": {**keys(KEY), "psk_fingerprint": PRINT},
    "openvpn": {**keys(KEY), "fingerprint": PRINT, "next_fingerprint": OTHER_PRINT, "accepts": PRINT},
    "ipsec": keys(ED25519),
}
REQUIRED = {"wireguard": ["public_key"], "openvpn": ["public_key", "fingerprint"], "ipsec": ["public_key"]}


@pytest.mark.parametrize("kind", validators.TYPES)
def test_public_half_keeps_what_is_public_only(kind):
    whole = HALVES[kind]
    assert validators.public_half({**whole, "private_key": "s3cret"}, "p", kind) == whole
    least = {key: whole[key] for key in REQUIRED[kind]}
    assert validators.public_half({**dict.fromkeys(whole), **least}, "p", kind) == least
    for key, value in whole.items():
        for bad in (5, "", "s3cret", value + "\n", value[:-1], [value], {"private": value}):
            with pytest.raises(FieldError) as caught:
                validators.public_half({**whole, key: bad}, "source.public", kind)
            assert caught.value.field == "source.public." + key
    for key in least:
        for lacking in ({**whole, key: None}, {name: whole[name] for name in whole if name != key}):
            with pytest.raises(FieldError) as caught:
                validators.public_half({**lacking, "private_key": "s3cret"}, "source.public", kind)
            assert caught.value.field == "source.public." + key
            assert "s3cret" not in str(caught.value)
    for other in ("", None, [], [whole], 5):
        with pytest.raises(FieldError, match=r"^source\.public" + (r" is required\." if other is None else ": ")):
            validators.public_half(other, "source.public", kind)


@pytest.mark.parametrize(
    ("kind", "other"), [("ipsec", "wireguard"), ("ipsec", "openvpn"), ("wireguard", "ipsec"), ("openvpn", "ipsec")]
)
def test_a_public_half_of_another_type_is_none(kind, other):
    with pytest.raises(FieldError, match=r"p\.public_key: "):
        validators.public_half(HALVES[kind], "p", other)


MEASURED = {
    "handshake_age": 5,
    "rx_bytes": 2**62,
    "tx_bytes": 0,
    "rtt_ms": 0.5,
    "loss_percent": 0,
    "cipher": "AES-256-GCM",
    "key_exchange": "X25519MLKEM768",
    "post_quantum": True,
    "data_path": "userspace",
    "certificate_days": -3,
    "mtu": 1340,
}


def test_what_was_measured():
    assert validators.measured({**MEASURED, "private_key": "s3cret"}) == MEASURED
    nothing = dict.fromkeys(MEASURED)
    assert validators.measured({}) == validators.measured(nothing) == nothing
    assert set(validators.MEASURES) == set(MEASURED)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("handshake_age", 5.5),
        ("rx_bytes", -1),
        ("tx_bytes", 2**63),
        ("rtt_ms", "fast"),
        ("loss_percent", float("nan")),
        ("cipher", "AES\nPostUp = id"),
        ("key_exchange", "{{ x }}"),
        ("key_exchange", "x" * 65),
        ("post_quantum", 1),
        ("post_quantum", "yes"),
        ("data_path", "hyperspace"),
        ("data_path", ["kernel"]),
        ("certificate_days", 1.5),
        ("certificate_days", 10**6),
        ("certificate_days", True),
        ("mtu", 0),
        ("mtu", 65536),
        ("mtu", "1340"),
    ],
)
def test_what_was_measured_is_bounded(key, bad):
    with pytest.raises(FieldError) as caught:
        validators.measured({**MEASURED, key: bad}, "source.measured")
    assert caught.value.field == "source.measured." + key


@pytest.mark.parametrize(
    ("kind", "good", "bad"), [("wireguard", [1, 4500, 65535], 0), ("openvpn", [20000], "1"), ("ipsec", [4500], 20000)]
)
def test_the_port_of_an_end(kind, good, bad):
    for port in good:
        assert validators.end_port(port, "p", kind) == port
    for value in (bad, None, True):
        with pytest.raises(FieldError):
            validators.end_port(value, "p", kind)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("wireguard", [1, 443, 500, 65535], 0), ("openvpn", [443], "443"), ("ipsec", [443, 4500, 14500], 500)],
)
def test_the_port_at_which_an_end_is_dialed(kind, good, bad):
    for port in good:
        assert validators.endpoint_port(port, "p", kind) == port
    for value in (bad, None, True):
        with pytest.raises(FieldError):
            validators.endpoint_port(value, "p", kind)
