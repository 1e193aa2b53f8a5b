# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input, through the modules, over the API, and written past the validation straight into the panel's database.

Each gets an error that names the field, the value and the hint, before anything is touched; and the other tunnels of
the same run work.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.panel_modules import call
from tests.support.world import Run, World

pytestmark = pytest.mark.lab

OWNED = "/tmp/marzban-tunnels-owned"  # what the bad strings would make, if a shell or a conf ever took them in
NAMES = {
    "newline": f"x\nPostUp = touch {OWNED}",
    "double quote": 'x"y',
    "single quote": "x'y",
    "semicolon": f"x;touch {OWNED}",
    "command": f"x$(touch {OWNED})",
    "backticks": f"x`touch {OWNED}`",
    "parent folder": "../x",
    "300 characters": "x" * 300,
    "right to left": "x\u202ey",
    "zero width": "x\u200by",
    "empty": "",
    "option": "-x",
    "at": "x@y",
}
NODE_NAMES = {
    **NAMES,
    "localhost": "localhost",
    "LocalHost": "LocalHost",
    "wide localhost": "\uff4cocalhost",
    "loopback": "127.0.0.1",
    "everybody": "all",
    "group": "marzban_nodes",
    "pattern": "x*",
    "list": "x,y",
    "exclusion": "!x",
}
ADDRESSES = {
    "spaces": " not a host ",
    "with a port": "203.0.113.1:22",
    "too large": "203.0.113.256",
    "three parts": "203.0.113",
    "unspecified": "0.0.0.0",
    "url": "http://203.0.113.1",
    "option of ssh": f"-oProxyCommand=touch {OWNED}",
    "newline": f"203.0.113.1\nPostUp = touch {OWNED}",
}
# What breaks the schema: config, field (below "config"), value
CONFIGS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "mtu": ({"mtu": 100}, "mtu", 100),
    "mtu as text": ({"mtu": "1400"}, "mtu", "1400"),
    "mtu as truth": ({"mtu": True}, "mtu", True),
    "keepalive": ({"keepalive": -1}, "keepalive", -1),
    "dial": ({"dial": "nobody"}, "dial", "nobody"),
    "transport": ({"transport": "sctp"}, "transport", "sctp"),
    "end": ({"source": []}, "source", []),
    "port": ({"source": {"port": 65536}}, "source.port", 65536),
    "no port": ({"target": {"port": 0}}, "target.port", 0),
    "address": ({"source": {"addresses": ["10.0.0.300/31"]}}, "source.addresses[0]", "10.0.0.300/31"),
    "network": ({"source": {"addresses": ["10.0.0.0/24"]}}, "source.addresses[0]", "10.0.0.0/24"),
    "default route": ({"target": {"routes": ["0.0.0.0/0"]}}, "target.routes[0]", "0.0.0.0/0"),
    "host bits": ({"target": {"routes": ["10.0.0.1/8"]}}, "target.routes[0]", "10.0.0.1/8"),
    "interface": ({"source": {"interface": "../x"}}, "source.interface", "../x"),
    "others' interface": ({"source": {"interface": "eth0"}}, "source.interface", "eth0"),
    "long interface": ({"source": {"interface": "sixteen-letters-"}}, "source.interface", "sixteen-letters-"),
    "endpoint": ({"target": {"endpoint": "a b"}}, "target.endpoint", "a b"),
}
END = {"source": "a", "target": "b"}
GOOD = {"good": "wireguard", "good openvpn": "openvpn", "good ipsec": "ipsec"}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(a="bookworm+tunnels", b="bookworm+tunnels")
    for name, kind in GOOD.items():
        if name != "good":
            world.tunnel(name, "a", "b", tunnel_type=kind)
    world.tunnel(
        "good",
        "a",
        "b",
        {
            "source": {"port": 31000, "interface": "good0", "addresses": ["10.50.0.0/31"]},
            "target": {"addresses": ["10.50.0.1/31"]},
        },
    )
    return world


# Through the modules


@dataclass
class Case:
    """A module's options, and the field and the value that its error names."""

    module: str
    options: dict[str, Any]
    field: str
    value: Any
    more: tuple[str, ...] = ()


