# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The panel and a run check the same values, each in its own code (licence, age of the Python, pydantic). What the
panel accepts, a run has to accept: else one tunnel that the page has made breaks every run."""

from __future__ import annotations

import base64
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_interface, ip_network
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import dotenv, probe
from ansible_collections.marzban.tunnels.plugins.module_utils._model import config as model_config
from ansible_collections.marzban.tunnels.plugins.module_utils._model import (
    names,
    shapes,
    symptoms,
    table,
    types,
    validators,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import api, transport
from marzban_tunnels import checks, live, reports, responses, router, schemas, service, tunnel_config
from marzban_tunnels import settings as panel_settings
from marzban_tunnels.errors import Refused
from tests.lab import machine
from tests.support.marzban import TOP
from tests.support.run_checks import Checks, Here, RunChecks

EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(EXAMPLES, max_examples=400)
LEAST = 5  # different examples that the panel took, so that a property has said something
KINDS = ("wireguard", "openvpn", "ipsec")


def oldest_python() -> str:
    """The oldest Python of this machine that a node may have."""
    found = dict(line.split(" ", 1) for line in machine.run([str(TOP / "tools/pythons")]).stdout.splitlines())
    return next(found[version] for version in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13") if version in found)


@pytest.fixture(scope="module", params=["here", pytest.param("oldest", marks=pytest.mark.variation)])
def run(request: pytest.FixtureRequest) -> Iterator[Checks]:
    """A run's checks: on this Python, and on the oldest that a node may have."""
    if request.param == "here":
        yield Here()
        return
    with RunChecks(oldest_python()) as other:
        yield other


def examples(run: Checks) -> settings:
    return EXAMPLES if isinstance(run, Here) else MANY


# Texts: good ones, good ones with one character wrong, and rubbish

SIGNS = st.sampled_from("%/.:-_ #()@\"'\\\n\t\0\x85\u2028\u200d\ufe0f\u202e\u0660\uff10\u017f\u00df") | st.characters()


@st.composite
def almost(draw: st.DrawFn, good: st.SearchStrategy[str]) -> str:
    """A text with one character put in, taken out or changed."""
    text = draw(good)
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(SIGNS | st.just("")) + text[place + draw(st.integers(0, 1)) :]


def texts(good: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(good, good, almost(good))


ADDRESSES = st.builds(
    lambda ip, prefix: str(ip_interface((ip, min(prefix, ip.max_prefixlen)))), st.ip_addresses(), st.integers(6, 128)
)


def networks(addresses: st.SearchStrategy[Any], prefixes: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda ip, prefix: str(ip_network((ip, min(prefix, ip.max_prefixlen)), strict=False)), addresses, prefixes
    )


NETWORKS = networks(st.ip_addresses(), st.integers(6, 128))
LABELS = st.text("abcXYZ019-_", min_size=1, max_size=63)
ENDPOINTS = st.ip_addresses().map(str) | st.lists(LABELS, min_size=1, max_size=4).map(".".join)
INTERFACES = st.text("abeltnwhALZ059._-", min_size=1, max_size=15)
EMOJI = st.sampled_from(["👩\u200d💻", "👍🏽", "❤\ufe0f", "❤\ufe0f\u200d🔥", "🇩🇪", "\u00a9", "🫩"])
LETTERS = st.characters(categories=["L", "M", "Nd", "So"]) | st.sampled_from("._-()# aZ0")
NAMES = st.lists(LETTERS | EMOJI, min_size=1, max_size=12).map("".join)
ALGORITHMS = st.text("AESgcm0-9 ()+,./:_", min_size=1, max_size=64)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)

