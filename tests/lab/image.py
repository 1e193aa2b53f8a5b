# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Root file systems of Debian releases, built once and kept as read-only layers for overlays.

An image is named `bookworm` (bare: what a fresh server has) or `bookworm+tunnels` (a variant: the bare one, and on top
a second layer with the packages that a role would install; `+docker` can run containers of its own). With `+networkd`
or `+networkmanager` after that, this program has the host's eth0, as on many servers; elsewhere addresses come from
outside. With `+kernel` at its end (`forky+kernel`, `forky+tunnels+kernel`) the uppermost layer is the release's own
kernel, for a virtual machine. Each is in the cache under a hash of its recipe: `<image>-<hash>/layer` (the files) and
`<image>-<hash>/root.tar.zst` (the whole file system as one archive).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import apt, cgroup, machine, vm_kernel
from .machine import LabError, Progress

RELEASES = ("bullseye", "bookworm", "trixie", "forky")
BARE = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "python3", "sudo", "iproute2"),
    *("iputils-ping", "procps", "kmod", "nftables", "ca-certificates"),
)
VARIANTS = {
    # what the tunnels need is installed before your eyes; what the node service needs besides would take half a minute
    "demo": ("iperf3", "python3-apt", "python3-aiohttp", "python3-jinja2"),
    # what the roles install for all types of tunnels, and what tests look with
    "tunnels": (
        *("wireguard-tools", "wireguard-go", "python3-cryptography", "nftables", "iputils-ping", "iperf3", "tcpdump"),
        *("openvpn", "charon-systemd", "strongswan-swanctl", "libcharon-extra-plugins"),
        "libstrongswan-standard-plugins",
        "python3-apt",  # or Ansible's apt module installs it by itself, on every host of every test
        *("python3-aiohttp", "python3-jinja2", "python3-prometheus-client"),  # of the node service
    ),
    # Marzban as its own installation script has it: containers, and "docker compose" of version 2 (trixie and later)
    "docker": ("docker.io", "docker-cli", "docker-compose", "iptables"),
}
#: What else may have a host's eth0, by the end of the image's name: the packages that bring it.
MANAGERS: dict[str, tuple[str, ...]] = {"networkd": (), "networkmanager": ("network-manager",)}
KERNEL = "+kernel"
#: bullseye has no wireguard-go, and can't run bookworm's (newer glibc).
ABSENT = {"bullseye": {"wireguard-go"}}

#: What nobody reads on a lab host; dpkg leaves it out there, too.
UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

#: What makes a minimal system a lab host; run by sh with the root file system as $1.
FINISH = r"""
set -eu
ln -sf /dev/null "$1/etc/systemd/system/systemd-networkd.service"
for unit in systemd-networkd.socket systemd-networkd-wait-online.service console-getty.service getty@.service \
            apt-daily.timer apt-daily-upgrade.timer systemd-resolved.service \
            dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
            modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
# What looks for disks, consoles and init scripts at each daemon-reload. fstab's stays, for the virtual machine.
mkdir -p "$1/etc/systemd/system-generators"
for name in cryptsetup debug factory-reset getty gpt-auto hibernate-resume integritysetup rc-local run ssh \
            system-update sysv tpm2 veritysetup; do
    ln -sf /dev/null "$1/etc/systemd/system-generators/systemd-$name-generator"
done
# Or each boot rebuilds caches, because /usr is newer.
touch "$1/etc/.updated" "$1/var/.updated"
# Keys of their own for each host, made by the lab, so that they are known before the first login.
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname" "$1/etc/resolv.conf"
: > "$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id"
mkdir -p -m 0700 "$1/root/.ssh"
# Recommends of wireguard-tools would pull a kernel, which no lab host can boot.
cat > "$1/etc/apt/preferences.d/lab" <<END
Package: linux-image-* linux-headers-* wireguard-dkms
Pin: release *
Pin-Priority: -1
END
"""

#: What switches networkd on again in the root file system $1.
NETWORKD = r"""
set -eu
rm "$1/etc/systemd/system/systemd-networkd.service"
ln -s /lib/systemd/system/systemd-networkd.service "$1/etc/systemd/system/multi-user.target.wants/"
"""

#: Lets "$2"… be installed into the file system "$1"; in a mount and process namespace of its own, which end with it.
BEGIN = r"""
set -eu
root=$1; shift
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    mknod -m 666 "$root/dev/$node" c $(stat -c '%Hr %Lr' "/dev/$node")
done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cat "$RESOLV" > "$root/etc/resolv.conf"
chroot "$root" apt-get update -q
"""
INSTALL = 'chroot "$root" apt-get install -y -q --no-install-recommends "$@"\n'
END = r"""chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
touch "$root/etc/.updated" "$root/var/.updated"
"""


def cache() -> Path:
    """The folder of the images: MARZBAN_LAB_CACHE, or /var/cache/marzban-tunnels-lab."""
    return Path(os.environ.get("MARZBAN_LAB_CACHE") or "/var/cache/marzban-tunnels-lab").resolve()


