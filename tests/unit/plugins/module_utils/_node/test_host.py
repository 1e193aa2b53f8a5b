# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read from the host, what a probe means, which routes are refused, and the files."""

from __future__ import annotations

import base64
import os
import stat
import time

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._node import files, net, ping
from ansible_collections.marzban.tunnels.plugins.module_utils._node import host as node_host
from ansible_collections.marzban.tunnels.plugins.module_utils._node import state as node_state
from ansible_collections.marzban.tunnels.plugins.module_utils._node import units as node_units
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import x25519
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard.protocol import WireGuard
from tests.support.views import PANEL, UUID, view


class Told(node_host.Host):
    """A host whose commands say what the test tells them."""

    def __init__(self, **outputs):
        super().__init__(check=True)
        self.outputs = outputs

    def query(self, *argv, **options):
        return self.outputs.get(argv[0])

    query_or_fail = query


# Commands


def test_commands_tell_what_failed_but_no_secret():
    host = node_host.Host()
    assert host.run("cat", stdin="x") == "x"
    with pytest.raises(node_host.CommandError, match="ended with 3: said"):
        host.run("sh", "-c", "echo said >&2; exit 3")
    with pytest.raises(node_host.CommandError) as caught:
        host.run("sh", "-c", "cat >&2; exit 3", stdin="hidden", secret=True)
    assert "hidden" not in str(caught.value)
    with pytest.raises(node_host.CommandError, match="did not end"):
        host.run("sleep", "5", timeout=0.1)
    with pytest.raises(node_host.CommandError, match="can't be run"):
        host.run("no-such-program")
    assert host.query("no-such-program") is None
    assert host.query_or_fail("no-such-program") is None
    assert host.query("false") is None
    with pytest.raises(node_host.CommandError):
        host.query_or_fail("false")
    with pytest.raises(AssertionError):
        node_host.Host(check=True).run("true")


def test_queries_that_run_at_the_same_time():
    host = node_host.Host()
    command = ("sh", "-c", "cat; echo $$")
    host.prefetch(command, ("no-such-program",), ("false",))
    first, second = host.query(*command), host.query(*command)
    assert first
    assert first != second, "an answer is good for one query"
    with pytest.raises(node_host.CommandError):
        host.query_or_fail("false")
    assert host.query("sh", "-c", "echo said; exit 3", lenient=True) == "said\n"


def test_a_change_makes_prefetched_answers_outdated(tmp_path):
    host, command = node_host.Host(), ("cat", str(tmp_path / "f"))
    (tmp_path / "f").write_text("before")
    host.prefetch(command)
    host.run("sh", "-c", "printf after > %s" % (tmp_path / "f"))
    assert host.query(*command) == "after"
    host.prefetch(("sleep", "60"))
    host.drop_prefetched()


# Queries


def test_interfaces():
    told = Told(
        ip='[{},{"ifname":"mz3","flags":["UP"],"mtu":1420,"addr_info":['
        '{"local":"10.201.0.2","prefixlen":31,"scope":"global"},'
        '{"local":"fe80::1","prefixlen":64,"scope":"link"}]}]'
    )
    assert net.links(told) == {"mz3": {"up": True, "mtu": 1420, "ipv6": True, "addresses": ["10.201.0.2/31"]}}
    assert net.links(Told()) == {}
    with pytest.raises(Error, match="iproute2"):
        net.links(Told(ip="1: lo: <LOOPBACK>"))


def test_routes():
    told = Told(ip='[{"dst":"default","dev":"eth0"},{"dst":"10.0.0.1","dev":"eth0","protocol":"kernel"},{"type":"x"}]')
    assert ("0.0.0.0/0", "eth0", False) in net.routes(told)
    assert ("10.0.0.1/32", "eth0", True) in net.routes(told)