TEXTS: dict[str, tuple[Callable[[str], str], str, st.SearchStrategy[str]]] = {
    "name": (checks.name, "tunnel_name", NAMES),
    "interface": (checks.interface, "interface", INTERFACES),
    "address": (checks.address, "interface_address", ADDRESSES),
    "route": (checks.route, "route", NETWORKS),
    "endpoint": (checks.endpoint, "endpoint", ENDPOINTS),
    "fingerprint": (checks.fingerprint, "fingerprint", DIGESTS),
    "algorithm": (checks.algorithm, "algorithm", ALGORITHMS),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_run_takes_the_texts_that_the_panel_takes(run: Checks, kind: str) -> None:
    panel, check, good = TEXTS[kind]
    taken = []

    @examples(run)
    @given(texts(good))
    def agree(text: str) -> None:
        try:
            stored = panel(text)
        except ValueError:
            return
        assert run.refusal("validators." + check, stored, "field") is None
        taken.append(text)

    agree()
    assert len(set(taken)) > LEAST


SIMILAR = {"é": "e\u0301", "\uff21": "a", "ﬁ": "FI", "ß": "ss", "Ω": "\u2126", "ς": "Σ", "İ": "i\u0307", "①": "1"}


def test_both_take_the_same_names_for_each_other() -> None:
    for one, other in SIMILAR.items():
        assert checks.alike(one) == checks.alike(other)
    assert checks.alike("a-b") != checks.alike("a b")

    @MANY
    @given(texts(NAMES | st.text(st.sampled_from("".join([*SIMILAR, *SIMILAR.values()])))))
    def agree(text: str) -> None:
        assert checks.alike(text) == names.alike(text)
        if _is_name(text):
            assert checks.name(text) == names.composed(text)
            assert checks.alike(checks.name(text)) == checks.alike(text)

    agree()


def test_a_run_takes_every_character_of_the_panels_names(run: Checks) -> None:
    """Its Python may have never heard of a letter that the panel's knows."""
    known = [char for code in range(sys.maxunicode + 1) if unicodedata.category(char := chr(code))[0] in "LMNS"]
    inside = [char for char in known if _is_name("a" + char + "a")]
    first = [char for char in known if _is_name(char)]
    joined = [char for char in known if _is_name(f"{char}\u200d{char}")]
    assert len(inside) > len(first) > 100_000
    assert len(joined) > 1000
    size = names.NAME_LENGTH
    tried = ["a" + "".join(inside[start : start + size - 1]) for start in range(0, len(inside), size - 1)]
    tried += [char + name[1:] for char, name in zip(first, tried * (len(first) // len(tried) + 1), strict=False)][::97]
    tried += [f"{char}\u200d{char}" for char in joined]
    refused = [name for name in tried if run.refusal("validators.tunnel_name", name)]
    assert refused == []
    assert [char for char in first if names.NOT_FIRST.match(char)] == []


def _is_name(text: str) -> bool:
    try:
        return bool(checks.name(text))
    except ValueError:
        return False


@pytest.mark.parametrize("zone", ["%eth0", "%\n", "%1; reboot", "%@", "%"])
@pytest.mark.parametrize("address", ["fe80::1", "fd00::1", "2001:db8::"])
def test_an_address_has_no_zone(address: str, zone: str) -> None:
    """Found by the property: Python takes any character for a zone."""
    for check, text in (
        (checks.address, f"{address}{zone}/64"),
        (checks.address, f"{address}/64{zone}"),
        (checks.route, f"{address}{zone}/128"),
        (checks.endpoint, address + zone),
    ):
        with pytest.raises(ValueError, match="% is for a zone") as caught:
            check(text)
        assert "\n" not in str(caught.value)


# Objects

KEYS = st.binary(min_size=32, max_size=32) | st.just(bytes(32))
X25519 = KEYS.map(lambda raw: base64.b64encode(raw).decode())
ED25519 = KEYS.map(lambda raw: base64.b64encode(bytes.fromhex("302a300506032b6570032100") + raw).decode())
DIGEST = st.none() | texts(DIGESTS)
NUMBERS = st.integers() | st.floats() | st.sampled_from([-36500, 36500, 36501, 100, 100.5, 2**63 - 1, 2**63, 2.0**63])
ANYTHING = st.none() | st.booleans() | NUMBERS | texts(ALGORITHMS) | st.sampled_from(["kernel", "userspace"])
COUNTS = st.none() | st.integers(0, 2**63 - 1)
GOOD_MEASURED: dict[str, st.SearchStrategy[Any]] = {
    "handshake_age": COUNTS,
    "rx_bytes": COUNTS,
    "tx_bytes": COUNTS,
    "rtt_ms": st.none() | st.floats(0, 1e6) | st.integers(0, 10**6),
    "loss_percent": st.none() | st.floats(0, 100),
    "cipher": st.none() | ALGORITHMS,
    "key_exchange": st.none() | ALGORITHMS,
    "post_quantum": st.none() | st.booleans(),
    "data_path": st.sampled_from([None, *validators.DATA_PATHS]),
    "certificate_days": st.none() | st.integers(-36500, 36500),
    "mtu": st.none() | st.integers(1, 65535),
    "unknown": ANYTHING,
}


@st.composite
def one_wrong(draw: st.DrawFn, good: dict[str, st.SearchStrategy[Any]], wrong: st.SearchStrategy[Any]) -> Any:
    """An object of good values, some left out, and at times one that is anything."""
    value = draw(st.fixed_dictionaries({}, optional=good))
    if draw(st.booleans()):
        value[draw(st.sampled_from(sorted(good)))] = draw(wrong)
    return value


def halves(kind: str) -> st.SearchStrategy[Any]:
    """Public halves, most of them good ones of a tunnel of this type."""
    fields = types.BY_TYPE[kind].public
    good = {field.name: {"x25519": X25519, "ed25519": ED25519, "sha256": DIGESTS}[field.kind] for field in fields}
    required = {field.name: good[field.name] for field in fields if field.required}
    rest = {name: st.none() | item for name, item in good.items() if name not in required}
    every = dict.fromkeys(schemas.Public.model_fields, texts(X25519 | ED25519) | DIGEST)
    whole = st.fixed_dictionaries(required, optional=rest)
    return st.one_of(whole, st.builds(dict.__or__, whole, one_wrong(every, DIGEST)))


PORTS = st.none() | st.integers(-1, 70000) | st.sampled_from([0, 1, 500, 4500, 65535, 65536, 1.0, True, "22"])


def _pair(data: tuple[str, str]) -> tuple[str, str]:
    """Two addresses of one network, most of the time."""
    network = ip_network(data[0])
    return f"{network[0]}/{network.prefixlen}", f"{network[-1]}/{network.prefixlen}"


PAIRS = st.lists(
    st.tuples(NETWORKS, NETWORKS).map(_pair) | st.tuples(texts(ADDRESSES), texts(ADDRESSES)), min_size=1, max_size=3
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Objects that a config may be, most of them good ones."""
    chosen: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "dial": st.sampled_from([None, "both", "source", "target", "none"]),
                "mtu": st.none() | st.sampled_from([1279, 1280, 1420, 9200, 9201, 1420.0, True]),
                "keepalive": st.none() | st.sampled_from([-1, 0, 25, 65535, 65536, "25"]),
                "transport": st.sampled_from([None, "udp", "tcp", "quic"]),
                "post_quantum": st.sampled_from([None, "auto", "require", "off", True]),
                "note": st.recursive(ANYTHING, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
            },
        )
    )
    pairs = draw(st.none() | PAIRS)
    for place, role in enumerate(tunnel_config.ROLES):
        end = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "port": PORTS,
                    "endpoint_port": PORTS,
                    "endpoint": st.none() | texts(ENDPOINTS),
                    "interface": st.none() | texts(INTERFACES),
                    "routes": st.none() | st.lists(texts(NETWORKS), max_size=3),
                },
            )
        )
        chosen[role] = end | ({} if pairs is None else {"addresses": [pair[place] for pair in pairs]})
    return chosen


def _panel_takes_half(half: dict[str, Any], kind: str) -> dict[str, Any]:
    taken = schemas.Public.model_validate(half).model_dump(exclude_none=True)
    reports._check_half(kind, taken)
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_takes_the_public_halves_that_the_panel_takes(run: Checks, kind: str) -> None:
    taken = []

    @examples(run)
    @given(halves(kind))
    def agree(half: dict[str, Any]) -> None:
        try:
            stored = _panel_takes_half(half, kind)
        except (ValidationError, reports._Rejected):
            return
        assert run.refusal("validators.public_half", stored, "public", kind) is None
        taken.append(json.dumps(stored))

    agree()
    assert len(set(taken)) > LEAST


def test_a_run_takes_the_measurements_that_the_panel_takes(run: Checks) -> None:
    taken = []

    @examples(run)
    @given(one_wrong(GOOD_MEASURED, ANYTHING))
    def agree(measured: dict[str, Any]) -> None:
        try:
            stored = schemas.Measured.model_validate_json(json.dumps(measured)).model_dump(exclude_unset=True)
        except (ValidationError, ValueError):
            return
        assert run.refusal("validators.measured", stored, "measured") is None
        taken.append(json.dumps(stored))

    agree()
    assert len(set(taken)) > LEAST


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_takes_the_configs_that_the_panel_takes(run: Checks, kind: str) -> None:
    taken = []

    @examples(run)
    @given(configs())
    def agree(chosen: dict[str, Any]) -> None:
        text = json.dumps(chosen)
        try:
            config = tunnel_config.parse(text, kind)
        except Refused:
            return
        assert run.refusal("config.parse", text, "config") is None
        for role in tunnel_config.ROLES:
            port = config.end(role).port
            assert port is None or run.refusal("validators.end_port", port, "port", kind) is None
            mapped = config.end(role).endpoint_port
            assert mapped is None or run.refusal("validators.endpoint_port", mapped, "port", kind) is None
        taken.append(text)

    agree()
    assert len(set(taken)) > LEAST


# What both have as data


def _choices(model: type[BaseModel], field: str) -> tuple[str, ...]:
    """The texts that a field of a model may be."""
    return next(get_args(kind) for kind in get_args(model.model_fields[field].annotation) if get_args(kind))


def test_both_know_the_same_words() -> None:
    assert get_args(schemas.TunnelType) == validators.TYPES == tuple(types.BY_TYPE) == KINDS
    assert get_args(schemas.Status) == validators.STATUSES
    assert live.SYMPTOMS == symptoms.SYMPTOMS
    assert tunnel_config.ROLES == validators.ROLES
    assert _choices(tunnel_config.TunnelConfig, "dial") == validators.DIALS
    assert _choices(tunnel_config.TunnelConfig, "transport") == validators.TRANSPORTS
    assert _choices(tunnel_config.TunnelConfig, "post_quantum") == validators.POST_QUANTUM
    assert _choices(schemas.Measured, "data_path") == validators.DATA_PATHS
    assert router.PANEL_HEADER == transport.PANEL_ID == probe.PANEL_ID
    assert router.API_HEADER == api.HEADER
    assert api.trouble(router.NOT_STARTED) == "not_started"
    assert api.trouble(service.BUSY) == "database_busy"


def test_both_have_the_same_bounds() -> None:
    assert (tunnel_config.LENGTH, tunnel_config.DEPTH) == (model_config.LENGTH, model_config.DEPTH)
    assert checks.NAME_LENGTH == names.NAME_LENGTH
    assert checks._WIDEST == validators.WIDEST
    assert types.BY_TYPE["ipsec"].shared_ports[0] == tunnel_config.IPSEC_PORT
    assert sorted(tunnel_config.IPSEC_PORTS) == sorted(types.BY_TYPE["ipsec"].shared_ports)
    for mine, theirs in (
        (checks._INTERFACE, validators._INTERFACE),
        (checks._ALGORITHM, validators._ALGORITHM),
        (checks._FINGERPRINT, validators._FINGERPRINT),
    ):
        assert mine.pattern == theirs.pattern


def test_both_know_the_same_of_an_end() -> None:
    assert set(schemas.Measured.model_fields) == set(validators.MEASURES) == set(shapes.Measured.__annotations__)
    assert set(schemas.Report.model_fields) == set(shapes.Report.__annotations__)
    assert set(reports._HALVES) == set(types.BY_TYPE)
    for kind, (required, optional, characters) in reports._HALVES.items():
        fields = types.BY_TYPE[kind].public
        assert required == {field.name for field in fields if field.required}
        assert optional == {field.name for field in fields if not field.required}
        assert characters == {"x25519": 44, "ed25519": 60}[fields[0].kind]
    every = {name for required, optional, _characters in reports._HALVES.values() for name in required | optional}
    assert set(schemas.Public.model_fields) == every


@pytest.mark.parametrize("reported", list(product(validators.STATUSES, repeat=2)))
def test_both_put_a_tunnels_status_together_alike(reported: tuple[str, str]) -> None:
    active = "inactive" not in reported  # a node reports that of an inactive record only
    ends = [{"status": status, "stale": False, "by": "run", "age": 0} for status in reported]
    assert responses.overall(active, ends) == table.status([{"status": status} for status in reported])


def test_both_know_the_same_pools() -> None:
    assert {name: (widest, narrowest) for name, (_kind, widest, narrowest, _example) in dotenv.POOLS.items()} == {
        "TUNNEL_IPV4_POOL": panel_settings.IPV4_PREFIXES,
        "TUNNEL_IPV6_POOL": panel_settings.IPV6_PREFIXES,
    }
    assert [example for *_bounds, example in dotenv.POOLS.values()] == [
        panel_settings.DEFAULT_IPV4_POOL,
        panel_settings.DEFAULT_IPV6_POOL,
    ]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("TUNNEL_IPV4_POOL", networks(st.ip_addresses(v=4), st.integers(7, 30))),
        ("TUNNEL_IPV6_POOL", networks(st.ip_addresses(v=6), st.integers(31, 125))),
        ("TUNNEL_PORT_RANGE", st.builds("{}-{}".format, st.integers(-1, 70000), st.integers(-1, 70000))),
    ],
)
def test_the_panel_takes_the_settings_that_the_role_takes_and_no_others(
    name: str, good: st.SearchStrategy[str]
) -> None:
    """The other way round too: here it is the role that writes, and the panel that reads."""
    taken = []

    @EXAMPLES
    @given(texts(good))
    def agree(text: str) -> None:
        role = partial(dotenv.checked, {name: text})
        try:
            found = panel_settings.Settings.from_env({name: text})
        except ValueError:
            with pytest.raises(FieldError):
                role()
            return
        assert panel_settings.Settings.from_env(role()) == found
        taken.append(text)

    agree()
    assert len(set(taken)) > LEAST
