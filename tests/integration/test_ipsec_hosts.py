# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The life of IPsec tunnels on real hosts, from nothing to nothing, beside an owner's own connection."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly, Nodes, View, uuid
from tests.support.world import Pings, until

pytestmark = pytest.mark.lab
CONFIG = "/etc/marzban/tunnels"
FIRST = [
    *("connection written", "strongSwan's settings written", "strongSwan restarted for its userspace data path"),
    *("enabled", "started", "marzban-ipsec.service written", "private key given to strongSwan", "connection loaded"),
]
OWNERS = """connections {
  owner {
    version = 2
    remote_addrs = %s
    local { auth = psk
      id = %s }
    remote { auth = psk
      id = %s }
    children { owner { local_ts = %s/32
      remote_ts = %s/32
      start_action = start } }
  }
}
secrets { ike-owner { secret = owners } }
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "c": "forky+tunnels"}
    with Lab.up(labs.named("ipsec-hosts"), hosts) as lab:
        yield lab


def up(nodes: Nodes, *pairs: dict[str, View]) -> dict[str, list[View]]:
    """Brings these up, keys first, and answers their views."""
    nodes.apply(nodes.views(*pairs))
    views = nodes.views(*(known(nodes, pair) for pair in pairs))
    nodes.apply(views)
    for answer in nodes.health(views, wait=60).values():
        assert answer.statuses() == {"active"}, answer
    return views


def known(nodes: Nodes, pair: dict[str, View]) -> dict[str, View]:
    """The same views, with the public halves that are known by now."""
    for view in pair.values():
        for side in (view["local"], view["peer"]):
            side["public"] = nodes.publics.get((view["uuid"], side["node"]))
    return pair


def ipsec(nodes: Nodes, number: int, a: str = "a", b: str = "b", **more: object) -> dict[str, View]:
    return nodes.pair(number, a, b, type="ipsec", **more)  # type: ignore[arg-type]


def leftovers(nodes: Nodes, host: str) -> str:
    """What of ours is on a host, in files and in the kernel and in charon."""
    return nodes.sh(
        host,
        """ls -A /etc/marzban 2>/dev/null; ls -A /etc/swanctl/conf.d /etc/swanctl/private | grep marzban
        ls /etc/strongswan.d /usr/local/sbin /etc/systemd/system /etc/systemd/system/*.wants | grep marzban
        nft list tables | grep marzban; ls /sys/class/net | grep -E '^(mz|ipsec)'
        swanctl --list-conns 2>/dev/null; swanctl --list-sas 2>/dev/null
        systemctl list-units --all --no-legend 'marzban*'; systemctl --failed --no-legend; true""",
    ).strip()


@pytest.mark.variation
def test_quartet_from_nothing(lab: Lab, tmp_path: Path) -> None:
    """Through Ansible over ssh: check, apply, check, apply; no secret leaves its host; nothing stays behind."""
    played = Nodes(lab, tmp_path)
    views = played.views(ipsec(played, 1))
    first = played.check(views)
    assert all(first[host].tunnel(1)["changes"] == ["key made"] for host in "ab")
    assert all(leftovers(played, host) == "" for host in "ab"), "check mode wrote something"
    made = played.apply(views)
    assert all(made[host].tunnel(1)["publish"] and made[host].tunnel(1)["waiting_for"] for host in "ab")
    assert not played.apply(views)["a"]["changed"], "waiting is not a change"

    views = played.views(ipsec(played, 1))
    would, did = played.check(views), played.apply(views)
    for host in "ab":
        assert would[host].tunnel(1)["changes"] == did[host].tunnel(1)["changes"] == FIRST
        headers = [[part["after_header"] for part in answer[host]["diff"]] for answer in (would, did)]
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
            assert measured["cipher"] == "AES-128-GCM"
            assert measured["key_exchange"] == "X25519"
            assert (measured["post_quantum"], measured["data_path"]) == (False, "userspace")
            assert measured["handshake_age"] < 60
    secret = played.sh("a", f"cat {CONFIG}/{uuid(1)}/private.key")
    assert secret == played.sh("a", "cat /etc/swanctl/private/marzban-mz1.pem")
    closed = "/etc/swanctl/conf.d/marzban* /etc/swanctl/private/marzban* /etc/marzban/tunnels/*/*"
    assert set(played.sh("a", f"stat -c %a {closed}").split()) == {"600"}
    assert secret.splitlines()[1] not in str([first, made, would, did])
    played.clear()
    assert [leftovers(played, host) for host in "ab"] == ["", ""]


