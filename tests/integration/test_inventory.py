# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin, by ansible-inventory, against an embedded panel and a faulty one in front of it.

Most calls are forks of one process (forked_inventory); names of files, and what -vvvv says, are the program's itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty import HTML_404, Faulty, answer
from tests.support.forked_inventory import ForkedInventory
from tests.support.world import TOP, World

FORKED: dict[World, ForkedInventory] = {}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> Iterator[World]:
    world = make_world()
    for number, name in enumerate(("de-1", "fi-1", "us-1"), 1):
        body = {"name": name, "address": f"203.0.113.{number}", "add_as_new_host": False}
        world.api("POST", "/node", json=body)
    world.tunnel("de-fi", "de-1", "fi-1")
    off = next(node["id"] for node in world.api("GET", "/nodes") if node["name"] == "us-1")
    world.api("PUT", f"/node/{off}", json={"status": "disabled"})
    with ForkedInventory(world.directory, world.environment(), TOP) as FORKED[world]:
        yield world


@pytest.fixture
def node(world: World) -> Any:
    """Call it with a name (and more) to have one more node for the time of the test."""
    made = []

    def make(name: str, address: str = "203.0.113.50", **more: Any) -> None:
        body = {"name": name, "address": address, "add_as_new_host": False, **more}
        made.append(world.api("POST", "/node", json=body)["id"])

    yield make
    for number in made:
        world.api("DELETE", f"/node/{number}")


class Inventory:
    """What ansible-inventory says: ``hosts`` with their variables, ``groups`` with their hosts, ``text`` on stderr."""

    def __init__(self, done: subprocess.CompletedProcess[str]):
        self.text = done.stderr
        assert done.returncode == 0, done.stderr
        answered = json.loads(done.stdout[done.stdout.index("{\n") :])  # after what -v says
        self.hosts: dict[str, Any] = plain(answered.pop("_meta")["hostvars"])
        self.groups = {name: group.get("hosts", []) for name, group in answered.items()}

    def warnings(self) -> list[str]:
        lines = " ".join(self.text.split()).split("[WARNING]: ")
        return lines[1:]


def plain(value: Any) -> Any:
    """ansible-inventory before 2.19 writes unsafe strings as ``{"__ansible_unsafe": text}``."""
    if isinstance(value, dict):
        if set(value) == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def read(world: World, config: dict[str, Any] | None = None, *words: str, **env: str) -> Inventory:
    """The inventory that a file with this ``config`` gives. Groups are asked of ``--list``, empty ones are left out."""
    path = world.directory / "test.marzban.yml"
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", **(config or {})}))
    env = {"MARZBAN_TOKEN": world.token, **env}  # saves a login
    return Inventory(FORKED[world].run("-i", str(path), "--list", *words, **env))


def test_nodes_are_hosts(world: World) -> None:
    found = read(world)
    assert found.warnings() == []
    assert sorted(found.hosts) == ["de-1", "fi-1", "us-1"]
    assert found.groups["marzban_nodes"] == ["de-1", "fi-1", "us-1"]
    assert found.groups["marzban_status_connected"] == ["de-1", "fi-1"]
    assert found.groups["marzban_status_disabled"] == ["us-1"]
    assert found.groups["marzban_type_wireguard"] == ["de-1", "fi-1"]
    host = found.hosts["de-1"]
    assert host["ansible_host"] == "203.0.113.1"
    assert host["marzban_node"] == {
        "id": 1,
        "name": "de-1",
        "address": "203.0.113.1",
        "port": 62050,
        "api_port": 62051,
        "status": "connected",
        "usage_coefficient": 1.0,
        "xray_version": None,
        "message": None,
    }
    (view,) = host["marzban_tunnels"]
    assert (view["name"], view["local"]["node"], view["peer"]["node"]) == ("de-fi", "de-1", "fi-1")
    assert found.hosts["us-1"]["marzban_tunnels"] == []


def test_the_views_are_those_of_tunnel_views(world: World) -> None:
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [{"marzban.tunnels.tunnel_views": {"nodes": {"de-1": "de-1"}}}],
    }
    done = world.play([play], inventory="localhost,").expect()
    (result,) = done.results("tunnel_views")
    assert result["views"]["de-1"] == read(world).hosts["de-1"]["marzban_tunnels"]


@pytest.mark.parametrize("name", ["x.marzban.yml", "marzban.yaml"])
def test_file_names(world: World, name: str) -> None:
    path = world.directory / name
    path.write_text("plugin: marzban.tunnels.nodes\n")
    assert len(Inventory(world.command("ansible-inventory", "-i", str(path), "--list")).hosts) == 3


