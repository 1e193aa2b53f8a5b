# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root half of the node service on real hosts: what a panel may ask, and what it sees to by itself."""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Iterator
from functools import partial

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from tests.lab.lab import Lab
from tests.support import hostile_requests, labs
from tests.support.nodes import PANEL, Directly, leftovers, no_packet_lost, uuid
from tests.support.records import ED25519
from tests.support.service import KEY, SETTINGS, Service, bring_up, tunnel
from tests.support.world import until

pytestmark = pytest.mark.lab
OTHER_PANEL = "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"
ANOTHER = base64.b64encode(bytes(range(32))).decode()  # a public key
OTHERS = ("openvpn", "ipsec")
SOON = 30  # seconds within which the service repairs, and notices
UNITS = "systemctl list-units --all --plain --no-legend 'openvpn-*@mz2*' | cut -d' ' -f1"
#: What others may take away from tunnels 1 (WireGuard), 2 (OpenVPN) and 3 (IPsec), some of it at the same time: how,
#: and what shows that it is back.
TAKEN = [
    {
        "a WireGuard unit": (1, "systemctl stop wg-quick@mz1", "systemctl is-active wg-quick@mz1"),
        "an OpenVPN process": (2, f"systemctl kill -s KILL $({UNITS})", f"systemctl is-active $({UNITS})"),
        "charon": (3, "systemctl kill -s KILL strongswan", "systemctl is-active strongswan"),
    },
    {
        "an interface": (1, "ip link del mz1", "ip link show mz1"),
        "an OpenVPN unit": (2, f"systemctl stop $({UNITS})", f"systemctl is-active $({UNITS})"),
        "charon's unit": (3, "systemctl stop strongswan", "systemctl is-active strongswan"),
    },
    {
        "an interface, down": (1, "ip link set mz1 down", "ip -br link show up | grep mz1"),
        "IPsec's interface": (3, "ip link del mz3", "ip link show mz3"),
    },
    {
        "an address": (1, "ip addr del 10.201.1.2/31 dev mz1", "ip addr show mz1 | grep 10.201.1.2/31"),
        "a routing rule": (3, "ip rule del pref 220", "ip rule | grep 220:"),
    },
    {
        "a route": (1, "ip route del 192.168.77.0/24 dev mz1", "ip route | grep 192.168.77.0/24"),
        "a routing table": (3, "ip route flush table 220", "ip route show table 220 | grep 10.201.3.3"),
    },
    {
        "a table": (1, f"nft delete table inet marzban-{uuid(1)}", f"nft list tables | grep {uuid(1)}"),
        "charon's data path": (
            *(3, "rm /etc/strongswan.d/marzban.conf; systemctl restart strongswan"),
            "swanctl --stats | grep kernel-libipsec",
        ),
    },
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "c": "bookworm+tunnels"}
    with Lab.up(labs.named("service-hosts"), hosts) as lab:
        yield lab


@pytest.fixture(scope="module")
def services(served: Directly) -> list[Service]:
    services = [Service(served, name) for name in "ab"]
    for service in services:
        service.install()
    return services


@pytest.fixture
def pair(services: list[Service]) -> Iterator[list[Service]]:
    """The services of a and b, for a test that begins with no tunnel, and with keys that nobody knows."""
    yield services
    for service in services:
        for known in service.call("list")["tunnels"]:
            service.delete(known["id"])
        service.forget()
    services[0].nodes.publics.clear()


# Of each type with a panel in test_node_service.py
@pytest.mark.parametrize("kind", ["wireguard", *(pytest.param(k, marks=pytest.mark.variation) for k in OTHERS)])
def test_a_tunnel_comes_and_goes(pair: list[Service], kind: str) -> None:
    nodes = pair[0].nodes
    bring_up(pair, 4)
    with no_packet_lost(nodes, 4):
        bring_up(pair, 1, type=kind)
        assert nodes.reaches("a", 1, 1)
        assert pair[0].post(tunnel(nodes, 1, type=kind))["status"] == "active", "to say it again changed something"
        for service in pair:
            service.post(tunnel(nodes, 1, type=kind, config={"mtu": 1300}, version=2))
        assert nodes.sh("a", "ip link show mz1").count("mtu 1300") == 1
        off = tunnel(nodes, 1, type=kind, active=False, version=3)
        for service in pair:
            assert service.post(off)["status"] == "inactive"
        assert not nodes.reaches("a", 1, 1)
        for service in pair:
            gone = service.delete(1)
            assert (gone.status, gone["message"]) == (200, "removed")
    for service in pair:
        assert service.delete(1)["message"] == "was removed before"
        assert service.delete(1, by="1")["message"] == "was removed before", "by its number"
        assert service.tunnel(1)["code"] == "unknown"
        assert service.post(off)["code"] == "removed"
        assert [known["id"] for known in service.call("list")["tunnels"]] == [4]


