# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The life of OpenVPN tunnels on real hosts, from nothing to nothing, beside an owner's own instance."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ipsec_hosts import known, up
from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly, Nodes, View, uuid
from tests.support.world import Pings, until

pytestmark = pytest.mark.lab
CONFIG = "/etc/marzban/tunnels"
FIRST = ["conf written", "wrap key derived", "enabled", "started"]
OWNERS = """mode p2p
tls-{role}
dh none
dev owner
dev-type tun
proto udp
lport 7
remote {peer} 7
ifconfig {here} {there}
cert owner.pem
key owner.pem
ping 1
<peer-fingerprint>
{fingerprint}
</peer-fingerprint>
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "c": "forky+tunnels"}
    with Lab.up(labs.named("openvpn-hosts"), hosts) as lab:
        yield lab


def openvpn(nodes: Nodes, number: int, a: str = "a", b: str = "b", **more: object) -> dict[str, View]:
    return nodes.pair(number, a, b, type="openvpn", **more)  # type: ignore[arg-type]


def leftovers(nodes: Nodes, host: str) -> str:
    """What of ours is on a host, in files, units, processes and in the kernel."""
    return nodes.sh(
        host,
        "ls -A /etc/marzban 2>/dev/null; find /etc/openvpn /etc/systemd/system /run/openvpn-server -name '*mz*' -o"
        " -name '*marzban*'; nft list tables; ip -o link | grep -E 'mz|moved'; pgrep -a openvpn | grep -v owner;"
        " systemctl --failed --no-legend; true",
    ).strip()


def process(nodes: Nodes, host: str, number: int) -> str:
    """The number of the process that runs a tunnel."""
    return nodes.sh(host, f"systemctl show -P MainPID openvpn-server@mz{number}").strip()


@pytest.mark.variation
def test_quartet_from_nothing(lab: Lab, tmp_path: Path) -> None:
    played = Nodes(lab, tmp_path)
    first = played.check(played.views(openvpn(played, 1)))
    assert all(first[host].tunnel(1)["changes"] == ["key made"] for host in "ab")
    assert [leftovers(played, host) for host in "ab"] == ["", ""]
    made = played.apply(played.views(openvpn(played, 1)))
    assert all(made[host].tunnel(1)["waiting_for"] for host in "ab")

    views = played.views(openvpn(played, 1))
    would = played.check(views)
    assert would["a"].tunnel(1)["changes"] == would["b"].tunnel(1)["changes"] == FIRST
    assert "/etc/openvpn" not in leftovers(played, "a")
    did = played.apply(views)
    for host in "ab":
        assert did[host].tunnel(1)["changes"] == FIRST
        headers = [{part["after_header"] for part in answer[host]["diff"]} for answer in (would, did)]
        assert headers[0] == headers[1]
    for answer in played.health(views, "--check", wait=60).values():
        assert answer.statuses() == {"active"}
    assert played.reaches("a", 1, 1)
    assert played.reaches("b", 1, 0)
    for answers in (played.check(views), played.apply(views)):
        for host in "ab":
            assert not answers[host]["changed"], answers[host].tunnel(1)["changes"]
            assert answers[host]["diff"] == []
            measured = answers[host].tunnel(1)["measured"]
            assert measured["loss_percent"] == 0
            assert measured["rx_bytes"] > 0 < measured["tx_bytes"]
            assert measured["cipher"] == "AES-256-GCM"
            assert (measured["key_exchange"], measured["post_quantum"]) == ("X25519", False)
            assert measured["data_path"] == "userspace"
            assert measured["handshake_age"] < 60
            assert measured["certificate_days"] == 729
    secrets = f"{CONFIG}/{uuid(1)}/"
    assert set(played.sh("a", f"stat -c %a {secrets}* /etc/openvpn/server/mz1.conf").split()) == {"600"}
    wraps = [played.sh(host, f"cat {secrets}wrap.key") for host in "ab"]
    assert wraps[0] == wraps[1]
    shown = str([first, made, would, did])
    for name in ("private.key", "tls.pem", "wrap.key"):
        assert played.sh("a", f"cat {secrets}{name}").splitlines()[min(1, name != "private.key")] not in shown
    played.clear()
    assert [leftovers(played, host) for host in "ab"] == ["", ""]


def test_owners_instance_is_left_alone(nodes: Directly) -> None:
    """Under pings every 10 ms through it: tunnels come, change, stop and go."""
    prints = {}
    for name in "ac":
        make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=owner -days 9"
        place = "cd /etc/openvpn/server; openssl"
        nodes.sh(name, f"{place} {make} -keyout key -out crt; cat key crt > owner.pem; rm key crt")
        prints[name] = nodes.sh(name, f"{place} x509 -in owner.pem -noout -fingerprint -sha256").partition("=")[2]
    places = {"a": "10.250.0.1", "c": "10.250.0.2"}
    for here, there, role in (("a", "c", "client"), ("c", "a", "server")):
        words = {"peer": nodes.lab.host(there).address, "here": places[here], "there": places[there], "role": role}
        text = OWNERS.format(**words, fingerprint=prints[there].strip())
        conf = text if role == "server" else text.replace("dh none\n", "")
        nodes.lab.host(here).run("cat > /etc/openvpn/server/owner.conf", input=conf)
        nodes.sh(here, "systemctl start openvpn-server@owner")
    pings = Pings(nodes.lab.host("a"), places["c"], 0.01).start()
    try:
        theirs = nodes.sh("a", "systemctl show -P MainPID openvpn-server@owner")
        up(nodes, openvpn(nodes, 1), openvpn(nodes, 2, "a", "c"))
        nodes.apply(nodes.views(openvpn(nodes, 1, active=False), openvpn(nodes, 2, "a", "c", active=False)))
        assert not nodes.reaches("a", 1, 1)
        up(nodes, openvpn(nodes, 1), openvpn(nodes, 2, "a", "c"))
        answer = nodes.apply({"a": [openvpn(nodes, 9, interface="owner")["a"]]})
        nodes.publics[uuid(9), "b"] = answer["a"].tunnel(9)["public"]
        taken = nodes.apply({"a": [openvpn(nodes, 9, interface="owner")["a"]]})["a"].errors()
        assert "the interface owner is here and was not made by marzban.tunnels" in taken[0]
        nodes.clear("a,b,c")
        assert nodes.sh("a", "systemctl show -P MainPID openvpn-server@owner") == theirs
        assert leftovers(nodes, "a") == ""
        assert pings.stop() == set()
    finally:
        for name in places:
            nodes.sh(
                name, "systemctl stop openvpn-server@owner; rm /etc/openvpn/server/owner.*; systemctl stop 'pings-*'"
            )


def test_after_a_reboot(nodes: Directly) -> None:
    pairs = (openvpn(nodes, 1), openvpn(nodes, 2, "a", "c", transport="tcp"))
    up(nodes, *pairs)
    nodes.reboot("a")
    for number, peer in ((1, "b"), (2, "c")):
        until(f"{peer} from a", lambda number=number: nodes.reaches("a", number, 1))  # type: ignore[misc]
    assert "degraded" not in nodes.sh("a", "systemctl is-system-running", check=False)
    assert not nodes.apply(nodes.views(*(known(nodes, pair) for pair in pairs)))["a"]["changed"]


def test_drift_is_put_back_and_named(nodes: Directly) -> None:
    views = up(nodes, openvpn(nodes, 1))
    drop_in = "/etc/systemd/system/openvpn-server@mz1.service.d/marzban.conf"
    for broken, wanted in (
        ("rm /etc/openvpn/server/mz1.conf", ["conf written", "restarted"]),
        ("sed -i s/^ping/#/ /etc/openvpn/server/mz1.conf", ["conf changed", "restarted"]),
        ("sed -i s/Tunnel/#/ /etc/openvpn/server/mz1.conf", ["conf changed"]),
        (f"sed -i s/ExecStopPost/#/ {drop_in}; systemctl daemon-reload", ["unit changed"]),
        (f"rm {CONFIG}/{uuid(1)}/wrap.key", ["wrap key derived", "restarted"]),
        (f"rm {CONFIG}/{uuid(1)}/link.ip", ["files put back"]),
        (f"chmod 644 {CONFIG}/{uuid(1)}/tls.pem", ["TLS key closed to others"]),
        (f"chmod 644 {CONFIG}/{uuid(1)}/private.key", ["private key closed to others"]),
        ("ip link set mz1 down", ["link up", "address fd6d:7a00::1:2/127 added"]),
        ("ip addr del 10.201.1.2/31 dev mz1", ["address 10.201.1.2/31 added"]),
        ("ip link set mz1 mtu 1300", ["MTU 1444 instead of 1300"]),
        (f"nft add rule inet marzban-{uuid(1)} guard accept", ["firewall rules loaded"]),
        ("systemctl disable --quiet openvpn-server@mz1", ["enabled"]),
        ("systemctl stop openvpn-server@mz1", ["started"]),
        ("ip link delete mz1", ["started"]),
    ):
        nodes.sh("a", broken)
        would = nodes.check({"a": views["a"]}, probe=False)["a"].tunnel(1)["changes"]
        did = nodes.apply({"a": views["a"]}, probe=False)["a"].tunnel(1)["changes"]
        assert (broken, would) == (broken, did)
        assert (broken, did) == (broken, wanted)
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    assert not nodes.apply(views)["a"]["changed"]
    assert nodes.sh("a", f"systemctl cat openvpn-server@mz1 | grep -c {CONFIG}/{uuid(1)}/link.ip").strip() == "1"


@pytest.mark.variation
def test_changes_touch_no_other_tunnel(nodes: Directly) -> None:
    """Addresses, routes, MTU and names change while the process runs on; a restart is the tunnel's own matter."""
    others = [openvpn(nodes, 2, "a", "c"), openvpn(nodes, 3, "b", "c", transport="tcp")]
    up(nodes, openvpn(nodes, 1), *others)
    nodes.sh("b", "ip link add lan type veth peer name end; ip addr add 192.168.77.1/24 dev lan; ip link set lan up")
    others = [known(nodes, other) for other in others]
    steady = [Pings(nodes.lab.host("a"), "10.201.2.3", 0.01), Pings(nodes.lab.host("b"), "fd6d:7a00::3:3", 0.01)]
    for item in steady:
        item.start()
    own = Pings(nodes.lab.host("a"), "10.201.1.3", 0.01).start()
    running = process(nodes, "a", 1)
    try:
        routed = {"a": {}, "b": {"routes": ["192.168.77.0/24"]}}
        more_addresses = {
            "a": {"addresses": ["10.201.1.2/31", "10.77.0.1/30"]},
            "b": {"addresses": ["10.201.1.3/31", "10.77.0.2/30"]},
        }
        moved = {"a": {"addresses": ["10.77.0.1/30"]}, "b": {"addresses": ["10.77.0.2/30"]}}
        for more, address, change in (
            ({"ends": routed}, "192.168.77.1", "route 192.168.77.0/24 added"),
            ({"ends": routed, "mtu": 1312, "name": "renamed"}, "192.168.77.1", "MTU 1312 instead of 1444"),
            ({"ends": more_addresses}, "10.77.0.2", "address 10.77.0.1/30 added"),
            ({"ends": moved}, "10.77.0.2", "address 10.201.1.2/31 removed"),
            ({"ends": moved, "transport": "tcp"}, "10.77.0.2", "restarted"),
            ({"ends": moved, "interface": "moved"}, "10.77.0.2", "interface moved instead of mz1"),
        ):
            if change.endswith("removed"):
                assert own.stop() == set(), "hot changes lost packets of the tunnel itself"
            views = nodes.views(known(nodes, openvpn(nodes, 1, **more)), *others)
            answers = nodes.apply(views, probe=False)
            assert change in answers["a"].tunnel(1)["changes"]
            if not {"transport", "interface"} & set(more):
                assert process(nodes, "a", 1) == running
            assert not any(answers["a"].tunnel(2)["changes"] + answers["b"].tunnel(3)["changes"])
            assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
            nodes.sh("a", f"ping -n -c 1 -W 1 {address}")
            assert not nodes.apply(views, probe=False)["a"]["changed"]
        assert [item.stop() for item in steady] == [set(), set()]
    finally:
        nodes.sh("a", "systemctl stop 'pings-*'")
        nodes.sh("b", "systemctl stop 'pings-*'; ip link delete lan")