def test_other_file_names_are_not_ours(world: World) -> None:
    path = world.directory / "panel.yml"
    path.write_text("plugin: marzban.tunnels.nodes\n")
    before = len(world.panel.log_lines())
    done = world.command("ansible-inventory", "-i", str(path), "--list")
    assert "de-1" not in done.stdout
    assert len(world.panel.log_lines()) == before


def test_filters(world: World) -> None:
    assert sorted(read(world, {"statuses": ["disabled", "error"]}).hosts) == ["us-1"]
    assert sorted(read(world, {"name_patterns": ["de-*", "u?-1"]}).hosts) == ["de-1", "us-1"]
    assert sorted(read(world, {"name_patterns": ["DE-*"]}).hosts) == []


def test_constructed(world: World) -> None:
    config = {
        "strict": True,
        "compose": {"ansible_port": "2222", "where": "marzban_node.name.split('-')[0]"},
        "groups": {"joined": "marzban_tunnels | length > 0"},
        "keyed_groups": [{"key": "marzban_node.name.split('-')[0]", "prefix": "country"}],
        "hostname": "{{ marzban_node.name | upper }}.example.com",
    }
    found = read(world, config)
    assert found.warnings() == []
    assert sorted(found.hosts) == ["DE-1.example.com", "FI-1.example.com", "US-1.example.com"]
    assert int(found.hosts["DE-1.example.com"]["ansible_port"]) == 2222  # a text before core 2.19
    assert found.hosts["DE-1.example.com"]["where"] == "de"
    assert found.groups["joined"] == ["DE-1.example.com", "FI-1.example.com"]
    assert found.groups["country_fi"] == ["FI-1.example.com"]


def test_options_are_templates(world: World) -> None:
    config = {"url": "{{ panel_url }}", "password": "{{ secret | trim }}", "ca_path": "{{ 'panel' }}/ca.pem"}
    extra = json.dumps({"panel_url": world.panel.url, "secret": f" {world.panel.password} "})
    env = dict.fromkeys(("MARZBAN_URL", "MARZBAN_PASSWORD", "MARZBAN_CA_PATH"), "{{ unused }}")
    env["MARZBAN_TOKEN"] = ""
    assert len(read(world, config, "-e", extra, **env).hosts) == 3


def test_a_password_from_the_environment_is_not_a_template(world: World) -> None:
    world.panel.add_admin("odd", "{{ odd }} {% p4ssword", sudo=True)
    assert (
        len(read(world, MARZBAN_TOKEN="", MARZBAN_USERNAME="odd", MARZBAN_PASSWORD="{{ odd }} {% p4ssword").hosts) == 3
    )


BROKEN = [
    ("localhost", "203.0.113.50", "name: 'localhost' can't be used. Ansible takes this name for the controller"),
    ("127.0.0.1", "203.0.113.50", "name: '127.0.0.1'"),
    ("all", "203.0.113.50", "name: 'all'"),
    ("marzban_nodes", "203.0.113.50", "name: 'marzban_nodes'"),
    ("a\nb", "203.0.113.50", "name: 'a\\nb'"),
    ("{{ lookup('pipe', 'id') }}", "203.0.113.50", 'name: "{{ lookup('),
    ("x" * 300, "203.0.113.50", "Node 'xxx"),
    ("a\u202eb", "203.0.113.50", "name: 'a\\u202eb'"),
    ("a:b", "203.0.113.50", "name: 'a:b'"),
    ("", "203.0.113.50", "name: ''"),
    ("nl-1", " not a host ", "address: ' not a host '"),
    ("nl-2", "-oProxyCommand=reboot", "address: '-oProxyCommand=reboot'"),
    ("nl-3", "[2001:db8::1]", "address: '[2001:db8::1]'"),
]


def test_a_broken_node_is_a_warning(world: World, node: Any) -> None:
    for name, address, _warning in BROKEN:
        node(name, address)
    found = read(world)
    assert sorted(found.hosts) == ["de-1", "fi-1", "us-1"]
    said = found.warnings()
    assert len(said) == len(BROKEN)
    for text, (_name, _address, warning) in zip(said, BROKEN, strict=True):
        assert " ".join(warning.split()) in text
        assert "is left out" in text


