# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role panel on a host with Compose (c) and on one with systemd (s), both with a STAND-IN for Marzban, and the
first with a STAND-IN for the docker command (panel_hosts.py). In a real Marzban: test_role_panel_marzban.py.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package
from tests.support import addon_direct
from tests.support.panel_hosts import ADDON, COMPOSE, PANEL, SECRETS, ComposeHost, PanelHost, hosts_of
from tests.support.world import Run, World

pytestmark = pytest.mark.lab
BACKUPS = "/var/backups/marzban-tunnels"
DIRECTORY = "/var/lib/marzban/tunnels"
SETTINGS = {"TUNNEL_IPV4_POOL": "10.77.0.0/16", "TUNNEL_PORT_RANGE": "21000-22000"}
Snapshot = dict[str, tuple[int, bytes]]


class Panels:
    """Both hosts, and the playbook on them. No run may say a password."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.c, self.s = hosts_of(world)
        self.hosts: dict[str, PanelHost] = {"c": self.c, "s": self.s}
        self.source = directory / "addon"
        shutil.copytree(ADDON, self.source)
        self.stock = self.snapshots()

    def run(self, *words: str, hosts: str = "c,s", code: int = 0, **variables: Any) -> Run:
        given = {"marzban_panel_hosts": hosts, "panel_source": str(self.source), **variables}
        run = self.world.play("panel", "--diff", "-vvv", "-e", json.dumps(given), *words, inventory=self.world.static())
        said = run.text + json.dumps(run.events)
        assert not [secret for secret in SECRETS if secret in said]
        assert run.code == code, run.text
        return run

    def bring_about(self, settings: dict[str, str] | None) -> None:
        """The add-on is there with these settings, or None: it is not. A run only where a test comes alone."""
        if settings is None:
            if not self.all(PanelHost.alone):
                self.run(panel_state="absent", panel_remove_records=True)
        elif not self.all(lambda host: host.serves() and host.get("/settings")[2] == settings):
            self.run(panel_settings=settings)

    def answers(self, *words: str, **more: Any) -> dict[str, dict[str, Any]]:
        run = self.run(*words, **more)
        return {name: run.results("panel_addon", name)[0] for name in self.hosts if run.of(name)}

    def changes(self, *words: str, **more: Any) -> dict[str, list[str]]:
        answers = self.answers(*words, **more)
        assert all(answer["changed"] == bool(answer["changes"]) for answer in answers.values())
        return {name: answer["changes"] for name, answer in answers.items()}

    def refused(self, **given: Any) -> dict[str, str]:
        """What the module says about why not, called without Ansible; nothing was changed."""
        before, processes = self.snapshots(), self.processes()
        answers = {name: addon_direct.run(host, **given) for name, host in self.hosts.items()}
        assert not [secret for secret in SECRETS if secret in json.dumps(answers)]
        said = {name: answer["msg"] for name, answer in answers.items() if answer.get("failed")}
        assert self.snapshots() == before
        assert self.processes() == processes
        return said

    def snapshots(self) -> dict[str, Snapshot]:
        return {name: host.snapshot() for name, host in self.hosts.items()}

    def processes(self) -> dict[str, str]:
        return {name: host.process() for name, host in self.hosts.items()}

    def all(self, holds: Callable[[PanelHost], bool]) -> bool:
        return all(holds(host) for host in self.hosts.values())


@pytest.fixture(scope="module")
def panels(make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Panels:
    panels = Panels(make_world(register=False, c="bookworm", s="trixie"), tmp_path_factory.mktemp("addon"))
    for host in panels.hosts.values():
        addon_direct.prepare(host)
    return panels


def test_check_mode_says_it_all_and_does_nothing(panels: Panels) -> None:
    panels.bring_about(None)
    processes = panels.processes()
    answers = panels.answers("--check", panel_settings=SETTINGS)
    assert panels.snapshots() == panels.stock
    assert panels.processes() == processes
    assert panels.all(PanelHost.alone)
    for name, host in panels.hosts.items():
        assert answers[name]["installation"] == host.installation
        assert answers[name]["version"] == "0.8.4"
        assert answers[name]["diff"][-1]["after"] == "restarted\n"
        assert not host.path(BACKUPS).exists()
    assert answers["c"]["changes"] == [
        "/opt/marzban/docker-compose.yml: command written",
        "/opt/marzban/.env: settings written",
        f"{DIRECTORY}: add-on written",
        "restarted",
    ]
    assert answers["s"]["changes"] == [
        "/etc/systemd/system/marzban.service.d/marzban-tunnels.conf: drop-in written",
        "/opt/panel/.env: settings written",
        f"{DIRECTORY}: add-on written",
        "restarted",
    ]


def test_a_run_without_a_panels_host_fails(panels: Panels) -> None:
    """Ansible alone would end with 0, as if all were well."""
    assert "The inventory has no host nobody. Put the panel's host into" in panels.run(hosts="nobody", code=2).text


def test_install(panels: Panels) -> None:
    panels.bring_about(None)
    database = panels.c.database()
    panels.c.calls()
    answers = panels.answers(panel_settings=SETTINGS)
    assert panels.all(PanelHost.serves)
    assert panels.c.calls() == [
        "exec -T marzban cat app/__init__.py",
        "up --detach --no-deps --force-recreate marzban",
    ]
    assert panels.c.database() == database, "the database beside it was not restarted"
    for name, host in panels.hosts.items():
        assert answers[name]["panel"] == PANEL
        assert host.get("/settings")[2] == SETTINGS
        assert stat.S_IMODE(host.path(BACKUPS).stat().st_mode) == 0o700
        for path in answers[name]["backups"]:
            original = next(item for item in (host.config, host.dotenv) if Path(item).name == Path(path).stem)
            assert host.path(path).read_bytes() == panels.stock[name][original][1]
            assert stat.S_IMODE(host.path(path).stat().st_mode) == 0o600
    assert len(answers["c"]["backups"]) == 2
    # The diff is of our lines, and of nothing else in those files.
    shown = answers["c"]["diff"][0]
    assert shown["before"] == ""
    assert [line.strip()[:25] for line in shown["after"].splitlines()] == [
        "# marzban.tunnels: begin ",
        'command: ["bash", "-c", "',
        "# marzban.tunnels: end",
    ]
    # What was there is there, mode and all.
    for name, before in panels.stock.items():
        after = panels.hosts[name].snapshot()
        for path, (mode, content) in before.items():
            assert after[path][0] == mode
            rest = [line for line in after[path][1].splitlines(True) if line in content.splitlines(True)]
            assert b"".join(rest) == content


def test_again_there_is_nothing_to_do(panels: Panels) -> None:
    panels.bring_about(SETTINGS)
    before, processes = panels.snapshots(), panels.processes()
    for words in ((), ("--check",)):
        run = panels.run(*words, panel_settings=SETTINGS)
        assert run.changed() == []
        assert len(run.of("c")) == 2, "the options are checked, and one task looks"
    assert panels.snapshots() == before
    assert panels.processes() == processes


def test_it_survives_an_update_of_marzban(panels: Panels) -> None:
    panels.bring_about(SETTINGS)
    panels.c.compose("pull")
    panels.c.restart()
    panels.s.restart()
    assert panels.all(PanelHost.serves)


def test_without_the_folder_the_panel_serves(panels: Panels) -> None:
    """As after somebody has put an older /var/lib/marzban back."""
    panels.bring_about(SETTINGS)
    folder = panels.c.path(DIRECTORY)
    folder.rename(folder.with_name("elsewhere"))
    panels.c.restart()
    assert panels.c.alone()
    assert panels.changes(hosts="c", panel_settings=SETTINGS) == {"c": [f"{DIRECTORY}: add-on written", "restarted"]}
    assert panels.c.serves()
    shutil.rmtree(folder.with_name("elsewhere"))


@pytest.mark.variation
def test_a_panel_that_is_down_is_only_restarted(panels: Panels) -> None:
    """Nothing is to be changed. It comes back, or what it says is told."""
    panels.bring_about(SETTINGS)
    main = panels.c.path("/code/main.py")
    good = main.read_text()
    main.write_text("raise SystemExit('error: out of order')\n")
    panels.c.compose("up", "-d", "--force-recreate", "marzban")
    before = panels.snapshots()
    said = panels.answers(hosts="c", code=2, panel_settings=SETTINGS, panel_health_timeout=10)["c"]["msg"]
    assert "Its log: error: out of order. Only a restart was tried. It does not start without the add-on" in said
    assert panels.snapshots() == before
    main.write_text(good)
    assert panels.changes(hosts="c", panel_settings=SETTINGS) == {"c": ["restarted"]}
    assert panels.c.serves()


def test_settings_that_change(panels: Panels) -> None:
    panels.bring_about(SETTINGS)
    changes = panels.changes(panel_settings={"TUNNEL_IPV6_POOL": "fd00:1::/64"})
    for name, host in panels.hosts.items():
        assert changes[name] == [f"{host.dotenv}: settings written", "restarted"]
        assert host.get("/settings")[2] == {"TUNNEL_IPV6_POOL": "fd00:1::/64"}
        assert host.serves()
    changes = panels.changes()
    for name, host in panels.hosts.items():
        assert changes[name] == [f"{host.dotenv}: settings taken out", "restarted"]
        assert host.snapshot()[host.dotenv] == panels.stock[name][host.dotenv]


@pytest.mark.variation
def test_a_panel_on_a_unix_socket(panels: Panels) -> None:
    panels.bring_about({})
    before = panels.c.read(panels.c.dotenv)
    panels.c.write(panels.c.dotenv, before.replace("UVICORN_PORT", "UVICORN_UDS = /var/lib/marzban/m.sock\n#"), 0o600)
    panels.c.place = "/var/lib/marzban/m.sock"
    panels.c.restart()
    assert panels.changes(hosts="c") == {"c": []}
    panels.c.write(panels.c.dotenv, before, 0o600)
    panels.c.place = ComposeHost.place
    panels.c.restart()
    panels.c.path("/var/lib/marzban/m.sock").unlink()


def test_another_version_of_the_add_on(panels: Panels) -> None:
    panels.bring_about({})
    (panels.source / "marzban_tunnels/new.py").write_text("NEW = 'x'\n")
    (panels.source / "marzban_tunnels/__pycache__").mkdir(exist_ok=True)
    (panels.source / "marzban_tunnels/__pycache__/new.pyc").write_bytes(b"")
    changes = panels.changes()
    for name, host in panels.hosts.items():
        assert changes[name] == [f"{DIRECTORY}: add-on replaced", "restarted"]
        assert host.path(f"{DIRECTORY}/marzban_tunnels/new.py").exists()
        assert not list(host.path(DIRECTORY).rglob("new.pyc"))
        assert [item.name for item in host.path("/var/lib/marzban").iterdir() if "tunnels" in item.name] == ["tunnels"]
        assert host.serves()


def test_the_library_for_metrics(panels: Panels) -> None:
    """It is copied beside the add-on where the key is set, and goes with it. A folder replaces the host's package."""
    panels.bring_about({})
    archive = package.pack(addon_direct.read(str(panels.source)))
    secret, library = "0123456789abcdef" * 3, "usr/lib/python3/dist-packages/prometheus_client"
    before = panels.snapshots()
    for name, host in panels.hosts.items():
        settings = host.read(host.dotenv)
        host.write(host.dotenv, f"TUNNEL_METRICS_KEY = {secret}\n{settings}", 0o600)
        with_key = host.snapshot()
        answer = addon_direct.run(host, archive=archive, packages_first=True)
        assert (answer["packages"], answer["changed"]) == (["python3-prometheus-client"], False)
        assert host.snapshot() == with_key
        shutil.copytree(
            Path(prometheus_client.__file__).parent, host.path(library), ignore=shutil.ignore_patterns("*c__")
        )
        answer = addon_direct.run(host, archive=archive, packages_first=True)
        assert answer["changes"] == [f"{DIRECTORY}: add-on replaced", "restarted"]
        assert answer["packages"] == []
        assert secret not in json.dumps(answer)
        assert host.path(f"{DIRECTORY}/libraries/prometheus_client/metrics_core.py").exists()
        assert addon_direct.run(host, archive=archive, packages_first=True)["changes"] == []
        shutil.rmtree(host.path(library))  # the copy serves on
        answer = addon_direct.run(host, archive=archive)
        assert (answer["packages"], answer["changes"]) == (["python3-prometheus-client"], [])
        host.write(host.dotenv, settings, 0o600)
        host.restart()  # or the process has the key still
        assert addon_direct.run(host, archive=archive)["changes"] == [f"{DIRECTORY}: add-on replaced", "restarted"]
        assert host.snapshot() == before[name]


