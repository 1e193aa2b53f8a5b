# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's private keys are on that node, in their own files, and nowhere else; the panel's password and tokens are on
no node, in no output and in no cache; access keys to the node service are nowhere but in the panel.

All runs come first, at -vvv --diff, then what the panel does by itself. Then everything is searched that they may have
left something in.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import Host
from tests.support.evidence import (
    KEYS,
    LOUD,
    METRICS_HASH,
    METRICS_KEY,
    SECRET,
    SHARED,
    WEBHOOK_SECRET,
    Evidence,
    secret_files,
)
from tests.support.faulty import Faulty
from tests.support.search import Processes, Searcher, forms
from tests.support.webhook_receiver import Receiver
from tests.support.world import World, until

pytestmark = pytest.mark.lab

#: Where systemd puts the service's TLS key for the half that faces the network.
CREDENTIAL = "run/credentials/marzban-node-front.service/tls.key"
KINDS = {"one": "wireguard", "two": "openvpn", "three": "ipsec"}
WIRE = "/root/wire"  # what has passed between the panel and a
APPLY = {"ansible.builtin.import_playbook": "marzban.tunnels.apply"}
SERVICE = {"ansible.builtin.import_playbook": "marzban.tunnels.node_api"}
NO_SERVICE = {**SERVICE, "vars": {"node_api_state": "absent"}}
REMOVE = {"ansible.builtin.import_playbook": "marzban.tunnels.remove", "vars": {"marzban_all": True}}
# A wg that fails to set anything, and says all that it could read.
BAD_WG = """#!/bin/sh
if [ "$1" = set ]; then cat /etc/marzban/tunnels/*/*.key >&2; cat /etc/marzban/tunnels/*/*.key; exit 1; fi
exec /usr/bin/wg.real "$@"
"""


@pytest.fixture(scope="module")
def evidence(make_world: Callable[..., World]) -> Iterator[Evidence]:
    began, receiver = time.time(), Receiver()
    env = {"NODE_API_KEY": SECRET, "TUNNEL_METRICS_KEY": METRICS_KEY}
    env |= {"TUNNEL_WEBHOOK_URL": receiver.url, "TUNNEL_WEBHOOK_SECRET": WEBHOOK_SECRET}
    world = make_world(env=env, a="bookworm+tunnels", b="bookworm+tunnels")
    assert world.lab is not None
    for name, kind in KINDS.items():
        world.tunnel(name, "a", "b", tunnel_type=kind)
    caches: dict[str, Any] = {
        "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(world.directory / "facts"),
        "ANSIBLE_GATHERING": "smart",
        "ANSIBLE_INVENTORY_CACHE": "true",
        "ANSIBLE_INVENTORY_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_INVENTORY_CACHE_CONNECTION": str(world.directory / "inventory"),
    }
    facts = {"hosts": "marzban_nodes", "tasks": [{"ansible.builtin.setup": {"gather_subset": ["min"]}}]}
    with receiver, Faulty.before(world.panel) as proxy:
        proof = Evidence(world, proxy, began, Processes())
        proof.run("apply", [facts, APPLY], **caches)
        assert [len(proof.of_file(name, "private.key")) for name in "ab"] == [3, 3], "each host has made its keys"
        assert [len(proof.of_file(name, "tls.pem")) for name in "ab"] == [1, 1]
        assert [len(proof.of_file("both", name)) for name in SHARED] == [1, 1], "both ends have the same"
        world.change("one", config={"mtu": 1330, "keepalive": 11})
        proof.run("check of a change", "apply", "--check")
        proof.run("status", "status", **caches)

        # What goes wrong may say too much.
        host = world.lab.hosts["a"]
        whole = {path: path.read_bytes() for path in (host.root / KEYS).glob("*/private.key")}
        for path, content in whole.items():
            path.write_bytes(content.strip()[:-1] + b"x=\n")
        with saying_too_much(world.lab.hosts["b"]):
            failed = proof.run("damaged keys, and an error at wg set", "apply", code=2, note=False)
        assert "private key in" in failed.text, "a's are damaged"
        assert "wg set" in failed.text, "b's error was one of wg set"
        for path, content in whole.items():
            path.write_bytes(content)

        # The other way that Ansible sends modules: by files, which are kept here.
        kept: dict[str, Any] = {
            "ANSIBLE_PIPELINING": "false",
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_REMOTE_TMP": str(proof.kept),
        }
        for kind in KINDS.values():  # next keys, to which this run switches
            made = "openssl genpkey -algorithm ed25519" if kind == "ipsec" else "wg genkey"
            host.run(f"cd $(dirname $(grep -l '\"{kind}\"' /{KEYS}/*/state.json)); umask 077; {made} > private.next")
        proof.note_keys()
        proof.run("apply without pipelining", "apply", **kept)
        assert set(proof.of_file("a", "private.next")) <= set(proof.of_file("a", "private.key")), "they are in use"
        views = proof.runs["apply"].results("tunnel_round")[0]["views"]["a"]
        about = [{"uuid": view["uuid"], "panel": view["panel"], "type": view["type"]} for view in views]
        keys = {
            "hosts": "a",
            "become": True,
            "gather_facts": False,
            "tasks": [
                {"marzban.tunnels.tunnel_keys": {**item, "regenerate": how}}
                for item in about
                for how in ("never", "always")
            ],
        }
        proof.run("new keys without pipelining", [keys], **kept)
        proof.run("new keys, apply with them, and the service", [keys, APPLY, SERVICE], **caches)
        assert [len(proof.of_file(name, "private.key")) for name in "ab"] == [12, 3]
        world.expect_traffic(*((name, "a", "b") for name in KINDS))
        by_the_panel(proof, receiver)
        yield proof


