# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ends of OpenVPN tunnels agree on, how they find each other, what is refused, how certificates are renewed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_ipsec_hosts import known, up
from tests.integration.test_openvpn_hosts import CONFIG, FIRST, openvpn, process
from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import PANEL, Directly, View, rendered, uuid
from tests.support.world import Pings, until

pytestmark = pytest.mark.lab
CLASSIC = ("X25519", False)
HYBRID = ("X25519MLKEM768", True)
CLOSED = """table inet closed {
  chain in {
    type filter hook input priority 0;
    ct state established accept
    udp dport 20002 drop
  }
}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """OpenVPN 2.6 with OpenSSL 3.0 and with 3.5, and 2.7."""
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "c": "forky+tunnels"}
    with Lab.up(labs.named("openvpn-choices"), hosts) as lab:
        yield lab


def agreed(answer: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(tunnel["measured"]["key_exchange"], tunnel["measured"]["post_quantum"]) for tunnel in answer["tunnels"]]


@pytest.mark.variation
def test_releases_and_post_quantum(nodes: Directly) -> None:
    """Each pair of releases, each release at both roles; what was negotiated is told by both ends."""
    pairs = [
        *(openvpn(nodes, 1, "a", "b"), openvpn(nodes, 2, "a", "c"), openvpn(nodes, 3, "c", "a", transport="tcp")),
        *(openvpn(nodes, 4, "b", "c"), openvpn(nodes, 5, "c", "b", transport="tcp")),
        *(openvpn(nodes, 6, "b", "c", post_quantum="require"), openvpn(nodes, 7, "c", "b", post_quantum="off")),
    ]
    views = up(nodes, *pairs)
    answers = nodes.health(views)
    assert agreed(answers["a"]) == [CLASSIC] * 3
    assert agreed(answers["b"]) == [CLASSIC, HYBRID, HYBRID, HYBRID, CLASSIC]
    assert agreed(answers["c"]) == [CLASSIC, CLASSIC, HYBRID, HYBRID, HYBRID, CLASSIC]
    assert {tunnel["measured"]["cipher"] for answer in answers.values() for tunnel in answer["tunnels"]} == {
        "AES-256-GCM"
    }
    for host, number in (("a", 2), ("b", 4), ("c", 5)):
        assert nodes.reaches(host, number, 1)

    # A handshake later the same is told, and no process was restarted.
    running = process(nodes, "b", 4)
    handshakes = "journalctl --no-pager -o cat -u openvpn-server@mz4 | grep -c 'Control Channel'"
    nodes.sh("b", "sed -i '$areneg-sec 5' /etc/openvpn/server/mz4.conf; systemctl restart openvpn-server@mz4")
    began = int(nodes.sh("b", handshakes))
    until("new handshakes", lambda: int(nodes.sh("b", handshakes)) >= began + 3)
    assert agreed(nodes.health(views)["b"])[1] == HYBRID
    assert nodes.apply(views)["b"].tunnel(4)["changes"] == ["conf changed", "restarted"]
    assert process(nodes, "b", 4) != running


@pytest.mark.variation
def test_require_is_kept(nodes: Directly) -> None:
    """Where it can't be had it is refused by name; a peer that has something else is not let in."""
    refused = nodes.apply({"a": [openvpn(nodes, 1, post_quantum="require")["a"]]})["a"].tunnel(1)["error"]
    assert "post_quantum: 'require' can't be used. OpenVPN of this host has OpenSSL 3.0" in refused
    pair = openvpn(nodes, 2, "b", "c")
    nodes.apply(nodes.views(pair))
    pair = known(nodes, pair)
    pair["b"]["post_quantum"], pair["c"]["post_quantum"] = "require", "off"
    nodes.apply(nodes.views(pair))
    failed = "journalctl --no-pager -o cat -u openvpn-server@mz2 | grep -ci 'tls.*error'"
    until("a refusal", lambda: int(nodes.sh("b", failed, check=False)) >= 2)
    for answer in nodes.health(nodes.views(pair)).values():
        assert answer.statuses() == {"connecting"}
        assert answer.tunnel(2)["measured"]["handshake_age"] is None


