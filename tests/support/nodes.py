# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lab hosts without a panel: views written by hand, and the node-side modules run over ssh as a playbook runs them."""

from __future__ import annotations

import contextlib
import json
import re
import select
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.support.world import ansible_environment, unanswered, until

TOP = Path(__file__).resolve().parents[2]
PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
View = dict[str, Any]
TEMPLATES = {
    "wireguard": "wireguard/templates/wg-quick.conf.j2",
    "openvpn": "openvpn/templates/openvpn.conf.j2",
    "ipsec": "strongswan/templates/swanctl.conf.j2",
}
CRASHED = 99  # as on_host.py has it


def uuid(number: int) -> str:
    return f"1b4e28ba-2fa1-41d2-883f-{number:012x}"


class Answer(dict[str, Any]):
    """What a module answered on one host."""

    def tunnel(self, number: int) -> dict[str, Any]:
        return next(tunnel for tunnel in self["tunnels"] if tunnel["uuid"] == uuid(number))

    def statuses(self) -> set[str]:
        return {tunnel["status"] for tunnel in self["tunnels"]}

    def errors(self) -> list[str]:
        return [tunnel["error"] for tunnel in self["tunnels"] if tunnel["error"]]


class Nodes:
    """The hosts of a lab, and what the other end would have learned from the panel."""

    def __init__(self, lab: Lab, directory: Path):
        self.lab = lab
        self.directory = directory
        self.publics: dict[tuple[str, str], dict[str, str]] = {}
        self.runs = 0
        hosts = {host.name: {"ansible_host": host.address} for host in lab.hosts.values()}
        (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": lab.inventory()}}))

    # Views

    def pair(
        self, number: int, a: str = "a", b: str = "b", ends: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, View]:
        """The two views of tunnel ``number``; ``ends`` overrides fields of an end: ``{"a": {"routes": […]}}``."""
        sides = {}
        for step, (node, role) in enumerate(((a, "source"), (b, "target"))):
            side = {
                "node": node,
                "role": role,
                "endpoint": self.lab.host(node).address,
                "port": 4500 if more.get("type") == "ipsec" else 20000 + number,
                "addresses": [f"10.201.{number}.{2 + step}/31", f"fd6d:7a00::{number:x}:{2 + step}/127"],
                "routes": [],
                "public": self.publics.get((uuid(number), node)),
            }
            sides[node] = {**side, **(ends or {}).get(node, {})}
        common = {
            "panel": PANEL,
            "id": number,
            "uuid": uuid(number),
            "name": f"t{number}",
            "type": "wireguard",
            "active": True,
            "version": 1,
            "interface": f"mz{number}",
            "mtu": None,
            "keepalive": 25,
            "dial": True,
            "transport": "udp",
            # A pre-shared key takes rounds, which one call of a module doesn't make.
            "post_quantum": "off" if more.get("type", "wireguard") == "wireguard" else "auto",
            **more,
        }
        return {
            a: {**common, "routes": sides[b]["routes"], "local": sides[a], "peer": sides[b]},
            b: {**common, "routes": sides[a]["routes"], "local": sides[b], "peer": sides[a]},
        }

    def views(self, *pairs: dict[str, View]) -> dict[str, list[View]]:
        """The views of each host, of these pairs."""
        hosts = sorted({host for pair in pairs for host in pair})
        return {host: [pair[host] for pair in pairs if host in pair] for host in hosts}

    # Runs

    def play(
        self, tasks: list[dict[str, Any]], hosts: str, *words: str, **env: str
    ) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        """Runs tasks; the process, and what happened: a dict for each task and host."""
        self.runs += 1
        record, play = (self.directory / f"run-{self.runs}.{kind}" for kind in ("jsonl", "json"))
        record.touch()
        play.write_text(json.dumps([{"hosts": hosts, "gather_facts": False, "tasks": tasks}]))
        environment = {**ansible_environment(self.directory), "MARZBAN_TEST_RECORD": str(record)}
        environment.update(env)
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.directory / "hosts.json"), str(play), "--diff", *words],
            env=environment,
            cwd=TOP,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
            check=False,
        )
        assert "[WARNING]" not in done.stdout + done.stderr, done.stdout + done.stderr
        assert "[DEPRECATION" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done, [json.loads(line) for line in record.read_text().splitlines()]

    def module(self, name: str, hosts: str, arguments: dict[str, Any], *words: str, **env: str) -> dict[str, Answer]:
        """Runs one module of ours and insists that it succeeds; its answer on each host."""
        done, events = self.play([{f"marzban.tunnels.{name}": arguments}], hosts, *words, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return {event["host"]: Answer(event["result"]) for event in events}

    def apply(self, views: dict[str, list[View]], *words: str, **options: Any) -> dict[str, Answer]:
        """tunnel_apply on the hosts that have views. What they answer is what the other ends get to know."""
        env = {name: options.pop(name) for name in list(options) if name.isupper()}
        answers = self._do("tunnel_apply", views, words, options, env)
        for host, answer in answers.items():
            for tunnel in answer["tunnels"]:
                if tunnel["public"]:
                    self.publics[tunnel["uuid"], host] = tunnel["public"]
        return answers

    def check(self, views: dict[str, list[View]], **options: Any) -> dict[str, Answer]:
        return self.apply(views, "--check", **options)

    def health(self, views: dict[str, list[View]], *words: str, **options: Any) -> dict[str, Answer]:
        return self._do("tunnel_health", views, words, options, {})

    def _do(
        self, name: str, views: Any, words: tuple[str, ...], options: dict[str, Any], env: dict[str, str]
    ) -> dict[str, Answer]:
        arguments = {"panel": PANEL, "views": self.mine(views), **options}
        return self.module(name, ",".join(views), arguments, *words, **env)

    def mine(self, views: dict[str, list[View]]) -> str:
        """The views as an expression that gives each host its own."""
        path = self.directory / f"views-{self.runs}.json"
        path.write_text(json.dumps(views))
        return f"{{{{ (lookup('ansible.builtin.file', '{path}') | from_json)[inventory_hostname] }}}}"

    def up(self, *numbers: int, **more: Any) -> dict[str, list[View]]:
        """Brings the tunnels between a and b up, keys first, waits for their traffic, and answers their views."""
        self.apply(self.views(*(self.pair(number, **more) for number in numbers)))
        views = self.views(*(self.pair(number, **more) for number in numbers))
        self.apply(views)
        for answer in self.health(views, wait=60).values():
            assert answer.statuses() == {"active"}, answer
        return views

    def clear(self, hosts: str = "a,b") -> None:
        """Takes everything of the panel off."""
        self.apply({host: [] for host in hosts.split(",")}, remove_all=True)

    # Looking

    def sh(self, host: str, command: str, check: bool = True) -> str:
        return self.lab.host(host).run(command, check=check).stdout

    def reaches(self, host: str, number: int, step: int) -> bool:
        """Whether one packet inside the tunnel is answered, over IPv4 and over IPv6."""
        return not unanswered(self.lab.host(host), (f"10.201.{number}.{2 + step}", f"fd6d:7a00::{number:x}:{2 + step}"))


@dataclass
class Called:
    """How a call on a host ended: its process's exit code, and what it answered; nothing when it crashed."""

    code: int
    answer: dict[str, Any]


class Server:
    """on_host.py, which runs on a host and serves calls until the host goes down."""

    def __init__(self, host: Host, place: str, log: Path):
        self.leader = host.leader
        self.log = log
        with log.open("w") as said:
            self.process = subprocess.Popen(
                host.inside(["python3", f"{place}/on_host.py"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def call(self, given: dict[str, Any], seconds: float = 180) -> Called:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        ready, _writable, _failed = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"no end after {seconds} s: {given['do']}"
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        ended = json.loads(line)
        return Called(ended["code"], ended["answer"] or {})

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()  # nsenter; what it entered ends with its stdin
        self.process.wait()


class Directly(Nodes):
    """The same without Ansible in between: what the modules call, on all hosts at once. For tests of many runs.

    A context: at its end, what serves the calls on the hosts is ended."""

    PLACE = "/root/on-host"

    def __init__(self, lab: Lab, directory: Path):
        super().__init__(lab, directory)
        self.servers: dict[str, Server] = {}
        with tarfile.open(directory / "on-host.tar", "w") as tar:
            tar.add(TOP / "tests/support/on_host.py", "on_host.py")
            place = "plugins/module_utils"
            for path in sorted((TOP / place).rglob("*.py")):
                tar.add(path, f"ansible_collections/marzban/tunnels/{path.relative_to(TOP)}")

    def server(self, host: Host) -> Server:
        """The one that runs on the host, as it booted last."""
        there = self.servers.get(host.name)
        if there is None or there.leader != host.leader:
            if there is not None:
                there.end()
            with tarfile.open(self.directory / "on-host.tar") as tar:
                tar.extractall(host.root / self.PLACE.lstrip("/"), filter="data")
            self.servers[host.name] = Server(host, self.PLACE, self.directory / f"{host.name}.log")
        return self.servers[host.name]

    def reboot(self, host: str) -> None:
        """Reboots a host, without the one that serves it: systemd stops all processes before it ends them, and nsenter,
        which is outside, would stop with its child and never see it end."""
        if host in self.servers:
            self.servers.pop(host).end()
        self.lab.host(host).reboot()

    def start_over(self) -> None:
        """Takes everything of the panel off all hosts, and forgets it. What serves the calls stays."""
        self.clear(",".join(self.lab.hosts))
        self.publics.clear()

    def __enter__(self) -> Directly:
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers.values():
            server.end()

    def _do(
        self, name: str, views: Any, words: tuple[str, ...], options: dict[str, Any], env: dict[str, str]
    ) -> dict[str, Answer]:
        with ThreadPoolExecutor() as pool:
            ran = pool.map(
                lambda host: self.run_on(host, name, views[host], check="--check" in words, **options), views
            )
            answers = {host: Answer(called.answer) for host, called in zip(views, ran, strict=True)}
        assert not any(answer.get("failed") for answer in answers.values()), answers
        return answers

    def run_on(self, host: str, name: str, views: list[View], check: bool = False, **options: Any) -> Called:
        """One run on one host."""
        given = {
            "do": name,
            "panel": PANEL,
            "views": views,
            "check": check,
            "rendered": [rendered(view) for view in views],
        }
        called = self.server(self.lab.host(host)).call({**given, **options})
        assert called.code in (0, CRASHED), called.answer
        return called


def rendered(view: View) -> dict[str, str]:
    """What the action plugin makes of a view."""
    try:
        checked = model_views.check(view, PANEL)
        return {"text": render.render(checked, (TOP / "roles" / TEMPLATES[checked["type"]]).read_text())}
    except Error as error:
        return {"error": str(error)}


@contextlib.contextmanager
def no_packet_lost(nodes: Nodes, *numbers: int, apart: float = 0.01) -> Iterator[None]:
    """Pings from a to b inside these tunnels, ``apart`` seconds, and insists that none stayed without an answer.

    Every 10 ms they cost a tenth of a CPU in a tunnel that a process carries: less where it lasts."""
    few = max(5, round(0.5 / apart))  # half a second of them
    for number in numbers:
        # By the address, because IPsec's interface leads nowhere on the userspace data path.
        command = f"exec ping -n -i {apart} -I 10.201.{number}.2 10.201.{number}.3 > /root/ping-{number}.txt"
        nodes.sh("a", f"rm -f /root/ping-{number}.txt; systemd-run --quiet --unit=pinging-{number} sh -c '{command}'")

    def answers(number: int) -> list[int]:
        path = nodes.lab.host("a").root / f"root/ping-{number}.txt"
        return [int(found) for found in re.findall(r"icmp_seq=(\d+) ttl=", path.read_text() if path.exists() else "")]

    try:
        until("the first answers", lambda: all(len(answers(number)) > min(few, 20) for number in numbers))
        yield
        before = {number: len(answers(number)) for number in numbers}
        until("answers after the change", lambda: all(len(answers(n)) > seen + few for n, seen in before.items()))
    finally:
        for number in numbers:
            nodes.sh("a", f"systemctl stop pinging-{number}")
    # What was under way when ping was stopped doesn't count.
    for number in numbers:
        came = answers(number)
        missing = sorted(set(range(1, max(came) + 1)) - set(came))
        assert sorted(came) == list(range(1, max(came) + 1)), f"lost in tunnel {number}: {missing}"


def leftovers(nodes: Nodes, host: str) -> str:
    """What of ours is on a host."""
    return nodes.sh(
        host,
        "ls -A /etc/wireguard; ls -A /etc/marzban 2>/dev/null; nft list tables; wg show interfaces;"
        " ls /etc/systemd/system/multi-user.target.wants | grep wg-quick; systemctl --failed --no-legend; true",
    ).strip()
