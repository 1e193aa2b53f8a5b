# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo` and `make demo-down`: a panel, three hosts with the node service, and tunnels of all three types.

State is in .cache/demo: the panel's database, certificate, log and NODE_API_KEY, what Ansible keeps, and
`environment`, which a shell can read. Every process is in the lab's control group, and ends with the lab. What is there
and healthy is reused. MARZBAN_DEMO_NAME and MARZBAN_DEMO_STATE give a second demo a lab and a folder of its own, as for
a test.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from tests.lab import Lab, LabError, cgroup  # noqa: E402
from tests.lab.lab import STATE as LABS  # noqa: E402

LAB = os.environ.get("MARZBAN_DEMO_NAME", "demo")
STATE = Path(os.environ.get("MARZBAN_DEMO_STATE", TOP / ".cache/demo")).absolute()
ENVIRONMENT = STATE / "environment"
#: In the lab's folder, a link to the state of the demo that uses it.
OWNER = LABS / LAB / "demo"
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
    """The embedded panel as a background process."""

    directory = STATE / "panel"
    port_file = directory / "port"
    ca = directory / "ca.pem"
    log = directory / "log"
    #: NODE_API_KEY: for the panel's process only, so not in `environment`.
    node_key = directory / "node_api_key"

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
    def get(cls, path: str, password: str) -> Any:
        """What a call answers to the admin."""
        context = ssl.create_default_context(cafile=str(cls.ca))
        login = urllib.parse.urlencode({"username": "admin", "password": password}).encode()
        with urllib.request.urlopen(cls.url() + "/api/admin/token", login, context=context, timeout=20) as answer:
            headers = {"Authorization": f"Bearer {json.load(answer)['access_token']}"}
        request = urllib.request.Request(cls.url() + path, headers=headers)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return json.load(answer)

    @classmethod
    def start(cls, password: str) -> None:
        group = cgroup.group(LAB, "panel")
        if cgroup.processes(group) and cls.answers() and cls.node_key.exists():
            say(f"the panel is there already: {cls.url()}")
            return
        cgroup.kill(group)
        cls.directory.mkdir(exist_ok=True)
        if not cls.node_key.exists():
            write(cls.node_key, secrets.token_hex(32))
        env = {
            **os.environ,
            "NODE_API_KEY": cls.node_key.read_text(),
            "PYTHONPATH": str(TOP / "roles/panel/files"),
            "SUDO_USERNAME": "admin",
            "SUDO_PASSWORD": password,
        }
        package = [sys.executable, "-m", "marzban_tunnels"]
        if not cls.ca.exists():
            certificate = [*package, "certificate", str(cls.directory), "--name", "127.0.0.1"]
            subprocess.run(certificate, env=env, stdout=subprocess.DEVNULL, check=True)
        port = cls.port_file.read_text().strip() if cls.port_file.exists() else "0"
        cls.port_file.unlink(missing_ok=True)
        serve = [
            *(*package, "serve", "--database", str(cls.directory / "panel.sqlite")),
            *("--host", "127.0.0.1", "--port", port, "--port-file", str(cls.port_file)),
            *("--tls-cert", str(cls.directory / "server.pem"), "--tls-key", str(cls.directory / "server-key.pem")),
        ]
        with cls.log.open("ab") as log:
            process = subprocess.Popen(
                cgroup.joining(group, serve),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 30
        while not (cls.port_file.exists() and cls.answers()):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"demo: the panel did not start; its log is {cls.log}")
            time.sleep(0.05)
        say(f"the panel serves at {cls.url()}")


def ours() -> bool:
    """Whether the lab that is there, if any, carries this demo: other hosts know the tunnels of another panel."""
    return ENVIRONMENT.exists() and OWNER.is_symlink() and OWNER.readlink() == STATE


def password() -> str:
    """The admin's, made once and kept."""
    words = shlex.split(ENVIRONMENT.read_text()) if ENVIRONMENT.exists() else []
    known = dict(word.split("=", 1) for word in words if "=" in word)
    return known.get("MARZBAN_PASSWORD") or secrets.token_urlsafe(12)


def write_environment(variables: dict[str, str]) -> None:
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write(ENVIRONMENT, "".join([*lines, f'export PATH={shlex.quote(str(BIN))}:"$PATH"\n']))


