# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the test of secrets looks for, and what it has seen: runs, processes, and every secret that there was."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import requests

from marzban_tunnels.node_access import check_key
from tests.lab.host import Host
from tests.support.event_stream import EventStream
from tests.support.faulty import Faulty
from tests.support.panel_api import Api
from tests.support.search import Processes, Searcher, forms, secret_forms
from tests.support.service_hosts import ask
from tests.support.webhook_receiver import TOKEN, Receiver
from tests.support.world import Run, World

KEYS = "etc/marzban/tunnels"
# The files of secrets on a host, and those of them that both ends of a tunnel hold
FILES = (
    *(f"{KEYS}/*/*.key", f"{KEYS}/*/private.next", f"{KEYS}/*/*.pem", "etc/swanctl/private/marzban-*"),
    "etc/marzban/node_service/tls.key",
)
SHARED = ("preshared.key", "wrap.key")
LOUD = ("-vvv", "--diff")
SECRET = token_urlsafe(48)
METRICS_KEY = token_urlsafe(48)
METRICS_HASH = hashlib.sha256(METRICS_KEY.encode()).hexdigest()
WEBHOOK_SECRET = token_urlsafe(48)


@dataclass
class Evidence:
    """What the runs were, and what is secret: ``{host, or "both": {file and a bit of its content: the content}}``."""

    world: World
    proxy: Faulty
    began: float
    processes: Processes
    runs: dict[str, Run] = field(default_factory=dict)
    keys: dict[str, dict[str, bytes]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # what the panel and the services told others by themselves

    @property
    def kept(self) -> Path:
        """Where Ansible keeps the modules that it has sent, on the controller and on the hosts."""
        return self.world.directory / "kept"

    def note_keys(self) -> None:
        """Every secret that there is now, read from outside."""
        assert self.world.lab is not None
        for name, host in self.world.lab.hosts.items():
            for path in secret_files(host):
                content = path.read_bytes()
                owner = "both" if path.name in SHARED else name
                digest = hashlib.sha256(content).hexdigest()[:6]
                self.keys.setdefault(owner, {})[f"{path.parent.name}/{path.name} {digest}"] = content

    def of_file(self, owner: str, name: str) -> list[bytes]:
        """What files of this name have held."""
        return [content for label, content in self.keys[owner].items() if f"/{name} " in label]

    def run(self, what: str, play: Any, *words: str, code: int = 0, note: bool = True, **env: str) -> Run:
        env = {"MARZBAN_URL": self.proxy.url, **env}
        with self.processes_of_this_run() as seen:
            done = self.world.play(play, *LOUD, *words, env=env)
        self.processes.words |= seen.words
        self.processes.hosts_environments |= seen.hosts_environments
        if note:
            self.note_keys()
        assert done.code == code, f"{what}: exit code {done.code}\n{done.text}"
        self.runs[what] = done
        return done

    @staticmethod
    def processes_of_this_run() -> Processes:
        return Processes()

    def listen(self) -> EventStream:
        """A stream of the panel's events, as a page has it."""
        panel = self.world.panel
        api = Api(panel.url, "", "", str(panel.ca_path))
        api.session.headers["Authorization"] = self.world.session.headers["Authorization"]
        return EventStream(api, seconds=60)

    def note_metrics(self) -> None:
        """What Prometheus gets."""
        panel, headers = self.world.panel, {"Authorization": f"Bearer {METRICS_KEY}"}
        answer = requests.get(f"{panel.url}/api/tunnels/metrics", headers=headers, verify=panel.ca_path, timeout=30)
        self.told["the panel's metrics"] = answer.text
        for name, host in self.world.lab.hosts.items():
            self.told[f"{name}'s metrics"] = ask(host, "/metrics", METRICS_KEY)[1]

    def note_history(self) -> None:
        """Of each tunnel that there is."""
        known = [self.world.api("GET", f"/tunnels/{item['id']}/history") for item in self.world.tunnels().values()]
        self.told["history"] = json.dumps(known)

    def note_events(self, stream: EventStream, deleted: Iterable[int]) -> None:
        """All that the stream has told until the last of these tunnels was deleted."""
        found, left = [], set(deleted)
        while left:
            event = stream.next()
            found.append(asdict(event))
            left -= set(event.data["deleted"] if event.name == "tunnels" else ())
        self.told["events"] = json.dumps(found)

    def note_webhook(self, receiver: Receiver) -> None:
        """All that came, with its headers."""
        self.told["webhook"] = json.dumps([receiver.messages, receiver.headers])

    def private(self) -> Searcher:
        """Finds the secrets of all hosts."""
        return Searcher(
            {f"{owner}'s {key}": secret_forms(data) for owner, keys in self.keys.items() for key, data in keys.items()}
        )

    def access_keys(self) -> dict[str, dict[str, bytes]]:
        """The forms of the panel's secrets: that for the nodes, the access keys that are made of it, the next ones
        too, the key that reads the metrics, what signs for the webhook's receiver, and a token in its URL."""
        secrets = {"NODE_API_KEY": SECRET, "TUNNEL_METRICS_KEY": METRICS_KEY, "TUNNEL_WEBHOOK_SECRET": WEBHOOK_SECRET}
        secrets["the token in TUNNEL_WEBHOOK_URL"] = TOKEN
        found = {name: forms(text.encode()) for name, text in secrets.items()}
        answer = self.world.api("POST", "/tunnels/nodes/access", json={"nodes": list(self.world.lab.hosts)})
        for node in answer["nodes"]:
            for number, known in enumerate(node["hashes"], node["generation"]):
                key = check_key(SECRET).key(answer["panel"], node["uuid"], number)
                assert hashlib.sha256(key.encode()).hexdigest() == known, "not the key that the panel uses"
                label = f"the access key to {node['node']}, generation {number}"
                found[label] = forms(key.encode()) | {
                    f"the bytes, {form}": data for form, data in forms(base64.urlsafe_b64decode(key + "=")).items()
                }
        return found

    def tokens(self) -> set[str]:
        """All tokens that the panel gave out."""
        sent = {request.headers.get("Authorization", "").partition(" ")[2] for request in self.proxy.requests}
        return (sent | {str(self.world.session.headers["Authorization"]).partition(" ")[2]}) - {""}

    def login(self) -> Searcher:
        """Finds the panel's password, tokens, and access keys: what is on no node, in no output, in no cache."""
        secrets = {"the password": forms(self.world.panel.password.encode()), **self.access_keys()}
        secrets |= {
            f"token …{token[-4:]}": {"plain": token.encode(), "signature": token[-40:].encode()}
            for token in self.tokens()
        }
        return Searcher(secrets)


def secret_files(host: Host) -> list[Path]:
    """The files of secrets that a host has now."""
    return sorted(path for pattern in FILES for path in host.root.glob(pattern))
