# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role node_api: how the service comes, is reached and goes. A host without the packages is in test_demo too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import views
from tests.support.root_half import HASH, PANEL
from tests.support.service_hosts import MANAGED, PORT, access_key, ask, nodes
from tests.support.world import Run, World

pytestmark = pytest.mark.lab
NODE_SERVICE, TUNNEL_APPLY = "marzban.tunnels.node_service", "marzban.tunnels.tunnel_apply"
FILES, SETTINGS = "/usr/local/lib/marzban-node", "/etc/marzban/node_service"
TAKE = (
    "systemd-run --unit=taken python3 -m http.server 62061;"
    " until ss -Hltn | grep -q :62061; do systemctl is-active --quiet taken; done"
)
DROP_IN = "/etc/systemd/system/marzban-node-root.service.d"
#: The root half does not start, and what both run with is to change.
HOLD = (
    f"mkdir {DROP_IN}; printf '[Service]\nExecStartPre=/bin/false\n' >{DROP_IN}/test.conf; systemctl daemon-reload;"
    f" echo '# more' >>{FILES}/marzban_node/board.py; rm {SETTINGS}/tls.crt"
)
SERVED = (
    "openssl s_client -connect 127.0.0.1:62061 </dev/null 2>/dev/null | openssl x509 -pubkey -noout"
    " | openssl pkey -pubin -outform der | openssl sha256 -binary | base64"
)
OTHER_PANEL = "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"
ROOT, FRONT = "marzban-node-root.service", "marzban-node-front.service"
OURS = (
    "ls -d /usr/local/lib/*marzban-node* /etc/marzban /var/lib/marzban-node /run/marzban-node"
    " /etc/systemd/system/*marzban* /etc/systemd/system/*/*marzban* /run/credentials/marzban* 2>/dev/null;"
    " getent group marzban-node; systemctl list-units --all --no-legend 'marzban-node*'"
)
#: Every file, folder and link with its owner and mode, and what is in those of /etc and /usr/local; less what a host
#: writes by itself and what Ansible leaves. The shadow tools keep their former files with a dash at the end.
LISTING = (
    r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /var/tmp"
    r" -o -path /var/cache -o -path /run -o -path /root/.ansible -o -path /var/lib/systemd -o -path /var/lib/apt"
    r" -o -path '/etc/g*shadow-' -o -path /etc/group- \) -prune"
    r" -o -printf '%p %y %m %U %G %l\n' | grep -v __pycache__ | sort;"
    r" find /etc /usr/local /var/lib/dpkg/status -xdev -type f ! -path '/etc/g*shadow-' ! -path /etc/group-"
    r" -exec sha256sum {} +"
)