@pytest.mark.variation
def test_ways_to_the_peer(nodes: Directly) -> None:
    """IPv6, a name, two families; each by UDP and TCP; and with a firewall that lets nobody call."""
    a, b = nodes.lab.host("a"), nodes.lab.host("b")
    nodes.sh("a", f"echo '{b.address} b.lab\n{b.address6} b.lab' >> /etc/hosts")
    both6 = {"a": {"endpoint": a.address6}, "b": {"endpoint": b.address6}}
    name, families = {"a": {}, "b": {"endpoint": "b.lab"}}, {"a": {}, "b": {"endpoint": b.address6}}
    pairs = [
        openvpn(nodes, 2 * number + place, ends=ends, transport=transport)
        for number, ends in enumerate((both6, name, families), 1)
        for place, transport in enumerate(("udp", "tcp"))
    ]
    views = up(nodes, *pairs)
    mtus = [int(re.findall(r" mtu (\d+)", nodes.sh("a", f"ip link show mz{number}"))[0]) for number in (2, 3, 4)]
    assert mtus == [1424, 1398, 1424]

    # The end that may not be called calls.
    for host in ("a", "b"):
        nodes.lab.host(host).run("nft -f -", input=CLOSED)
        try:
            nodes.sh("a", "systemctl stop openvpn-server@mz2")
            nodes.sh("b", "systemctl stop openvpn-server@mz2")
            nodes.apply(views, probe=False)
            until(f"traffic past the firewall of {host}", lambda: nodes.reaches("a", 2, 1))
        finally:
            nodes.sh(host, "nft delete table inet closed")


@pytest.mark.variation
def test_a_host_without_ipv6(nodes: Directly) -> None:
    off = "net.ipv6.conf.default.disable_ipv6"
    nodes.sh("a", f"sysctl -qw {off}=1")
    try:
        pairs = [openvpn(nodes, 1), openvpn(nodes, 2, "b", "a", transport="tcp")]
        views = up(nodes, *pairs)
        for number in (1, 2):
            assert "fd6d" not in nodes.sh("a", f"ip addr show mz{number}")
        assert not nodes.apply(views)["a"]["changed"]
    finally:
        nodes.sh("a", f"sysctl -qw {off}=0")


@pytest.mark.variation
def test_large_packets_pass(nodes: Directly) -> None:
    """The MTU that was found is the largest that passes in one piece, and one of the operator's may be larger."""
    up(
        nodes,
        openvpn(nodes, 1, "b", "c"),
        openvpn(nodes, 2, "b", "c", transport="tcp"),
        openvpn(nodes, 3, "b", "c", mtu=4000),
    )
    for number, mtu in ((1, 1444), (2, 1418), (3, 4000)):
        assert f" mtu {mtu} " in nodes.sh("b", f"ip link show mz{number}")
        nodes.sh("b", f"ping -n -c 2 -i 0.1 -W 1 -M do -s {mtu - 28} 10.201.{number}.3")


def test_what_is_refused(nodes: Directly) -> None:
    views = up(nodes, openvpn(nodes, 1))
    taker = "import signal, socket; s = socket.socket(type=2); s.bind((chr(0)[1:], 20002)); signal.pause()"
    nodes.sh("a", f"systemd-run --quiet --unit=taker python3 -c '{taker}'")
    try:
        pair = openvpn(nodes, 2)
        nodes.apply(nodes.views(pair))
        pair = known(nodes, pair)
        until("the port taken", lambda: ":20002 " in nodes.sh("a", "ss -lun"))
        answer = nodes.apply({"a": [*views["a"], pair["a"]]})["a"]
        assert (
            "local.port: 20002 can't be used. Another program on this host listens there" in answer.tunnel(2)["error"]
        )
        assert answer.tunnel(1)["status"] == "active"
        assert not nodes.sh("a", "ls /etc/openvpn/server | grep mz2", check=False)
    finally:
        nodes.sh("a", "systemctl stop taker")
    nameless = known(nodes, openvpn(nodes, 1, ends={"a": {}, "b": {"endpoint": "nobody.invalid"}}))["a"]
    assert "This host can't resolve the name" in nodes.apply({"a": [nameless]})["a"].tunnel(1)["error"]
    hidden = nodes.run_on("a", "tunnel_apply", [openvpn(nodes, 3)["a"]], config_dir="/root/tunnels").answer
    assert "systemd hides this place from OpenVPN" in str(hidden)
    for cut, said in (("tls-crypt", "The template has no tls-crypt"), ("<peer-fingerprint>", "lets in no certificate")):
        text = "\n".join(line for line in rendered(views["a"][0])["text"].splitlines() if not line.startswith(cut))
        done = nodes.run_on("a", "tunnel_apply", views["a"], rendered=[{"text": text}])
        assert said in str(done.answer)
    assert not nodes.apply(views)["a"]["changed"]