def cases() -> dict[str, Case]:
    found = {}
    # The rest of the names and configs is for the API below, and the unit tests.
    said = ("newline", "double quote", "semicolon", "command", "parent folder", "300 characters", "right to left")
    for what in (*said, "localhost", "group", "pattern"):
        name = NODE_NAMES[what]
        found[f"node: name: {what}"] = Case("node", {"name": name, "address": "203.0.113.9"}, "name", name)
    for what in ("spaces", "too large", "option of ssh", "newline"):
        address = ADDRESSES[what]
        found[f"node: address: {what}"] = Case("node", {"name": "x", "address": address}, "address", address)
    for port in (0, 65536):
        found[f"node: port: {port}"] = Case("node", {"name": "x", "address": "203.0.113.9", "port": port}, "port", port)
    for what in said:
        name = NAMES[what]
        found[f"tunnel: name: {what}"] = Case("tunnel", {"name": name, **END}, "name", name)
    found["tunnel: source: unknown"] = Case(
        "tunnel", {"name": "x", "source": "no\nbody", "target": "b"}, "source", "no\nbody"
    )
    found["tunnel: target: the same"] = Case("tunnel", {"name": "x", "source": "a", "target": "a"}, "target", "a")
    for what in ("mtu", "end", "port", "address", "default route", "interface", "endpoint"):
        config, where, value = CONFIGS[what]
        options: dict[str, Any] = {"name": "x", **END, "config": config}
        found[f"tunnel: config: {what}"] = Case("tunnel", options, f"config.{where}", value)
    # In a list with tunnels that are in order: these are not written either.
    for what in ("newline", "right to left"):
        options = {"tunnels": [{"name": "fine", **END}, {"name": NAMES[what], **END}]}
        found[f"tunnel_set: name: {what}"] = Case("tunnel_set", options, "tunnels[1].name", NAMES[what])
    for what in ("port", "default route"):
        config, where, value = CONFIGS[what]
        options = {"tunnels": [{"name": "fine", **END}, {"name": "x", **END, "config": config}]}
        found[f"tunnel_set: config: {what}"] = Case("tunnel_set", options, f"tunnels[1].config.{where}", value)
    return found


CASES = cases()


@pytest.fixture(scope="module")
def told(world: World) -> dict[str, str]:
    """What the module said in each case that failed; nothing was written."""
    before = (world.panel.writes(), world.api("GET", "/nodes"), world.tunnels())
    results = call(world, [(value.module, value.options, False) for value in CASES.values()])
    assert (world.panel.writes(), world.api("GET", "/nodes"), world.tunnels()) == before
    return {what: result["msg"] for what, result in zip(CASES, results, strict=True) if result["failed"]}


@pytest.mark.parametrize("what", CASES)
def test_a_module_refuses(told: dict[str, str], what: str) -> None:
    case, text = CASES[what], told[what]
    assert text.isprintable(), "no control character and no mark of direction reaches the terminal"
    expect_named(text, case.field, case.value)


def expect_named(text: str, where: str, value: Any) -> None:
    """The error names the field and the value (its beginning, and escaped), and a hint follows."""
    start = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in repr(value)[:60])
    assert text.startswith(f"{where} is required." if value is None else f"{where}: {start}"), text
    assert re.search(r"(can't be used|is required)\. \S.{10,}[.?)]", text), text


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"source": {"port": 31000}}, "source.port"),
        ({"source": {"interface": "good0"}}, "source.interface"),
        ({"source": {"addresses": ["10.50.0.0/31"]}, "target": {"addresses": ["10.50.0.1/31"]}}, "source.addresses"),
    ],
)
def test_what_is_taken_is_refused_by_the_panel(world: World, config: dict[str, Any], where: str) -> None:
    before = world.tunnels()
    body = {
        "name": "x",
        "source_node_id": 1,
        "target_node_id": 2,
        "tunnel_type": "wireguard",
        "config": json.dumps(config),
    }
    detail = world.api("POST", "/tunnels", expect=409, json=body)["detail"]
    role, key = where.split(".")
    value = config[role][key]
    for words in (where, str(value[0] if isinstance(value, list) else value), "good"):
        assert words in detail
    (result,) = call(world, [("tunnel", {"name": "x", **END, "config": config}, False)])
    assert result["failed"]
    assert detail in result["msg"], "the module passes on what the panel says"
    assert world.tunnels() == before


# Over the API


@pytest.mark.parametrize("what", NAMES)
def test_the_api_refuses_a_name(world: World, what: str) -> None:
    expect_422(world, {"name": NAMES[what]}, "name", beginning(NAMES[what]))


