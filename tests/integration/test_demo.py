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
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.lab import Lab, cgroup
from tests.support import labs

pytestmark = pytest.mark.lab

TOP = Path(__file__).resolve().parents[2]
NAME = labs.named("demo")
WIDTH = 80  # columns of a terminal


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
    found = re.fullmatch(r"(\S+)(/dashboard/tunnels) +(\S+) / (\S+)", shown(said, "the page"))
    assert found
    url, page, username, password = found.groups()
    ca = str(demo.state / "panel/ca.pem")
    answer = requests.post(
        f"{url}/api/admin/token",
        data={"username": username, "password": password},
        verify=ca,
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    assert "<title>" in requests.get(url + page, verify=ca, timeout=20).text


@pytest.mark.variation
def test_a_second_run_changes_nothing(demo: Demo, said: str) -> None:
    again = demo.do("up")
    assert "3 hosts are there already" in again
    assert "the panel is there already" in again
    assert changes(again) == dict.fromkeys(changes(said), 0)
    assert again[again.index("Look around") :] == said[said.index("Look around") :]


def test_the_commands_to_go_on_with(demo: Demo, said: str) -> None:
    """As they are printed, in one shell; the last one deletes a tunnel."""
    start, end = said.index(". ", said.index("  then  ")), said.index("  the end ")
    commands = [line[16:] for line in said[start - 16 : end].splitlines()]
    assert len(commands) == 8
    text = demo.run("sh", "-exc", "\n".join(commands))
    for seen in ("@marzban_nodes:", "public_key", "+MTU = 1300", "removed: de-fi-openvpn"):
        assert seen in text


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