@pytest.mark.parametrize("firsts", ["ab", pytest.param("ba", marks=pytest.mark.variation)])
def test_late_peer(nodes: Directly, firsts: str) -> None:
    """One end runs long before the other; then one is off, for long. By UDP or TCP, it soon comes up."""
    kinds = [(transport, dial) for transport in ("udp", "tcp") for dial in ("both", "source", "target")]
    early = {number: firsts[number % 2] for number in range(1, len(kinds) + 1)}

    def views() -> dict[str, list[View]]:
        pairs = []
        for number in early:
            transport, dial = kinds[number - 1]
            pair = known(nodes, openvpn(nodes, number, transport=transport))
            for host, role in (("a", "source"), ("b", "target")):
                pair[host]["dial"], pair[host]["dialed"] = dial in ("both", role), dial != role
            pairs.append(pair)
        return nodes.views(*pairs)

    def connected(what: str) -> None:
        began = time.monotonic()
        for number, host in early.items():
            reached = partial(nodes.reaches, "a", number, 1)
            until(f"traffic {what}, {kinds[number - 1]}, {host} was first", reached)
        print(f"{what}: {len(early)} tunnels after {time.monotonic() - began:.1f} s")

    nodes.apply(views())
    ready = {host: [view for view in views()[host] if early[view["id"]] == host] for host in "ab"}
    nodes.apply(ready, probe=False)

    # Past the point from which on OpenVPN would wait longer and longer, so ten minutes make no difference.
    def have_called(host: str) -> bool:
        journal = "journalctl --no-pager -o with-unit -u 'openvpn-server@mz*' --grep 'process restarting'"
        calls = Counter(
            map(int, re.findall(r" openvpn-server@mz(\d+)\.service\[", nodes.sh(host, journal, check=False)))
        )
        return all(
            calls[number] >= (7 if transport == "tcp" else 3)
            for number, first in early.items()
            for transport, dial in [kinds[number - 1]]
            if first == host and (dial == "target") == (host == "b")
        )

    for host in "ab":
        until(f"calls of {host}", partial(have_called, host), every=2)
    assert nodes.health(ready)["a"].statuses() == {"connecting"}
    nodes.apply(views(), probe=False)
    connected("applied late")
    for answer in nodes.health(views(), wait=5).values():
        assert answer.statuses() == {"active"}

    other = nodes.lab.host("b")
    other.stop()
    began = time.monotonic()

    def silent() -> bool:
        seen = nodes.health({"a": views()["a"]})["a"]["tunnels"]
        return {item["measured"]["handshake_age"] for item in seen} == {None}

    until("that the silence is noticed", silent, every=2)
    print(f"silence noticed after {time.monotonic() - began:.1f} s")
    other.start()
    connected("off for long")


