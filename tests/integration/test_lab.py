# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The lab keeps its promises: what the other tests use is real, and nothing of it is left behind."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Host, Lab, LabError, cgroup, machine, network

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up("lab-test", {"a": "bookworm", "b": "bookworm"}, progress=print) as lab:
        yield lab


@pytest.fixture
def a(lab: Lab) -> Host:
    return lab.host("a")


@pytest.fixture
def b(lab: Lab) -> Host:
    return lab.host("b")


def pings(host: Host, address: str, count: int = 3) -> int:
    """How many of `count` pings were answered."""
    said = host.run(["ping", "-c", str(count), "-i", "0.005", "-W", "1", address], check=False).stdout
    received = re.search(r"(\d+) received", said)
    assert received, said
    return int(received[1])


def ssh(lab: Lab, host: Host, command: str) -> subprocess.CompletedProcess[str]:
    """Log in as Ansible does: by address, with the inventory's variables and nothing else."""
    v = lab.inventory()
    login = ["-i", v["ansible_ssh_private_key_file"], "-l", v["ansible_user"], "-o", "BatchMode=yes", host.address]
    options = shlex.split(v["ansible_ssh_common_args"])
    return machine.run(["ssh", "-F", "/dev/null", *options, *login, command], check=False)


def traces(name: str, number: int) -> list[str]:
    """Whatever the machine still has of a lab."""
    bridge = f"lab{number}"
    tables = machine.run(["nft", "list", "tables"]).stdout.splitlines()
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [
        *machine.mounts_below(Path("/var/lib/marzban-tunnels-lab") / name),
        *(link for link in network.links() if link == bridge or link.startswith(f"{bridge}h")),
        *network.namespaces(name),
        *(table for table in tables if table.split()[-1] == bridge or table.split()[-1].startswith(f"{bridge}h")),
        *(str(path) for path in [Path("/var/lib/marzban-tunnels-lab") / name, cgroup.group(name)] if path.exists()),
        *(c for c in commands if f"--machine={bridge}-" in c or f",ifname={bridge}h" in c or f" keep {name} " in c),
    ]


def test_a_host_is_a_whole_debian(lab: Lab, a: Host) -> None:
    machine.until("end of the boot", lambda: "running" in a.run("systemctl is-system-running", check=False).stdout, 60)
    assert a.run("systemctl --failed --no-legend").stdout == ""
    assert a.run("cat /proc/1/comm").stdout == "systemd\n"
    assert a.run("test -c /dev/net/tun && echo there").stdout == "there\n"
    a.run("nft add table inet t && nft add chain inet t c '{ type nat hook input priority 0; }'")
    a.run("nft delete table inet t")


def test_ssh_with_pinned_keys(lab: Lab, a: Host, b: Host) -> None:
    assert ssh(lab, a, "hostname").stdout == "a\n"
    by_name = machine.run(["ssh", "-F", str(lab.ssh_config), "b", "hostname"])
    assert (by_name.stdout, by_name.stderr) == ("b\n", "")
    assert a.host_key != b.host_key


def test_hosts_reach_each_other(a: Host, b: Host) -> None:
    assert pings(a, b.address) == 3
    assert pings(b, a.address6) == 3


@pytest.mark.variation
def test_apt_installs_and_pulls_no_kernel(b: Host) -> None:
    b.run("apt-get update -q", timeout=120)
    would = b.run("apt-get install -s --install-recommends wireguard-tools").stdout
    assert "Inst wireguard-tools" in would
    assert "Inst linux-image" not in would
    b.run("apt-get install -y -q --no-install-recommends wireguard-tools", timeout=120)
    assert b.run("wg --version").stdout.startswith("wireguard-tools")


def test_run_tells_what_failed(a: Host) -> None:
    assert a.run("cat; echo err >&2; exit 3", check=False, input="in").stdout == "in"
    with pytest.raises(LabError, match="a: exit 3: sh -c echo oh >&2; exit 3\noh"):
        a.run("echo oh >&2; exit 3")
    with pytest.raises(LabError, match=r"a: no end after 0.2 s: sleep 60"):
        a.run(["sleep", "60"], timeout=0.2)


def test_a_reboot_keeps_the_disk_and_nothing_else(a: Host, b: Host) -> None:
    a.run("echo kept > /root/kept; echo lost > /run/lost; nft add table inet stray; sysctl -q net.ipv4.ip_forward=1")
    a.run("ip address add 198.51.100.1/32 dev eth0")
    before = a.host_key
    a.reboot()
    assert a.run("cat /root/kept; cat /run/lost 2> /dev/null", check=False).stdout == "kept\n"
    assert a.run("nft list tables").stdout == ""
    assert a.run("cat /proc/sys/net/ipv4/ip_forward").stdout == "0\n"
    assert "198.51.100.1" not in a.run("ip address show eth0").stdout
    assert a.host_key == before
    assert pings(a, b.address) == 3


def test_a_replaced_host_is_a_stranger_at_the_same_address(lab: Lab, b: Host) -> None:
    b.run("echo old > /root/old")
    key, address, machine_id = b.host_key, b.address, b.run("cat /etc/machine-id").stdout
    b.replace()
    assert b.address == address
    assert b.host_key != key
    assert b.run("cat /etc/machine-id").stdout != machine_id
    assert ssh(lab, b, "ls /root").stdout == ""
    assert (b.root / "etc/hostname").read_text() == "b\n"