@contextlib.contextmanager
def saying_too_much(host: Host) -> Iterator[None]:
    """Its wg can set nothing, and says all keys."""
    host.run("cp /usr/bin/wg /usr/bin/wg.real && cat >/usr/bin/wg.bad && chmod 755 /usr/bin/wg.bad", input=BAD_WG)
    host.run("mv /usr/bin/wg.bad /usr/bin/wg")
    yield
    host.run("mv /usr/bin/wg.real /usr/bin/wg")


def by_the_panel(proof: Evidence, receiver: Receiver) -> None:
    """What the panel does with the nodes by itself. All that passes between it and a is written down, and what those
    are told who want to know: a page, Prometheus, and the webhook's receiver."""
    world, host = proof.world, proof.world.lab.hosts["a"]
    watch = f"tcpdump -n -U -i eth0 -w {WIRE} tcp port 62052"
    host.run(["systemd-run", "--quiet", "--unit=wire", *watch.split()])
    until("tcpdump", (host.root / WIRE.lstrip("/")).exists)
    with proof.processes_of_this_run() as seen, proof.listen() as stream:
        until("both services answer", lambda: {node["state"] for node in services(world)} == {"ok"})
        made = {name: world.tunnel(f"{name} by itself", "a", "b", tunnel_type=kind) for name, kind in KINDS.items()}
        for name, kind in KINDS.items():
            until(f"{kind}, without a run", partial(world.passes, made[name]["name"], "a", "b"))
        known = len(receiver.changes)
        with saying_too_much(world.lab.hosts["b"]):
            world.change("one", config={"mtu": 1330, "keepalive": 12})
            failed = ("one", "error")  # once a minute at most
            until(
                "b can't", lambda: failed in [(told["name"], told["status"]) for told in receiver.changes[known:]], 90
            )
        world.change("one", config={"mtu": 1330, "keepalive": 11})
        until("b can", lambda: world.tunnels()["one"]["status"] == "active")
        proof.note_keys()
        proof.note_metrics()
        proof.note_history()
        for tunnel in made.values():
            world.api("DELETE", f"/tunnels/{tunnel['id']}")
        until("they are gone", lambda: not any(node["deletions"] for node in services(world)))
        proof.note_events(stream, (tunnel["id"] for tunnel in made.values()))
        proof.note_webhook(receiver)
    proof.processes.words |= seen.words
    proof.processes.hosts_environments |= seen.hosts_environments
    host.run("systemctl stop wire")
    assert [len(proof.of_file(name, "private.key")) for name in "ab"] == [15, 6]