def test_owners_connection_is_left_alone(nodes: Directly) -> None:
    """Under pings every 10 ms through it: tunnels come, change, stop and go, and charon is not restarted."""
    places = {"a": "10.250.0.1", "c": "10.250.0.2"}
    for here, there in (("a", "c"), ("c", "a")):
        host, peer = nodes.lab.host(here), nodes.lab.host(there)
        text = OWNERS % (peer.address, host.address, peer.address, places[here], places[there])
        host.run(["sh", "-c", "cat > /etc/swanctl/conf.d/owner.conf"], input=text)
        nodes.sh(here, f"ip addr add {places[here]}/32 dev lo")
        nodes.sh(here, "sed -i 's/load = no/load = yes/' /etc/strongswan.d/charon/kernel-libipsec.conf")
        nodes.sh(here, "systemctl restart strongswan")
    pings = Pings(nodes.lab.host("a"), places["c"], 0.01).start()
    try:
        charon = nodes.sh("a", "pidof charon-systemd")
        up(nodes, ipsec(nodes, 1), ipsec(nodes, 2, "a", "c"))
        routed = ipsec(nodes, 1, ends={"b": {"routes": ["192.168.77.0/24"]}})
        nodes.apply({"a": nodes.views(known(nodes, routed), known(nodes, ipsec(nodes, 2, "a", "c")))["a"]})
        nodes.apply(nodes.views(ipsec(nodes, 1, active=False), ipsec(nodes, 2, "a", "c", active=False)))
        assert not nodes.reaches("a", 1, 1)
        up(nodes, ipsec(nodes, 1), ipsec(nodes, 2, "a", "c"))
        answer = nodes.apply({"a": [nodes.pair(9, interface="owner", type="ipsec")["a"]]})
        nodes.publics[uuid(9), "b"] = answer["a"].tunnel(9)["public"]
        taken = nodes.apply({"a": [nodes.pair(9, interface="owner", type="ipsec")["a"]]})["a"].errors()
        assert "swanctl's connection owner is here and was not made by marzban.tunnels" in taken[0]
        nodes.clear("a,b,c")
        assert nodes.sh("a", "pidof charon-systemd") == charon
        said = leftovers(nodes, "a")
        assert "owner: " in said
        assert "mz" not in said.replace("owner", "")
        assert pings.stop() == set()
    finally:
        for name, place in places.items():
            nodes.sh(name, "rm /etc/swanctl/conf.d/owner.conf; systemctl stop 'pings-*'")
            nodes.sh(name, "sed -i 's/load = yes/load = no/' /etc/strongswan.d/charon/kernel-libipsec.conf")
            nodes.sh(name, f"ip addr del {place}/32 dev lo; systemctl restart strongswan")


def test_after_a_reboot(nodes: Directly) -> None:
    up(nodes, ipsec(nodes, 1), ipsec(nodes, 2, "a", "c"))
    nodes.reboot("a")
    for number, peer in ((1, "b"), (2, "c")):
        until(f"{peer} from a", lambda number=number: nodes.reaches("a", number, 1))  # type: ignore[misc]
    assert "degraded" not in nodes.sh("a", "systemctl is-system-running", check=False)
    views = nodes.views(known(nodes, ipsec(nodes, 1)), known(nodes, ipsec(nodes, 2, "a", "c")))
    assert not nodes.apply(views)["a"]["changed"]