def test_a_run_does_not_make_what_was_deleted_before_it_came(pair: list[Service]) -> None:
    """The panel deletes a tunnel that a run has read already, and is about to make."""
    a, nodes = pair[0], pair[0].nodes
    assert [a.delete(1).status for _time in range(2)] == [404, 404], "what was never here"
    ran = nodes.run_on("a", "tunnel_apply", nodes.views(nodes.pair(1))["a"])
    assert [known["refused"] for known in ran.answer["tunnels"]] == [True]
    assert "It was removed here" in ran.answer["tunnels"][0]["error"]
    assert (a.delete(1).status, a.call("list")["tunnels"]) == (404, [])
    assert a.post(tunnel(nodes, 1)).status == 200, "the panel itself says later that it is wanted"


def test_slow_work_goes_on_after_the_answer(pair: list[Service]) -> None:
    """Here it is slow because another one has the lock of the host."""
    a, nodes = pair[0], pair[0].nodes
    with Folders(str(a.host.root / "etc/marzban/tunnels")).locked():
        begun = time.monotonic()
        told = a.send(tunnel(nodes, 1))
        assert (told.status, told["doing"], time.monotonic() - begun < 2) == (202, True, True)
        assert nodes.sh("a", "ls /etc/marzban/tunnels") == ""
    until("it is done", lambda: not a.tunnel(1)["doing"], SOON)
    assert nodes.sh("a", "ls /etc/marzban/tunnels").split() == [uuid(1)]
    with Folders(str(a.host.root / "etc/marzban/tunnels")).locked():
        a.counter += 1
        gone = a.call("delete", id="1", counter=a.counter)
        assert (gone.status, gone["message"]) == (202, "is being removed")
    until("it is gone", lambda: a.tunnel(1).get("code") == "unknown", SOON)


def test_what_others_take_away_comes_back_and_a_peer_that_is_away_is_told(pair: list[Service]) -> None:
    nodes = pair[0].nodes
    bring_up(pair, 1, ends={"b": {"routes": ["192.168.77.0/24"]}})
    bring_up(pair, 2, type="openvpn")
    bring_up(pair, 3, type="ipsec")
    bring_up(pair, 4)
    took = {}
    with no_packet_lost(nodes, 4, apart=0.05):
        for some in TAKEN:
            begun = time.monotonic()
            nodes.sh("a", "; ".join(command for _number, command, _there in some.values()))
            for what, (number, _command, there) in some.items():
                until(f"{what} is back", partial(nodes.sh, "a", f"{there} || true"), SOON, 0.5)
                until(f"traffic after {what}", partial(nodes.reaches, "a", number, 1), SOON, 0.5)
                took[what] = round(time.monotonic() - begun, 1)
    print("seconds until it was back:", took)
    assert max(took.values()) < SOON
    lines = pair[0].said().splitlines()
    assert len([line for line in lines if "tunnel t1: repaired" in line]) == 6, "\n".join(lines)
    assert not any("tunnel t4: repaired" in line for line in lines)

    nodes.sh("a", "systemctl stop wg-quick@mz1; systemctl mask wg-quick@mz1")
    told = until("the masked unit is told", lambda: "masked" in (pair[0].tunnel(1)["error"] or ""), SOON)
    assert told
    assert pair[0].tunnel(1)["status"] == "error"
    nodes.sh("a", "systemctl unmask wg-quick@mz1")
    until("traffic, once it is unmasked", lambda: nodes.reaches("a", 1, 1), 90)
    pair[0].waits_for(1, "active")

    # Nothing is taken away, and the peer does not answer.
    nodes.lab.host("b").cut()
    begun = time.monotonic()
    try:
        assert pair[0].tunnel(1)["status"] == "active", "the age tells that this was before"
        for number in (1, 2, 3):
            until("not active", partial(pair[0].is_not_active, number), SOON)
        print("seconds until no tunnel was active:", round(time.monotonic() - begun, 1))
        assert pair[0].tunnel(1)["age"] < 10
    finally:
        nodes.lab.host("b").repair()
    for number in (1, 2, 3):
        pair[0].waits_for(number, "active", 60)