@pytest.mark.parametrize("what", CONFIGS)
def test_the_api_refuses_a_config(world: World, what: str) -> None:
    config, where, value = CONFIGS[what]
    expect_422(world, {"config": json.dumps(config)}, re.sub(r"\[(\d+)\]", r".\1", f"config.{where}"), beginning(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "(got [])"),
        ('"x"', "(got 'x')"),
        ("null", "(got None)"),
        ('{"mtu": NaN}', "NaN is not JSON"),
        ("{" * 5000, "such as '{}': "),
        ('{"x": "' + "y" * 65536 + '"}', "these are 65545"),
        # What is not JSON isn't sent back: nobody has looked for secrets in it.
        ("", "such as '{}': "),
        ("{", "such as '{}': "),
        ("{}{}", "such as '{}': "),
    ],
)
def test_the_api_refuses_what_is_not_an_object(world: World, text: str, said: str) -> None:
    expect_422(world, {"config": text}, "config", said)


def beginning(value: Any) -> str:
    """How an error shows a value, as far as it isn't cut."""
    return ascii(value)[:50]


def expect_422(world: World, fields: dict[str, Any], where: str, words: str) -> None:
    """Refused at create and update, by an error that names the field and holds ``words``; nothing is written."""
    before = world.tunnels()
    good = before["good"]
    body = {"name": "x", "source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "config": "{}"}
    for method, path, sent in (("POST", "/tunnels", {**body, **fields}), ("PUT", f"/tunnels/{good['id']}", fields)):
        detail = world.api(method, path, expect=422, json=sent)["detail"]
        assert set(detail) == {where}
        assert words in detail[where]
        assert len(detail[where]) > len(words) + 10, "and a hint"
        assert detail[where].isprintable()
    assert world.tunnels() == before


# Past the validation

KEY = base64.b64encode(bytes(range(1, 33))).decode()
KINDS = {"fingerprint": "openvpn", "next fingerprint": "openvpn", "ipsec key": "ipsec"}
INJECTED = f"10.8.0.1/31\nPostUp = touch {OWNED}"
PAST: dict[str, tuple[str, Any, str]] = {
    # what → statement for the tunnel's id, value, field that the error names
    "default route": (
        "UPDATE tunnels SET config = json_object('target', json_object('routes', json_array(:value))) WHERE id = :id",
        "0.0.0.0/0",
        "config.target.routes[0]",
    ),
    "config": ("UPDATE tunnels SET config = :value WHERE id = :id", "[]", "config"),
    "config text": ("UPDATE tunnels SET config = :value WHERE id = :id", "{'mtu': 1}", "config"),
    "endpoint": (
        "UPDATE tunnels SET config = json_object('target', json_object('endpoint', :value)) WHERE id = :id",
        f"203.0.113.1\nPostUp = touch {OWNED}",
        "config.target.endpoint",
    ),
    "interface": ("UPDATE tunnel_ends SET interface = :value WHERE tunnel_id = :id", "../x", "source.interface"),
    "the cable": ("UPDATE tunnel_ends SET interface = :value WHERE tunnel_id = :id", "eth0", "source.interface"),
    "address": (
        "UPDATE tunnel_addresses SET address = :value WHERE tunnel_id = :id AND role = 'source' AND position = 0",
        INJECTED,
        "source.addresses[0]",
    ),
    "port": ("UPDATE tunnel_ends SET port = :value WHERE tunnel_id = :id", 99999, "source.port"),
    "name": ("UPDATE tunnels SET name = :value WHERE id = :id", f"x\nPostUp = touch {OWNED}", "name"),
    "uuid": ("UPDATE tunnels SET uuid = :value WHERE id = :id", "../../../tmp/marzban-tunnels-owned", "uuid"),
    "type": ("UPDATE tunnels SET tunnel_type = :value WHERE id = :id", f"x;touch {OWNED}", "tunnel_type"),
    "key": (
        "UPDATE tunnel_ends SET public = json_object('public_key', :value) WHERE tunnel_id = :id AND role = 'source'",
        f"x\nPostUp = touch {OWNED}",
        "source.public.public_key",
    ),
    "fingerprint": (
        (
            f"UPDATE tunnel_ends SET public = json_object('public_key', '{KEY}', 'fingerprint', :value)"
            " WHERE tunnel_id = :id AND role = 'source'"
        ),
        f"{'0' * 64}\n</peer-fingerprint>\nscript-security 2\nup 'touch {OWNED}'",
        "source.public.fingerprint",
    ),
    "next fingerprint": (
        (
            f"UPDATE tunnel_ends SET public = json_object('public_key', '{KEY}', 'fingerprint', '{'0' * 64}',"
            " 'next_fingerprint', :value) WHERE tunnel_id = :id AND role = 'source'"
        ),
        f"{'0' * 64} {'1' * 64}",
        "source.public.next_fingerprint",
    ),
    "ipsec key": (
        "UPDATE tunnel_ends SET public = json_object('public_key', :value) WHERE tunnel_id = :id AND role = 'source'",
        f"x\n}} secrets {{ ike-x {{ secret = 1 }} }} include {OWNED}",
        "source.public.public_key",
    ),
    "node": ("UPDATE nodes SET name = :value WHERE name = 'c'", f"c;touch {OWNED}", "target.node"),
}


@pytest.fixture(scope="module")
def past(world: World) -> tuple[Run, dict[str, dict[str, Any]]]:
    """One run with a broken record of each kind beside the good one; and the records as they were before."""
    world.api("POST", "/node", json={"name": "c", "address": "203.0.113.9", "add_as_new_host": False})
    records = {
        what: world.tunnel(what, "a", "c" if what == "node" else "b", tunnel_type=KINDS.get(what, "wireguard"))
        for what in PAST
    }
    with sqlite3.connect(world.panel.database) as database:
        for what, (statement, value, _field) in PAST.items():
            assert database.execute(statement, {"value": value, "id": records[what]["id"]}).rowcount, what
    database.close()
    return world.apply(), records


@pytest.mark.parametrize("what", PAST)
def test_a_record_past_the_validation_is_told(past: tuple[Run, dict[str, dict[str, Any]]], what: str) -> None:
    run, records = past
    _statement, value, where = PAST[what]
    value = [] if what == "config" else value  # what the text holds
    broken = {item["id"]: item for answer in run.results("tunnel_round") for item in answer["broken"]}
    expect_named(broken[records[what]["id"]]["error"], where, value)
    start = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in repr(value)[:60])
    assert any(line.startswith("! ") and f"{where}: {start}" in line for line in run.text.splitlines()), run.text


