# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A lab: hosts on a network of their own, under a name. Labs of different names live side by side."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from . import cgroup, machine, network, vm
from .host import Host
from .image import KERNEL, Image
from .machine import LabError, Progress
from .network import FIRST_HOST, Cable, HostPlan, Network, SitePlan
from .vm import VM

#: One folder for each lab.
STATE = Path("/var/lib/marzban-tunnels-lab")
#: Locks: one for each name, one (``*``) for what labs share.
LOCKS = Path("/run/marzban-tunnels-lab")
LAB_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
SSH_OPTIONS = {
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "IdentitiesOnly": "yes",
    "UpdateHostKeys": "no",
}

#: Labs that this process has up: name → open lock. The lock ends with the process, however that ends.
_claims: dict[str, int] = {}


def quiet(_text: str) -> None:
    """Progress that nobody wants to see."""


class Lab:
    """A lab that is there. Get one by `Lab.up` or `Lab.load`; used as a context it is taken down at the end."""

    def __init__(self, name: str, number: int, plans: dict[str, HostPlan]) -> None:
        self.name = name
        self.network = Network(name, number)
        self.plans = plans

    # -- up and down -------------------------------------------------------------------------------------------------

    @classmethod
    def up(cls, name: str, hosts: Mapping[str, str], *, reuse: bool = False, progress: Progress = quiet) -> Lab:
        """Bring up a lab: {"a": "bookworm", "b": "trixie+tunnels"} are its hosts and their images.

        A host whose image ends with "+kernel" is a virtual machine, the others are containers.

        A lab of this name that a killed run left behind is taken down first. With `reuse` it is kept as it is, when it
        has these hosts and all of them answer. Returns when every host's sshd answers.
        Raises Unable when this machine can't, LabError when another process has a lab of this name up.
        """
        machine.check()
        _check_names(name, hosts)
        machines = any(image.endswith(KERNEL) for image in hosts.values())
        if machines:
            vm.check()
        machine.prepare(progress, vm.PACKAGES if machines else None)
        _claim(name)
        start = time.monotonic()
        if reuse and (there := _healthy(name, hosts)):
            progress(f"lab {name}: all {len(hosts)} hosts are there already")
            return there
        if _exists(name):
            progress(f"lab {name}: taking down what an earlier run left")
            _remove(name)
        try:
            for image in sorted(set(hosts.values())):
                Image(image).ready(progress)
            progress(f"lab {name}: starting {', '.join(hosts)}")
            lab = cls._build(name, hosts)
        except BaseException:
            cls.remove(name)
            raise
        progress(f"lab {name}: {len(hosts)} hosts answer after {time.monotonic() - start:.1f} s")
        return lab

    @classmethod
    def _build(cls, name: str, hosts: Mapping[str, str]) -> Lab:
        with machine.lock(LOCKS / "*"):
            taken = {cls.load(other).network.number for other in cls.names()}
            plans = {host: HostPlan(host, image, FIRST_HOST + i) for i, (host, image) in enumerate(hosts.items(), 1)}
            lab = cls(name, network.free_number(taken), plans)
            STATE.mkdir(mode=0o700, exist_ok=True)
            lab.directory.mkdir(mode=0o700)
            lab._save()  # first of all: from here on whatever exists of the lab can be found again
            lab.network.build(STATE)
            machine.allow_watchers(STATE)
        machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {name}", "-f", str(lab.ssh_key)])
        for host in lab.hosts.values():
            host.create()
            host.boot()
        lab.write_known_hosts()
        lab._write_ssh_config()
        for host in lab.hosts.values():
            host.wait()
        return lab

    def down(self) -> None:
        """Take the lab down: processes, namespaces, links, mounts, files."""
        self.remove(self.name)

    @classmethod
    def remove(cls, name: str) -> None:
        """Take down whatever there is of the lab of this name, half-built or whole; none is fine.

        Raises LabError when another process has it up.
        """
        _check_names(name)
        _claim(name)
        _remove(name)
        os.close(_claims.pop(name))

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -- what is there -----------------------------------------------------------------------------------------------

    @staticmethod
    def names() -> list[str]:
        """Names of the labs on this machine, also of those left over from killed runs."""
        return sorted(path.parent.name for path in STATE.glob("*/lab.json"))

    @classmethod
    def load(cls, name: str) -> Lab:
        """The lab of this name, which some process brought up. Raises LabError when it does not exist."""
        try:
            return cls(name, *_read(name))
        except FileNotFoundError:
            there = ", ".join(cls.names()) or "none"
            raise LabError(f"no lab {name!r} on this machine; there are: {there}") from None

    def refresh(self) -> Lab:
        """Read again what the lab's file says, which another process may have changed."""
        _number, self.plans = _read(self.name)
        return self

    @property
    def directory(self) -> Path:
        """Where all that belongs to the lab is; root only."""
        return STATE / self.name

    @property
    def hosts(self) -> dict[str, Host]:
        return {name: self.host(name) for name in self.plans}

    def host(self, name: str) -> Host:
        """A host by its name."""
        if name not in self.plans:
            raise LabError(f"lab {self.name} has no host {name!r}; it has: {', '.join(self.plans)}")
        return (VM if self.plans[name].image.endswith(KERNEL) else Host)(self, name)

    def healthy(self) -> bool:
        """Whether every host runs, has its file system and answers."""
        return all(h.leader is not None and os.path.ismount(h.root) and h.answers() for h in self.hosts.values())

    # -- the way in --------------------------------------------------------------------------------------------------

    @property
    def ssh_key(self) -> Path:
        """The private key that root accepts on every host."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The keys of all hosts; a replaced host's new key is in it before the host boots."""
        return self.directory / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`: the hosts by their names."""
        return self.directory / "ssh_config"

    def inventory(self) -> dict[str, str]:
        """Ansible's connection variables, the same for all hosts; `ansible_host` is each host's address."""
        options = {**SSH_OPTIONS, "UserKnownHostsFile": str(self.known_hosts)}
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.ssh_key),
            "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def write_known_hosts(self) -> None:
        """Write the present host keys, by name and both addresses."""
        lines = [f"{h.name},{h.address},{h.address6} {h.host_key}\n" for h in self.hosts.values()]
        machine.write(self.known_hosts, "".join(lines))

    def _write_ssh_config(self) -> None:
        common = {
            "User": "root",
            "IdentityFile": self.ssh_key,
            "UserKnownHostsFile": self.known_hosts,
            "LogLevel": "ERROR",
            **SSH_OPTIONS,
        }
        lines = [f"Host {host.name}\n    HostName {host.address}\n" for host in self.hosts.values()]
        lines += ["Host *\n", *(f"    {name} {value}\n" for name, value in common.items())]
        machine.write(self.ssh_config, "".join(lines))

    # -- its file ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, HostPlan]]:
        """Change the plans of hosts, saved at the end; other processes wait for their turn."""
        with machine.lock(self.directory / "lock"):
            self.refresh()
            yield self.plans
            self._save()

    def _save(self) -> None:
        text = json.dumps({"number": self.network.number, "hosts": [asdict(p) for p in self.plans.values()]}, indent=1)
        machine.write(self.directory / "lab.json", text)


def _read(name: str) -> tuple[int, dict[str, HostPlan]]:
    saved: dict[str, Any] = json.loads((STATE / name / "lab.json").read_text())
    plans = {}
    for item in saved["hosts"]:
        cable, sites = Cable(**item.pop("cable")), [SitePlan(**site) for site in item.pop("sites")]
        plans[item["name"]] = HostPlan(**item, cable=cable, sites=sites)
    return saved["number"], plans


def _exists(name: str) -> bool:
    return (STATE / name).exists() or cgroup.group(name).exists() or bool(network.namespaces(name))


def _healthy(name: str, hosts: Mapping[str, str]) -> Lab | None:
    if name not in Lab.names():
        return None
    lab = Lab.load(name)
    same = {host.name: host.image for host in lab.plans.values()} == dict(hosts)
    return lab if same and lab.healthy() else None


def _remove(name: str) -> None:
    cgroup.kill(cgroup.group(name))
    with contextlib.suppress(FileNotFoundError):
        Network(name, _read(name)[0]).remove()
    with machine.lock(LOCKS / "*"):
        machine.discard(STATE / name)
        if not Lab.names():
            network.restore_forwarding(STATE)
            machine.restore_watchers(STATE)
            with contextlib.suppress(OSError):
                STATE.rmdir()
            with contextlib.suppress(OSError):
                cgroup.group().rmdir()


def _claim(name: str) -> None:
    """Make this process the one that has the lab up, until it ends or takes it down."""
    if name in _claims:
        return
    LOCKS.mkdir(exist_ok=True)
    file = os.open(LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 32).decode()
        os.close(file)
        raise LabError(f"lab {name!r} is in use by process {holder}: wait for its end, or take another name") from None
    os.truncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    _claims[name] = file


def _check_names(lab: str, hosts: Iterable[str] = ()) -> None:
    if not LAB_NAME.fullmatch(lab):
        raise LabError(f"{lab!r} is not a name for a lab: small letters, digits, hyphens and underscores, 63 at most")
    for host in hosts:
        if not HOST_NAME.fullmatch(host):
            raise LabError(f"{host!r} is not a name for a host: small letters, digits and hyphens, 32 at most")
