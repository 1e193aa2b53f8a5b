# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager costs a Marzban, with STAND-INS for the node service. In the real one where MARZBAN_SRC names a
checkout, else in the stand-in for Marzban. Nothing is asserted of the clock."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.rows import REPEATS, Row, Table
from tests.support import marzban
from tests.support.managed_panel import KEY, Services, until
from tests.support.marzban import Marzban
from tests.support.panel_api import Api
from tests.support.simulated_node import Nodes, SimulatedNode

CALLS = ("GET /api/nodes", "GET /api/system", "POST /api/admin/token")
PAIRS = 60  # of calls, for one value
# In a process of its own: the nodes' thread is in this one, and would be measured too.
CLIENT = """
import http.client, json, statistics, sys, time, urllib.parse
urls, tokens, form, method, path, pairs = json.load(sys.stdin)
links = [http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc) for url in urls]
taken = [[] for _link in links]
for number in range(pairs):
    for place in (0, 1) if number % 2 else (1, 0):
        headers = {"Authorization": "Bearer " + tokens[place]}
        if method == "POST":
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        begun = time.perf_counter()
        links[place].request(method, path, form if method == "POST" else None, headers)
        answer = links[place].getresponse()
        answer.read()
        taken[place].append(time.perf_counter() - begun)
        assert answer.status == 200, answer.status
print(json.dumps([statistics.median(some) for some in taken]))
"""


# In a process of its own too: pages that have the stream of events open. It says when they all have.
PAGES = """
import selectors, socket, sys
host, port, token, count = sys.argv[1:]
waiting = selectors.DefaultSelector()
for _page in range(int(count)):
    page = socket.create_connection((host, int(port)))
    head = "GET /api/tunnels/events HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer " + token + "\\r\\n\\r\\n"
    page.sendall(head.encode())
    assert b" 200 " in page.recv(65536).split(b"\\r\\n")[0]
    waiting.register(page, selectors.EVENT_READ)
print("open", flush=True)
while True:
    for key, _events in waiting.select():
        assert key.fileobj.recv(65536), "it has ended"
"""


class Scene:
    """``panel`` is a Marzban whose manager works; ``twin`` has the same records, and no manager."""

    def __init__(self, directory: Path, nodes: Nodes, count: int, tunnels: int) -> None:
        real = bool(marzban.source())
        self.panel = Marzban(directory / "panel", f"sqlite:///{directory}/panel.db", real=real, NODE_API_KEY=KEY)
        self.twin = Marzban(directory / "twin", f"sqlite:///{directory}/twin.db", real=real, NODE_API_KEY="")
        self.twin.password = self.twin.env["SUDO_PASSWORD"] = self.panel.password
        self.panel.start()
        self.api = Services(self.panel.api())
        self.nodes = [nodes.add(f"node-{number:03}", shared=True) for number in range(count)]
        self.ids = {node.name: self.api.node(node)["id"] for node in self.nodes}
        around = itertools.cycle((first, step) for step in range(1, count) for first in range(count))
        pairs = [(first, (first + step) % count) for first, step in itertools.islice(around, tunnels)]
        self.tunnels: list[Any] = []
        for start in range(0, tunnels, 100):
            bodies = [self.body(*pair) for pair in pairs[start : start + 100]]
            answer = self.api.api.send("POST", "/api/tunnels/bulk", {"tunnels": bodies})
            assert answer["rejected"] == [], answer["rejected"][:1]
            self.tunnels += answer["tunnels"]
        self.panel.stop()
        with closing(sqlite3.connect(directory / "panel.db")) as connection:
            # Else Marzban tries all the time to reach the Xray of a hundred nodes, which they don't have.
            connection.execute("UPDATE nodes SET status = 'disabled'")
            connection.commit()
        shutil.copy(directory / "panel.db", directory / "twin.db")

    def body(self, source: int, target: int) -> dict[str, Any]:
        ends = (("source", self.nodes[source]), ("target", self.nodes[target]))
        config = {role: {"endpoint": node.endpoint} for role, node in ends}
        ids = {f"{role}_node_id": self.ids[node.name] for role, node in ends}
        return {**ids, "tunnel_type": "wireguard", "config": json.dumps(config)}

    def ends(self, tunnel: Any) -> list[SimulatedNode]:
        by_id = {self.ids[node.name]: node for node in self.nodes}
        return [by_id[tunnel["source_node_id"]], by_id[tunnel["target_node_id"]]]

    def agree(self, tunnel: Any) -> bool:
        held = [node.tunnels[tunnel["uuid"]] for node in self.ends(tunnel) if tunnel["uuid"] in node.tunnels]
        return len(held) == 2 and all(one["peer"] == two["public_key"] for one, two in (held, held[::-1]))

    def settled(self) -> None:
        """All is on the nodes, and the panel has shown it for a while."""
        until(lambda: all(self.agree(tunnel) for tunnel in self.tunnels), 180)
        until(self.quiet, 120)

    def quiet(self) -> bool:
        """Whether the panel and its twin use about as little as they will: the manager's looks at what was just changed
        are over."""
        before, begun = self.panel.processor(), time.monotonic()
        writes = sum(len(node.wrote()) for node in self.nodes)
        time.sleep(12)
        used = (self.panel.processor() - before) / (time.monotonic() - begun)
        return writes == sum(len(node.wrote()) for node in self.nodes) and used < 0.15

    def minute(self) -> float:
        """Seconds of CPU that the manager uses in one, in which nothing happens: what the twin uses is taken off."""
        before = self.panel.processor(), self.twin.processor()
        time.sleep(60)
        return max(0.01, self.panel.processor() - before[0] - (self.twin.processor() - before[1]))

    def change(self) -> float:
        """Seconds until a new tunnel is on both its nodes."""
        begun = time.monotonic()
        made = self.api.api.send("POST", "/api/tunnels", self.body(0, 1))
        until(lambda: self.agree(made), 30)
        taken = time.monotonic() - begun
        self.api.api.send("DELETE", f"/api/tunnels/{made['id']}")
        until(lambda: not any(made["uuid"] in node.tunnels for node in self.nodes[:2]), 30)
        return taken

    @contextmanager
    def pages(self, count: int) -> Iterator[None]:
        """So many have the stream of events open, in which what nodes measure comes all the time."""
        host, _colon, port = self.panel.url.rpartition("/")[2].partition(":")
        words = [sys.executable, "-c", PAGES, host, port, token(self.panel.api()), str(count)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as pages:
            try:
                assert pages.stdout is not None
                assert pages.stdout.readline() == b"open\n"
                yield
                assert pages.poll() is None, "the streams have ended"
            finally:
                pages.kill()

    def news(self, number: int) -> float:
        """Seconds from a node's new measurement until the panel has it. Each is of another tunnel."""
        tunnel = self.tunnels[number * 7 % len(self.tunnels)]
        node, counted = self.ends(tunnel)[number % 2], 10**12 + number
        time.sleep(random.Random(number).uniform(0.1, 0.6))
        node.measured = {"rx_bytes": counted}
        begun = time.monotonic()
        node.look()
        while True:
            ends = self.api.api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]
            if counted in [(end["measured"] or {}).get("rx_bytes") for end in ends]:
                return time.monotonic() - begun
            time.sleep(0.005)

    def medians(self, call: str) -> tuple[float, float]:
        """Of a call to the panel and to the twin in turns: seconds."""
        method, path = call.split()
        tokens = [str(token(running.api())) for running in (self.panel, self.twin)]
        form = f"username={self.panel.username}&password={self.panel.password}"
        given = json.dumps([[self.panel.url, self.twin.url], tokens, form, method, path, PAIRS])
        done = subprocess.run([sys.executable, "-c", CLIENT], input=given, capture_output=True, text=True, check=True)
        above, below = json.loads(done.stdout)
        return above, below


