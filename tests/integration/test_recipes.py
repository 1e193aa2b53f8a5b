# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/recipes.md: its files and commands, read out of the page and run as they are, and what comes of them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.network import GATEWAY
from tests.support import recipes
from tests.support.recipes import Section
from tests.support.world import BIN, TOP, TYPES, World, ansible_environment, until

PAGE = recipes.read("recipes.md")
#: Names of a letter of another script, of what means something to YAML and to Jinja; and what a panel keeps for others.
ODD = "تهران #1"
TEMPLATE = "{{ 7 * 191 }}"


class Reader:
    """Somebody who follows the page: a home, its folder of files, and what the page's examples are here."""

    def __init__(self, world: World, **examples: str) -> None:
        self.world = world
        self.home = world.directory
        self.folder = self.home / "tunnels"
        self.examples = {
            "https://panel.example.com:8000": world.panel.url,
            "'the password'": shlex.quote(world.panel.password),
            **examples,
        }
        shutil.copytree(TOP / "inventories/example", self.folder / "my-panel")
        shutil.copy(str(world.panel.ca_path), self.home / "ca.pem")
        self.section("Before you begin", "panel.env")

    def section(self, heading: str, *files: str, **examples: str) -> list[str]:
        """Puts a section's files into the folder, which have to be these, and returns its commands."""
        section: Section = PAGE[heading]
        assert list(section.files) == list(files)
        self.examples.update(examples)
        for name, text in section.files.items():
            if not name.startswith("/"):
                (self.folder / name).write_text(self.here(text))
        return section.commands

    def here(self, text: str) -> str:
        for example, real in self.examples.items():
            text = text.replace(example, real)
        return text

    def environment(self) -> dict[str, str]:
        """Where this checkout is installed; nothing of the panel, and no callback but Ansible's own."""
        env = ansible_environment(self.home)
        del env["ANSIBLE_CALLBACK_PLUGINS"], env["ANSIBLE_CALLBACKS_ENABLED"]
        return env

    def sh(self, commands: str) -> str:
        """What commands of the page printed, which all ended well."""
        done = self.shell(f". ./panel.env\n{self.here(commands)}", self.folder, self.environment())
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shell(self, script: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", script],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )


# On the panel alone


@pytest.fixture(scope="module")
def of_panel(make_world: Callable[..., World]) -> Reader:
    world = make_world(name="records")
    for number, name in enumerate(("de-1", "fi-1", ODD)):
        world.api("POST", "/node", json={"name": name, "address": f"203.0.113.{number}", "add_as_new_host": False})
    return Reader(world)


@pytest.fixture
def reader(of_panel: Reader) -> Reader:
    """With no records on the panel."""
    for tunnel in of_panel.world.tunnels().values():
        of_panel.world.api("DELETE", f"/tunnels/{tunnel['id']}")
    return of_panel


def test_full_mesh(reader: Reader) -> None:
    (mesh,) = reader.section("Full mesh", "mesh.yml")
    other = reader.world.tunnel("other", "de-1", "fi-1")
    reader.sh(mesh)
    tunnels = reader.world.tunnels()
    ends = {name: {end["node"] for end in tunnel["ends"]} for name, tunnel in tunnels.items()}
    pairs = [("de-1", "fi-1"), ("de-1", ODD), ("fi-1", ODD)]
    assert ends == {"other": {"de-1", "fi-1"}, **{f"{a}_{b}": {a, b} for a, b in pairs}}
    assert tunnels["other"] == other
    assert "changed=0" in reader.sh(mesh)
    assert reader.world.tunnels() == tunnels


def test_tunnels_as_code(reader: Reader) -> None:
    world = reader.world
    export, read_in = reader.section("Tunnels as code", "export.yml", "import.yml")
    config: dict[str, Any] = {"mtu": 1380, "source": {"routes": ["192.168.1.0/24"]}, "seen": TEMPLATE}
    world.tunnel("one", "de-1", "fi-1", config, tunnel_type="openvpn")
    world.tunnel(ODD, "fi-1", ODD, is_active=False)
    world.tunnel("two", "de-1", "fi-1")
    reader.sh(export)
    file = reader.folder / "tunnels.yml"
    text = file.read_text()
    plain = {"type": "wireguard", "active": True, "config": {}}
    assert yaml.safe_load(text) == [
        {"name": "one", "source": "de-1", "target": "fi-1", "type": "openvpn", "active": True, "config": config},
        {**plain, "name": ODD, "source": "fi-1", "target": ODD, "active": False},
        {**plain, "name": "two", "source": "de-1", "target": "fi-1"},
    ]
    assert ODD in text, "as a person reads it"
    assert len(text.splitlines()) == 3

    before = world.tunnels()
    world.change("one", config={})
    world.api("DELETE", f"/tunnels/{before[ODD]['id']}")
    world.tunnel("three", "de-1", "fi-1")
    reader.sh(read_in)
    after = world.tunnels()
    assert after.keys() == before.keys()
    assert after["two"] == before["two"]
    assert json.loads(after["one"]["config"]) == config
    for key in ("tunnel_type", "is_active", "config", "source_node_name", "target_node_name"):
        assert after[ODD][key] == before[ODD][key]


# On hosts


@pytest.fixture(scope="module")
def joined(make_world: Callable[..., World]) -> Reader:
    """Two nodes and an end that is not one, joined at a hub; and tunnels of the other types, and with `require`."""
    hosts = {"de-1": "trixie+tunnels", "fi-1": "bookworm+tunnels", "office": "bookworm+tunnels"}
    world = make_world(register=False, **hosts)
    world.register("de-1", "fi-1")
    addresses = {name: host.address for name, host in world.lab.hosts.items()}
    example = {"203.0.113.7": addresses["de-1"], "192.0.2.10": addresses["office"], "192.0.2.20": addresses["office"]}
    reader = Reader(world, **example)
    variables = reader.folder / "my-panel/group_vars/marzban_nodes.yml"
    variables.write_text(json.dumps(world.lab.inventory()))
    (outside,) = reader.section("An end that is not a node")
    (hub,) = reader.section("Hub and spoke", "hub.yml")
    (apply,) = reader.section("Before you begin", "panel.env")
    reader.sh(outside)
    assert [tunnel["ends"][0]["node"] for tunnel in world.tunnels().values()] == ["office"]
    reader.sh(hub)
    for kind in TYPES[1:]:
        world.tunnel(kind, "fi-1", "de-1", tunnel_type=kind)
    world.tunnel("required", "de-1", "fi-1", {"post_quantum": "require"})
    reader.sh(apply)
    return reader


SPOKES = ("fi-1", "office")
ALL = (
    *((f"{spoke}_de-1", spoke, "de-1") for spoke in SPOKES),
    *((kind, "fi-1", "de-1") for kind in TYPES[1:]),
    ("required", "de-1", "fi-1"),
)


@pytest.mark.lab
@pytest.mark.variation
def test_a_spoke_reaches_another(joined: Reader) -> None:
    """Also one that is not a node: Marzban has it as a disabled one."""
    world = joined.world
    assert {node["name"]: node["status"] for node in world.api("GET", "/nodes")}["office"] == "disabled"
    for spoke in SPOKES:
        assert world.tunnels()[f"{spoke}_de-1"]["ends"][1]["routes"] == ["10.201.0.0/16"]
    world.expect_traffic(*ALL)
    far = world.addresses("office_de-1", "office")[0]
    until("fi-1 reaches office", partial(answered, world, "fi-1", far))


def answered(world: World, host: str, address: str) -> bool:
    """Whether a ping of the host's is answered."""
    return world.lab.host(host).run(["ping", "-n", "-q", "-c", "1", "-W", "1", address], check=False).returncode == 0


@pytest.fixture
def cut(joined: Reader) -> Iterator[Callable[[], None]]:
    """Call it, and the hub gets no packet of one tunnel; until the end of the test."""
    hub, port = joined.world.lab.host("de-1"), joined.world.tunnels()["fi-1_de-1"]["ends"][1]["port"]

    def cut() -> None:
        hub.run("nft add table inet cut; nft 'add chain inet cut in { type filter hook input priority 0; }'")
        hub.run(f"nft add rule inet cut in udp dport {port} drop")

    yield cut
    hub.run("nft delete table inet cut", check=False)


@pytest.mark.variation  # each recipe is run by test-all
@pytest.mark.lab
def test_schedule_and_alarm(joined: Reader, cut: Callable[[], None]) -> None:
    """As cron runs it: from the user's home, by sh, with nothing in the environment but what its file sets."""
    assert joined.section("Schedule and alarm", "run.sh", "/etc/cron.d/tunnels") == []
    *settings, job = PAGE["Schedule and alarm"].files["/etc/cron.d/tunnels"].splitlines()
    assert [line.partition("=")[0] for line in settings] == ["MAILTO", "PATH"]
    *times, user, command = job.split(maxsplit=6)
    assert (times, user) == (["*/15", *"****"], "root")
    env = {name: value for name, value in joined.environment().items() if name.startswith("ANSIBLE_")}
    env.update(HOME=str(joined.home), SHELL="/bin/sh", PATH=f"{BIN}:/usr/bin:/bin")
    quiet = joined.shell(command, joined.home, env)
    assert (quiet.returncode, quiet.stdout) == (0, "")
    cut()
    mailed = joined.shell(command, joined.home, env).stdout
    assert "tunnel fi-1_de-1 (fi-1 -> de-1): " in mailed
    assert not [name for name, *_ends in ALL[1:] if f"tunnel {name} (" in mailed], "nothing about the others"
    assert "office_de-1" in mailed, "the table"
    watched(joined, env)


def watched(joined: Reader, env: dict[str, str]) -> None:
    """The other recipe for cron, while a tunnel is cut: it prints when something broke, and when it is well again."""
    assert joined.section("Watch, and change nothing", "watch.sh", "/etc/cron.d/tunnels-watch") == []
    *settings, job = PAGE["Watch, and change nothing"].files["/etc/cron.d/tunnels-watch"].splitlines()
    assert [line.partition("=")[0] for line in settings] == ["MAILTO", "PATH"]
    command = job.split(maxsplit=6)[-1]
    broke = joined.shell(command, joined.home, env)
    assert broke.returncode == 2
    assert broke.stdout.startswith("exit code 2\n")
    assert "tunnel fi-1_de-1 (fi-1 -> de-1): " in broke.stdout
    still = joined.shell(command, joined.home, env)
    assert (still.returncode, still.stdout) == (2, ""), "it is not mailed each five minutes"
    joined.world.lab.host("de-1").run("nft delete table inet cut")
    joined.world.expect_traffic(*ALL)
    well = joined.shell(command, joined.home, env)
    assert (well.returncode, well.stdout.partition("\n")[0]) == (0, "exit code 0")


@pytest.mark.lab
@pytest.mark.variation
def test_a_device_that_ansible_does_not_reach(joined: Reader) -> None:
    """The machine of office, by hand: a router with wg-quick."""
    world = joined.world
    router = world.lab.host("office")
    private, public = router.run("k=$(wg genkey); echo $k; echo $k | wg pubkey").stdout.split()
    (apply,) = joined.section(
        "A device that Ansible does not reach",
        "router.yml",
        "/etc/wireguard/de-1.conf",
        **{"PUBLIC KEY OF THE ROUTER": public, "PRIVATE KEY OF THE ROUTER": private},
    )
    before = len(world.panel.writes())
    shown = joined.sh(apply).split()[-1]
    joined.examples["PUBLIC KEY OF DE-1"] = shown
    text = joined.here(PAGE["A device that Ansible does not reach"].files["/etc/wireguard/de-1.conf"])
    router.run(["sh", "-c", f"umask 077; echo {shlex.quote(text)} >/etc/wireguard/de-1.conf; wg-quick up de-1"])
    router.run("ip address add 192.168.88.1/24 dev lo")
    try:
        for address in ("10.99.0.0", "192.168.88.1"):
            until(f"de-1 reaches {address}", partial(answered, world, "de-1", address))
        world.expect_traffic(*ALL)
        assert len(world.panel.writes()) == before, "the panel learns nothing of it"
    finally:
        router.run("wg-quick down de-1; ip address del 192.168.88.1/24 dev lo")


def public_keys(world: World) -> dict[tuple[str, str], str]:
    return {
        (name, end["role"]): end["public"]["public_key"]
        for name, tunnel in world.tunnels().items()
        for end in tunnel["ends"]
    }


@pytest.mark.lab
@pytest.mark.variation
def test_rotate_all_keys(joined: Reader) -> None:
    before = public_keys(joined.world)
    (rotate,) = joined.section("Rotate all keys", "rotate.yml")
    joined.sh(rotate)
    after = public_keys(joined.world)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    joined.world.expect_traffic(*ALL)


@pytest.mark.lab
@pytest.mark.variation
def test_replace_a_node(joined: Reader) -> None:
    """By a fresh machine with another address. The last test: fi-1 stays there."""
    world = joined.world
    host, network = world.lab.host("fi-1"), world.lab.network
    address, gateway = network.address(200), network.address(GATEWAY)
    clear, replace = joined.section("Replace a node", **{"198.51.100.90": address})
    before, keys = world.tunnels(), public_keys(world)
    nodes = {(name, end["role"]): end["node"] for name, tunnel in before.items() for end in tunnel["ends"]}
    joined.sh(clear)
    assert host.run("find /etc/marzban /etc/wireguard -type f", check=False).stdout == ""
    host.replace()
    host.run(f"ip address del {host.address}/24 dev eth0; ip address add {address}/24 dev eth0")
    host.run(f"ip route replace default via {gateway}")
    with world.lab.known_hosts.open("a") as known:
        known.write(f"{address} {host.host_key}\n")
    joined.sh(replace)
    assert {node["name"]: node["address"] for node in world.api("GET", "/nodes")}["fi-1"] == address
    for name, tunnel in world.tunnels().items():
        for key in ("uuid", "config"):
            assert tunnel[key] == before[name][key]
        for old, new in zip(before[name]["ends"], tunnel["ends"], strict=True):
            assert (new["addresses"], new["port"], new["interface"]) == (
                old["addresses"],
                old["port"],
                old["interface"],
            )
    new = {end for end, key in public_keys(world).items() if keys[end] != key}
    assert new == {end for end, node in nodes.items() if node == "fi-1"}
    world.expect_traffic(*ALL)


@pytest.mark.lab
@pytest.mark.variation
def test_the_node_services(joined: Reader) -> None:
    """Given, with a new secret, with a revoked key; and on a node that was set up again, here the office's."""
    world = joined.world

    def states() -> dict[str, str | None]:
        """How each node is: the code of its problem, else its state."""
        nodes = world.api("GET", "/tunnels/nodes")["nodes"]
        return {node["node"]: (node["problem"] or {}).get("code") or node["state"] for node in nodes}

    def all_are(state: str) -> bool:
        return set(states().values()) == {state}

    def panel_with(secret: str) -> None:
        world.panel._env["NODE_API_KEY"] = secret
        world.panel.restart()

    (give,) = joined.section("Give the nodes the node service")
    (renew,) = joined.section("A new secret for the node services")
    office = {"--limit fi-1": "--limit office"}
    (revoke,) = joined.section("Revoke a node's access key", **office)
    (again,) = joined.section("A node that was set up again", **office)
    panel_with("0123456789abcdef" * 2)
    joined.sh(give)
    until("all act by themselves", partial(all_are, "ok"))

    panel_with("fedcba9876543210" * 2)
    until("they refuse the new secret", partial(all_are, "key_wrong"))
    world.expect_traffic(*ALL)
    joined.sh(renew)
    until("they take it", partial(all_are, "ok"))

    number = next(node["node_id"] for node in world.api("GET", "/tunnels/nodes")["nodes"] if node["node"] == "office")
    hashes = "sha256sum /etc/marzban/node_service/panels/*.json"
    before = world.lab.host("office").run(hashes).stdout
    assert world.api("POST", f"/tunnels/nodes/{number}/revoke")["generation"] == 2
    joined.sh(revoke)
    assert world.lab.host("office").run(hashes).stdout != before
    until("all go on", partial(all_are, "ok"))

    world.lab.host("office").replace()
    until("another certificate, or none yet", lambda: states()["office"] not in ("ok", "asking"))
    joined.sh(again)
    until("it acts again", partial(all_are, "ok"))
    world.expect_traffic(*ALL)