def test_units():
    told = Told(
        systemctl="Id=wg-quick@mz3.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
        "ActiveEnterTimestampMonotonic=5000000\n\nId=wg-quick@mz4.service\nActiveState=inactive\nUnitFileState=disabled\n"
        "ActiveEnterTimestampMonotonic=0\n"
    )
    units = node_units.states(told, ["wg-quick@mz3.service", "wg-quick@mz4.service"])
    assert units["wg-quick@mz3.service"] == {"load": "loaded", "active": "active", "enabled": True, "since": 5.0}
    assert units["wg-quick@mz4.service"]["since"] is None
    assert not units["wg-quick@mz4.service"]["enabled"]


def test_ports_and_sessions():
    told = Told(ss="udp UNCONN 0 0 0.0.0.0:20003 0.0.0.0:*\ntcp LISTEN 0 0 [::]:53 [::]:*\n")
    assert net.listening(told) == {("udp", 20003), ("tcp", 53)}
    told = Told(
        ss="0 0 192.0.2.1:22 198.51.100.7:5000\n0 0 [::ffff:192.0.2.1]:22 [::ffff:198.51.100.8]:5001\n"
        "0 0 192.0.2.1:443 198.51.100.9:1\n0 0 127.0.0.1:22 127.0.0.1:2\n"
    )
    found = net.Controllers().sessions(told)
    assert {net.Session(f"198.51.100.{last}", "192.0.2.1", False) for last in (7, 8)} <= set(found)
    assert not {"198.51.100.9", "127.0.0.1", None} & {session.address for session in found}


def test_the_session_is_found_in_an_ancestor(monkeypatch):
    pid = os.fork()
    if not pid:  # a child whose own environment says nothing
        os.execvpe(
            "sh",
            ["sh", "-c", "sleep 30"],
            {"SSH_CONNECTION": "198.51.100.7 5000 192.0.2.1 2222", "PATH": "/bin:/usr/bin"},
        )
    try:
        monkeypatch.setattr(net, "_ancestors", lambda: iter([pid]))
        while not net._ssh_connection(pid):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        said = "0 0 192.0.2.1:2222 203.0.113.4:1\n0 0 192.0.2.1:2222 198.51.100.7:5000\n"
        assert net.Controllers().sessions(Told(ss=said)) == [
            net.Session("198.51.100.7", "192.0.2.1", True),
            net.Session("203.0.113.4", "192.0.2.1", False),
        ]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# Probes


def test_what_hangs_is_waited_for_once():
    """All that was asked at the same time has the same time."""
    host, argv = node_host.Host(patience=0.6), [("sleep", "60"), ("sleep", "61")]
    host.prefetch(*argv)
    begun = time.monotonic()
    for command in argv:
        with pytest.raises(node_host.Hangs):
            host.ask(*command)
    assert time.monotonic() - begun < 1.8, "0.6, and 0.5 to read what was said"
    assert host.ask("echo", "x") == "x\n"
    assert host.ask("false") is None


def test_pings_of_this_machine():
    targets = {
        "here": ("lo", "127.0.0.1"),
        "address": ("127.0.0.1", "127.0.0.1"),
        "no such interface": ("no-such0", "127.0.0.1"),
        "no such address": ("203.0.113.77", "127.0.0.1"),
    }
    found, narrow, passed = ping.ping_all(targets, {"here": 1500, "address": 1280, "no such interface": 1500})
    assert (narrow, passed) == ({}, {"here": 1500, "address": 1280})
    for name in ("here", "address"):
        assert found[name]["loss_percent"] == 0
        assert 0 <= found[name]["rtt_ms"] < 1000
    for name in ("no such interface", "no such address"):
        assert found[name] == ping.UNKNOWN


def test_the_largest_packet_that_passes_is_found():
    """The largest packet of IP has 65,535 bytes."""
    found, narrow, passed = ping.ping_all(
        {"wide": ("lo", "127.0.0.1"), "narrow": ("lo", "127.0.0.1")}, {"wide": 9000, "narrow": 66000}
    )
    assert {name: answer["loss_percent"] for name, answer in found.items()} == {"wide": 0, "narrow": 0}
    assert list(narrow) == ["narrow"]
    size, passes = narrow["narrow"]
    assert size == 66000
    assert 65535 - ping.CLOSE_ENOUGH <= (passes or 0) <= 65535
    assert passed == {"wide": 9000, "narrow": passes}
    here = dict.fromkeys((65535, 65536), ("lo", "127.0.0.1"))
    assert ping.takes(here, {size: size for size in here}, 0.3) == {65535}


