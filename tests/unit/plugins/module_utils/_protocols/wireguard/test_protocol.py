# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What WireGuard finds out about its host: whether the kernel has it, and how large packets may be."""

from __future__ import annotations

import json
import platform
import time

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node import host as node_host
from ansible_collections.marzban.tunnels.plugins.module_utils._node import net
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import base
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import Situation
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import plan as wireguard_plan
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import protocol as wireguard_protocol
from tests.support.views import conf, view

# The kernel


class Late(Host):
    """A fake wg that is late, as on a busy host."""

    names, most = "mz1 mz2\n", 0

    def __init__(self):
        super().__init__()
        self.running = set()

    def has(self, program):
        return True

    def ask(self, *argv, lenient=False, share=1.0):
        self.running.discard(argv)
        if argv[2] in ("all", "mz2"):
            raise node_host.Hangs("did not end")
        return "its own\n"

    def query(self, *argv, stdin=None, lenient=False):
        return self.names if argv[-1] == "interfaces" else "mz1\tall\n"

    def prefetch(self, *commands):
        self.running.update(commands)
        self.most = max(self.most, len(self.running))


def test_what_the_kernel_carries_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(wireguard_protocol, "SOCKETS", str(tmp_path))
    protocol = wireguard_protocol.WireGuard(Late(), None)
    assert protocol._ask() == "mz1\tall\n"
    (tmp_path / "mz1.sock").touch()
    assert protocol._ask() == "mz1\tits own\n"
    assert protocol._hangs == set()
    (tmp_path / "mz2.sock").touch()
    assert protocol._ask() == "mz1\tits own\n"
    assert protocol._hangs == {"mz2"}


def test_many_are_asked_by_few_processes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(wireguard_protocol, "SOCKETS", str(tmp_path))
    (tmp_path / "mz2.sock").touch()
    host = Late()
    host.names = " ".join(f"mz{number}" for number in range(200))
    assert wireguard_protocol.WireGuard(host, None)._ask().count("its own") == 199
    assert host.most == wireguard_protocol.AT_ONCE


MODULES = f"lib/modules/{platform.release()}"
OTHER = "kernel/drivers/net/dummy.ko.xz:\n"


@pytest.mark.parametrize(
    ("path", "text", "there"),
    [
        (None, "", False),
        ("sys/module/wireguard/refcnt", "0", True),
        ("sys/module/wireguard_old/refcnt", "0", False),
        (f"{MODULES}/modules.dep", OTHER, False),
        (
            f"{MODULES}/modules.dep",
            OTHER + "kernel/drivers/net/wireguard/wireguard.ko.xz: kernel/net/udp.ko.xz\n",
            True,
        ),
        (f"{MODULES}/modules.dep", "updates/dkms/wireguard.ko:\n", True),
        (f"{MODULES}/modules.dep", "kernel/other.ko: kernel/drivers/net/wireguard/wireguard.ko\n", False),
        (f"{MODULES}/modules.builtin", "kernel/drivers/net/wireguard/wireguard.ko\n", True),
        (f"{MODULES}.old/modules.builtin", "kernel/drivers/net/wireguard/wireguard.ko\n", False),
    ],
)
def test_whether_the_kernel_has_wireguard(tmp_path, path, text, there):
    if path:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert wireguard_protocol.kernel_has_wireguard(str(tmp_path)) is there


def test_wireguard_go_is_missing_only_where_the_kernel_has_no_wireguard(monkeypatch):
    monkeypatch.setattr(base, "TUN", "/dev/null")
    protocol = wireguard_protocol.WireGuard(Routes({}), None)
    monkeypatch.setattr(protocol.host, "has", lambda program: program != "wireguard-go")
    for there, lacks in ((True, []), (False, ["wireguard-go"])):
        monkeypatch.setattr(wireguard_protocol, "kernel_has_wireguard", lambda there=there: there)
        assert protocol.missing() == lacks
    monkeypatch.setattr(base, "TUN", "/dev/no/tun")
    assert protocol.missing() == ["wireguard-go", "tun"]
    monkeypatch.setattr(wireguard_protocol, "kernel_has_wireguard", lambda: True)
    assert protocol.missing() == []


# The size of packets


class Routes(node_host.Host):
    """A host that has these routes: ``{address: what `ip -j route get` answers}``; it counts the questions."""

    def __init__(self, routes):
        super().__init__(check=True)
        self.routes, self.asked = routes, 0

    def query(self, *argv, stdin=None, **options):
        self.asked += 1
        assert argv == net.PATHS
        asked = [line.partition("get ")[2] for line in stdin.splitlines()]
        return "\n".join(json.dumps([{"dst": to, **self.routes[to]}]) for to in asked if to in self.routes)


LINKS = {
    "eth0": {"mtu": 1500},
    "jumbo0": {"mtu": 9000},
    "lo": {"mtu": 65536},
    "ppp0": {"mtu": 1492},
    "old0": {"mtu": 576},
}


@pytest.mark.parametrize(
    ("address", "route", "mtu"),
    [
        ("203.0.113.3", {"dev": "eth0"}, 1440),
        ("203.0.113.3", {"dev": "eth0", "metrics": [{}]}, 1440),
        ("2001:db8::3", {"dev": "eth0"}, 1420),
        ("203.0.113.3", {"dev": "ppp0"}, 1432),
        ("203.0.113.3", {"dev": "eth0", "metrics": [{"rto_min": 40, "mtu": 1400}]}, 1340),
        ("2001:db8::3", {"dev": "eth0", "metrics": [{"mtu": 1400}]}, 1320),
        ("203.0.113.3", {"dev": "jumbo0"}, 8940),
        ("203.0.113.3", {"dev": "lo"}, 9140),
        ("2001:db8::3", {"dev": "lo"}, 9120),
        ("203.0.113.3", {"dev": "old0"}, 1280),
        ("203.0.113.3", {"dev": "gone0"}, 1420),
        ("203.0.113.3", {"type": "unreachable"}, 1420),
    ],
)
def test_the_mtu_fits_the_way_to_the_other_end(address, route, mtu):
    assert found_mtu(Routes({address: route}), [address]) == mtu