DIES = """import importlib, sys
settings = importlib.import_module("config").settings
print("error: marzban_tunnels can't reach", settings["SQLALCHEMY_DATABASE_URL"], settings["SUDO_PASSWORD"], flush=True)
sys.exit(1)
"""
STAYS_OUT = """import os, runpy, sys
sys.path.insert(0, os.getcwd())
print("marzban_tunnels: could not be loaded; Marzban starts without it", flush=True)
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("start", "seen", "log"),
    [
        pytest.param(
            *(DIES, "/api/admin: no answer: ", "error: marzban_tunnels can't reach ******** ********"),
            marks=pytest.mark.variation,
        ),
        (STAYS_OUT, "/api/tunnels: 404 ", "marzban_tunnels: could not be loaded; Marzban starts without it"),
    ],
    ids=["dies", "stays out"],
)
def test_what_does_not_come_up_is_put_back(panels: Panels, start: str, seen: str, log: str) -> None:
    panels.bring_about({})
    before = panels.snapshots()
    good = (panels.source / "start.py").read_text()
    (panels.source / "start.py").write_text("import sys; sys.path.insert(0, '.')\n" + start)
    try:
        run = panels.run(code=2, panel_settings=SETTINGS, panel_health_timeout=10)
    finally:
        (panels.source / "start.py").write_text(good)
    for name, host in panels.hosts.items():
        said = run.results("panel_addon", name)[0]["msg"]
        assert "Expected within 10 s /api/tunnels: 401 with Marzban-Panel-Id, and seen " + host.url in said
        assert seen in said
        assert f"Its log: {log}" in said
        assert said.endswith("The old state is back, and the panel answers.")
        assert host.serves()
        assert host.snapshot() == before[name]
        assert not host.path(f"{BACKUPS}/pending").exists()


@pytest.mark.variation
def test_a_run_that_was_cut_off_is_finished(panels: Panels) -> None:
    """The files are there, and nobody knows whether the panel was restarted."""
    panels.bring_about({})
    processes = panels.processes()
    for host in panels.hosts.values():
        host.write(f"{BACKUPS}/pending", "")
    assert panels.changes() == {"c": ["restarted"], "s": ["restarted"]}
    assert not set(panels.processes().values()) & set(processes.values())
    assert panels.changes() == {"c": [], "s": []}


@pytest.mark.variation
def test_a_marzban_that_does_not_come_up_alone_keeps_the_add_on(panels: Panels) -> None:
    panels.bring_about({})
    mains = {"c": panels.c.path("/code/main.py"), "s": panels.s.path("/opt/panel/main.py")}
    good = mains["c"].read_text()
    refusal = "import sys\nif 'marzban_tunnels' not in sys.modules:\n    sys.exit('error: not alone')\n"
    for main in mains.values():
        main.write_text(good.replace("import importlib\n", "import importlib\n" + refusal))
    before = panels.snapshots()
    run = panels.run(code=2, panel_state="absent", panel_health_timeout=10)
    after = panels.snapshots()
    for main in mains.values():
        main.write_text(good)
    for name, host in panels.hosts.items():
        said = run.results("panel_addon", name)[0]["msg"]
        assert "Expected within 10 s /api/admin: 401, and /api/tunnels: 404, and seen http" in said
        assert said.endswith("Its log: error: not alone. The old state is back, and the panel answers.")
        assert after[name] == before[name], "the tables too"
        assert host.serves()


NAMES = ("de-fi", "<b>x</b> 'q' \"", "متن \u202eabc 🙂")


def test_removal_is_refused_while_there_are_tunnels(panels: Panels) -> None:
    panels.bring_about({})
    for host in panels.hosts.values():
        host.tunnels(*NAMES)
    for said in panels.refused(state="absent").values():
        assert said.startswith(
            "The panel still has 3 tunnels (de-fi, <b>x</b> 'q' \", متن \\u202eabc 🙂). Take them off"
        )
        assert "ansible-playbook -i INVENTORY marzban.tunnels.remove -e marzban_all=true" in said
        assert "panel_remove_records" in said


def test_removal_gives_everything_back(panels: Panels) -> None:
    """The operator has changed other lines in the meantime: theirs stay."""
    panels.bring_about({})
    for host in panels.hosts.values():
        host.tunnels(*NAMES)
    changed = {"c": (b"restart: always", b"restart: unless-stopped"), "s": (b"on-failure", b"always")}
    before = panels.snapshots()
    predicted = panels.answers("--check", panel_state="absent", panel_remove_records=True)
    assert panels.snapshots() == before
    for name, host in panels.hosts.items():
        mode, content = before[name][host.config]
        host.write(host.config, content.replace(*changed[name]).decode(), mode)
    answers = panels.answers(panel_state="absent", panel_remove_records=True)
    for name, host in panels.hosts.items():
        assert answers[name]["changes"] == predicted[name]["changes"]
        assert "tables dropped" in answers[name]["changes"]
        records = host.path(answers[name]["records"])
        assert [tunnel["name"] for tunnel in json.loads(records.read_text())["tunnels"]] == list(NAMES)
        assert stat.S_IMODE(records.stat().st_mode) == 0o600
        wanted = dict(panels.stock[name])
        mode, content = wanted[host.config]
        wanted[host.config] = (mode, content.replace(*changed[name]))
        assert host.snapshot() == wanted
        assert host.alone()


def test_where_there_is_nothing_of_ours_nothing_is_done(panels: Panels) -> None:
    panels.bring_about(None)
    before, processes = panels.snapshots(), panels.processes()
    assert panels.run(panel_state="absent").changed() == []
    assert panels.snapshots() == before
    assert panels.processes() == processes


@pytest.mark.variation
def test_an_installation_that_does_not_come_up_leaves_nothing(panels: Panels) -> None:
    panels.bring_about(None)
    before = panels.snapshots()
    good = (panels.source / "start.py").read_text()
    (panels.source / "start.py").write_text("import sys; sys.path.insert(0, '.')\n" + DIES)
    run = panels.run(code=2, panel_health_timeout=10, panel_settings=SETTINGS)
    (panels.source / "start.py").write_text(good)
    for name, host in panels.hosts.items():
        assert "The old state is back" in run.results("panel_addon", name)[0]["msg"]
        assert host.snapshot() == before[name]
        assert host.alone()


def test_refused_before_anything_is_changed(panels: Panels) -> None:
    panels.bring_about(None)
    c, s = panels.c, panels.s
    config, dotenv = c.read(c.config), {host: host.read(host.dotenv) for host in panels.hosts.values()}
    unit = s.read(s.config)

    c.write(c.config, config + "\r\n    command: python main.py", 0o640)
    s.write("/opt/panel/app/__init__.py", s.read("/opt/panel/app/__init__.py").replace("0.8.4", "0.9.0"))
    said = panels.refused()
    assert said["c"].startswith(f"{c.config}, line 18: the service 'marzban' has its own command.")
    assert said["s"].startswith("This is Marzban 0.9.0, and the add-on was tried with 0.8.4.")
    assert "panel_any_version" in said["s"]
    assert "restarted" in addon_direct.run(s, check=True, any_version=True)["changes"]
    s.write("/opt/panel/app/__init__.py", s.read("/opt/panel/app/__init__.py").replace("0.9.0", "0.8.4"))

    c.write(c.config, config, 0o640)
    for host in (c, s):
        host.write(host.dotenv, dotenv[host] + "\nTUNNEL_PORT_RANGE = 1-2", 0o600)
    said = panels.refused(settings=SETTINGS)
    for name, item in panels.hosts.items():
        line = len(dotenv[item].splitlines()) + 1
        assert said[name].startswith(f"{item.dotenv}, line {line}: TUNNEL_PORT_RANGE is set by hand. Take the line out")
    for host in (c, s):
        host.write(host.dotenv, dotenv[host], 0o600)

    c.write(c.config, config.replace("/var/lib/marzban:/var/lib/marzban", "/srv:/var/lib/marzban"), 0o640)
    s.write(s.config, unit.replace("/opt/panel/main.py", "-m marzban"))
    s.host.run("systemctl daemon-reload")
    said = panels.refused()
    assert "does not have the host's /var/lib/marzban/tunnels at the same place. Mount it" in said["c"]
    assert "one word of it is expected to be main.py" in said["s"]

    c.write(c.config, config, 0o640)
    c.compose("down")
    s.write(s.config, unit)
    s.host.run("systemctl daemon-reload; systemctl stop marzban")
    s.write("/opt/marzban/docker-compose.yml", COMPOSE)
    before = panels.snapshots()
    answers = panels.answers(code=2)
    assert panels.snapshots() == before
    down = (
        "The panel does not answer as Marzban does: expected /api/admin: 401, and seen http://127.0.0.1:8000/api/admin"
    )
    assert answers["c"]["msg"].startswith(down)
    assert answers["s"]["msg"].startswith(
        "There are both /opt/marzban/docker-compose.yml and the unit marzban.service. Say which is the panel"
    )


def test_no_password_is_in_a_journal(panels: Panels) -> None:
    """That none is in an output is seen at each run."""
    if not panels.world.runs:
        panels.bring_about({})
    assert all(secret in COMPOSE + panels.c.read(panels.c.dotenv) or secret == "hunter2@" for secret in SECRETS)
    for host in panels.hosts.values():
        journal = host.host.run(
            "journalctl --no-pager --identifier=ansible-marzban.tunnels.panel_addon; journalctl -t python3"
        )
        assert "panel_addon" in journal.stdout
        for secret in SECRETS:
            assert secret not in journal.stdout.replace("serving, with the database", "")
