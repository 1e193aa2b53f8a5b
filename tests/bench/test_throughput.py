# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tunnel carries, beside one that is written by hand as each project's own documentation shows it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.lab.host import Host
from tests.support.world import TYPES, World, until

pytestmark = pytest.mark.lab
TIMES = 8
SECONDS = 2
LEAST = 0.95  # ours, as a share of the other


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(a="bookworm+tunnels", b="bookworm+tunnels")
    for kind in TYPES:
        world.tunnel(kind, "a", "b", tunnel_type=kind)
    world.apply().expect()
    world.expect_traffic(*((kind, "a", "b") for kind in TYPES))
    world.lab.host("b").run(["iperf3", "--server", "--daemon"])
    return world


def throughput(host: Host, address: str) -> float:
    """Mbit/s of one TCP stream."""
    said = host.run(["iperf3", "--client", address, "--time", str(SECONDS), "--json"]).stdout
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6


def wireguard(a: Host, b: Host) -> str:
    """For wg-quick; answers b's address in it."""
    keys = {}
    for host in (a, b):
        private = host.run("wg genkey").stdout.strip()
        keys[host.name] = private, host.run("wg pubkey", input=private).stdout.strip()
    for number, (host, peer) in enumerate(((a, b), (b, a)), 1):
        text = (
            f"[Interface]\nAddress = 192.0.2.{number}/24\nListenPort = 7\nPrivateKey = {keys[host.name][0]}\n"
            f"[Peer]\nPublicKey = {keys[peer.name][1]}\nAllowedIPs = 192.0.2.0/24\nEndpoint = {peer.address}:7\n"
        )
        host.run("umask 077; cat >/etc/wireguard/own0.conf", input=text)
        host.run("systemctl start wg-quick@own0")
    return "192.0.2.2"


def openvpn(a: Host, b: Host) -> str:
    """The small set-up with fingerprints of OpenVPN's manual: b is the server, a the client."""
    seen = {}
    for host in (a, b):
        host.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -sha256 -days 3650 -subj /CN=own"
            " -keyout /etc/openvpn/own.key -out /etc/openvpn/own.crt"
        )
        said = host.run("openssl x509 -fingerprint -sha256 -noout -in /etc/openvpn/own.crt").stdout
        seen[host.name] = said.strip().partition("=")[2]
    common = "dev tun\ncert /etc/openvpn/own.crt\nkey /etc/openvpn/own.key\n"
    server = "port 8\nserver 198.18.0.0 255.255.255.0\ntopology subnet\ndh none\nkeepalive 10 60\npersist-tun\n"
    client = f"client\nremote {b.address} 8\nnobind\npersist-tun\n"
    for host, peer, text, kind in ((b, a, server, "server"), (a, b, client, "client")):
        fingerprint = f"<peer-fingerprint>\n{seen[peer.name]}\n</peer-fingerprint>\n"
        host.run(f"cat >/etc/openvpn/{kind}/own.conf", input=common + text + fingerprint)
        host.run(f"systemctl start openvpn-{kind}@own")
    return "198.18.0.1"


def ipsec(a: Host, b: Host) -> str:
    """strongSwan's site-to-site example, with the networks of two hosts instead of two sites."""
    for host, peer, here, there in ((b, a, "192.0.3.2", "192.0.3.1"), (a, b, "192.0.3.1", "192.0.3.2")):
        text = f"""
            connections {{ own {{
                remote_addrs = {peer.address}
                proposals = aes128-sha256-x25519
                local {{ auth = psk
                    id = own-{host.name} }}
                remote {{ auth = psk
                    id = own-{peer.name} }}
                children {{ own {{
                    local_ts = {here}/32
                    remote_ts = {there}/32
                    esp_proposals = aes128gcm128-x25519 }} }}
            }} }}
            secrets {{ ike-own {{ secret = "by hand" }} }}
        """
        host.run(f"ip tuntap add dev own1 mode tun && ip address add {here}/32 dev own1 && ip link set own1 up")
        host.run("umask 077; cat >/etc/swanctl/conf.d/own.conf", input=text)
        host.run("swanctl --load-all --noprompt")
    a.run("swanctl --initiate --child own")
    return "192.0.3.2"


BY_HAND = {"wireguard": wireguard, "openvpn": openvpn, "ipsec": ipsec}


@pytest.mark.parametrize("kind", TYPES)
def test_throughput_beside_a_tunnel_made_by_hand(world: World, kind: str) -> None:
    a, b = world.lab.host("a"), world.lab.host("b")
    places = {"by hand": BY_HAND[kind](a, b), "ours": world.addresses(kind, "b")[0], "no tunnel": b.address}
    until(
        "the one by hand works", lambda: a.run(["ping", "-c1", "-W1", places["by hand"]], check=False).returncode == 0
    )
    best = dict.fromkeys(places, 0.0)
    for _time in range(TIMES):  # in turns, so that a disturbance hits all of them
        for name, address in places.items():
            best[name] = max(best[name], throughput(a, address))
    ratio = best["ours"] / best["by hand"]
    said = ", ".join(f"{name} {value:.0f} Mbit/s" for name, value in best.items())
    print(f"\n  {kind}: {said}, ratio {ratio:.2f}")
    assert ratio >= LEAST
