# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The power supply of one host: a process that boots it, and boots it again when it reboots itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup, machine
from .image import Image

if TYPE_CHECKING:
    from .host import Host

#: How systemd-nspawn ends when the host asked for a reboot, and was told to keep its unit.
REBOOT = 133
PACKAGE = Path(__file__).resolve().parent
#: systemd-nspawn sees a machine with cgroup2 alone and no systemd, in a mount namespace of its own.
CLEAN_VIEW = "mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs -o mode=755 tmpfs /run/systemd"


def start(host: Host) -> None:
    """Start the keeper of a host in the background; it survives this process and is ended by the host's group."""
    Path("/run/systemd").mkdir(exist_ok=True)
    keep = [sys.executable, "-I", "-B", str(PACKAGE), "keep", host.lab.name, host.name]
    command = ["setsid", "--fork", *cgroup.joining(host.group / "keeper", keep)]
    with host.log.open("a") as log:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, cwd="/")


def keep(host: Host) -> None:
    """Boot the host, and again after each reboot; return when it is powered off."""
    box = host.group / "machine"
    while True:
        cgroup.kill(box)
        # Read again each time: cables and sites may have changed since the last boot.
        host.lab.refresh()
        host.plug()
        code = subprocess.run(cgroup.joining(box, host.power()), env=_environment(), check=False).returncode
        if code != REBOOT:
            host.network.unplug(host.plan)
            return


def nspawn(host: Host) -> list[str]:
    """The command that is a running container."""
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{CLEAN_VIEW} && exec "$@"', "sh"),
        *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
        f"--directory={host.root}",
        f"--machine={host.network.bridge}-{host.name}",
        f"--hostname={host.name}",
        f"--network-namespace-path=/run/netns/{host.network.namespace(host.name)}",
        *("--bind=/dev/net/tun", "--capability=all", "--console=passive"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
        *(_for_containers(host) if Image(host.plan.image).containers else []),
    ]


def _for_containers(host: Host) -> list[str]:
    """What a Docker inside needs: runc's system calls, and a place for layers that is not an overlay itself."""
    layers = host.directory / "docker"
    layers.mkdir(exist_ok=True)
    return ["--system-call-filter=bpf keyctl add_key request_key", f"--bind={layers}:/var/lib/docker"]


def _environment() -> dict[str, str]:
    return {
        "PATH": machine.SYSTEM_PATH,
        "LC_ALL": "C.UTF-8",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        # /tmp stays on the disk, as it is on a server, so that what is left there can be looked for from outside.
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
        "SYSTEMD_NSPAWN_LOCK": "0",
    }
