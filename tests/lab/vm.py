# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A host that is a virtual machine: Debian's own kernel, under QEMU's emulation, on the lab's bridge beside the others.

For what the machine's kernel lacks, and a container cannot have. Everything takes ten times as long as on a container.
"""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import cgroup, machine
from .host import SHUTDOWN, Host
from .machine import LabError, Unable
from .network import GATEWAY
from .site import Site

#: Command on the machine → Debian package that brings it; only a lab with a virtual machine needs these.
PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
#: Seconds that a boot may take until sshd answers; it takes ten on an idle machine.
BOOT = 300
#: The others wait for it most of the time. (Where processors are shared by sessions, the first of the two counts.)
FIRST = 'echo -10 > /proc/self/autogroup; exec nice --adjustment=-10 "$@"'


def check() -> None:
    """Raise Unable, in one line, when this machine can't carry virtual machines."""
    if platform.machine() != "x86_64":
        raise Unable(f"the lab's virtual machines are amd64, and this machine is {platform.machine()}")


class VM(Host):
    """A host like the others, but for this: sites can't be put behind it, and `root` shows it as it was created."""

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    @property
    def leader(self) -> int | None:
        """QEMU's number; None while it is off."""
        return next(iter(cgroup.processes(self.group / "machine")), None)

    def create(self) -> None:
        super().create()
        machine.run(["mke2fs", "-q", "-t", "ext4", "-J", "size=8", "-d", str(self.root), str(self.disk), "2G"])

    # -- work on it --------------------------------------------------------------------------------------------------

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string goes to sh) inside, as root; needs its sshd, and the cable."""
        if self.leader is None:
            raise LabError(f"{self.name} is off")
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        inside = ["env", "-i", f"PATH={machine.SYSTEM_PATH}", "HOME=/root", "USER=root", "LANG=C.UTF-8"]
        inside += ["timeout", "--kill-after=2", f"{timeout:g}", *words]
        # One connection for all commands: to log in takes two seconds.
        login = ["ssh", "-F", str(self.lab.ssh_config), "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
        login += ["-o", f"ControlPath={self._connection}", "-o", "ConnectTimeout=30", self.name, shlex.join(inside)]
        done = machine.run(cgroup.joining(self.group / "ssh", login), check=False, input=input, timeout=timeout + 60)
        if done.returncode == 255:  # ssh's own
            raise LabError(f"{self.name}: {done.stderr.strip()}; its console said:\n{self.console()}")
        return self._judged(done, words, check, timeout)

    @property
    def _connection(self) -> Path:
        return self.directory / "ssh"

    def _disconnect(self) -> None:
        """End the connection of `run`, which a reboot would leave hanging."""
        cgroup.kill(self.group / "ssh")
        self._connection.unlink(missing_ok=True)

    # -- power -------------------------------------------------------------------------------------------------------

    def plug(self) -> None:
        self.network.plug_tap(self.plan)

    def power(self) -> list[str]:
        """QEMU, which also reboots it when it asks for that."""
        network, index = self.network, self.plan.index
        environment = [
            f"ADDRESS={network.address(index)}/{network.subnet.prefixlen}",
            f"ADDRESS6={network.address6(index)}/{network.subnet6.prefixlen}",
            f"GATEWAY={network.address(GATEWAY)}",
        ]
        return [
            *("sh", "-c", FIRST, "sh"),
            # One processor: with two, now and then one runs what the other is just patching, and the kernel panics.
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-kernel", str(self.root / "boot/vmlinuz"), "-initrd", str(self.root / "boot/initrd.img")),
            # What the kernel does not know, it gives to the initrd.
            *("-append", " ".join(["console=ttyS0", "quiet", *environment])),
            *("-drive", f"file={self.disk},format=raw,if=none,id=disk,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
            *("-netdev", f"tap,id=cable,ifname={network.cable(index)},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=cable,mac={network.mac(self.plan)},romfile="),
        ]

    def wait(self, timeout: float = BOOT) -> None:
        super().wait(timeout)

    def stop(self) -> None:
        super().stop()
        self._connection.unlink(missing_ok=True)

    def reboot(self) -> None:
        before = self._boot_id()
        with contextlib.suppress(LabError):  # it may end the connection first
            self.run(["systemctl", "reboot"])
        self._disconnect()
        machine.until(f"end of {self.name}'s sshd", lambda: not self.answers(), SHUTDOWN)
        self.wait()
        if self._boot_id() == before:
            raise LabError(f"{self.name} did not reboot")

    def _boot_id(self) -> str:
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout

    # -- sites -------------------------------------------------------------------------------------------------------

    def add_site(self, name: str, *networks: str) -> Site:
        raise LabError(f"{self.name} is a virtual machine, behind which the lab can't put the site {name!r}")