def test_a_broken_private_key_is_named(nodes: Directly) -> None:
    views = up(nodes, openvpn(nodes, 1), openvpn(nodes, 2))
    folder = f"{CONFIG}/{uuid(1)}"
    running = process(nodes, "a", 1)
    nodes.sh("a", f"cp {folder}/private.key /root; echo rubbish > {folder}/private.key")
    answer = nodes.apply(views)["a"]
    assert "The private key in" in answer.tunnel(1)["error"]
    assert "regenerate: if_invalid" in answer.tunnel(1)["error"]
    assert answer.tunnel(2)["status"] == "active"
    assert process(nodes, "a", 1) == running
    nodes.sh("a", f"cp /root/private.key {folder}/")
    assert not nodes.apply(views)["a"]["changed"]
    nodes.sh("a", f"echo rubbish > {folder}/next.pem")  # nobody uses it
    assert not nodes.apply(views)["a"].errors()


def test_a_certificate_that_is_lost_is_replaced_once_the_peer_lets_in_the_next(nodes: Directly) -> None:
    """What runs goes on with it until then, and the static key stays."""
    up(nodes, openvpn(nodes, 1), openvpn(nodes, 2))
    folder = f"{CONFIG}/{uuid(1)}"
    other = f"sed -n '/PRIVATE/,/PRIVATE/p' {CONFIG}/{uuid(2)}/tls.pem"
    certificate = f"sed -n '/BEGIN CERT/,$p' {folder}/tls.pem"

    def views(**more: Any) -> dict[str, list[View]]:
        return nodes.views(openvpn(nodes, 1, **more))

    for damage in (
        f"echo rubbish > {folder}/tls.pem",
        f"umask 077; ({other}; {certificate}) > {folder}/mixed; mv {folder}/mixed {folder}/tls.pem",
        f"rm {folder}/tls.pem",
    ):
        known, running = nodes.publics[uuid(1), "a"], process(nodes, "a", 1)
        nodes.sh("a", damage)
        would = nodes.check({"a": views()["a"]})["a"].tunnel(1)["changes"]
        answer = nodes.apply({"a": views()["a"]})["a"]
        assert answer.tunnel(1)["changes"] == would == ["next certificate made"], damage
        assert answer.statuses() == {"active"}, answer.errors()
        following = nodes.publics[uuid(1), "a"]["next_fingerprint"]
        assert nodes.publics[uuid(1), "a"] == {**known, "next_fingerprint": following}
        # The other end was not reached: what runs is not ended, though its record has changed.
        for changed in (views(transport="tcp"), views(interface="moved")):
            for run in (nodes.check, nodes.apply):
                refused = run({"a": changed["a"]})["a"].tunnel(1)
                assert f"tls.pem: '{folder}/tls.pem' can't be used. It is lost, and what runs" in refused["error"]
        assert process(nodes, "a", 1) == running
        assert not nodes.apply({"a": views()["a"]})["a"]["changed"]
        assert nodes.reaches("a", 1, 1)

        assert nodes.apply({"b": views()["b"]})["b"].tunnel(1)["changes"] == ["conf changed", "restarted"]
        # Where the process has read its files again by now, because its peer was restarted, it is dead.
        changes = nodes.apply({"a": views()["a"]})["a"].tunnel(1)["changes"]
        assert changes in (["certificate switched", "restarted"], ["certificate switched", "started"])
        assert nodes.publics[uuid(1), "a"] == {**known, "fingerprint": following}
        nodes.apply(views())
        assert nodes.health(views(), wait=60)["a"].statuses() == {"active"}
        assert nodes.apply(views())["a"].tunnel(1)["changes"] in ([], ["state written"])  # b lets in no other now


