# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the hosts' apt takes over from the machine's: the mirror, proxies, certificates and the name server."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path

from . import machine
from .machine import LabError

CERTIFICATES = Path("/usr/local/share/ca-certificates")
#: Settings that decide whether the mirror can be reached from here.
CARRIED = ("acquire::http::", "acquire::https::", "acquire::check-", "acquire::retries", "acquire::forceipv")


@cache
def sources(release: str) -> str:
    """Lines for the release's sources.list, with the mirrors that the machine itself uses.

    apt is asked what it reads, so one-line lists, deb822 files, options and disabled entries are all understood.
    Raises LabError when the machine's apt knows no Debian.
    """
    targets = _targets()
    if not targets:
        machine.run(["apt-get", "update", "-q"], timeout=300)
        _targets.cache_clear()
        targets = _targets()
    names = sorted((codename for _component, codename in targets), key=len)
    if not names:
        raise LabError("this machine's apt has no sources of Debian to take the hosts' packages from")
    own = names[0].partition("-")[0]
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = {
        f"deb [signed-by={keyring}] {uri} {release}{codename.removeprefix(own)} main"
        for uri, codename in targets
        if codename.removeprefix(own) in ("", "-updates", "-security")
    }
    return "".join(f"{line}\n" for line in sorted(lines))


@cache
def _targets() -> set[tuple[str, str]]:
    """Pairs of address and codename ("bookworm-security") of the Debian archives that the machine's apt reads."""
    form = "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(CODENAME)"
    found = set()
    for line in machine.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).stdout.splitlines():
        origin, component, uri, codename = line.split("|")
        if origin == "Debian" and component == "main":
            found.add((_resolved(uri), codename))
    return found


def _resolved(uri: str) -> str:
    """An address for one in a list of mirrors, which would be a file of the machine's."""
    if uri.startswith("mirror+file:"):
        listed = Path(uri.removeprefix("mirror+file:").rstrip("/")).read_text().split()
        return next(word for word in listed if "://" in word)
    return uri


@cache
def settings() -> str:
    """Lines for apt.conf.d: the machine's proxies and checks, from its configuration or else its environment."""
    dumped = machine.run(["apt-config", "dump"]).stdout.splitlines()
    lines = [line for line in dumped if line.lower().startswith(CARRIED) and not line.endswith(' "";')]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY")
        if proxy and not any(line.lower().startswith(f"acquire::{scheme}::proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(f"{line}\n" for line in lines)


def write_settings(root: Path) -> None:
    """Put the settings, the certificates they name, and the machine's own certificates below `root`."""
    conf = root / "etc/apt/apt.conf.d/90lab"
    conf.parent.mkdir(parents=True)
    conf.write_text(settings())
    named = re.findall(r'::(?:CaInfo|SslCert|SslKey) "(/[^"]+)"', settings(), re.IGNORECASE)
    for path in [*map(Path, named), *CERTIFICATES.glob("*.crt")]:
        if path.is_file():
            copy = root / path.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def resolv_conf() -> Path:
    """The machine's resolv.conf, and behind systemd-resolved's stub (which answers on loopback) the real one."""
    behind = Path("/run/systemd/resolve/resolv.conf")
    own = Path("/etc/resolv.conf")
    stub = own.exists() and "nameserver 127.0.0.53" in own.read_text()
    return behind if stub and behind.exists() else own
