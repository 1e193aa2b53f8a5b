# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The machine that carries the labs: whether it can, the Debian packages it needs, and how a command is run on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

Progress = Callable[[str], None]

#: Command on the machine → Debian package that brings it.
PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "zstd": "zstd",
    "tar": "tar",
}
#: Watchers that one user may have. All hosts of all labs are the machine's root: a systemd takes several, each
#: wireguard-go one, and where none is left it dies a moment after its start. Debian's 128 are soon used up.
WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_WATCHERS = 8192
#: What that was before the first lab.
WATCHERS_BEFORE = "watchers"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """Something in a lab did not work; the text says what, and what the command printed."""


class Unable(LabError):
    """This machine can't carry a lab; the text is one line that says why."""


def run(
    command: Sequence[str], *, input: str | None = None, check: bool = True, timeout: float | None = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command on the machine. Raises LabError with its output when it fails and `check` is set."""
    env = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            input=input or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]}: no such command on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no end after {timeout} s: {' '.join(command)}") from error
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabError(f"exit {done.returncode}: {' '.join(command)}\n{said}")
    return done


def check() -> None:
    """Raise Unable, in one line and before anything is installed, when this machine can't carry a lab."""
    if sys.platform != "linux":
        raise Unable(f"lab hosts need Linux, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise Unable("lab hosts need root: run this as root, or with sudo")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Unable(f"lab hosts need /dev/net/tun ({error.strerror} when opened): try `modprobe tun`") from error
    if not shutil.which("apt-get", path=SYSTEM_PATH):
        raise Unable("lab hosts are made from Debian's packages, and this machine has no apt-get")


def prepare(progress: Progress, more: Mapping[str, str] | None = None) -> None:
    """Install the Debian packages that labs need. `more` is like PACKAGES."""
    install({**PACKAGES, **(more or {})}, progress)


def install(wanted: Mapping[str, str], progress: Progress) -> None:
    """Install the Debian packages (like PACKAGES) whose commands are missing; where none is, nothing is run."""
    missing = sorted({package for command, package in wanted.items() if not shutil.which(command, path=SYSTEM_PATH)})
    if not missing:
        return
    with lock(Path("/run/marzban-tunnels-lab.packages.lock")):
        progress(f"installing on this machine: {' '.join(missing)}")
        command = [
            "apt-get",
            "-y",
            "-q",
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "--no-install-recommends",
            *missing,
        ]
        # Package lists may be old or absent: they are fetched only when it does not work without.
        if run(command, check=False, timeout=600).returncode:
            run(["apt-get", "update", "-q"], timeout=300)
            run(command, timeout=600)


def allow_watchers(state: Path) -> None:
    """Let the hosts have as many watchers as they need. `state` is the folder of all labs."""
    before = WATCHERS.read_text().strip()
    if int(before) < ENOUGH_WATCHERS:
        write(state / WATCHERS_BEFORE, before)
        with contextlib.suppress(OSError):  # in a container the file may be read-only: small labs do without
            WATCHERS.write_text(str(ENOUGH_WATCHERS))


def restore_watchers(state: Path) -> None:
    """Give the machine back the limit that it had before the first lab."""
    memory = state / WATCHERS_BEFORE
    if memory.exists():
        with contextlib.suppress(OSError):
            WATCHERS.write_text(memory.read_text())
        memory.unlink()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the file's lock, waiting for it; a killed process lets go of it by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def until(what: str, holds: Callable[[], object], timeout: float, every: float = 0.02) -> None:
    """Wait until `holds()` is true. Raises LabError that names `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            raise LabError(f"no {what} after {timeout:g} s")
        time.sleep(every)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file by rename, so that nobody reads half of it."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    new.replace(path)


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below the folder, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines]
    top = str(folder.resolve())
    return sorted((p for p in points if p == top or p.startswith(f"{top}/")), key=len, reverse=True)


def discard(folder: Path) -> None:
    """Remove a folder with all that is mounted at or below it; a busy mount is detached.

    Raises LabError, before a file is removed, when something stays mounted: it could be the machine's own /dev.
    """
    for point in mounts_below(folder):
        run(["umount", "--lazy", point])
    if left := mounts_below(folder):
        raise LabError(f"still mounted: {', '.join(left)}")
    shutil.rmtree(folder, ignore_errors=True)