def play(variables: dict[str, str], lab: Lab, again: bool) -> None:
    hosts = [{"name": host.name, "address": host.address} for host in lab.hosts.values()]
    words = ["-i", "inventories/demo", "marzban.tunnels.demo"]
    command = [str(BIN / "ansible-playbook"), *words, "-e", json.dumps({"demo_hosts": hosts, "demo_again": again})]
    group = cgroup.group(LAB, "playbook")
    cgroup.kill(group)  # what a killed run has left at work
    say(f"ansible-playbook {' '.join(words)}")
    env = {**os.environ, **variables, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(cgroup.joining(group, command), env=env, cwd=TOP, check=False)
    if done.returncode:
        raise SystemExit(f"demo: ansible-playbook ended with {done.returncode}")


def up() -> None:
    started = time.monotonic()
    again = ours() and Panel.node_key.exists()
    lab = Lab.up(LAB, HOSTS, reuse=ours(), progress=say)
    STATE.mkdir(parents=True, exist_ok=True)
    if not OWNER.is_symlink():
        OWNER.symlink_to(STATE)
    variables = {
        "MARZBAN_USERNAME": "admin",
        "MARZBAN_PASSWORD": password(),
        "MARZBAN_CA_PATH": str(Panel.ca),
        "MARZBAN_LAB_KEY": str(lab.ssh_key),
        "MARZBAN_LAB_KNOWN_HOSTS": str(lab.known_hosts),
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        # Nothing is to be left in the home, and a socket's path may have 107 characters.
        "ANSIBLE_HOME": str(STATE / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(lab.directory / "ssh"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # What changed, what failed, and the table; without these, a line for each task and host as well
        "ANSIBLE_DISPLAY_OK_HOSTS": "false",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
    }
    write_environment(variables)  # with the password, before a panel has it
    Panel.start(variables["MARZBAN_PASSWORD"])
    variables["MARZBAN_URL"] = Panel.url()
    write_environment(variables)
    play(variables, lab, again)
    say(f"done in {time.monotonic() - started:.0f} s")
    here = Path.cwd()
    environment = ENVIRONMENT.relative_to(here) if ENVIRONMENT.is_relative_to(here) else ENVIRONMENT
    page = f"{variables['MARZBAN_URL']}/dashboard/tunnels          admin / {variables['MARZBAN_PASSWORD']}"
    change = 'name=de-fi-wireguard config={"mtu":1300}'
    print(f"""
Look around:
  a host        ssh -F {lab.ssh_config} de-1          then: wg show; swanctl --list-sas
  the page      {page}
  then          . {environment}
  look          ansible-inventory -i inventories/demo --graph
                ansible -i inventories/demo localhost -m marzban.tunnels.tunnel_info
                ansible-playbook -i inventories/demo marzban.tunnels.status
  change        ansible -i inventories/demo localhost -m marzban.tunnels.tunnel -a '{change}'
  a run         ansible-playbook -i inventories/demo marzban.tunnels.apply --check --diff
                ansible-playbook -i inventories/demo marzban.tunnels.apply
  remove        ansible-playbook -i inventories/demo marzban.tunnels.remove -e marzban_tunnel=de-fi-openvpn
  the end       make demo-down

The nodes act by themselves: what the page says is done within seconds, and no playbook runs. Switch a tunnel off:
  watch         ssh -F {lab.ssh_config} de-1 ping -O {inside("de-fi-wireguard", variables["MARZBAN_PASSWORD"])}
  switch off    {page}
                de-fi-wireguard, Deactivate
  you see       within 5 seconds no packet passes ("no answer yet"); Activate, and they pass again
""")


def inside(tunnel: str, password: str) -> str:
    """The address inside a tunnel of its target end."""
    ends = next(found["ends"] for found in Panel.get("/api/tunnels", password) if found["name"] == tunnel)
    return str(next(end["addresses"][0] for end in ends if end["role"] == "target")).partition("/")[0]


def down() -> None:
    Lab.remove(LAB)
    shutil.rmtree(STATE, ignore_errors=True)
    say("the panel, the hosts and their state are gone")


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except LabError as error:
        raise SystemExit(f"demo: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
