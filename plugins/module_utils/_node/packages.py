# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which packages bring what a host lacks. Pure: the tables are data of the protocols, the host is its os-release."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from .._model.types import TypedDict  # type: ignore[attr-defined]

OS_RELEASE = "/etc/os-release"
MANAGERS = {"Debian": "apt", "RedHat": "dnf"}
# Words of ID and ID_LIKE, and the family as Ansible names it
_FAMILIES = {"debian": "Debian", "ubuntu": "Debian", "rhel": "RedHat", "fedora": "RedHat", "centos": "RedHat"}
_CODENAMES = ("VERSION_CODENAME", "UBUNTU_CODENAME", "DEBIAN_CODENAME")  # a derivative names its base in the others

# What all protocols need, as ``by_family`` below
COMMON = {
    "Debian": {
        "cryptography": "python3-cryptography",
        "nftables": "nftables",
        "ping": "iputils-ping",
        "iproute2": "iproute2",
    },
    "RedHat": {
        "cryptography": "python3-cryptography",
        "nftables": "nftables",
        "ping": "iputils",
        "iproute2": "iproute",
    },
}


class Packages(NamedTuple):
    """The packages of a protocol."""

    by_family: dict[str, dict[str, str]]  # family: {capability: package}, without those that have no package
    lacking: dict[str, list[str]]  # codename of a release: capabilities without a package there
    hint: str  # a sentence that says what to do where there is no package


class Choice(TypedDict):
    """What to install, and what can't be. ``unavailable``: sentences."""

    packages: list[str]
    unavailable: list[str]
    package_manager: str | None


def parse_os_release(text: str) -> dict[str, str]:
    """The settings of an os-release file (os-release(5)) as a dict of texts; other lines are left out."""
    settings = {}
    for line in text.splitlines():
        key, sign, value = line.strip().partition("=")
        if not sign or key.startswith("#"):
            continue
        try:
            settings[key] = "".join(shlex.split(value))
        except ValueError:  # a quote that does not end
            continue
    return settings


def family(settings: dict[str, str]) -> str | None:
    """``Debian`` or ``RedHat``, or None for another system; ``settings`` as parse_os_release answers them."""
    words = [settings.get("ID", ""), *settings.get("ID_LIKE", "").split()]
    return next((_FAMILIES[word] for word in words if word in _FAMILIES), None)


def choose(os_release: str, needs: list[tuple[Packages, list[str]]]) -> Choice:
    """What to install, sorted; ``package_manager`` is apt, dnf or None.

    ``os_release`` is the text of the file, ``needs`` ``[(Packages, [capabilities that the host lacks])]`` of the
    protocols. A protocol that lacks something without a package gets no packages: they would not make it run.
    """
    settings = parse_os_release(os_release)
    system = family(settings)
    name = settings.get("NAME", "This system").replace(" GNU/Linux", "")
    name = " ".join((name, *settings.get("VERSION_ID", "").split()))
    packages: set[str] = set()
    unavailable = []
    for table, missing in needs:
        if not missing:
            continue
        if system is None:
            sentence = "%s is not of the families %s. Install %s by hand: only what is missing is installed."
            unavailable.append(sentence % (name, " and ".join(MANAGERS), ", ".join(missing)))
            continue
        known = dict(COMMON[system], **table.by_family[system])
        lacking = {name for key in _CODENAMES for name in table.lacking.get(settings.get(key, ""), ())}
        without = [name for name in missing if name not in known or name in lacking]
        if without:
            unavailable.append("%s has no package for %s. %s" % (name, ", ".join(without), table.hint))
        else:
            packages.update(known[name] for name in missing)
    return {
        "packages": sorted(packages),
        "unavailable": list(dict.fromkeys(unavailable)),
        "package_manager": MANAGERS.get(system or ""),
    }
