# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo` and `make demo-down`: a panel, three hosts and three tunnels on this machine.

State stands in .cache/demo: the panel's database, certificate and log, and `environment`, which a shell can read.
What is there and healthy is reused.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from tests.lab.lab import Lab  # noqa: E402
from tests.lab.machine import LabError  # noqa: E402

STATE = TOP / ".cache/demo"
ENVIRONMENT = STATE / "environment"
LAB = "demo"
HOSTS = {"de-1": "bookworm+demo", "fi-1": "bookworm+demo", "nl-1": "bookworm+demo"}
BIN = Path(sys.executable).parent


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def write(path: Path, text: str) -> None:
    """A file that only its owner may read, from its first instant."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


class Panel:
    """The embedded panel as a background process, known by its pid and by the database on its command line."""

    directory = STATE / "panel"
    pid_file = directory / "pid"
    port_file = directory / "port"
    ca = directory / "ca.pem"
    database = directory / "panel.sqlite"

    @classmethod
    def pid(cls) -> int | None:
        try:
            pid = int(cls.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(cls.database).encode() in command else None

    @classmethod
    def url(cls) -> str:
        return f"https://127.0.0.1:{cls.port_file.read_text().strip()}"

    @classmethod
    def answers(cls) -> bool:
        try:
            context = ssl.create_default_context(cafile=str(cls.ca))
            urllib.request.urlopen(cls.url() + "/api/admin", context=context, timeout=2)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        return True

    @classmethod
    def start(cls, password: str) -> None:
        if cls.pid() and cls.answers():
            say(f"the panel is there already: {cls.url()}")
            return
        cls.stop()
        cls.directory.mkdir(parents=True, exist_ok=True)
        env = {
            **os.environ,
            "PYTHONPATH": str(TOP / "roles/panel/files"),
            "SUDO_USERNAME": "admin",
            "SUDO_PASSWORD": password,
        }
        package = [sys.executable, "-m", "marzban_tunnels"]
        if not cls.ca.exists():
            subprocess.run([*package, "certificate", str(cls.directory), "--name", "127.0.0.1"], env=env, check=True)
        port = cls.port_file.read_text().strip() if cls.port_file.exists() else "0"
        cls.port_file.unlink(missing_ok=True)
        with (cls.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *package,
                    "serve",
                    *("--database", str(cls.database)),
                    *("--host", "127.0.0.1", "--port", port, "--port-file", str(cls.port_file)),
                    *(
                        "--tls-cert",
                        str(cls.directory / "server.pem"),
                        "--tls-key",
                        str(cls.directory / "server-key.pem"),
                    ),
                ],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        cls.pid_file.write_text(str(process.pid))
        end = time.monotonic() + 30
        while not (cls.port_file.exists() and cls.answers()):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"demo: the panel did not start; its log is {cls.directory / 'log'}")
            time.sleep(0.05)
        say(f"the panel serves at {cls.url()}")

    @classmethod
    def stop(cls) -> None:
        pid = cls.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + 10
            while cls.pid() is not None and time.monotonic() < end:
                time.sleep(0.05)


def environment(lab: Lab) -> dict[str, str]:
    """The variables that `ansible-playbook -i inventories/demo` wants. The password is made once and kept."""
    known = (
        dict(line.removeprefix("export ").split("=", 1) for line in ENVIRONMENT.read_text().splitlines())
        if ENVIRONMENT.exists()
        else {}
    )
    return {
        "MARZBAN_USERNAME": "admin",
        "MARZBAN_PASSWORD": known.get("MARZBAN_PASSWORD") or secrets.token_urlsafe(12),
        "MARZBAN_CA_PATH": str(Panel.ca),
        "MARZBAN_LAB_KEY": str(lab.ssh_key),
        "MARZBAN_LAB_KNOWN_HOSTS": str(lab.known_hosts),
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
    }


def up() -> None:
    started = time.monotonic()
    lab = Lab.up(LAB, HOSTS, reuse=True, progress=say)
    STATE.mkdir(parents=True, exist_ok=True)
    variables = environment(lab)
    write(ENVIRONMENT, "".join(f"export {k}={v}\n" for k, v in variables.items()))
    Panel.start(variables["MARZBAN_PASSWORD"])
    variables["MARZBAN_URL"] = Panel.url()
    write(ENVIRONMENT, "".join(f"export {k}={v}\n" for k, v in variables.items()))
    hosts = [{"name": host.name, "address": host.address} for host in lab.hosts.values()]
    say("ansible-playbook -i inventories/demo marzban.tunnels.demo")
    done = subprocess.run(
        [
            str(BIN / "ansible-playbook"),
            *("-i", "inventories/demo", "marzban.tunnels.demo"),
            *("-e", json.dumps({"demo_hosts": hosts})),
        ],
        env={**os.environ, **variables, "PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=TOP,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"demo: ansible-playbook ended with {done.returncode}")
    say(f"done in {time.monotonic() - started:.0f} s")
    here = Path.cwd()
    shown = {
        name: path.relative_to(here) if path.is_relative_to(here) else path
        for name, path in {"environment": ENVIRONMENT, "bin": BIN}.items()
    }
    print(f"""
Look around:
  a host        ssh -F {lab.ssh_config} de-1          then: wg show
  the panel     {variables["MARZBAN_URL"]}          admin / {variables["MARZBAN_PASSWORD"]}
  next          . {shown["environment"]}; export PATH={shown["bin"].absolute()}:$PATH
                ansible-inventory -i inventories/demo --graph
                ansible localhost -m marzban.tunnels.tunnel_info
                ansible-playbook -i inventories/demo marzban.tunnels.status
                ansible-playbook -i inventories/demo marzban.tunnels.remove -e marzban_tunnel=de-fi
                ansible-playbook -i inventories/demo marzban.tunnels.apply --check --diff
  the end       make demo-down
""")


def down() -> None:
    Panel.stop()
    Lab.remove(LAB)
    subprocess.run(["rm", "-rf", "--", str(STATE)], check=True)
    say("the panel, the hosts and their state are gone")


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except LabError as error:
        raise SystemExit(f"demo: {error}") from None