def test_a_name_with_several_addresses_takes_what_fits_them_all():
    host = Routes({"203.0.113.3": {"dev": "eth0"}, "2001:db8::3": {"dev": "eth0"}})
    assert found_mtu(host, ["203.0.113.3", "2001:db8::3", "2001:db8::4"]) == 1420
    assert found_mtu(host, ["203.0.113.3", "2001:db8::4"]) == 1440, "an address without a route says nothing"


@pytest.mark.parametrize("resolved", [["203.0.113.3"], [], None])
def test_without_a_route_the_mtu_stays(resolved):
    assert found_mtu(Routes({}), resolved, before=1333) == 1333
    assert found_mtu(Routes({}), resolved) == 1420


def test_a_broken_conf_says_nothing_about_what_was():
    whole = wireguard_plan.Before(conf=conf(view()).replace("MTU = 1420", "MTU = 1333")).parsed
    assert whole
    assert whole["mtu"] == 1333
    assert wireguard_plan.Before(conf="broken").parsed is wireguard_plan.Before().parsed is None


def test_the_record_has_the_last_word():
    assert found_mtu(Routes({"203.0.113.3": {"dev": "eth0"}}), ["203.0.113.3"], mtu=1300) == 1300


def test_all_addresses_are_asked_for_at_once():
    host = Routes({"203.0.113.3": {"dev": "eth0"}, "203.0.113.4": {"dev": "ppp0"}})
    addresses = ["203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.3"]
    assert net.path_mtus(host, addresses, LINKS) == {"203.0.113.3": 1500, "203.0.113.4": 1492}
    assert net.path_mtus(host, [], LINKS) == {}
    assert host.asked == 1


@pytest.mark.parametrize(
    ("own", "mtu"),
    [
        ({"dev": "eth0"}, 1500),
        ({"nexthops": [{"dev": "eth0"}]}, 1500),
        ({"dev": "eth0", "metrics": [{"mtu": 1450}]}, 1450),
        (None, 1500),  # a kernel that does not say
    ],
)
def test_what_a_router_said_a_moment_ago_does_not_count(own, mtu):
    """The kernel forgets it after ten minutes: the MTU would change to and fro, and at one end only."""
    learned = {"dev": "eth0", "metrics": [{"mtu": 1400}]}
    for address in ("203.0.113.3", "2001:db8::3"):
        host = Routes({address: {**learned, "expires": 599}, **({f"fibmatch {address}": own} if own else {})})
        assert net.path_mtus(host, [address], LINKS) == {address: mtu}
        assert host.asked == 2


def found_mtu(host, addresses, before=None, **changes):
    raw = view(**changes)
    situation = Situation(
        view=raw,
        template="",
        public=None,
        peer_public={},
        state=None,
        live={},
        routes=[],
        resolved={raw["peer"]["endpoint"]: addresses},
        mtus=net.path_mtus(host, addresses or [], LINKS),
    )
    return wireguard_protocol.WireGuard(host, None).mtu(situation, before)


# Whether a session used the pre-shared key

PUBLIC, KEY = "K" * 43 + "=", "f" * 64


@pytest.mark.parametrize(
    ("key", "applied", "handshake", "quantum"),
    [
        (KEY, {"psk_fingerprint": KEY, "psk_since": 1000}, 1001, True),
        (KEY, {"psk_fingerprint": KEY, "psk_since": 1000}, 1000, None),  # that second is in doubt: soon it isn't
        (KEY, {"psk_fingerprint": KEY, "psk_since": "1000"}, 1001, None),
        (KEY, {"psk_fingerprint": "another", "psk_since": 1000}, 1001, None),
        (KEY, {}, 1001, None),
        (None, {"psk_fingerprint": None}, 1001, False),
    ],
)
def test_a_session_stays_post_quantum_when_its_conf_is_written(tmp_path, monkeypatch, key, applied, handshake, quantum):
    monkeypatch.setattr(wireguard_protocol, "CONF_DIR", str(tmp_path))
    (tmp_path / "mz3.conf").write_text("written just now")
    given = view()
    folders = Folders(str(tmp_path / "tunnels"))
    folders.write_state(dict(new_state(given), interface="mz3", applied=applied))
    peer = {"psk": key, "handshake": handshake, "rx": 1, "tx": 1}
    live = {"now": 1100, "wg": {"mz3": {"peers": {PUBLIC: peer}}}}
    measured = wireguard_protocol.WireGuard(Host(check=True), folders).measured(given, live, {})
    assert (measured["post_quantum"], measured["handshake_age"]) == (quantum, 1100 - handshake)


def test_the_time_of_the_switch_is_written_once(tmp_path):
    given, live = view(), {"tables": {}}
    folders = Folders(str(tmp_path / "tunnels"))
    protocol = wireguard_protocol.WireGuard(Host(check=True), folders)
    protocol._used[given["uuid"]] = KEY
    before = int(time.time())
    applied = protocol.applied(given, live)
    assert before <= applied["psk_since"] <= time.time()
    applied["psk_since"] = 1000
    folders.write_state(dict(new_state(given), interface="mz3", applied=applied))
    assert protocol.applied(given, live)["psk_since"] == 1000
    protocol._used[given["uuid"]] = "another"
    assert protocol.applied(given, live)["psk_since"] >= before
    protocol._used[given["uuid"]] = None
    assert "psk_since" not in protocol.applied(given, live)