def test_drift_is_put_back_and_named(nodes: Directly) -> None:
    views = up(nodes, ipsec(nodes, 1))
    for broken, wanted in (
        (
            f"""rm /etc/swanctl/conf.d/marzban-mz1.conf; systemctl disable --quiet marzban-ipsec-mz1
            nft add rule inet marzban-{uuid(1)} guard accept; ip link set mz1 mtu 1300
            ip addr del 10.201.1.2/31 dev mz1; systemctl stop marzban-ipsec""",
            [
                *("connection written", "enabled", "firewall rules loaded", "MTU 1400 instead of 1300"),
                *("address 10.201.1.2/31 added", "marzban-ipsec.service started"),
            ],
        ),
        (
            f"""chmod 644 {CONFIG}/{uuid(1)}/private.key; sed -i s/mobike/#/ /etc/swanctl/conf.d/marzban-mz1.conf
            ip link set mz1 down; rm /usr/local/sbin/marzban-ipsec-call""",
            [
                *("private key closed to others", "connection changed", "link up"),
                *("address fd6d:7a00::1:2/127 added", "marzban-ipsec.service written"),
            ],
        ),
        (
            """cd /etc/swanctl/conf.d; mv marzban-mz1.conf /root; swanctl --load-all; mv /root/marzban-mz1.conf .
            echo > /etc/swanctl/private/marzban-mz1.pem""",
            ["private key given to strongSwan", "connection loaded"],
        ),
        ("chmod 644 /etc/swanctl/private/marzban-mz1.pem", ["private key closed to others"]),
        (f"rm {CONFIG}/{uuid(1)}/link.ip", ["files put back"]),
        ("ip link delete mz1", ["started"]),
        ("systemctl stop marzban-ipsec-mz1", ["started"]),
        (
            "rm /etc/systemd/system/marzban-ipsec-mz1.service; systemctl daemon-reload",
            ["enabled", "marzban-ipsec.service started"],  # which stops when no unit wants it
        ),
        (  # so often that systemd would refuse to start it once more
            "for _ in 1 2 3 4 5 6; do systemctl restart strongswan || break; done; systemctl stop strongswan",
            ["strongSwan started"],
        ),
        (
            "rm /etc/strongswan.d/marzban.conf; systemctl restart strongswan",
            ["strongSwan's settings written", "strongSwan restarted for its userspace data path"],
        ),
    ):
        nodes.sh("a", broken)
        would = nodes.check({"a": views["a"]}, probe=False)["a"].tunnel(1)["changes"]
        did = nodes.apply({"a": views["a"]}, probe=False)["a"].tunnel(1)["changes"]
        if "strongSwan started" in wanted:
            did = [item for item in did if item != "connection loaded"]  # charon told nothing about what it would load
            would = [item for item in would if item != "connection loaded"]
        assert (broken, would) == (broken, did)
        assert (broken, did) == (broken, wanted)
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    assert not nodes.apply(views)["a"]["changed"]


@pytest.mark.variation
def test_changes_touch_no_other_tunnel(nodes: Directly) -> None:
    """Addresses, routes, MTU and names change; the others lose not one packet, and the tunnel itself under a second."""
    others = [ipsec(nodes, 2, "a", "c"), ipsec(nodes, 3, "b", "c")]
    up(nodes, ipsec(nodes, 1), *others)
    nodes.sh("b", "ip link add lan type veth peer name end; ip addr add 192.168.77.1/24 dev lan; ip link set lan up")
    others = [known(nodes, other) for other in others]
    steady = [Pings(nodes.lab.host("a"), "10.201.2.3", 0.01), Pings(nodes.lab.host("b"), "fd6d:7a00::3:3", 0.01)]
    for item in steady:
        item.start()
    try:
        moved = {"a": {"addresses": ["10.77.0.1/30"]}, "b": {"addresses": ["10.77.0.2/30"]}}
        routed = {"a": {}, "b": {"routes": ["192.168.77.0/24"]}}
        for more, address, change in (
            ({"ends": routed}, "192.168.77.1", "route 192.168.77.0/24 added"),
            ({"ends": routed, "mtu": 1312, "name": "renamed"}, "192.168.77.1", "MTU 1312 instead of 1400"),
            ({"ends": moved}, "10.77.0.2", "address 10.77.0.1/30 added"),
        ):
            own = Pings(nodes.lab.host("a"), "10.201.1.3", 0.01).start() if more == {"ends": routed} else None
            views = nodes.views(known(nodes, ipsec(nodes, 1, **more)), *others)
            answers = nodes.apply(views)
            assert change in answers["a"].tunnel(1)["changes"]
            assert not any(answers["a"].tunnel(2)["changes"] + answers["b"].tunnel(3)["changes"])
            assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
            nodes.sh("a", f"ping -n -c 1 -W 1 {address}")
            assert not nodes.apply(views)["a"]["changed"]
            if own:
                lost = own.stop()
                print(f"a change of routes: {len(lost) * 10} ms")
                assert len(lost) < 100
        assert [item.stop() for item in steady] == [set(), set()]
    finally:
        nodes.sh("a", "systemctl stop 'pings-*'")
        nodes.sh("b", "systemctl stop 'pings-*'; ip link delete lan")