@pytest.mark.variation  # without a host in test_board.py
def test_what_does_not_stay_up_is_told_once(pair: list[Service]) -> None:
    """An OpenVPN process that ends by itself a second after its start, while its peer is away."""
    a, b = pair
    bring_up(pair, 2, type="openvpn")
    b.post(tunnel(a.nodes, 2, type="openvpn", active=False, version=2))
    begun = time.monotonic()
    unit = a.nodes.sh("a", UNITS).strip()
    folder = f"/run/systemd/system/{unit}.d"
    limit = "[Service]\nRuntimeMaxSec=1\nRestart=no\n"
    a.nodes.sh("a", f"mkdir -p {folder}; printf '{limit}' > {folder}/limit.conf; systemctl daemon-reload")
    a.nodes.sh("a", f"systemctl restart {unit}")
    until("it is told", lambda: "does not stay up" in (a.tunnel(2)["error"] or ""), 60)
    print("seconds until it was told that a process does not stay up:", round(time.monotonic() - begun, 1))
    starts = a.nodes.sh("a", f"journalctl -o cat -u {unit}").count("Started ")
    seen = set()

    def is_tried_again() -> bool:
        seen.add(a.tunnel(2)["status"])
        return a.nodes.sh("a", f"journalctl -o cat -u {unit}").count("Started ") > starts + 1

    until("two more repairs", is_tried_again, 60, 0.2)
    assert seen == {"error"}, "it goes to and fro"
    told = [line for line in a.said().splitlines() if "tunnel t2: " in line]
    assert "does not stay up. See journalctl" in told[-1]
    assert len([line for line in told if "does not stay up" in line]) == 1, told
    a.nodes.sh("a", f"rm -r {folder}; systemctl daemon-reload")
    b.post(tunnel(a.nodes, 2, type="openvpn", version=3))
    a.waits_for(2, "active", 60)


def test_a_peer_that_has_moved_is_found(pair: list[Service]) -> None:
    """It does not dial, so that nothing but its name tells where it is."""
    nodes = pair[0].nodes
    old = nodes.lab.host("b").address
    new = old.rpartition(".")[0] + ".200"
    nodes.sh("a", f"sed -i /b.example/d /etc/hosts; echo {old} b.example >> /etc/hosts")
    bring_up(pair, 1, ends={"b": {"endpoint": "b.example"}}, keepalive=0, config={"dial": "source", "keepalive": 0})
    nodes.sh(
        "b", f"ip addr add {new}/24 dev eth0; ip addr del {old}/24 dev eth0; ip addr add {new}/24 dev eth0 || true"
    )
    try:
        nodes.sh("a", f"sed -i 's/.* b.example/{new} b.example/' /etc/hosts")
        begun = time.monotonic()
        until("traffic to its new address", lambda: nodes.reaches("a", 1, 1), SOON)
        print("seconds until it was found:", round(time.monotonic() - begun, 1))
    finally:
        nodes.sh("b", f"ip addr del {new}/24 dev eth0; ip addr add {old}/24 dev eth0")
        nodes.sh("b", f"ip route replace default via {old.rpartition('.')[0]}.1")


def test_who_may_ask_and_what_is_refused(pair: list[Service]) -> None:
    a, nodes = pair[0], pair[0].nodes
    assert (a.call("list", key=None).status, a.call("list", key="x" * 43).status) == (401, 403)
    assert a.call("list", key=["k"]).status == 401
    assert a.call("reboot").status == 404
    record = tunnel(nodes, 1)
    a.post(record)
    seen = a.call("post", body={"panel": PANEL, "node": "a", "counter": a.counter, "tunnel": record})
    assert (seen.status, seen["code"], seen["have"]) == (409, "older_database", a.counter)
    for changed, field in (
        ({"panel": OTHER_PANEL}, "panel"),
        ({"node": "localhost"}, "node"),
        ({"node": "z"}, "node"),
        ({"revision": "x" * 101}, "revision"),
        ({"tunnel": {**record, "ends": None}}, "ends"),
        ({"tunnel": {**record, "uuid": "../../etc"}}, "uuid"),
        ({"tunnel": [1]}, "tunnel"),
        ({"counter": "7"}, "counter"),
    ):
        told = a.post(record, **changed)
        assert (told.status, list(told["detail"])) == (422, [field]), told
    newer = a.post({**record, "version": 5})
    assert newer.status == 200
    older = a.post({**record, "version": 4})
    assert (older.status, older["code"], older["have"], older["got"]) == (409, "older_record", 5, 4)

    # Another panel sees nothing of it, whichever id it tries.
    (a.host.root / SETTINGS / f"panels/{OTHER_PANEL}.json").write_bytes(Service.panel(OTHER_PANEL, ["o" * 43]))
    other = {"key": "o" * 43}
    assert a.call("list", **other)["tunnels"] == []
    assert a.call("status", id=uuid(1), **other).status == 404
    assert a.call("delete", id="1", counter=1, **other).status == 404
    body = {"panel": OTHER_PANEL, "node": "a", "counter": 2, "tunnel": record}
    assert a.call("post", body=body, **other)["code"] == "foreign"
    assert a.call("status", id=uuid(1)).status == a.call("status", id="1").status == 200