class Service:
    """The role's runs, and the service as the panel would call it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, *words: str, **variables: Any) -> Run:
        return self.world.play("node_api", "--diff", "-e", json.dumps(variables), *words)

    def on_panel(self, name: str) -> dict[str, Any]:
        return nodes(self.world)[name]

    def key(self, name: str) -> str:
        return access_key(self.world, name)

    def ask(self, name: str, path: str, key: str | None = None) -> tuple[int, Any]:
        return ask(self.world.lab.host(name), path, key)

    def on(self, name: str, command: str) -> str:
        return self.world.lab.host(name).run(command, check=False).stdout

    def pid(self, name: str, unit: str) -> str:
        return self.on(name, f"systemctl show --property=MainPID --value {unit}").strip()


@pytest.fixture(scope="module")
def service(make_world: Callable[..., World]) -> Service:
    return Service(make_world(login=False, env=MANAGED, b="trixie+tunnels"))


def test_the_service_comes_is_reached_and_goes(service: Service) -> None:
    service.on("b", "printf '#!/bin/sh\\necho Status: active\\n' >/usr/sbin/ufw; chmod 755 /usr/sbin/ufw")  # STAND-IN
    before = service.on("b", LISTING)
    assert before.count("\n") > 5000

    predicted = service.run("--check").expect()
    assert "Make the node have the service" in predicted.changed("b")
    assert service.on("b", OURS) == ""
    assert service.on_panel("b")["uuid"] is None, "the panel has stored something"

    done = service.run().expect()
    expect_service(service, "b", done)
    assert "ufw rules this host and does not let the panel in. On this host:" in done.text
    assert re.search("^ +ufw allow proto tcp from [^ ]+ to any port 62052$", done.text, re.MULTILINE)
    status, told = service.ask("b", "/api/tunnels", service.key("b"))
    assert (status, told["api"], told["tunnels"]) == (200, 1, [])
    assert told["engine"] == done.results("node_service", "b")[-1]["engine"]
    assert service.run().expect().changed() == []
    check_what_runs(service)
    check_what_a_run_needs(service)

    service.run(node_api_state="absent").expect()
    assert service.on("b", OURS) == ""
    assert service.on_panel("b")["pin"] is None
    after = service.on("b", LISTING)
    assert sorted(set(before.splitlines()) ^ set(after.splitlines())) == []
    service.world.panel.stop()
    alone = service.run(node_api_state="absent", node_api_all_panels=True).expect()
    assert alone.changed() == [], "it needs no panel"
    service.world.panel.restart()


@pytest.mark.variation
def test_a_host_without_the_packages_and_one_that_is_refused(make_world: Callable[..., World]) -> None:
    service = Service(make_world("-bare", login=False, env=MANAGED, a="bookworm", c="bullseye"))
    predicted = service.run("--check")
    assert predicted.code == 2
    assert "Say which packages would be installed" in predicted.changed("a")
    assert [service.on(name, OURS) for name in "ac"] == ["", ""]
    done = service.run(node_api_types=["wireguard"])
    assert done.code == 2
    (refused,) = [event["result"]["msg"] for event in done.of("c", ["failed"])]
    assert refused.startswith("The node service runs on Debian 12 and 13, and this is Debian GNU/Linux 11 (bullseye).")
    assert service.on("c", OURS) == ""
    assert not done.of("a", ["failed"]), done.text
    expect_service(service, "a", done)
    assert service.on("a", "command -v wg openvpn") == "/usr/bin/wg\n", "the packages of the types that it handles"


def expect_service(service: Service, name: str, done: Run) -> None:
    told = done.results("node_service", name)[-1]
    known = service.on_panel(name)
    assert (known["port"], known["pin"]) == (PORT, told["pin"])
    assert service.on(name, "cat /usr/local/lib/marzban-node/version").strip() == told["engine"]
    assert told["missing"] == []
    assert service.ask(name, "/health") == (200, "ok")
    assert service.ask(name, "/api/tunnels")[0] == 401
    assert service.ask(name, "/api/tunnels", "x" * 43)[0] == 403
    assert service.ask(name, "/api/tunnels", service.key(name))[0] == 200
    assert f"The node service of {name} serves on TCP port {PORT}." in done.text


def check_what_runs(service: Service) -> None:
    """The front is nobody, the root half has only what it needs, and both are small."""
    for name in "b":
        status = service.on(name, f"cat /proc/{service.pid(name, FRONT)}/status")
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(values["Uid"].split()[0]) >= 61184, "a dynamic user"
        assert (values["CapBnd"], values["CapEff"], values["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
        root = service.on(name, f"grep VmRSS /proc/{service.pid(name, ROOT)}/status").split()[1]
        assert int(values["VmRSS"].split()[0]) + int(root) < 80 * 1024
        inside = f"nsenter -t {service.pid(name, FRONT)} -m ls /etc/marzban /root /home"
        assert "tls.key" not in service.on(name, inside)
        for unit, most in ((FRONT, 1.2), (ROOT, 3.7)):
            told = service.on(name, f"systemd-analyze security --no-pager {unit} | tail -n 1")
            found = re.search(r"exposure level for \S+: ([\d.]+) ", told)
            assert found, told
            assert float(found[1]) <= most
        sockets = service.on(name, "ss -Hanp | cat").splitlines()
        ours = [line.split() for line in sockets if f"pid={service.pid(name, ROOT)}," in line]
        assert {words[0] for words in ours} <= {"u_str", "u_dgr"}, "it speaks to the network"
        assert [words[4] for words in ours if words[1] == "LISTEN"] == ["/run/marzban-node/root.sock"]


def check_what_a_run_needs(service: Service) -> None:
    """A run that would not do as the service does is refused, and changes nothing."""
    apply = {"panel": views.PANEL, "views": [views.view()]}
    settings = f"{SETTINGS}/settings.json"
    tasks: list[dict[str, Any]] = [
        {"name": "choice", TUNNEL_APPLY: {**apply, "ipsec_data_path": "kernel"}, "ignore_errors": True},
        {"name": "older", "shell": f'sed -i.kept \'s/"engine": ".*"/"engine": "another"/\' {settings}'},
        {"name": "engine", TUNNEL_APPLY: apply, "ignore_errors": True},
        {"name": "put it back", "shell": f"mv {settings}.kept {settings}"},
    ]
    play = {"hosts": "b", "become": True, "gather_facts": False, "tasks": tasks}
    run = service.world.play([play], "--limit", "b")
    assert run.code == 0, run.text
    told = {event["task"]: event["result"].get("msg", "") for event in run.of("b")}
    assert "has ipsec_data_path: auto, and this run has ipsec_data_path: kernel" in told["choice"]
    assert "has version another of the engine, and this run has" in told["engine"]
    for task in ("choice", "engine"):
        assert "run marzban.tunnels.node_api with the variables of this run first. Nothing was changed." in told[task]
    assert service.on("b", "ls /etc/marzban; ls /etc/wireguard") == "node_service\n"


@pytest.mark.variation
def test_only_what_was_changed_is_started_again(service: Service) -> None:
    """One play of the module, with what goes wrong in between; and a second panel, which comes with a certificate."""
    common = {"port": 62060, "config_dir": "/srv/data/tunnels"}
    ours = {**common, "panel": PANEL, "node": PANEL, "hashes": [HASH]}
    pem = (service.world.directory / "panel/server.pem").read_text()
    pem = pem[pem.index("-----BEGIN CERT") : pem.index("END CERTIFICATE-----\n") + 21]
    other = {**common, "panel": OTHER_PANEL, "node": PANEL, "certificate": pem}
    pids = {"shell": f"systemctl show --property=MainPID --value {ROOT} {FRONT}"}
    writes = f"nsenter -t $(systemctl show --property=MainPID --value {ROOT}) -m mkdir /srv/data/tunnels"
    tasks: list[dict[str, Any]] = [
        *({"name": "made", NODE_SERVICE: ours}, {"name": "writes", "shell": writes}, {"name": "pids", **pids}),
        {"name": "drift", "shell": f"echo '# more' >> {FILES}/marzban_node/front_calls.py; rm {SETTINGS}/tls.crt"},
        *({"name": "repaired", NODE_SERVICE: ours}, {"name": "pids after", **pids}),
        {"name": "drift", "shell": f"rm /etc/systemd/system/{FRONT}; systemctl stop marzban-node-root.socket"},
        *({"name": "predicted", NODE_SERVICE: ours, "check_mode": True}, {"name": "started", NODE_SERVICE: ours}),
        {"name": "take the port", "shell": TAKE},
        {"name": "failed", NODE_SERVICE: {**ours, "port": 62061}, "ignore_errors": True},
        {"name": "give it back", "shell": "systemctl stop taken"},
        {"name": "moved", NODE_SERVICE: {**ours, "port": 62061}},
        {"name": "hold it down", "shell": HOLD},
        {"name": "half", NODE_SERVICE: {**ours, "port": 62061}, "ignore_errors": True},
        {"name": "let it go", "shell": f"rm -r {DROP_IN}; systemctl daemon-reload"},
        {"name": "made up for", NODE_SERVICE: {**ours, "port": 62061}},
        {"name": "serves", "shell": SERVED},
        {"name": "come", NODE_SERVICE: {**other, "port": 62061}},
        {"name": "gone", NODE_SERVICE: {**other, "state": "absent"}},
        {"name": "would go", NODE_SERVICE: {**ours, "state": "absent"}, "check_mode": True},
        {"name": "no tunnel is left", "shell": "rmdir /srv/data/tunnels"},
        {"name": "all gone", NODE_SERVICE: {**ours, "state": "absent"}},
    ]
    run = service.world.play(
        [{"hosts": "b", "become": True, "gather_facts": False, "tasks": tasks}], "--diff", "--limit", "b"
    )
    assert run.code == 0, run.text
    told = {event["task"]: event["result"] for event in run.of("b")}
    changes = {name: result["changes"] for name, result in told.items() if "changes" in result}
    assert changes["repaired"] == ["certificate made", f"{FILES}: service replaced", f"{FRONT} restarted"]
    assert told["repaired"]["pin"] != told["made"]["pin"]
    before, after = (told[name]["stdout"].split() for name in ("pids", "pids after"))
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    assert changes["predicted"] == changes["started"]
    assert changes["started"][0] == f"/etc/systemd/system/{FRONT} written"
    assert "marzban-node-root.socket started" in changes["started"]
    assert told["failed"]["msg"].startswith(f"{FRONT} did not start: ")
    assert "Address already in use" in told["failed"]["msg"]
    assert len(changes["moved"]) == 1
    assert changes["moved"][0] in (f"{FRONT} started", f"{FRONT} restarted"), "systemd tries by itself too"
    assert told["half"]["msg"].startswith(f"{ROOT} did not start: ")
    assert f"{FRONT} restarted" in changes["made up for"], "it had the former certificate"
    assert told["made up for"]["pin"] == f"sha256:{told['serves']['stdout']}" != told["moved"]["pin"]
    assert changes["come"] == [
        f"{SETTINGS}/panels/{OTHER_PANEL}.json written",
        f"{SETTINGS}/clients.pem changed",
        f"{FRONT} restarted",
    ]
    assert told["come"]["panels"] == sorted([PANEL, OTHER_PANEL])
    assert changes["gone"] == [
        f"{SETTINGS}/panels/{OTHER_PANEL}.json removed",
        f"{SETTINGS}/clients.pem changed",
        f"{FRONT} restarted",
    ]
    assert told["gone"]["panels"] == [PANEL]
    assert changes["would go"] == changes["all gone"]
    assert service.on("b", f"{OURS}; ls /srv") == ""
