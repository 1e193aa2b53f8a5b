# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo` and `make demo-down`, with a lab, a folder and a home of their own; and what says that they can't be."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import requests

from tests.lab import Lab, cgroup
from tests.support import labs

pytestmark = pytest.mark.lab

TOP = Path(__file__).resolve().parents[2]
NAME = labs.named("demo")
WIDTH = 80  # columns of a terminal
SOON = 5  # seconds, as its last lines say
BUSY = 3  # times as long it may take here, where other tests share the machine


def environment(**more: str) -> dict[str, str]:
    """This process's, less what would steer Ansible, the demo or make."""
    steering = ("ANSIBLE_", "MARZBAN_", "TUNNEL_", "MAKE", "MFLAGS")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(steering)}, **more}


class Demo:
    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.home = directory / "home"
        self.home.mkdir()

    def run(self, *words: str) -> str:
        """What a command of an operator printed, which ended well and warned of nothing."""
        done = subprocess.run(
            words,
            env=environment(HOME=str(self.home), MARZBAN_DEMO_NAME=NAME, MARZBAN_DEMO_STATE=str(self.state)),
            cwd=TOP,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "[WARNING]" not in done.stdout, done.stdout
        assert "[DEPRECATION" not in done.stdout, done.stdout
        return done.stdout

    def do(self, action: str) -> str:
        return self.run(sys.executable, "tools/demo.py", action)

    def tunnel(self, said: str, name: str, action: str) -> None:
        """A call about a tunnel, with the login that was printed."""
        url, _page, username, password = the_page(said)
        with requests.Session() as session:
            session.verify = str(self.state / "panel/ca.pem")
            login = session.post(f"{url}/api/admin/token", {"username": username, "password": password}, timeout=20)
            session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            tunnels = session.get(f"{url}/api/tunnels", timeout=20).json()
            number = next(tunnel["id"] for tunnel in tunnels if tunnel["name"] == name)
            session.post(f"{url}/api/tunnels/{number}/{action}", timeout=20).raise_for_status()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.do("down")


@pytest.fixture(scope="module")
def said(demo: Demo) -> str:
    """What the first run printed."""
    return demo.do("up")


def changes(text: str) -> dict[str, int]:
    return {host: int(number) for host, number in re.findall(r"^(\S+) +: ok=.* changed=(\d+) ", text, re.MULTILINE)}


def shown(text: str, what: str) -> str:
    """What follows a word in the list at the end."""
    found = re.search(rf"^  {what}  +(.*)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def the_page(text: str) -> tuple[str, ...]:
    """The panel's address, the page's path, and the login."""
    found = re.fullmatch(r"(\S+)(/dashboard/tunnels) +(\S+) / (\S+)", shown(text, "the page"))
    assert found
    return found.groups()


def ping_until(lines: IO[str], word: str) -> None:
    """Read until ping, which prints a line each second, has printed the word."""
    end = time.monotonic() + 30
    for line in lines:
        if word in line:
            return
        assert time.monotonic() < end, f"{word!r} did not come"
    raise AssertionError("ping has ended")


def test_the_table_tells_what_passes(said: str) -> None:
    printed = said.splitlines()
    start = next(number for number, line in enumerate(printed) if re.match(r"name .* throughput$", line))
    assert all(len(line) <= WIDTH for line in printed[start : start + 6])
    columns, *lines = [re.split(" {2,}", line) for line in printed[start : start + 6]]
    rows = {row[0]: dict(zip(columns, row, strict=False)) for row in lines}
    ends = {name: (row["ends"], row["type"]) for name, row in rows.items()}
    assert ends == {
        "de-fi-wireguard": ("de-1 -> fi-1", "wireguard"),
        "de-fi-openvpn": ("de-1 -> fi-1", "openvpn"),
        "de-fi-ipsec": ("de-1 -> fi-1", "ipsec"),
        "fi-nl-openvpn": ("fi-1 -> nl-1", "openvpn"),
        "de-nl-ipsec": ("de-1 -> nl-1", "ipsec"),
    }
    for row in rows.values():
        assert row["status"] == "active"
        assert re.fullmatch(r"[1-9][0-9.]* Mbit/s", row["throughput"])
    assert set(changes(said)) == {"localhost", "de-1", "fi-1", "nl-1"}


def test_the_way_into_a_host(demo: Demo, said: str) -> None:
    command, then = shown(said, "a host").split("  then: ")
    text = demo.run(*shlex.split(command), then)
    assert "allowed ips" in text
    assert "ESTABLISHED" in text


def test_the_way_into_the_panel(demo: Demo, said: str) -> None:
    url, page, username, password = the_page(said)
    ca = str(demo.state / "panel/ca.pem")
    answer = requests.post(
        f"{url}/api/admin/token",
        data={"username": username, "password": password},
        verify=ca,
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    assert "<title>" in requests.get(url + page, verify=ca, timeout=20).text


def test_a_tunnel_that_is_switched_off_carries_nothing_within_seconds(demo: Demo, said: str) -> None:
    """What the last lines say, without a run; the page's button sends this call."""
    watch = shlex.split(shown(said, "watch"))
    ping = subprocess.Popen(watch, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ping.stdout
    try:
        for does, sees in (
            ("deactivate", "no answer yet"),
            ("activate", "bytes from"),
            ("deactivate", "no answer yet"),
        ):
            ping_until(ping.stdout, "no answer yet" if does == "activate" else "bytes from")
            begun = time.monotonic()
            demo.tunnel(said, "de-fi-wireguard", does)
            ping_until(ping.stdout, sees)
            took = time.monotonic() - begun
            assert took < SOON * BUSY, f"{does}: {took:.1f} s"
        demo.tunnel(said, "de-fi-wireguard", "activate")
        ping_until(ping.stdout, "bytes from")
    finally:
        ping.kill()
        ping.wait()
        ping.stdout.close()


def test_the_nodes_key_is_in_the_panels_environment_only(demo: Demo, said: str) -> None:
    file = demo.state / "panel/node_api_key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text()
    assert len(key) == 64
    assert key not in said
    assert key not in (demo.state / "environment").read_text()
    (panel,) = cgroup.processes(cgroup.group(NAME) / "panel")
    assert f"NODE_API_KEY={key}".encode() in Path(f"/proc/{panel}/environ").read_bytes().split(b"\0")
    assert key.encode() not in Path(f"/proc/{panel}/cmdline").read_bytes()


@pytest.mark.variation
def test_a_second_run_changes_nothing(demo: Demo, said: str) -> None:
    again = demo.do("up")
    assert "3 hosts are there already" in again
    assert "the panel is there already" in again
    assert changes(again) == dict.fromkeys(changes(said), 0)
    assert again[again.index("Look around") :] == said[said.index("Look around") :]


@pytest.mark.variation  # what they call has tests of its own
def test_the_commands_to_go_on_with(demo: Demo, said: str) -> None:
    """As they are printed, in one shell; the last one deletes a tunnel."""
    start, end = said.index(". ", said.index("  then  ")), said.index("  the end ")
    commands = [line[16:] for line in said[start - 16 : end].splitlines()]
    assert len(commands) == 8
    text = demo.run("sh", "-exc", "\n".join(commands))
    for seen in ("@marzban_nodes:", "public_key", "Delete the record"):
        assert seen in text
    into = shlex.split(shown(said, "a host").split("  then: ")[0])
    seen = demo.run(*into, "ip link; ls /etc/marzban/tunnels")
    assert "mtu 1300" in seen
    assert len(re.findall("^[0-9a-f-]{36}$", seen, re.MULTILINE)) == 3, "de-1 had four"


def test_down_leaves_nothing(demo: Demo, said: str) -> None:
    lab, group = Lab.load(NAME), cgroup.group(NAME)
    assert cgroup.processes(group / "panel")
    demo.do("down")
    assert NAME not in Lab.names()
    assert not group.exists(), "its processes are gone"
    assert not lab.directory.exists()
    assert not demo.state.exists()
    assert list(demo.home.iterdir()) == []


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What says whether it can be, where every user may read and write; and two folders for PATH."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        top.chmod(0o777)
        shutil.copy(TOP / "Makefile", top)
        shutil.copytree(TOP / "tools", top / "tools")
        for name in ("darwin", "no-apt"):
            (top / name).mkdir()
        (top / "darwin/uname").write_text("#!/bin/sh\necho Darwin\n")
        (top / "darwin/uname").chmod(0o755)
        for command in ("bash", "dirname", "id", "make", "sh", "uname"):
            (top / "no-apt" / command).symlink_to(shutil.which(command) or "")
        yield top


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ('PATH="$PWD/darwin:$PATH" make demo', "they want Linux, and this is Darwin."),
        ("setpriv --reuid 65534 --regid 65534 --clear-groups make demo", "they need root, and you are nobody."),
        ("mount -t tmpfs tmpfs /dev/net && make demo", "/dev/net/tun is missing or can't be opened."),
        ('PATH="$PWD/no-apt" make demo', "they want Debian or Ubuntu."),
    ],
    ids=["another system", "not root", "no tun", "no apt"],
)
def test_what_cannot_be_is_said_in_one_line(checkout: Path, machine: str, reason: str) -> None:
    before = sorted(checkout.rglob("*"))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", machine],
        env=environment(),
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    line, make = done.stderr.splitlines()  # make adds one of its own
    assert line.startswith("This machine can't run lab hosts: ")
    assert reason in line
    assert make.startswith("make: ")
    assert sorted(checkout.rglob("*")) == before