def test_a_record_past_the_validation_touches_nothing_and_stops_no_other(
    world: World, past: tuple[Run, dict[str, dict[str, Any]]]
) -> None:
    run, records = past
    assert world.lab is not None
    assert run.code == 2, run.text  # told at the end, after the others were applied
    world.expect_traffic(*((name, "a", "b") for name in GOOD))
    good = {name: world.tunnels()[name] for name in GOOD}
    for name, host in world.lab.hosts.items():
        applied = {tunnel["name"] for answer in run.results("tunnel_apply", name) for tunnel in answer["tunnels"]}
        assert applied == set(GOOD)
        own = {
            what: next(end["interface"] for end in tunnel["ends"] if end["node"] == name)
            for what, tunnel in good.items()
        }
        assert host.run("wg show interfaces").stdout.split() == [own["good"]]
        assert host.run("ls /etc/wireguard").stdout.split() == [f"{own['good']}.conf"]
        assert host.run("ls /etc/openvpn/server").stdout.split() == [f"{own['good openvpn']}.conf"]
        assert host.run("ls /etc/swanctl/conf.d").stdout.split() == [f"marzban-{own['good ipsec']}.conf"]
        folders = host.run("ls -A /etc/marzban/tunnels").stdout.split()
        assert sorted(folders) == sorted(tunnel["uuid"] for tunnel in good.values())
        assert not (host.root / OWNED.lstrip("/")).exists()
        assert host.run(f"ls -d {OWNED}", check=False).returncode != 0
    assert not Path(OWNED).exists()
    sent = [line for line in world.panel.log_lines() if line["path"] == "/api/tunnels/keys"]
    assert 1 <= len(sent) <= 3, "one for each round, and the broken ones add none"
    assert all(end["public"] for tunnel in good.values() for end in tunnel["ends"])
    assert all(
        end["public"] is None
        for item in world.api("GET", "/tunnels")
        if item["name"] not in GOOD
        for end in item["ends"]
        if item["id"] not in {records[what]["id"] for what in ("key", *KINDS)}
    )


def test_the_inventory_names_the_node_that_it_leaves_out(past: tuple[Run, dict[str, dict[str, Any]]]) -> None:
    run, _records = past
    flat = " ".join(run.text.split())
    assert f"'{PAST['node'][1]}'" in flat
    assert "is left out" in flat
