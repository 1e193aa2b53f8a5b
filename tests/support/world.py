# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the integration tests use: an embedded panel, lab hosts, and ansible-playbook as an operator runs it."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.support.panel import Panel

TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Not below pytest's own folders: a socket's path may have 107 characters.
SOCKETS = tempfile.mkdtemp(prefix="mz-")
atexit.register(shutil.rmtree, SOCKETS, ignore_errors=True)


#: Seconds that a condition may take on a machine that does much else. Less only where quickness is what is tested.
PATIENCE = 60

TYPES = ("wireguard", "openvpn", "ipsec")
PAIRS = (("a", "b"), ("b", "c"), ("a", "c"))
# A tunnel of each type between each two of three hosts: (name, source, target)
MESH = tuple((f"{source}{target}-{kind}", source, target) for source, target in PAIRS for kind in TYPES)


def of_type(kind: str) -> tuple[tuple[str, str, str], ...]:
    """Those of the mesh that are of one type."""
    return tuple(item for item in MESH if item[0].endswith(f"-{kind}"))


def between(pair: str) -> tuple[tuple[str, str, str], ...]:
    """Those of the mesh between two hosts, ``ab``."""
    return tuple(item for item in MESH if item[0].startswith(f"{pair}-"))


def ansible_environment(home: Path) -> dict[str, str]:
    """This process's environment less what would steer Ansible or the collection, and with what the tests want."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MARZBAN_", "TUNNEL_"))}
    env.update(
        PATH=f"{BIN}:{env['PATH']}",
        HOME=str(home),
        ANSIBLE_SSH_CONTROL_PATH_DIR=SOCKETS,
        ANSIBLE_CONFIG=str(TOP / "ansible.cfg"),
        ANSIBLE_CALLBACK_PLUGINS=str(TOP / "tests/support/callback"),
        ANSIBLE_CALLBACKS_ENABLED="record",
        ANSIBLE_NOCOLOR="1",
    )
    return env


def until(what: str, holds: Callable[[], Any], seconds: float = PATIENCE, every: float = 0.1) -> Any:
    """Wait until ``holds()`` is true, and answer what it gave; fail with ``what`` when the time is over.

    ``every``: seconds between two looks; more where a look is dear and the wait is long.
    """
    end = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


@dataclass
class Run:
    """One ansible-playbook run: its exit code, its text, and what happened, task by task."""

    code: int
    text: str
    events: list[dict[str, Any]]

    def of(self, host: str, outcomes: Iterable[str] = ("ok", "failed", "unreachable")) -> list[dict[str, Any]]:
        return [event for event in self.events if event["host"] == host and event["outcome"] in outcomes]

    def changed(self, *hosts: str) -> list[str]:
        """Names (without the role's) of the tasks that changed something, on these hosts or at all."""
        return [
            event["task"].split(" : ")[-1]
            for event in self.events
            if event["changed"] and event["outcome"] == "ok" and (not hosts or event["host"] in hosts)
        ]

    def changes(self, host: str) -> dict[str, list[str]]:
        """What was changed on a host, in all rounds of the run: {tunnel: [change]}."""
        found: dict[str, list[str]] = {}
        for answer in self.results("tunnel_apply", host):
            for tunnel in answer["tunnels"]:
                found.setdefault(tunnel["name"], []).extend(tunnel["changes"])
        return {name: changes for name, changes in found.items() if changes}

    def results(self, action: str, host: str | None = None) -> list[dict[str, Any]]:
        """What a module of the collection answered, in order."""
        name = f"marzban.tunnels.{action}"
        return [
            e["result"]
            for e in self.events
            if e["action"] == name and e["outcome"] != "skipped" and host in (None, e["host"])
        ]

    def expect(self, code: int = 0) -> Run:
        assert self.code == code, f"exit code {self.code}, expected {code}\n{self.text}"
        assert "[WARNING]" not in self.text, self.text
        assert "[DEPRECATION" not in self.text, self.text
        return self


@dataclass
class Pings:
    """Pings that run on a host while something else happens, one each ``interval`` seconds."""

    host: Host
    address: str
    interval: float = 0.1
    _read: int = 0  # bytes of what they said, which grows by megabytes
    _answered: set[int] = field(default_factory=set)

    @property
    def unit(self) -> str:
        return f"pings-{self.address.replace(':', '-')}.service"

    @property
    def said(self) -> str:
        return f"/root/{self.unit}.txt"

    def start(self) -> Pings:
        """Start them, and answer when the first was answered."""
        (self.host.root / self.said.lstrip("/")).unlink(missing_ok=True)  # or answers to earlier ones would be read
        command = f"exec ping -n -i {self.interval} {self.address} >{self.said}"
        self.host.run(["systemd-run", "--quiet", f"--unit={self.unit}", "sh", "-c", command])
        until(f"{self.host.name} reaches {self.address}", self.answered)
        return self

    def answered(self) -> set[int]:
        """The numbers of those answered so far."""
        path = self.host.root / self.said.lstrip("/")
        if path.exists():  # not yet, a moment after the start
            with path.open("rb") as said:
                said.seek(self._read)
                lines, _newline, _rest = said.read().rpartition(b"\n")
            self._read += len(lines)
            self._answered |= {int(number) for number in re.findall(rb"icmp_seq=(\d+) ttl=", lines)}
        return self._answered

    def lost(self) -> set[int]:
        """The numbers of those that were not answered, though a later one was."""
        answered = self.answered()
        return set(range(min(answered), max(answered))) - answered

    def stop(self) -> set[int]:
        """End them, and answer the numbers of those lost; those sent until now are waited for."""
        last = max(self.answered())
        until("answers to the last pings", lambda: max(self.answered()) > last)
        self.host.run(["systemctl", "stop", self.unit])
        return self.lost()


class World:
    """A panel and a lab, and the ways to act on them."""

    def __init__(self, directory: Path, panel: Panel, lab: Lab | None = None, login: bool = True):
        """``login``: each run asks the panel for its hosts, and logs in; else it has a static inventory and a token,
        which saves seconds of CPU where the login is not what is tested."""
        self.directory = directory
        self.login = login
        self.panel = panel
        self._lab = lab
        self.runs = 0
        self.inventory = directory / "marzban.yml"
        self.inventory.write_text("plugin: marzban.tunnels.nodes\n")
        if lab is not None:
            variables = directory / "group_vars"
            variables.mkdir(exist_ok=True)
            (variables / "marzban_nodes.yml").write_text(json.dumps(self.variables()))
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(panel.ca_path)
        answer = self.session.post(
            f"{panel.url}/api/admin/token",
            data={"username": panel.username, "password": panel.password},
            timeout=PATIENCE,
        )
        answer.raise_for_status()
        self.token = answer.json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {self.token}"

    @property
    def lab(self) -> Lab:
        """The hosts; a world made without them has none."""
        assert self._lab is not None, "this world has no hosts"
        return self._lab

    # The panel

    def api(self, method: str, path: str, expect: int = 200, **more: Any) -> Any:
        answer = self.session.request(method, f"{self.panel.url}/api{path}", timeout=PATIENCE, **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def register(self, *names: str) -> None:
        """The lab's hosts of these names as nodes of the panel."""
        for name in names or self.lab.hosts:
            body = {"name": name, "address": self.lab.hosts[name].address, "add_as_new_host": False}
            self.api("POST", "/node", json=body)

    def tunnel(
        self, name: str, source: str, target: str, config: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        nodes = {node["name"]: node["id"] for node in self.api("GET", "/nodes")}
        body = {
            "name": name,
            "source_node_id": nodes[source],
            "target_node_id": nodes[target],
            "tunnel_type": "wireguard",
            "config": json.dumps(config or {}),
            **more,
        }
        return self.api("POST", "/tunnels", json=body)

    def mesh(self) -> None:
        """Record the tunnels of MESH."""
        for name, source, target in MESH:
            self.tunnel(name, source, target, tunnel_type=name.partition("-")[2])

    def bring_about(self, *joined: tuple[str, str, str], seconds: float = PATIENCE) -> None:
        """These tunnels carry packets, with nothing in their ``config``, and there are no others.

        For tests that begin with that. A run only where it is not so already: where a test comes alone. A tunnel's
        type is the end of its name, or WireGuard.
        """
        nodes, there = {node["name"] for node in self.api("GET", "/nodes")}, self.tunnels()
        missing = [name for name in self.lab.hosts if name not in nodes]
        if missing:
            self.register(*missing)
        lacking = [tunnel for tunnel in joined if tunnel[0] not in there]
        for name, source, target in lacking:
            kind = next((kind for kind in TYPES if name.endswith(kind)), TYPES[0])
            self.tunnel(name, source, target, tunnel_type=kind)
        others = there.keys() - {name for name, _source, _target in joined}
        for name in others:
            self.api("DELETE", f"/tunnels/{there[name]['id']}")
        changed = [name for name, record in there.items() if name not in others and record["config"] not in ("", "{}")]
        for name in changed:
            self.change(name, config={})
        if lacking or others or changed or not all(self.passes(*tunnel) for tunnel in joined):
            self.apply().expect()
            self.expect_traffic(*joined, seconds=seconds)

    def change(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Change a tunnel's record; ``config`` is given as a dict."""
        if "config" in fields:
            fields["config"] = json.dumps(fields["config"])
        return self.api("PUT", f"/tunnels/{self.tunnels()[name]['id']}", json=fields)

    def tunnels(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: item for item in self.api("GET", "/tunnels?limit=1000")}

    # Ansible

    def static(self) -> Path:
        """An inventory of the lab's hosts that asks no panel."""
        hosts = {name: {"ansible_host": host.address} for name, host in self.lab.hosts.items()}
        path = self.directory / "static.json"
        path.write_text(json.dumps({"marzban_nodes": {"hosts": hosts, "vars": self.variables()}}))
        return path

    def variables(self) -> dict[str, Any]:
        """How the lab's hosts are reached, and how long a run waits for traffic."""
        return {**self.lab.inventory(), "tunnels_wait": PATIENCE}

    def environment(self, **more: str) -> dict[str, str]:
        env = ansible_environment(self.directory)
        env.update(
            MARZBAN_URL=self.panel.url,
            MARZBAN_USERNAME=self.panel.username,
            MARZBAN_PASSWORD=self.panel.password,
            MARZBAN_CA_PATH=str(self.panel.ca_path),
        )
        if not self.login:
            env["MARZBAN_TOKEN"] = self.token
        env.update(more)
        return env

    def command(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Any program of the virtual environment, in the operator's environment."""
        return subprocess.run(
            words,
            env=self.environment(**env),
            cwd=TOP,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
            check=False,
        )

    def play(
        self,
        playbook: str | list[dict[str, Any]],
        *words: str,
        inventory: Path | str | None = None,
        env: dict[str, str] | None = None,
    ) -> Run:
        """Run a playbook: one of the collection's by name (``apply``), or plays written in the test."""
        self.runs += 1
        record = self.directory / f"run-{self.runs}.jsonl"
        record.touch()
        if isinstance(playbook, str):
            name = f"marzban.tunnels.{playbook}"
        else:
            path = self.directory / f"play-{self.runs}.yml"
            path.write_text(json.dumps(playbook))
            name = str(path)
        done = self.command(
            "ansible-playbook",
            "-i",
            str(inventory or (self.inventory if self.login else self.static())),
            name,
            *words,
            **{"MARZBAN_TEST_RECORD": str(record), **(env or {})},
        )
        events = [json.loads(line) for line in record.read_text().splitlines()]
        return Run(done.returncode, done.stdout + done.stderr, events)

    def apply(self, *words: str, **more: Any) -> Run:
        return self.play("apply", *words, **more)

    # Traffic

    def addresses(self, tunnel: str, node: str) -> list[str]:
        """The addresses inside the tunnel at this node's end, without prefix: IPv4, then IPv6."""
        return inside(self.tunnels()[tunnel], node)

    def passes(self, tunnel: str, source: str, target: str) -> bool:
        """Whether one packet from ``source`` is answered by ``target`` inside the tunnel, over IPv4 and over IPv6."""
        return not unanswered(self.lab.hosts[source], self.addresses(tunnel, target))

    def silent(self, tunnel: str, source: str, target: str) -> bool:
        """Whether ``target`` answers no packet from ``source`` inside the tunnel, neither over IPv4 nor over IPv6."""
        addresses = self.addresses(tunnel, target)
        return unanswered(self.lab.hosts[source], addresses, "-c 2 -i 0.2") == set(addresses)

    def expect_traffic(self, *joined: tuple[str, str, str], seconds: float = PATIENCE) -> None:
        """Traffic both ways in each ``(tunnel, node, node)``, over IPv4 and over IPv6."""
        records = self.tunnels()
        ways: dict[str, dict[str, str]] = {}
        for name, a, b in joined:
            for source, target in ((a, b), (b, a)):
                ways.setdefault(source, {}).update(dict.fromkeys(inside(records[name], target), f"{target} in {name}"))
        for source, missing in ways.items():

            def all_came(source: str = source, missing: dict[str, str] = missing) -> bool:
                for address in set(missing) - unanswered(self.lab.hosts[source], missing):
                    del missing[address]
                return not missing

            try:
                until("all answers", all_came, seconds)
            except AssertionError as error:
                raise AssertionError(f"{error}: {source} does not reach {sorted(set(missing.values()))}") from None


def inside(record: dict[str, Any], node: str) -> list[str]:
    """The addresses inside a tunnel at a node's end, without prefix: IPv4, then IPv6."""
    end = next(end for end in record["ends"] if end["node"] == node)
    return [address.split("/")[0] for address in end["addresses"]]


def unanswered(host: Host, addresses: Iterable[str], options: str = "-c 1") -> set[str]:
    """Those of the addresses that answer no ping of the host's; all are asked at once, by one shell."""
    asked = [f"{{ ping -n -q {options} -W 1 {address} >/dev/null 2>&1 || echo {address}; }}" for address in addresses]
    return set(host.run(" & ".join([*asked, "wait"])).stdout.split())