def test_odd_fields_do_not_cost_the_node(world: World, node: Any) -> None:
    node("تهران ۱ 🇮🇷", "2001:db8::5", port=99999, api_port=-1)
    found = read(world)
    assert found.warnings() == []
    odd = found.hosts["تهران ۱ 🇮🇷"]
    assert odd["ansible_host"] == "2001:db8::5"
    assert (odd["marzban_node"]["port"], odd["marzban_node"]["api_port"]) == (None, None)


def test_a_node_that_would_be_the_controller_is_not_a_host_of_its_own(world: World, node: Any) -> None:
    """Its address is right for the panel, which runs beside it; Ansible would set up tunnels on its own machine."""
    for number, address in enumerate(("127.0.0.1", "::1", "fe80::1", "localhost", "me.localhost")):
        node(f"here-{number}", address)
    found = read(world)
    assert sorted(found.hosts) == ["de-1", "fi-1", "us-1"]
    said = found.warnings()
    assert len(said) == 5
    assert "Node 'here-0' is left out: address: '127.0.0.1' can't be used. Ansible would take this machine" in said[0]
    compose = {"ansible_host": "marzban_node.name ~ '.example.com'"}
    found = read(world, {"compose": compose})
    assert (found.warnings(), found.hosts["here-0"]["ansible_host"]) == ([], "here-0.example.com")


def test_a_host_called_like_a_group(world: World, node: Any) -> None:
    node("plain")
    static = world.directory / "static.ini"
    static.write_text("[de-1]\nother\n")
    path = world.directory / "test.marzban.yml"
    groups = [{"key": "'plain' if marzban_node.name == 'plain' else 'fi-1'", "prefix": "", "separator": ""}]
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", "keyed_groups": groups}))
    found = Inventory(world.command("ansible-inventory", "-i", str(static), "-i", str(path), "--list"))
    assert sorted(found.hosts) == ["fi-1", "us-1"]
    text = " ".join(found.warnings())
    assert "Node 'de-1' is left out: hostname: 'de-1' can't be used. A group has this name" in text
    assert "Node 'plain' is left out: a group has this name" in text


def test_a_name_with_a_space_is_a_limit_with_a_comma(world: World, node: Any) -> None:
    """As docs/trouble.md says: Ansible splits patterns at spaces."""
    node("Frankfurt 1")
    path = world.directory / "test.marzban.yml"
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes"}))
    ask = ("ansible", "-i", str(path), "all", "--list-hosts", "--limit")
    assert world.command(*ask, "Frankfurt 1,").stdout.split() == ["hosts", "(1):", "Frankfurt", "1"]
    assert "Frankfurt 1" not in world.command(*ask, "Frankfurt 1").stdout


def test_hosts_of_one_name(world: World) -> None:
    found = read(world, {"hostname": "{{ 'same' if marzban_node.name != 'us-1' else 'us-1' }}"})
    assert sorted(found.hosts) == ["same", "us-1"]
    (said,) = found.warnings()
    assert "Node 'fi-1' is left out: hostname: 'same' can't be used. The node 'de-1' has it already" in said


def test_a_hostname_that_fails(world: World) -> None:
    found = read(world, {"hostname": "{{ nothing.at.all }}"})
    assert found.hosts == {}
    assert len(found.warnings()) >= 3
    strict = world.directory / "strict.marzban.yml"
    strict.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", "hostname": "{{ nothing }}", "strict": True}))
    done = world.command("ansible-inventory", "-i", str(strict), "--list", ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="1")
    assert done.returncode != 0
    assert "the template of hostname fails" in " ".join(done.stderr.split())


def failure(world: World, config: dict[str, Any] | None = None, **env: str) -> str:
    path = world.directory / "failing.marzban.yml"
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", **(config or {})}))
    done = FORKED[world].run("-i", str(path), "--list", **env)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert world.panel.password not in done.stderr
    return " ".join(done.stderr.split())


def test_failures_say_what_to_do(world: World) -> None:
    assert "url: '' can't be used. Give the panel's address (or set MARZBAN_URL)" in failure(world, MARZBAN_URL="")
    assert "A login for the panel is required" in failure(world, MARZBAN_PASSWORD="")
    assert "Incorrect username or password" in failure(world, MARZBAN_PASSWORD="wrong")
    assert "the template of url fails" in failure(world, {"url": "{{ nowhere }}"})
    assert "ca_path" in failure(world, {"ca_path": "not-there.pem"})