def services(world: World) -> list[dict[str, Any]]:
    return list(world.api("GET", "/tunnels/nodes")["nodes"])


def test_the_search_of_a_host_finds_a_planted_key(evidence: Evidence) -> None:
    assert evidence.world.lab is not None
    host = evidence.world.lab.hosts["b"]
    foreign = evidence.of_file("a", "private.key")[0].decode()
    places = {"/root/.ansible/tmp/planted", "/run/planted", "/var/log/planted", "/tmp/planted"}
    host.run(f"mkdir -p /root/.ansible/tmp && tee {' '.join(places)}", input=foreign)
    try:
        assert places <= set(on_host(evidence, "b", evidence.private()))
    finally:
        host.run(["rm", *places])


# Where the keys may be, and are not


def on_host(evidence: Evidence, name: str, searcher: Searcher) -> dict[str, set[str]]:
    """Files of a host that hold a secret, by their path in the host: what was written since it was made, and what is in
    memory only."""
    assert evidence.world.lab is not None
    host = evidence.world.lab.hosts[name]
    found = searcher.find_in(host.directory / "upper")
    inside = Path(f"/proc/{host.leader}/root")
    tops = [*(host.directory / "upper",), inside]
    found |= searcher.find_in(*(inside / place for place in ("run", "tmp", "dev/shm", "var/tmp")))
    return {
        f"/{next(path.relative_to(top) for top in tops if path.is_relative_to(top))}": what
        for path, what in found.items()
    }


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_host_holds_its_own_keys_in_their_files_only(evidence: Evidence, name: str) -> None:
    assert evidence.world.lab is not None
    host = evidence.world.lab.hosts[name]
    found = on_host(evidence, name, evidence.private())
    assert "AnsiballZ_tunnel_apply" in host.run(f"ls {evidence.kept}/*").stdout, "modules were kept"
    own = {f"/{path.relative_to(host.root)}" for path in secret_files(host)}
    assert len(own) == 3 + 1 + 2 + 1 + 1  # private.key of all, tls.pem, what is shared, swanctl's copy, the service's
    assert found.pop(f"/{CREDENTIAL}") == found["/etc/marzban/node_service/tls.key"]
    assert set(found) == own
    for path, what in found.items():
        assert {item.partition("'s ")[0] for item in what} <= {name, "both"}, path
        file = host.root / path.lstrip("/")
        assert (file.stat().st_mode & 0o7777, file.stat().st_uid) == (0o600, 0)
        for folder in (file.parent, file.parent.parent) if path.startswith(f"/{KEYS}") else ():
            assert (folder.stat().st_mode & 0o7777, folder.stat().st_uid) == (0o700, 0)


@pytest.mark.parametrize("name", ["a", "b"])
def test_journals_hold_no_key(evidence: Evidence, name: str) -> None:
    assert evidence.world.lab is not None
    journal = evidence.world.lab.hosts[name].run(["journalctl", "--no-pager", "--output=json", "--all"]).stdout
    assert "wg-quick" in journal
    assert "marzban-node-root" in journal
    assert "marzban-node-front" in journal
    for searcher in (evidence.private(), evidence.login()):
        assert not searcher.find(journal)


def test_no_run_says_a_key(evidence: Evidence) -> None:
    searcher = evidence.private()
    for what, run in evidence.runs.items():
        assert not searcher.find(run.text), what
        assert not searcher.find(json.dumps(run.events)), what