def test_hostile_requests_leave_no_file_and_no_error(pair: list[Service]) -> None:
    """As if somebody had the front, and a right key."""
    a, said = pair[0], len(pair[0].said())
    a.nodes.sh("a", "touch /root/before")
    for request in hostile_requests.calls(partial(tunnel, a.nodes, 1), a.body):
        told = a.call(**request)
        assert 400 <= told.status < 500, (told.status, told, str(request)[:300])
    for line in hostile_requests.lines():
        assert a.exchange(line).status in (401, 403)
    assert a.exchange(b"x" * 300_000 + b"\n").status == 413
    assert not {"Traceback", "failed"} & set(a.said()[said:].split()), a.said()[said:]
    new = a.nodes.sh("a", "find / /run /tmp -xdev -newer /root/before -type f | sort -u").splitlines()
    others = ("/proc/", "/sys/", "/var/log/", "/run/log/", "/run/systemd/")
    assert [path for path in new if not path.startswith(others)] == ["/var/lib/marzban-node/counters.json"]
    assert a.call("list")["tunnels"] == []


@pytest.mark.parametrize("kind", ["wireguard", *(pytest.param(k, marks=pytest.mark.variation) for k in OTHERS)])
def test_another_key_of_the_peer_is_shown_and_not_taken(pair: list[Service], kind: str) -> None:
    (a, b), nodes = pair, pair[0].nodes
    bring_up(pair, 1, type=kind)
    known = nodes.publics[uuid(1), "b"]
    another = ED25519 if kind == "ipsec" else ANOTHER
    nodes.publics[uuid(1), "b"] = {**known, "public_key": another}
    told = a.post(tunnel(nodes, 1, type=kind))
    assert told.get("peer_key") == {"known": known["public_key"], "seen": another}, told
    assert nodes.reaches("a", 1, 1), "a key that nobody has accepted was used"
    if kind == "openvpn":  # its certificate alone is another one
        nodes.publics[uuid(1), "b"] = {**known, "fingerprint": "ab" * 32}
        told = a.post(tunnel(nodes, 1, type=kind))
        assert told["peer_key"] == {"known": known["public_key"], "seen": known["public_key"]}
        assert nodes.reaches("a", 1, 1)
        told = a.post(tunnel(nodes, 1, type=kind), accept_key=known["public_key"])
        assert told["peer_key"] is None
        assert not nodes.reaches("a", 1, 1), "it still trusts the certificate of before"
    if kind != "wireguard":
        return
    renamed = {**tunnel(nodes, 1, version=2), "target_node_name": "b2"}
    renamed["ends"][1] = {**renamed["ends"][1], "node": "b2"}
    assert a.post(renamed)["peer_key"]["seen"] == ANOTHER, "another name is not another peer"
    assert ANOTHER not in nodes.sh("a", "cat /etc/wireguard/mz1.conf")

    # It was really set up again: an admin's word brings the packets back.
    b.delete(1)
    b.forget()
    for _round in range(2):
        b.post(tunnel(nodes, 1, version=3))
    seen = nodes.publics[uuid(1), "b"]["public_key"]
    assert a.post(tunnel(nodes, 1, version=3))["peer_key"] == {"known": known["public_key"], "seen": seen}
    assert not nodes.reaches("a", 1, 1)
    before = a.tunnel(1)["recoveries"]
    begun = time.monotonic()
    told = a.post(tunnel(nodes, 1, version=3), accept_key=seen)
    assert told["peer_key"] is None
    until("packets", partial(nodes.reaches, "a", 1, 1), SOON)
    print("seconds from the word to packets:", round(time.monotonic() - begun, 1))
    assert a.tunnel(1)["recoveries"] == {**before, "peer": before["peer"] + 1}


