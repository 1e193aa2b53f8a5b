# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Prometheus reads a panel and its nodes, with the collection's rules. Each alert fires when the thing is really
broken, and ends when it is put right.

The rules are the collection's, in more of a hurry (``HURRY``): what fires after minutes there fires after seconds here.
Their own times are tried in tests/panel/test_panel_monitoring.py.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.front import free_port
from tests.support.marzban import TOP
from tests.support.prometheus import promtool, tool
from tests.support.service_hosts import MANAGED, PORT, nodes, with_service
from tests.support.world import World, until

pytestmark = [pytest.mark.lab, pytest.mark.variation]
METRICS_KEY = secrets.token_hex(32)
TYPES = ("wireguard", "openvpn", "ipsec")
HURRY = (
    (r"for: \w+", "for: 2s"),
    (r"\[5m\]", "[15s]"),  # loss
    (r"kind\) \(increase\((\w+)\[30m\]\)\) > 3", r"kind) (increase(\1[1m])) > 1"),
    (r"\[30m\]\) > 6", "[2m]) > 3"),  # a tunnel that comes and goes
)
NARROW = (
    "nft add table inet narrow; nft 'add chain inet narrow in { type filter hook input priority 0; }';"
    " nft add rule inet narrow in meta l4proto udp meta length '>' 1400 drop"
)
CLOSE = (
    "nft add table inet closed; nft 'add chain inet closed in { type filter hook input priority 0; }';"
    " nft add rule inet closed in udp dport PORT drop; nft add rule inet closed in udp sport PEER drop"
)
OPEN = "nft delete table inet closed"
ACTIVE = 'marzban_tunnel_state{name="ab-wireguard",state="active"} == 1'
SHORT = "sed -i 's/^LIFE = 730/LIFE = 10/' %s; systemctl restart marzban-node-root"
CERTIFICATE = (
    "/usr/local/lib/marzban-node/ansible_collections/marzban/tunnels/plugins/module_utils/_protocols/openvpn/"
    "certificate.py"
)


class Prometheus:
    """The server of Debian's package, that reads the panel and the nodes once a second."""

    def __init__(self, folder: Path, world: World) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        (folder / "key").write_text(METRICS_KEY)
        own = [(host.root / "etc/marzban/node_service/tls.crt").read_text() for host in world.lab.hosts.values()]
        (folder / "nodes.pem").write_text("".join(own))
        rules = (TOP / "extensions/monitoring/rules.yml").read_text()
        for pattern, replacement in HURRY:
            rules, times = re.subn(pattern, replacement, rules)
            assert times, pattern
        (folder / "rules.yml").write_text(rules)
        key = {"authorization": {"credentials_file": str(folder / "key")}, "scheme": "https"}
        panel = {"ca_file": world.panel.ca_path}
        # as docs/monitoring.md has it: the nodes have signed themselves, under a name that all of them have
        node = {"ca_file": str(folder / "nodes.pem"), "server_name": "marzban-node"}
        addresses = [f"{host.address}:{PORT}" for host in world.lab.hosts.values()]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [
                {
                    "job_name": "marzban-panel",
                    "metrics_path": "/api/tunnels/metrics",
                    "tls_config": panel,
                    "static_configs": [{"targets": [world.panel.url.removeprefix("https://")]}],
                    **key,
                },
                {
                    "job_name": "marzban-nodes",
                    "tls_config": node,
                    "static_configs": [{"targets": addresses}],
                    **key,
                },
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        promtool("check", "config", str(folder / "prometheus.yml"))
        self.log = folder / "prometheus.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--log.level=warn"),
                    *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.url[7:]}"),
                ],
                stdout=log,
                stderr=log,
            )
        until("Prometheus answers", self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            self.get("query?query=up")
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/{path}", timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that fire now, ``alertname`` among them."""
        return [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]

    def named(self, alert: str, **labels: str) -> list[dict[str, str]]:
        return [found for found in self.firing() if found["alertname"] == alert and labels.items() <= found.items()]

    def holds(self, query: str) -> bool:
        """Whether the query has a result."""
        return bool(self.get(f"query?{urllib.parse.urlencode({'query': query})}")["result"])

    def down(self) -> set[str]:
        """The targets that can't be read."""
        targets = self.get("targets?state=active")["activeTargets"]
        return {f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["health"] != "up"}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Watched:
    """The world and the Prometheus that looks at it."""

    def __init__(self, world: World, prometheus: Prometheus) -> None:
        self.world, self.prometheus = world, prometheus

    def is_well(self) -> bool:
        return not self.prometheus.down() and not self.prometheus.firing()

    def all_well(self) -> None:
        until("nothing fires", self.is_well, 180, 1.0)

    def fires_and_ends(
        self, alert: str, repair: Callable[[], object], fine: str, seconds: float = 120, /, **labels: str
    ) -> list[dict[str, str]]:
        """Waits until it fires; answers all that fired at that moment. Then it is repaired, and everything ends.

        ``fine``: a query that has a result only while the series are there and say that all is well: an alert also ends
        where nothing is read any more."""
        begun = time.monotonic()
        try:
            until(f"{alert} fires", lambda: self.prometheus.named(alert, **labels), seconds, 1.0)
            fired = self.prometheus.firing()
            took = time.monotonic() - begun
        finally:
            repair()
        begun = time.monotonic()
        until(
            f"{alert} ends, and {fine}",
            lambda: not self.prometheus.named(alert) and self.prometheus.holds(fine),
            *(seconds + 120, 1.0),
        )
        print(f"{alert}: fired after {took:.0f} s, ended {time.monotonic() - begun:.0f} s after it was put right")
        return fired


def closed(world: World) -> str:
    """What lets nothing of the tunnel ab-wireguard in, on b."""
    a, b = world.tunnels()["ab-wireguard"]["ends"]
    return CLOSE.replace("PORT", str(b["port"])).replace("PEER", str(a["port"]))


@pytest.fixture(scope="module")
def watched(make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    env = {**MANAGED, "TUNNEL_METRICS_KEY": METRICS_KEY}
    world = with_service(make_world(login=False, env=env, a="bookworm+tunnels", b="trixie+tunnels"))
    for kind in TYPES:  # what narrows the way is only told, not repaired, where the record has an MTU
        config = {"mtu": 1420} if kind == "wireguard" else {}
        world.tunnel(f"ab-{kind}", "a", "b", config, tunnel_type=kind)
    until("all are active", lambda: {record["status"] for record in world.tunnels().values()} == {"active"})
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), world)
    watched = Watched(world, prometheus)
    try:
        watched.all_well()
        yield watched
    finally:
        prometheus.stop()