@pytest.mark.variation
def test_new_keys_of_one_end(nodes: Directly) -> None:
    """Until the other end has had its run the tunnel is down, and then it is up again."""
    up(nodes, openvpn(nodes, 1))
    before = nodes.publics[uuid(1), "a"]
    place = {"panel": PANEL, "uuid": uuid(1), "type": "openvpn", "regenerate": "always"}
    made = nodes.module("tunnel_keys", "a", place)["a"]
    assert made["changed"]
    assert made["public"].keys() == before.keys()
    assert not set(made["public"].values()) & set(before.values())
    assert made["fingerprint"].endswith(f", certificate {made['public']['fingerprint']}")
    nodes.publics[uuid(1), "a"] = made["public"]
    views = nodes.views(known(nodes, openvpn(nodes, 1)))
    answers = nodes.apply(views)
    assert answers["a"].tunnel(1)["changes"] == ["wrap key derived", "restarted"]
    assert answers["b"].tunnel(1)["changes"] == ["conf changed", "wrap key derived", "restarted"]
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    assert nodes.sh("a", f"ls {CONFIG}/{uuid(1)}").split() == sorted(
        ["link.ip", "private.key", "rules.nft", "state.json", "tls.pem", "wrap.key"]
    )


def gaps(pings: Pings) -> list[float]:
    """Seconds for which pings stayed without an answer, one entry for each outage of more than a moment."""
    answered = sorted(pings.answered())
    return [(after - before) * pings.interval for before, after in itertools.pairwise(answered) if after - before > 20]


def shorten(nodes: Directly, host: str, number: int, days: float) -> None:
    """Puts a certificate there that ends in so many days."""
    folder = f"{CONFIG}/{uuid(number)}"
    code = (
        f"import sys; sys.path.insert(0, '{nodes.PLACE}')\n"
        "from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import certificate\n"
        f"certificate.make('{folder}', life={days})"
    )
    nodes.lab.host(host).run(["python3", "-c", code])


@pytest.mark.parametrize("days", [100, pytest.param(-1, marks=pytest.mark.variation)])
def test_certificates_are_renewed(nodes: Directly, days: int) -> None:
    """By both ends in the same runs, with one outage for each round in which they restart; also one that has ended."""

    def views() -> dict[str, list[View]]:
        return nodes.views(known(nodes, openvpn(nodes, 1)))

    def changes() -> dict[str, list[str]]:
        said = nodes.apply(views(), probe=False)
        return {host: said[host].tunnel(1)["changes"] for host in "ab"}

    nodes.apply(views())
    for host in "ab":
        shorten(nodes, host, 1, days + 0.1)
    nodes.publics.clear()
    nodes.apply(views())  # each end reports what it has now
    assert changes() == {host: ["next certificate made", *FIRST] for host in "ab"}
    before = {host: nodes.publics[uuid(1), host] for host in "ab"}
    until("traffic", lambda: nodes.reaches("a", 1, 1))
    assert nodes.health(views())["a"].tunnel(1)["measured"]["certificate_days"] == days

    def starts() -> dict[str, int]:
        count = "journalctl --no-pager -o cat -u openvpn-server@mz1 | grep -c '^Started '"
        return {host: int(nodes.sh(host, count)) for host in "ab"}

    earlier = starts()
    pings = Pings(nodes.lab.host("a"), "10.201.1.3", 0.01).start()
    try:
        rounds = [changes()]
        while any(rounds[-1].values()) and len(rounds) < 6:
            until("traffic", lambda: nodes.reaches("a", 1, 1))
            rounds.append(changes())
        pings.stop()
    finally:
        nodes.sh("a", "systemctl stop 'pings-*'", check=False)
    print(rounds, [f"{gap:.2f} s" for gap in gaps(pings)])
    assert rounds[-1] == {"a": [], "b": []}
    restarts = {host: sum("restarted" in item[host] for item in rounds) for host in "ab"}
    assert restarts == {host: starts()[host] - earlier[host] for host in "ab"} == {"a": 2, "b": 2}
    assert len(gaps(pings)) <= 2
    for host in "ab":
        done = [change for item in rounds for change in item[host]]
        assert done.count("certificate switched") == 1
        now = nodes.publics[uuid(1), host]
        assert now["public_key"] == before[host]["public_key"]
        assert set(now) == {"public_key", "fingerprint"}
        assert now["fingerprint"] == before[host]["next_fingerprint"] != before[host]["fingerprint"]
        assert nodes.health(views())[host].tunnel(1)["measured"]["certificate_days"] == 729