def token(api: Api) -> str:
    header = api.session.headers["Authorization"]
    return str(header).split()[1]


@contextmanager
def scene(directory: Path, count: int, tunnels: int) -> Iterator[Scene]:
    """Settled."""
    folder = directory / f"manager-{count}"
    folder.mkdir()
    with Nodes() as nodes:
        made = Scene(folder, nodes, count, tunnels)
        nodes.measure(5.0)
        with made.panel, made.twin:
            made.api = Services(made.panel.api())
            made.settled()
            yield made


def test_manager(directory: Path, table: Table) -> None:
    called = "Marzban" if marzban.source() else "the stand-in for Marzban"
    minutes: dict[int, list[float]] = {}
    for count, tunnels in ((10, 100), (100, 1000)):
        load = f"{count} nodes, {tunnels:,} tunnels"
        with scene(directory, count, tunnels) as made:
            minutes[count] = [made.minute() for _time in range(max(1, REPEATS // 2))]
            table.add(Row(f"the manager in {called}, {load}, an idle minute", 6, minutes[count], "seconds of CPU"))
            changes = [made.change() for _time in range(REPEATS)]
            table.add(Row(f"{load}, a new tunnel on both nodes", 5, changes, "seconds"))
            if count < 100:
                continue
            delays = [made.news(number) for number in range(100)]
            table.add(Row(f"{load}, what a node has measured is on the panel", 2, delays, "seconds"))
            for call in CALLS:
                pairs = [made.medians(call) for _time in range(REPEATS)]
                ratios = [above / below for above, below in pairs]
                table.add(Row(f"{call} of {called}, manager on ÷ off, {load}", 1.1, ratios, seconds=pairs))
            with made.pages(50):
                for call in CALLS:
                    pairs = [made.medians(call) for _time in range(REPEATS)]
                    ratios = [above / below for above, below in pairs]
                    table.add(Row(f"{call}, with 50 pages that take events ÷ manager off", 1.3, ratios, seconds=pairs))
    growth = statistics.median(minutes[100]) / statistics.median(minutes[10])
    table.add(Row(f"the manager in {called}, idle, 100 nodes and 1,000 tunnels ÷ 10 and 100", 10, [growth]))