@pytest.fixture(autouse=True)
def well(watched: Watched) -> None:
    watched.all_well()


def test_a_tunnel_that_is_down(watched: Watched) -> None:
    """One of three, by a firewall: the other two work, so the nodes are not apart."""
    world = watched.world
    b = world.lab.host("b")
    b.run(closed(world))
    repair = partial(b.run, OPEN)
    fired = watched.fires_and_ends("MarzbanTunnelDown", repair, ACTIVE, name="ab-wireguard", source="a", target="b")
    assert {(alert["alertname"], alert.get("name")) for alert in fired} == {("MarzbanTunnelDown", "ab-wireguard")}


def test_a_node_that_is_cut_off(watched: Watched) -> None:
    """No tunnel works to it, the panel does not hear of it, and Prometheus does not either."""
    b = watched.world.lab.host("b")
    alerts = ("MarzbanNodesApart", "MarzbanNodeSilent", "MarzbanTargetDown", "MarzbanTunnelDown")
    b.cut()
    try:
        for alert in alerts:
            until(f"{alert} fires", partial(watched.prometheus.named, alert), 120, 1.0)
        assert watched.prometheus.named("MarzbanNodesApart", source="a", target="b")
        (silent,) = watched.prometheus.named("MarzbanNodeSilent")
        assert silent["node"] == "b"
        (target,) = watched.prometheus.named("MarzbanTargetDown")
        assert target["instance"] == f"{b.address}:{PORT}"
        assert {found["name"] for found in watched.prometheus.named("MarzbanTunnelDown")} == {
            f"ab-{kind}" for kind in TYPES
        }
    finally:
        b.repair()
    watched.all_well()


def test_loss(watched: Watched) -> None:
    b = watched.world.lab.host("b")
    b.lose(30)
    fine = "max(avg_over_time(marzban_tunnel_loss_ratio[15s])) < 0.05"
    watched.fires_and_ends("MarzbanTunnelLoss", partial(b.lose, 0), fine)


def test_a_path_that_takes_smaller_packets_than_before(watched: Watched) -> None:
    b = watched.world.lab.host("b")
    b.run(NARROW)
    repair = partial(b.run, "nft delete table inet narrow")
    fine = 'min(marzban_tunnel_mtu_bytes{name="ab-wireguard"}) == 1420'
    watched.fires_and_ends("MarzbanTunnelPathNarrower", repair, fine, name="ab-wireguard")