def test_plain_http_is_warned_of(world: World) -> None:
    said = failure(world, MARZBAN_URL="http://panel.invalid:8000", MARZBAN_RETRIES="0")
    assert "[WARNING]: The panel at panel.invalid is asked without TLS" in said


def test_a_panel_without_the_tunnels_api_still_gives_its_nodes(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        faulty.on("GET", "/api/tunnels", HTML_404)
        found = read(world, MARZBAN_URL=faulty.url)
    assert found.warnings() == []
    assert sorted(found.hosts) == ["de-1", "fi-1", "us-1"]
    assert found.hosts["de-1"]["marzban_tunnels"] == []


def test_rubbish_from_the_panel(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        odd = [
            {},
            {"name": 5},
            {"name": "ok", "address": "203.0.113.9", "status": ["x"], "message": "{{ x }}\u202e", "key": "s3cret"},
        ]
        faulty.on("GET", "/api/nodes", answer(200, odd))
        found = read(world, MARZBAN_URL=faulty.url)
    assert list(found.hosts) == ["ok"]
    assert len(found.warnings()) == 2
    node = found.hosts["ok"]["marzban_node"]
    assert node["status"] is None
    assert node["message"] == "{{ x }}\\u202e"
    assert "s3cret" not in json.dumps(found.hosts), "other panels hold an API key there"
    with Faulty.before(world.panel) as faulty:
        faulty.on("GET", "/api/tunnels", answer(500, "Internal Server Error", "text/plain"))
        assert "500" in failure(world, MARZBAN_URL=faulty.url, MARZBAN_RETRIES="0")


def test_strings_are_not_templates(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        evil = {"id": 1, "name": "evil", "address": "203.0.113.9", "status": "error", "message": "{{ 6 * 7 }}"}
        faulty.on("GET", "/api/nodes", answer(200, [evil]))
        play = {
            "hosts": "all",
            "connection": "local",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.debug": {"msg": "said {{ marzban_node.message }}"}}],
        }
        done = world.play([play], env={"MARZBAN_URL": faulty.url}).expect()
    assert [event["result"]["msg"] for event in done.events] == ["said {{ 6 * 7 }}"]


def test_a_warm_cache_asks_nobody_and_holds_no_secret(world: World, tmp_path: Path) -> None:
    cache = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    token = world.panel.token()
    env = {"MARZBAN_TOKEN": token}
    cold = read(world, cache, **env)
    before = len(world.panel.log_lines())
    # Filters and names are applied to what is in the cache.
    warm = read(world, {**cache, "name_patterns": ["de-*"]}, **env)
    assert len(world.panel.log_lines()) == before
    assert warm.hosts == {"de-1": cold.hosts["de-1"]}
    files = [path.read_text() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    for secret in (token, world.panel.password, world.panel.username + ":"):
        assert not any(secret in text for text in files)
    assert "__ansible" not in "".join(files)
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "all"}]))
    path = str(world.directory / "test.marzban.yml")
    world.command("ansible-playbook", "-i", path, str(play), "--list-hosts", "--flush-cache", **env)
    assert len(world.panel.log_lines()) > before
    before = len(world.panel.log_lines())
    with Faulty.before(world.panel) as other:
        read(world, {**cache, "url": other.url}, **env)
        assert other.requests, "another panel's answer is not in the cache"


def test_a_snapshot_gives_the_same_hosts(world: World) -> None:
    path = world.directory / "test.marzban.yml"
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes"}))
    done = world.command("ansible-inventory", "-i", str(path), "--list")
    snapshot = world.directory / "snapshot.json"
    tree = json.loads(done.stdout)
    hosts = tree.pop("_meta")["hostvars"]
    del tree["all"]
    groups: dict[str, Any] = {
        name: {"hosts": {host: {} for host in group.get("hosts", [])}} for name, group in tree.items()
    }
    snapshot.write_text(json.dumps({"all": {"hosts": hosts, "children": groups}}))
    again = Inventory(world.command("ansible-inventory", "-i", str(snapshot), "--list"))
    first = read(world)
    assert again.hosts == first.hosts
    assert again.groups["marzban_nodes"] == first.groups["marzban_nodes"]


def test_no_secret_in_the_output(world: World) -> None:
    path = world.directory / "secret.marzban.yml"
    path.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", "password": world.panel.password}))
    found = Inventory(world.command("ansible-inventory", "-i", str(path), "--list", "-vvvv"))
    assert sorted(found.hosts) == ["de-1", "fi-1", "us-1"]
    assert world.panel.password not in json.dumps(found.hosts) + found.text