@pytest.mark.parametrize(
    ("passes", "fails", "sizes"),
    [
        (None, 1280, ()),
        (None, 1281, (1280,)),
        (None, 1284, (1280, 1281, 1282, 1283)),
        (None, 1440, tuple(range(1280, 1440, 18))),
        (1400, 1404, ()),
        (1400, 1418, tuple(range(1402, 1418, 2))),
    ],
)
def test_which_sizes_are_tried(passes, fails, sizes):
    assert ping.between(passes, fails) == sizes
    assert len(sizes) <= ping.SIZES + 1


@pytest.mark.parametrize(
    ("passed", "rtt", "narrow"), [(set(), 0.1, True), ({1440}, 0.1, False), (set(), 0.6, False)], ids=str
)
def test_a_large_ping_has_the_time_that_small_ones_take(passed, rtt, narrow):
    probe = Answers(3, dict.fromkeys(range(3), rtt))
    probe.sizes, probe.passed, probe.seconds = (1440,), passed, 1.0
    assert probe.is_narrow is narrow
    assert probe.complete is (len(passed) > 0), "where all is well nothing more is waited for"
    probe.rtts = {0: rtt}
    assert not probe.is_narrow, "small ones are lost as well"


class Answers(ping.Probe):
    """Pings of which some were answered: ``{number: seconds}``."""

    def __init__(self, sent, rtts):
        self.sent, self.rtts = dict.fromkeys(range(sent), 0.0), rtts


@pytest.mark.parametrize(
    ("sent", "rtts", "rtt", "loss"),
    [
        (3, {0: 0.001, 1: 0.002, 2: 0.003}, 2.0, 0.0),
        (3, {0: 0.001}, 1.0, 66.7),
        (12, {}, None, 100.0),
        # The first ones were lost, and others went out before three had come back.
        (6, {1: 0.2, 2: 0.2, 3: 0.2}, 200.0, 25.0),
        # A long way: what is still under way when three have come back is not lost.
        (7, {0: 0.3, 1: 0.3, 2: 0.3}, 300.0, 0.0),
        (0, {}, None, None),
    ],
)
def test_what_is_lost(sent, rtts, rtt, loss):
    assert Answers(sent, rtts).answer() == {"rtt_ms": rtt, "loss_percent": loss}


@pytest.mark.parametrize(
    ("sent", "rtts", "late"),
    [
        (3, {0: 0.001, 1: 0.002, 2: 0.003}, False),
        (6, {3: 0.001, 4: 0.001, 5: 0.001}, True),  # it came up after the third one
        (6, {1: 0.001, 3: 0.001, 5: 0.001}, False),  # it loses some
        (12, {11: 0.001}, False),
        (12, {}, False),
    ],
)
def test_what_comes_up_during_its_pings_is_not_what_loses_some(sent, rtts, late):
    assert Answers(sent, rtts).began_late is late


def test_the_checksum_is_that_of_rfc_1071():
    data = bytes([0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])  # its own example: the sum is ddf2
    assert ping._checksum(data) == 0xFFFF & ~0xDDF2


def test_with_a_new_conf_the_time_of_a_tunnel_begins_again(tmp_path):
    (tmp_path / "conf").write_text("")
    live = {"units": {"wg-quick@mz3.service": {"active": "active", "since": time.monotonic() - 900}}}
    protocol = WireGuard(None, None)

    def seconds(name):
        return protocol.runs(view(), live, True, str(tmp_path / name))[1] or 0

    assert seconds("no such file") >= 900
    assert seconds("conf") < 600
    os.utime(tmp_path / "conf", (1, 1))
    assert seconds("conf") >= 900


# Files


@pytest.mark.parametrize(
    "path", ["relative", "/", "/a b", "/a;b", "/a/../b", "/a/./b", "/a\n", "/a//b", None, 7, "/" + "a" * 300]
)
def test_paths_that_are_refused(path):
    with pytest.raises(FieldError):
        node_state.Folders(path)