def test_where_nothing_runs_a_lost_certificate_is_made_at_once(nodes: Directly) -> None:
    up(nodes, openvpn(nodes, 1))
    known = nodes.publics[uuid(1), "a"]
    nodes.sh("a", f"systemctl stop openvpn-server@mz1; rm {CONFIG}/{uuid(1)}/tls.pem")
    views = nodes.views(openvpn(nodes, 1))
    would = nodes.check({"a": views["a"]})["a"].tunnel(1)["changes"]
    assert nodes.apply({"a": views["a"]})["a"].tunnel(1)["changes"] == would == ["certificate made", "started"]
    made = nodes.publics[uuid(1), "a"]
    assert made["public_key"] == known["public_key"]
    assert made["fingerprint"] != known["fingerprint"]
    nodes.apply(nodes.views(openvpn(nodes, 1)))
    assert nodes.health(views, wait=60)["b"].statuses() == {"active"}


def test_only_openvpn_is_on_the_wire(nodes: Directly) -> None:
    up(
        nodes,
        openvpn(nodes, 1, ends={"a": {}, "b": {"routes": ["192.168.77.0/24"]}}),
        openvpn(nodes, 2, transport="tcp"),
    )
    nodes.sh("b", "ip addr add 192.168.77.1/24 dev lo")
    watch = "tcpdump -n -U --immediate-mode -i eth0 -w /root/wire not port 22"
    nodes.sh("a", f"rm -f /root/wire; systemd-run --quiet --unit=wire {watch}")
    try:
        until("tcpdump", lambda: nodes.sh("a", "ls /root/wire", check=False))
        for address in ("10.201.1.3", "fd6d:7a00::1:3", "192.168.77.1", "10.201.2.3"):
            nodes.sh("a", f"ping -n -c 2 -i 0.1 -W 1 {address}")
    finally:
        nodes.sh("a", "systemctl stop wire")
        nodes.sh("b", "ip addr del 192.168.77.1/24 dev lo")
    read = "tcpdump -n -r /root/wire 2>/dev/null"
    assert int(nodes.sh("a", f"{read} 'udp port 20001' | wc -l")) >= 12
    assert int(nodes.sh("a", f"{read} 'tcp port 20002' | wc -l")) >= 4
    others = nodes.sh("a", f"{read} 'not udp port 20001 and not tcp port 20002'")
    assert not re.search(r"10\.201\.|192\.168\.77\.|fd6d:7a00:", others)
    assert "icmp" not in others.lower().replace("icmp6, neighbor", "").replace("icmp6, router", "")