@dataclass(frozen=True)
class Image:
    """One image, by name; `ready()` builds what is missing of it."""

    name: str

    def __post_init__(self) -> None:
        release, _plus, variant = self.name.removesuffix(KERNEL).removesuffix(f"+{self.manager}").partition("+")
        if release not in RELEASES or (variant and variant not in VARIANTS) or self.name.endswith("+"):
            known = f"{', '.join(RELEASES)}, each also with {', '.join('+' + name for name in VARIANTS)}"
            known += f"; any of them with {', '.join('+' + name for name in MANAGERS)} or {KERNEL} at its end"
            raise LabError(f"no image {self.name!r}: there are {known}")

    @property
    def release(self) -> str:
        return self.name.partition("+")[0]

    @property
    def base(self) -> Image | None:
        """The image below this one; None for a bare release."""
        return Image(self.name.rpartition("+")[0]) if "+" in self.name else None

    @property
    def kernel(self) -> bool:
        """Whether it boots as a virtual machine, with its own kernel."""
        return self.name.endswith(KERNEL)

    @property
    def manager(self) -> str | None:
        """The program that has its eth0, or None where addresses come from outside."""
        return next((name for name in MANAGERS if self.name.endswith("+" + name)), None)

    @property
    def containers(self) -> bool:
        """Whether it runs containers of its own."""
        return "+docker" in self.name

    @property
    def packages(self) -> list[str]:
        if self.kernel:
            return list(vm_kernel.PACKAGES)
        if self.manager:
            return list(MANAGERS[self.manager])
        wanted = VARIANTS[self.name.partition("+")[2]] if self.base else BARE
        return [package for package in wanted if package not in ABSENT.get(self.release, ())]

    @property
    def script(self) -> str:
        """What makes its layer out of the packages, on top of the base; mmdebstrap makes the bare ones."""
        if not self.base:
            return ""
        if not self.packages:
            return NETWORKD
        return "".join([BEGIN, vm_kernel.UNPACK if self.kernel else INSTALL, END])

    @cached_property
    def key(self) -> str:
        """A hash of all that the image is made from, the machine's apt settings included."""
        below = self.base.key if self.base else "\n".join([FINISH, *UNREAD, apt.sources(self.release), apt.settings()])
        recipe = "\n".join([self.name, self.script, *self.packages, below])
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        return cache() / f"{self.name}-{self.key}"

    @property
    def archive(self) -> Path:
        """The whole file system as one .tar.zst."""
        return self.folder / "root.tar.zst"

    @property
    def layers(self) -> list[Path]:
        """Read-only folders, the uppermost first: an overlay's lowerdir."""
        return [self.folder / "layer", *(self.base.layers if self.base else [])]

    def ready(self, progress: Progress) -> Image:
        """Build the image unless the cache has it; two runs at once build it once."""
        if self.folder.is_dir():
            return self
        if self.base:
            self.base.ready(progress)
        cache().mkdir(parents=True, exist_ok=True)
        with machine.lock(cache() / f".{self.name}.lock"):
            if not self.folder.is_dir():
                self._build(progress)
        return self

    @property
    def _group(self) -> Path:
        """Holds what builds the image, so that what a killed run left behind can be ended."""
        return cgroup.group(f".image-{self.name}")

    def _build(self, progress: Progress) -> None:
        """Build in the upper layer of an overlay, on the base or on nothing, without waiting for the disk."""
        new = cache() / f".{self.name}.new"
        cgroup.kill(self._group)
        machine.discard(new)
        layer, work, merged, nothing = (new / name for name in ("layer", "work", "merged", "nothing"))
        for folder in (layer, work, merged, nothing):
            folder.mkdir(parents=True)
        below = f" on top of {self.base.name}" if self.base else ""
        progress(f"building the root file system {self.name}{below} (once, about half a minute)")
        overlay(self.base.layers if self.base else [nothing], layer, work, merged)
        try:
            (self._add if self.base else self._bootstrap)(merged)
            _pack(merged, new / "root.tar.zst")
        finally:
            cgroup.kill(self._group)
            machine.discard(merged)
        machine.discard(work)
        nothing.rmdir()
        new.rename(self.folder)

    def _bootstrap(self, root: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="marzban-lab-") as temporary:
            settings, finish = Path(temporary) / "settings", Path(temporary) / "finish"
            apt.write_settings(settings)
            finish.write_text(f"#!/bin/sh\n{FINISH}")
            finish.chmod(0o755)
            command = [
                *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--quiet"),
                f"--include={','.join(self.packages)}",
                *('--aptopt=Acquire::Languages "none"', *(f"--dpkgopt=path-exclude={path}" for path in UNREAD)),
                f'--setup-hook=cp -a {settings}/. "$1"',
                f"--customize-hook={finish}",
                *(self.release, str(root), "-"),
            ]
            machine.run(cgroup.joining(self._group, command), input=apt.sources(self.release), timeout=900)

    def _add(self, root: Path) -> None:
        alone = ["env", f"RESOLV={apt.resolv_conf()}", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command = [*alone, "sh", "-c", self.script, "sh", str(root), *self.packages]
        machine.run(cgroup.joining(self._group, command), timeout=900)


def overlay(lower: list[Path], upper: Path, work: Path, where: Path) -> None:
    """Mount the layers (the uppermost first) with a writable one on top of them, which is never synced to the disk."""
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={upper},workdir={work},volatile"
    machine.run(["mount", "-t", "overlay", "overlay", "-o", options, str(where)])


def _pack(root: Path, archive: Path) -> None:
    command = ["tar", "--create", "--one-file-system", "--numeric-owner", "--xattrs", "--directory", str(root), "."]
    with archive.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        subprocess.run(["zstd", "-q", "-3", "-T0"], stdin=tar.stdout, stdout=file, check=True)
    if tar.returncode:
        raise LabError(f"tar of {root} ended with {tar.returncode}")