def new(folders, **changes):
    state = {
        "panel": PANEL,
        "node": None,
        "id": 3,
        "uuid": UUID,
        "name": None,
        "type": "wireguard",
        "interface": None,
        "public_key": None,
        "peer": None,
        "applied": {},
    }
    state.update(changes)
    folders.write_state(state)
    return state


def test_a_folder_appears_whole_and_goes_whole(tmp_path):
    folders = node_state.Folders(str(tmp_path / "x" / "tunnels"))
    assert folders.states() == {}
    state = new(folders)
    assert folders.states() == {UUID: state}
    assert folders.own(UUID, PANEL, "wireguard") == state
    folder = folders.path(UUID)
    assert stat.S_IMODE(os.stat(folder).st_mode) == stat.S_IMODE(os.stat(folders.root).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(folder, "state.json")).st_mode) == 0o600
    with pytest.raises(Error, match="belongs to the panel"):
        folders.own(UUID, UUID, "wireguard")
    for name in (f".{UUID}.new", f".{UUID}.gone"):
        os.mkdir(os.path.join(folders.root, name))
    os.mkdir(os.path.join(folders.root, ".others"))
    folders.sweep()
    assert sorted(os.listdir(folders.root)) == [".others", UUID]
    folders.drop(UUID)
    folders.drop(UUID)
    assert os.listdir(folders.root) == [".others"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"uuid": "x"}', '{"panel": 1', "\x00\xff"])
def test_a_state_that_cannot_be_read_is_nobodys(tmp_path, text):
    folders = node_state.Folders(str(tmp_path / "tunnels"))
    new(folders)
    (tmp_path / "tunnels" / UUID / "state.json").write_text(text)
    assert folders.states() == {UUID: None}
    with pytest.raises(Error, match="can't be read"):
        folders.own(UUID, PANEL, "wireguard")


def test_a_state_with_a_hostile_interface_is_nobodys(tmp_path):
    folders = node_state.Folders(str(tmp_path / "tunnels"))
    new(folders, interface="../../etc")
    assert folders.states() == {UUID: None}


def test_files_are_private_from_the_first_instant(tmp_path, monkeypatch):
    modes = []
    original = os.open

    def opening(path, flags, mode=0o777, **more):
        handle = original(path, flags, mode, **more)
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    old = os.umask(0)
    try:
        monkeypatch.setattr(os, "open", opening)
        files.write(str(tmp_path / "f"), "x")
    finally:
        os.umask(old)
    assert modes[0] == 0o600
    assert (tmp_path / "f").read_text() == "x"
    (tmp_path / "f.new").symlink_to(tmp_path / "victim")
    files.write(str(tmp_path / "f"), "y")
    assert not (tmp_path / "victim").exists()
    assert (tmp_path / "f").read_text() == "y"


def test_two_runs_take_turns(tmp_path):
    folders = node_state.Folders(str(tmp_path / "tunnels"))
    calls = []
    with folders.locked(before_waiting=lambda: calls.append("free")):
        second = folders.locked(wait=0.2, before_waiting=lambda: calls.append("waits"))
        with pytest.raises(node_state.Busy, match="Another run"):
            second.__enter__()
    assert calls == ["waits"]
    with folders.locked(wait=0):
        pass


# Keys


def test_a_key_made_is_the_key_read(tmp_path):
    assert x25519.load(str(tmp_path)) == (None, None)
    made = x25519.make(str(tmp_path))
    assert x25519.load(str(tmp_path)) == made
    assert x25519.fingerprint(made[1]).startswith("SHA256:")


@pytest.mark.parametrize("text", ["", "scrambled", "AAAA", base64.b64encode(bytes(32)).decode(), "ключ", "=" * 44])
def test_a_broken_key_says_where_and_not_what(tmp_path, text):
    (tmp_path / "private.key").write_text(text)
    with pytest.raises(x25519.BrokenKey, match="if_invalid") as caught:
        x25519.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert not text or text not in str(caught.value)