def test_a_run_and_the_service_leave_the_same(pair: list[Service]) -> None:
    """On two equal hosts, with the same private keys."""
    nodes = pair[0].nodes
    ends = {"b": {"routes": ["192.168.77.0/24"]}}
    kinds = {1: "wireguard", 2: "openvpn", 3: "ipsec"}
    for number, kind in kinds.items():
        bring_up(pair, number, type=kind, ends=ends if number == 1 else {})
    folders = "/etc/marzban/tunnels"
    held = nodes.sh("a", f"cd {folders} && tar c */private.key */tls.pem | base64 -w0")
    nodes.sh("c", f"mkdir -p -m 0700 {folders} && cd {folders} && echo {held} | base64 -d | tar x && chmod 0700 *")
    views = nodes.views(
        *(nodes.pair(number, type=kind, ends=ends if number == 1 else {}) for number, kind in kinds.items())
    )
    ran = nodes.run_on("c", "tunnel_apply", views["a"])
    assert not [tunnel["error"] for tunnel in ran.answer["tunnels"] if tunnel["refused"]], ran.answer
    look = (
        "cd /; find etc usr/local root -xdev -newer /etc/machine-id -type f ! -path 'etc/marzban/node_service/*'"
        " ! -path 'usr/local/lib/marzban-node/*' ! -path 'root/*' ! -name hosts ! -name hostname ! -name '*.pyc'"
        " ! -path 'etc/ssh/*' ! -name machine-id | sort | xargs stat -c '%n %a %U';"
        " find etc/marzban/tunnels etc/wireguard etc/openvpn etc/swanctl etc/strongswan.d/marzban.conf"
        " etc/systemd/system usr/local/sbin -type f ! -name host.json | sort | xargs sha256sum;"
        " ip -o link | grep -o 'mz[0-9].*mtu [0-9]*' | sort; ip -o addr | grep -o 'mz[0-9].*scope global' | sort;"
        " ip route | grep mz | sort; ip rule; ip route show table 220 | grep -v src; nft list ruleset;"
        " systemctl list-units --plain --no-legend 'wg-quick*' 'openvpn-*@*' 'marzban-ipsec*' strongswan.service"
    )
    assert nodes.sh("c", look) == nodes.sh("a", look)
    nodes.run_on("c", "tunnel_apply", [], remove_all=True)


def test_what_is_removed_is_not_here_any_more(pair: list[Service]) -> None:
    """Also where its state or its folder is lost, and where it was refused when it came back."""
    a, nodes = pair[0], pair[0].nodes
    bring_up(pair, 1)
    nodes.sh("a", f"echo x > /etc/marzban/tunnels/{uuid(1)}/state.json")
    assert a.delete(1)["message"] == "removed"
    assert leftovers(nodes, "a") == "node_service"
    a.post(tunnel(nodes, 1, version=2))
    nodes.sh("a", f"ip link show mz1; rm -r /etc/marzban/tunnels/{uuid(1)}")
    assert a.delete(1)["message"] == "removed"
    assert leftovers(nodes, "a") == "node_service"
    path = f"/etc/marzban/tunnels/{uuid(2)}"
    nodes.sh("a", f"mkdir -p {path}; echo x > {path}/state.json")
    told = a.delete(2)
    assert (told.status, told["code"]) == (503, "failed")
    assert "can't be read" in told["detail"]
    nodes.sh("a", f"rm -r {path}")

    nodes.sh("a", "mv /usr/bin/wg /usr/bin/wg.away")
    try:
        back = a.post(tunnel(nodes, 1, version=5))
        assert (back["status"], back["refused"], back["missing"]) == ("error", True, ["wireguard-tools"])
        assert a.delete(1).status == 200
    finally:
        nodes.sh("a", "mv /usr/bin/wg.away /usr/bin/wg")
    assert a.call("list")["tunnels"] == []
    assert nodes.sh("a", "ls /var/lib/marzban-node/views") == ""


def test_the_root_half_is_killed_in_the_middle(pair: list[Service]) -> None:
    a, nodes = pair[0], pair[0].nodes
    bring_up(pair, 1)
    with no_packet_lost(nodes, 1):
        nodes.sh("a", "systemctl kill -s KILL marzban-node-root; systemctl reset-failed marzban-node-root || true")
        # What was taken in, and not done: the record is kept before anything else.
        kept = json.loads(nodes.sh("a", f"cat /var/lib/marzban-node/views/{uuid(1)}.json"))
        kept["view"].update(mtu=1300, version=2)
        path = f"/var/lib/marzban-node/views/{uuid(1)}.json"
        nodes.sh("a", f"echo {shlex.quote(json.dumps(kept))} > {path}")
        a.start()
        until("the change is done", lambda: nodes.sh("a", "ip link show mz1").count("mtu 1300"), SOON)
    assert a.call("list", key=KEY)["counter"] == a.counter, "a restart forgot how far the panel had counted"