def test_a_cut_cable_stays_cut(a: Host, b: Host) -> None:
    a.cut()
    try:
        assert not a.answers()
        assert pings(b, a.address, 1) == 0
        assert a.run("echo alive").stdout == "alive\n"
    finally:
        a.repair()
    machine.until("answer after the cable was repaired", lambda: pings(b, a.address, 1) and pings(b, a.address6, 1), 60)


def test_losses(a: Host, b: Host) -> None:
    a.lose(30)
    try:
        # 300 throws at 30 percent: six standard deviations are 16 percent.
        assert 42 < 300 - pings(a, b.address, 300) < 138
    finally:
        a.lose(0)
    assert pings(a, b.address, 100) == 100


def test_a_stopped_host_starts_again(a: Host, b: Host) -> None:
    b.run("echo kept > /root/kept && sync")
    b.stop()
    assert pings(a, b.address, 1) == 0
    assert (b.root / "root/kept").read_text() == "kept\n"
    with pytest.raises(LabError, match="b is off"):
        b.run("true")
    b.start()
    assert b.run("cat /root/kept").stdout == "kept\n"


def test_sites_need_a_router_and_a_route(a: Host, b: Host) -> None:
    here, there = a.add_site("here", "192.168.50.0/24", "fd00:50::/64"), b.add_site("there", "192.168.60.0/24")
    assert here.run(["ping", "-c1", "-W1", "192.168.50.1"]).returncode == 0
    assert here.run(["ping", "-c1", "-W1", "fd00:50::1"]).returncode == 0
    through = ["ping", "-c1", "-W1", there.address]
    a.run(f"ip route add 192.168.60.0/24 via {b.address}")
    b.run(f"ip route add 192.168.50.0/24 via {a.address}")
    assert here.run(through, check=False).returncode != 0, "nobody has switched forwarding on"
    for host in (a, b):
        host.run("sysctl -q net.ipv4.ip_forward=1")
    assert here.run(through).returncode == 0
    a.reboot()
    assert here.run(["ping", "-c1", "-W1", "192.168.50.1"]).returncode == 0
    assert here.run(through, check=False).returncode != 0, "a reboot forgets forwarding and routes"


@pytest.mark.variation
def test_labs_side_by_side_and_no_traces(lab: Lab, a: Host) -> None:
    with Lab.up("lab-test-other", {"a": "bookworm"}) as other:
        name, number = other.name, other.network.number
        assert {"lab-test", "lab-test-other"} <= set(Lab.names())
        assert other.host("a").address != a.address
        assert pings(other.host("a"), a.address, 1) == 0, "labs are apart"
        other.host("a").lose(10)
        other.host("a").add_site("s", "192.168.50.0/24").run("sleep 1000 > /dev/null 2>&1 &")
        assert len(traces(name, number)) >= 8
    assert traces(name, number) == []
    assert a.answers()


@pytest.mark.variation
def test_what_a_killed_run_left_is_taken_down() -> None:
    half = (
        "import os, signal; from tests.lab import Lab, Host; boot = Host.boot\n"
        "Host.boot = lambda host: os.kill(os.getpid(), signal.SIGKILL) if host.name == 'b' else boot(host)\n"
        "Lab.up('lab-test-killed', {'a': 'bookworm', 'b': 'bookworm'})"
    )
    killed = subprocess.run([sys.executable, "-c", half], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    number = Lab.load("lab-test-killed").network.number
    assert traces("lab-test-killed", number)
    said: list[str] = []
    Lab.up("lab-test-killed", {"c": "bookworm"}, progress=said.append).down()
    assert "lab lab-test-killed: taking down what an earlier run left" in said
    assert traces("lab-test-killed", number) == []


def test_reuse_changes_nothing(lab: Lab, a: Host) -> None:
    leader, text = a.leader, (lab.directory / "lab.json").read_text()
    again = Lab.up("lab-test", {"a": "bookworm", "b": "bookworm"}, reuse=True)
    assert (again.host("a").leader, (lab.directory / "lab.json").read_text()) == (leader, text)
    assert json.loads(text)["number"] == again.network.number


def test_a_lab_in_use_is_left_alone(lab: Lab, a: Host) -> None:
    command = [sys.executable, "tests/lab", "down", "lab-test"]
    refused = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert re.fullmatch(r"lab: lab 'lab-test' is in use by process \d+: .*\n", refused.stderr)
    assert a.answers()


@pytest.mark.parametrize("name", ["../x", "a.b", "", "A", "-a", "x" * 64])
def test_bad_names(name: str) -> None:
    with pytest.raises(LabError, match="is not a name for a lab"):
        Lab.up(name, {"a": "bookworm"})
    with pytest.raises(LabError, match="is not a name for a lab"):
        Lab.remove(name)
    with pytest.raises(LabError, match="is not a name for a host"):
        Lab.up("lab-test-names", {name: "bookworm"})


def test_bad_image() -> None:
    with pytest.raises(LabError, match="no image 'hamm': there are bullseye, bookworm"):
        Lab.up("lab-test-image", {"a": "hamm"})
    assert "lab-test-image" not in Lab.names()