def test_the_controller_holds_no_key(evidence: Evidence) -> None:
    """Its home with the kept modules, both caches, the records of all results, the panel's database and logs; and all
    that was written to its temporary folder meanwhile."""
    world = evidence.world
    assert list((world.directory / "facts").iterdir())
    assert list((world.directory / "inventory").iterdir())
    assert not list(evidence.kept.glob("*/AnsiballZ_*")), "what works on the controller is not a module"
    assert world.panel.database.is_relative_to(world.directory)
    searcher, elsewhere = evidence.private(), Path(tempfile.gettempdir())
    assert searcher.find_in(world.directory) == {}
    assert searcher.find_in(elsewhere, since=evidence.began, leave_out=[world.directory]) == {}


def test_the_panel_answers_no_key(evidence: Evidence) -> None:
    world = evidence.world
    answers = [world.api("GET", "/tunnels"), world.api("GET", "/nodes"), services(world)]
    answers += [world.api("GET", f"/tunnels/{value['id']}/status") for value in world.tunnels().values()]
    answers += [request.body.decode() for request in evidence.proxy.requests]
    assert not evidence.private().find(json.dumps(answers))
    assert not Searcher(evidence.access_keys()).find(json.dumps(answers))


def test_no_process_shows_a_secret(evidence: Evidence) -> None:
    shown = b"\0".join(evidence.processes.words | evidence.processes.hosts_environments)
    for program in (b"wireguard-go", b"openvpn", b"charon-systemd"):
        assert program in shown, "processes in the hosts were seen"
    assert b"ansible-playbook" in shown
    assert b"/usr/local/lib/marzban-node/front.py" in shown
    for searcher in (evidence.private(), evidence.login()):
        assert not searcher.find(shown)
    searcher = Searcher(evidence.access_keys())
    holders = {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if searcher.find(_read(path))}
    assert holders == {evidence.world.panel.pid}, "the access key's secret is in the panel's environment alone"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended


# The node service


def test_traffic_between_panel_and_node_is_not_in_clear(evidence: Evidence) -> None:
    host = evidence.world.lab.hosts["a"]
    seen = (host.root / WIRE.lstrip("/")).read_bytes()
    assert len(host.run(["tcpdump", "-n", "-r", WIRE]).stdout.splitlines()) > 50
    for searcher in (evidence.private(), evidence.login()):
        assert not searcher.find(seen)
    for plain in (b"Authorization", b"/api/tunnel", b"tunnel_type", b"HTTP/1"):
        assert plain not in seen, plain


def test_the_front_can_read_no_secret_but_its_own(evidence: Evidence) -> None:
    """By its user and groups, and where its unit has locked it in."""
    host = evidence.world.lab.hosts["a"]
    pid = host.run("systemctl show --property MainPID --value marzban-node-front").stdout.strip()
    about = dict(line.split(":\t", 1) for line in host.run(f"cat /proc/{pid}/status").stdout.splitlines())
    user, group = about["Uid"].split()[0], about["Gid"].split()[0]
    assert "0" not in (user, group, *about["Groups"].split())
    as_it = f"nsenter --target={pid} --mount setpriv --reuid={user} --regid={group}"
    as_it += f" --groups={','.join(about['Groups'].split())} --inh-caps=-all"
    look = "find /etc /home /root /run /srv /tmp /usr/local /var -type f -readable 2>/dev/null"
    readable = host.run(f"{as_it} {look} || true").stdout.split()
    assert "/usr/local/lib/marzban-node/front.py" in readable
    paths = [Path(f"/proc/{host.leader}/root{path}") for path in readable]
    found = {path for searcher in (evidence.private(), evidence.login()) for path in searcher.find_in_files(paths)}
    assert [str(path).partition("/root/")[2] for path in found] == [CREDENTIAL]
    closed = ("/etc/marzban/", "/var/lib/marzban-node/", "/etc/wireguard/", "/etc/openvpn/", "/etc/swanctl/")
    assert [path for path in readable if path.startswith(closed)] == []