@pytest.mark.parametrize("late", ["a", pytest.param("b", marks=pytest.mark.variation)])
def test_late_peer(nodes: Directly, late: str) -> None:
    """One end is applied long before the other; then the other is off, for long. Either may call: it soon comes up."""
    dials = {1: "both", 2: "source", 3: "target"}
    early = "b" if late == "a" else "a"

    def views() -> dict[str, list[View]]:
        pairs = [known(nodes, ipsec(nodes, number)) for number in dials]
        for pair, who in zip(pairs, dials.values(), strict=True):
            pair["a"]["dial"], pair["b"]["dial"] = who != "target", who != "source"
        return nodes.views(*pairs)

    def connected(what: str) -> None:
        began = time.monotonic()
        for number, who in dials.items():
            until(f"traffic {what}, {who} calls", lambda number=number: nodes.reaches("a", number, 1))  # type: ignore[misc]
            print(f"{late} {what}, {who} calls: {time.monotonic() - began:.1f} s")

    nodes.apply(views())
    nodes.apply({early: views()[early]}, probe=False)
    # It is told each time that nobody there knows it.
    refused = "journalctl --no-pager -o cat -u strongswan | grep -c 'received NO_PROPOSAL_CHOSEN'"
    before = int(nodes.sh(early, refused, check=False))
    until("three refusals of both", lambda: int(nodes.sh(early, refused, check=False)) >= before + 6, every=1)
    assert nodes.health({early: views()[early]})[early].statuses() == {"connecting"}
    nodes.apply({late: views()[late]}, probe=False)
    connected("applied late")

    host = nodes.lab.host(late)
    host.stop()
    # Until its silence was noticed, from when on it can be away for ten minutes as well.
    until("the end of the associations", lambda: "INSTALLED" not in nodes.sh(early, "swanctl --list-sas"), every=1)
    host.start()
    connected("off for long")


def test_down_means_dropped(nodes: Directly) -> None:
    """While the tunnel is up, only ESP in UDP is on the wire; while it is down, nothing of what was meant for it."""
    nodes.sh("b", "ip addr add 192.168.77.1/24 dev lo; ip addr add fd77::1/64 dev lo")
    views = up(nodes, ipsec(nodes, 1, ends={"a": {}, "b": {"routes": ["192.168.77.0/24", "fd77::/64"]}}))
    inside = ("10.201.1.3", "fd6d:7a00::1:3", "192.168.77.1", "fd77::1")
    nodes.sh("a", "rm -f /root/wire; systemd-run --quiet --unit=wire tcpdump -n -U -i eth0 -w /root/wire not port 22")
    try:
        until("tcpdump", lambda: nodes.sh("a", "ls /root/wire", check=False))
        for address in inside:
            nodes.sh("a", f"ping -n -c 2 -i 0.1 -W 1 {address}")
        nodes.sh("a", "systemctl stop marzban-ipsec; swanctl --terminate --ike mz1")
        nodes.sh("b", "systemctl stop marzban-ipsec; swanctl --terminate --ike mz1", check=False)
        for address in inside:
            assert nodes.lab.host("a").run(["ping", "-n", "-c", "1", "-W", "0.3", address], check=False).returncode
    finally:
        nodes.sh("a", "systemctl stop wire")
        nodes.sh("b", "ip addr del 192.168.77.1/24 dev lo; ip addr del fd77::1/64 dev lo")
    read = "tcpdump -n -r /root/wire 2>/dev/null"
    assert int(nodes.sh("a", f"{read} 'udp port 4500' | wc -l")) > 16
    others = nodes.sh("a", f"{read} 'not udp port 4500 and not arp and not icmp6'")
    assert others == "", "something but ESP in UDP"
    assert not re.search("10.201.1.|192.168.77.|fd77:|fd6d:7a00:", nodes.sh("a", f"{read} not udp port 4500"))
    assert nodes.apply(views)["a"].tunnel(1)["changes"] == ["marzban-ipsec.service started"]
