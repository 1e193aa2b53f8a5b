# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A panel and lab hosts that work together by the node service: how they are set up, and whether they agree."""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from marzban_tunnels import node_access
from tests.lab.host import Host
from tests.support.world import World, until

#: A panel's settings with which it works with the nodes.
MANAGED = {"NODE_API_KEY": "0123456789abcdef" * 4}
PORT = 62052
FOLDERS, KEPT = "etc/marzban/tunnels", "var/lib/marzban-node/views"
#: Interfaces, units and processes of tunnels have the interface in their name or words.
OURS = re.compile(r"\bmz\d+\b")
UNITS = "'wg-quick@*' 'openvpn-*@*' 'marzban-ipsec*' strongswan.service"
#: What of ours, or because of us, is on a host. What the service counts and remembers is not a part of a tunnel.
WHOLE = (
    "cd /; found() { find etc usr/local var/lib/marzban-node run/marzban* root/.ansible -xdev ! -name counters.json"
    " ! -name removed.json ! -name '*.pyc' ! -path 'etc/ssh/*' $@ 2>/dev/null; };"
    " found -type f -print0 | sort -z | xargs -0 sha256sum; found -type l -printf '%p->%l\\n' | sort;"
    " ls /sys/class/net; ip -o addr show scope global | sed 's/^[0-9]*: //; s/valid_lft.*//' | sort;"
    " ip route show table all | sed 's/expires [0-9a-z]*//' | grep -v fe80 | sort; ip rule; ip -6 rule;"
    f" nft list ruleset; systemctl list-units --all --plain --no-legend {UNITS};"
    " ls /etc/systemd/system/multi-user.target.wants;"
    " ps -eo args= | grep -E '^[^ ]*(wireguard-go|openvpn|charon)' | sort"
)


def with_service(world: World) -> World:
    """All hosts get the service from this panel, which was started with a secret for it."""
    world.play("node_api").expect()
    until("all services answer", lambda: {node["state"] for node in nodes(world).values()} == {"ok"})
    return world


def nodes(world: World) -> dict[str, dict[str, Any]]:
    """What the panel says about the services, by the nodes' names."""
    return {node["node"]: node for node in world.api("GET", "/tunnels/nodes")["nodes"]}


def access_key(world: World, name: str) -> str:
    """The panel's access key for this node, made of the panel's secret as the panel makes it."""
    entry = nodes(world)[name]
    answer = world.session.get(f"{world.panel.url}/api/tunnels?limit=1", timeout=30)
    panel = answer.headers["Marzban-Panel-Id"]
    return node_access.check_key(MANAGED["NODE_API_KEY"]).key(panel, entry["uuid"], entry["generation"])


def ask(host: Host, path: str, key: str | None = None) -> tuple[int, Any]:
    """What a service answers to somebody with this key: its status, and a text or what the JSON holds."""
    context = ssl._create_unverified_context()  # the pin is what counts
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"https://{host.address}:{PORT}{path}", headers=headers)
    direct = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=30) as answer:
            text = answer.read().decode()
            return answer.status, text if path in ("/health", "/metrics") else json.loads(text)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def whole(host: Host) -> list[str]:
    """All of a host that tunnels may have left something in, line by line, in an order that a reboot keeps."""
    return sorted(host.run(WHOLE).stdout.splitlines())


def _version(path: Path, *keys: str) -> int | None:
    """The version of a record in a file of JSON; None where it has just gone."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    for key in keys:
        found = found[key]
    return int(found["version"])


def differs(world: World, alone: bool = True) -> list[str]:
    """Where the records, the panel's list of its nodes, and what is on the hosts do not agree. The hosts are looked
    at last, which is dear: when the panel says that all is well."""
    records = list(world.tunnels().values())
    found = _panel_differs(world, records)
    for host in world.lab.hosts.values() if alone and not found else ():
        found += [f"{host.name}: {what}" for what in _host_differs(host, records)]
    return found


def _panel_differs(world: World, records: list[dict[str, Any]]) -> list[str]:
    found = []
    for node in nodes(world).values():
        told = {key: node[key] for key in ("problem", "orphans", "deletions", "changed_keys") if node[key]}
        if told or node["state"] != "ok":
            found.append(f"{node['node']} is {node['state']}: {told}")
    for record in records:
        expected = "active" if record["is_active"] else "inactive"
        ends = [(end["status"], end["stale"], end["by"]) for end in record["ends"]]
        if record["status"] != expected or (record["is_active"] and ends != [("active", False, "service")] * 2):
            found.append(f"{record['name']} is {record['status']}, not {expected}: {record['ends']}")
    return found


def _host_differs(host: Host, records: list[dict[str, Any]]) -> list[str]:
    here = [(record, end) for record in records for end in record["ends"] if end["node"] == host.name]
    wanted = {record["uuid"]: record["version"] for record, _end in here}
    on = {record["uuid"]: record["version"] for record, _end in here if record["is_active"]}
    interfaces = sorted(end["interface"] for record, end in here if record["is_active"])
    folders = {path.parent.name: _version(path) for path in (host.root / FOLDERS).glob("*/state.json")}
    kept = {path.stem: _version(path, "view") for path in (host.root / KEPT).glob("*.json")}
    said = host.run(
        "ls /sys/class/net; echo --; nft list tables; echo --;"
        f" systemctl list-units --plain --no-legend {UNITS} | grep -o 'mz[0-9]*' || true; echo --;"
        " ps -eo args= | grep -E '^[^ ]*(wireguard-go|openvpn)' | grep -o 'mz[0-9]*' | sort -u || true; echo --;"
        " ps -eo args= | grep -cE '^[^ ]*(wireguard-go|openvpn)' || true"
    ).stdout.split("--\n")
    links, tables, units, processes, number = said
    with_process = sorted(
        end["interface"] for record, end in here if record["is_active"] and record["tunnel_type"] != "ipsec"
    )
    checks = {
        "kept views": (kept, wanted),
        # One that was never on here has no folder.
        "folders": (set(folders) - set(wanted), set()),
        "versions of active tunnels": ({uuid: version for uuid, version in folders.items() if uuid in on}, on),
        "interfaces": (sorted(OURS.findall(links)), interfaces),
        "tables": (set(re.findall(r"marzban-([0-9a-f-]{36})", tables)), set(on)),
        "processes": (processes.split(), with_process),
        "number of processes": (int(number), len(with_process)),
        "units": (sorted(set(units.split()) - set(interfaces)), []),
    }
    return [f"{what}: {seen}, not {expected}" for what, (seen, expected) in checks.items() if seen != expected]


def agree(world: World, alone: bool = True, seconds: float = 60) -> None:
    """Waits until nothing differs, and all active tunnels carry packets. ``alone``: the hosts have no other panel."""
    last: list[str] = []

    def nothing_differs() -> bool:
        last[:] = differs(world, alone)
        return not last

    try:
        until("records and nodes agree", nothing_differs, seconds, every=0.3)
    except AssertionError as error:
        raise AssertionError(f"{error}\n" + "\n".join(last)) from None
    world.expect_traffic(
        *((record["name"], *(end["node"] for end in record["ends"])) for record in world.tunnels().values()
          if record["is_active"])
    )  # fmt: skip