# What the panel and the services tell by themselves


def test_pages_prometheus_history_and_webhook_are_told_no_secret(evidence: Evidence) -> None:
    metrics = {"the panel's metrics", "a's metrics", "b's metrics"}
    assert evidence.told.keys() == {"events", "history", "webhook", *metrics}
    searchers = evidence.private(), evidence.login(), Searcher({"the hash": forms(METRICS_HASH.encode())})
    for what, text in evidence.told.items():
        assert ("marzban_tunnel_end_state{" if what in metrics else '"status": "error"') in text, what
        assert [searcher.find(text) for searcher in searchers] == [set()] * 3, what


def test_the_hash_of_the_key_for_metrics_is_where_it_is_needed(evidence: Evidence) -> None:
    """A run brings it from the panel's answer to the nodes."""
    searcher = Searcher({"the hash": forms(METRICS_HASH.encode())})
    for name in evidence.world.lab.hosts:
        files = [path for path in on_host(evidence, name, searcher) if not path.startswith("/run/log/journal/")]
        assert [str(Path(path).parent) for path in files] == ["/etc/marzban/node_service/panels"]
    assert searcher.find_in(evidence.world.panel.directory) == {}
    answer = evidence.world.api("POST", "/tunnels/nodes/access", json={"nodes": ["a"]})
    assert searcher.find(json.dumps(answer))


# The panel's password, its tokens, and the access keys that it makes


def test_logins_and_access_keys_are_in_no_output_no_cache_and_on_no_node(evidence: Evidence) -> None:
    assert evidence.world.lab is not None
    searcher = evidence.login()
    assert len(evidence.tokens()) > 1
    assert searcher.find(f"Authorization: Bearer {next(iter(evidence.tokens()))}")
    assert searcher.find(json.dumps({"password": evidence.world.panel.password}))
    assert searcher.find(f"NODE_API_KEY={SECRET}")
    for what, run in evidence.runs.items():
        assert not searcher.find(run.text), what
        assert not searcher.find(json.dumps(run.events)), what
    assert searcher.find_in(evidence.world.directory) == {}
    for name in evidence.world.lab.hosts:
        assert on_host(evidence, name, searcher) == {}, name


def test_a_password_and_a_token_as_variables_are_not_shown(evidence: Evidence, tmp_path: Path) -> None:
    """As from a vault: they are arguments of the modules that run on the controller, and of no other."""
    world = evidence.world
    assert world.lab is not None
    given = tmp_path / "vault.json"
    before = evidence.login()
    token = world.panel.token()
    searcher = Searcher({"the password": forms(world.panel.password.encode()), "the token": forms(token.encode())})
    for playbook, variables in (
        ("apply", {"marzban_username": "admin", "marzban_password": world.panel.password}),
        ("status", {"marzban_token": token}),
    ):
        given.write_text(json.dumps(variables))
        run = world.play(
            playbook,
            *LOUD,
            "-e",
            f"@{given}",
            env={"MARZBAN_USERNAME": "", "MARZBAN_PASSWORD": "", "MARZBAN_TOKEN": ""},
            inventory=world.static(),
        )
        assert run.code == 0, run.text
        assert not searcher.find(run.text + json.dumps(run.events))
        assert not before.find(run.text + json.dumps(run.events))
    for name in world.lab.hosts:
        assert on_host(evidence, name, searcher) == {}, name


def test_removing_leaves_no_key(evidence: Evidence) -> None:
    """Last of all: the nodes are cleared, and even their own keys are nowhere."""
    assert evidence.world.lab is not None
    searcher = evidence.private()
    run = evidence.run("the service is removed, then the tunnels", [NO_SERVICE, REMOVE])
    assert not searcher.find(run.text + json.dumps(run.events))
    for name in evidence.world.lab.hosts:
        assert on_host(evidence, name, searcher) == {}, name