def test_a_certificate_that_ends_soon(watched: Watched) -> None:
    """Made by an engine that gives it ten days only; a run renews it."""
    world = watched.world
    hosts = [world.lab.host(name) for name in "ab"]
    for host in hosts:
        host.run(SHORT % CERTIFICATE)
    until("both answer again", lambda: {node["state"] for node in nodes(world).values()} == {"ok"})
    record = world.tunnel("short-openvpn", "a", "b", tunnel_type="openvpn")

    def repair() -> None:
        for host in hosts:
            host.run(f"sed -i 's/^LIFE = 10/LIFE = 730/' {CERTIFICATE}; systemctl restart marzban-node-root")
        until("both answer again", lambda: {node["state"] for node in nodes(world).values()} == {"ok"})
        for _time in range(2):  # that engine has made the next one as well, which is used first
            world.apply().expect()

    fine = "min(marzban_tunnel_certificate_remaining_seconds) > 700 * 86400"
    watched.fires_and_ends("MarzbanTunnelCertificateEnds", repair, fine, name="short-openvpn")
    world.api("DELETE", f"/tunnels/{record['id']}")


def test_recoveries_that_do_not_last(watched: Watched) -> None:
    """Something on the node takes the interface away again and again."""
    world = watched.world
    record = world.tunnels()["ab-wireguard"]
    interface = record["ends"][0]["interface"]
    taking = f"while true; do ip link delete {interface} 2>/dev/null; sleep 4; done"
    a = world.lab.host("a")
    a.run(f"systemd-run --quiet --unit=taking sh -c '{taking}'")
    fired = watched.fires_and_ends(
        "MarzbanTunnelRecoversOften", partial(a.run, "systemctl stop taking"), ACTIVE, name="ab-wireguard"
    )
    (often,) = [alert for alert in fired if alert["alertname"] == "MarzbanTunnelRecoversOften"]
    assert often["role"] == "source"


def test_a_tunnel_that_comes_and_goes(watched: Watched) -> None:
    world = watched.world
    b = world.lab.host("b")

    def is_active(wanted: bool) -> bool:
        return (world.tunnels()["ab-wireguard"]["status"] == "active") == wanted

    for _time in range(2):
        b.run(closed(world))
        until("it is down", partial(is_active, False), 60)
        b.run(OPEN)
        until("it is up", partial(is_active, True), 60)
    watched.fires_and_ends("MarzbanTunnelFlaps", lambda: None, ACTIVE, name="ab-wireguard")


def test_a_panel_whose_manager_is_off(watched: Watched) -> None:
    panel = watched.world.panel

    def restart(key: str) -> None:
        panel._env["NODE_API_KEY"] = key
        panel.restart()

    restart("")
    both = 'count(marzban_tunnel_node_state{state="ok"} == 1) == 2'
    fine = f'marzban_tunnel_manager_state{{state="on"}} == 1 and on () {both}'
    watched.fires_and_ends("MarzbanManagerOff", partial(restart, MANAGED["NODE_API_KEY"]), fine)


def test_the_metrics_of_real_tunnels(watched: Watched) -> None:
    """What Prometheus has of them, from the panel and from the nodes: nearly the same, in base units."""
    for name in ("round_trip_seconds", "handshake_age_seconds", "receive_bytes_total", "loss_ratio"):
        found = watched.prometheus.get(f"query?query=marzban_tunnel_{name}")["result"]
        jobs = {(sample["metric"]["job"], sample["metric"]["name"], sample["metric"]["role"]) for sample in found}
        expected = {
            (job, f"ab-{kind}", role)
            for job in ("marzban-panel", "marzban-nodes")
            for kind in TYPES
            for role in ("source", "target")
        }
        assert jobs == expected, name
    rtt = watched.prometheus.get("query?query=marzban_tunnel_round_trip_seconds")["result"]
    assert all(0 < float(sample["value"][1]) < 1 for sample in rtt)
    ends = watched.prometheus.get("query?query=marzban_tunnel_certificate_remaining_seconds")["result"]
    assert {sample["metric"]["type"] for sample in ends} == {"openvpn"}
    assert all(700 < float(sample["value"][1]) / 86400 < 731 for sample in ends)
    log = watched.world.panel.log_path.read_text() + watched.prometheus.log.read_text()
    assert METRICS_KEY not in log
