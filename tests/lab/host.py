# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One host of a lab: a Debian of its own, which can be logged into, rebooted, replaced, cut off and powered off."""

from __future__ import annotations

import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import apt, cgroup, image, keeper, machine
from .image import Image
from .machine import LabError
from .network import HostPlan, Network, SitePlan, site_interface
from .site import Site

if TYPE_CHECKING:
    from .lab import Lab

#: Seconds that a boot may take until sshd answers: one on an idle machine, a hundred on one that does too much.
BOOT = 240
#: Seconds until it has shut down: a unit that does not stop is given 90 by systemd.
SHUTDOWN = 120


class Host:
    """A host by its name. All methods return when what they say is true, and raise LabError when it does not get so."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    def __repr__(self) -> str:
        return f"<Host {self.name} of lab {self.lab.name}, {self.address}>"

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> HostPlan:
        return self.lab.plans[self.name]

    @property
    def network(self) -> Network:
        return self.lab.network

    @property
    def address(self) -> str:
        return self.network.address(self.plan.index)

    @property
    def address6(self) -> str:
        return self.network.address6(self.plan.index)

    @property
    def directory(self) -> Path:
        return self.lab.directory / "hosts" / self.name

    @property
    def root(self) -> Path:
        """Its file system as seen from outside, also while it is off; without /run, /proc and /sys."""
        return self.directory / "root"

    @property
    def log(self) -> Path:
        """What systemd-nspawn and the host's console said."""
        return self.directory / "console.log"

    def console(self) -> str:
        """The end of that."""
        return self.log.read_text(errors="replace")[-2000:]

    @property
    def group(self) -> Path:
        return cgroup.group(self.lab.name, self.name)

    @property
    def host_key(self) -> str:
        """The public half of its ssh host key: "ssh-ed25519 AAAA…"."""
        words = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return " ".join(words[:2])

    @property
    def leader(self) -> int | None:
        """The machine's number for the host's process 1; None while it is off or between two boots."""
        return next(iter(cgroup.processes(self.group / "machine/payload/init.scope")), None)

    # -- work on it --------------------------------------------------------------------------------------------------

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, input: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string goes to sh) inside, as root; works without sshd and with the cable cut."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        # Ended from inside: a killed nsenter would leave its child behind, holding the pipes.
        inside = self.inside(["timeout", "--kill-after=2", f"{timeout:g}", *words])
        done = machine.run(inside, check=False, input=input, timeout=timeout + 10)
        return self._judged(done, words, check, timeout)

    def inside(self, words: Sequence[str]) -> list[str]:
        """The machine's command that runs these words inside, as root, in the host's control group."""
        leader = self.leader
        if leader is None:
            raise LabError(f"{self.name} is off")
        return cgroup.joining(
            self.group / "run",
            [
                *("nsenter", f"--target={leader}"),
                *("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"),
                *("env", "-i", f"PATH={machine.SYSTEM_PATH}", "HOME=/root", "USER=root", "LANG=C.UTF-8"),
                *words,
            ],
        )

    def _judged(
        self, done: subprocess.CompletedProcess[str], words: list[str], check: bool, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        if done.returncode == 124:
            raise LabError(f"{self.name}: no end after {timeout:g} s: {' '.join(words)}")
        if check and done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise LabError(f"{self.name}: exit {done.returncode}: {' '.join(words)}\n{said}")
        return done

    def answers(self) -> bool:
        """Whether sshd greets on its address."""
        try:
            with socket.create_connection((self.address, 22), timeout=5) as connection:
                return connection.recv(8).startswith(b"SSH-")
        except OSError:
            return False

    # -- power -------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make its file system: nothing but the image, and what a person would have typed into an installer."""
        self.destroy()
        upper, work = self.directory / "upper", self.directory / "work"
        for folder in (upper, work, self.root):
            folder.mkdir(parents=True)
        image.overlay(Image(self.plan.image).layers, upper, work, self.root)
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        names = [f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost ip6-loopback\n"]
        (etc / "hosts").write_text("".join(names))
        shutil.copy(apt.resolv_conf(), etc / "resolv.conf")
        for path, text in self.network.settings(self.plan, Image(self.plan.image).manager).items():
            machine.write(self.root / path, text, 0o600 if path.endswith(".nmconnection") else 0o644)
        key = etc / "ssh/ssh_host_ed25519_key"
        machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key)])
        machine.write(self.root / "root/.ssh/authorized_keys", self.lab.ssh_key.with_suffix(".pub").read_text(), 0o600)

    def destroy(self) -> None:
        """Throw its file system away."""
        machine.discard(self.directory)

    def boot(self) -> None:
        """Switch it on, without waiting."""
        keeper.start(self)

    def plug(self) -> None:
        """Give it its cable, as it is at each boot; for the keeper."""
        self.network.plug(self.plan)

    def power(self) -> list[str]:
        """The command that is the running host, and ends when it is off; for the keeper."""
        return keeper.nspawn(self)

    def start(self) -> None:
        """Switch it on after a `stop()`, and wait until sshd answers."""
        self.boot()
        self.wait()

    def wait(self, timeout: float = BOOT) -> None:
        """Wait until sshd answers."""
        try:
            machine.until(f"answer of {self.name}'s sshd", self.answers, timeout)
        except LabError as error:
            raise LabError(f"{error}; its console said:\n{self.console()}") from error

    def stop(self) -> None:
        """Pull the plug: nothing is shut down, the file system stays, neighbours are told nothing."""
        cgroup.kill(self.group)
        self.network.unplug(self.plan)

    def reboot(self) -> None:
        """Let it reboot itself in an orderly way, and wait until sshd answers again."""
        before = self.leader
        self.run(["systemctl", "reboot"], check=False)
        machine.until(f"new boot of {self.name}", lambda: self.leader not in (None, before), SHUTDOWN)
        self.wait()

    def replace(self) -> None:
        """Put a fresh host with the same name, address and image in its place; its ssh host key is a new one."""
        self.stop()
        self.create()
        self.lab.write_known_hosts()
        self.start()

    # -- cable -------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Cut its cable; it stays cut over a reboot, until `repair()`."""
        self._cable(up=False)

    def repair(self) -> None:
        """Repair its cable."""
        self._cable(up=True)

    def lose(self, percent: int) -> None:
        """Lose so many percent of the packets that it sends, at random; 0 ends it."""
        if not 0 <= percent <= 100:
            raise LabError(f"lose({percent}): from 0 to 100 percent of the packets can be lost")
        self._cable(loss=percent)

    def _cable(self, **changes: bool | int) -> None:
        with self.lab.change() as plans:
            for name, value in changes.items():
                setattr(plans[self.name].cable, name, value)
        if self.leader is not None:
            self.network.set_cable(self.plan)

    # -- sites -------------------------------------------------------------------------------------------------------

    def add_site(self, name: str, *networks: str) -> Site:
        """Put a plain client behind it, on an interface of its own (eth1, …), in networks like "192.168.50.0/24".

        The host has the first address of each network and the client the tenth, with the host as its router. The host
        forwards only if its own settings say so. A reboot of the host keeps the client.
        """
        plan = SitePlan(name, list(networks))
        with self.lab.change() as plans:
            if name in [site.name for site in plans[self.name].sites]:
                raise LabError(f"{self.name} has a site {name!r} already")
            plans[self.name].sites.append(plan)
        if self.leader is not None:
            self.network.plug_site(self.plan, plan)
        return Site(self.network, self.name, plan)

    def site(self, name: str) -> Site:
        """A site of this host by its name."""
        return next(Site(self.network, self.name, plan) for plan in self.plan.sites if plan.name == name)

    def interface_to(self, site: Site) -> str:
        """Name of the host's interface towards one of its sites."""
        return site_interface(self.plan, site.plan)
