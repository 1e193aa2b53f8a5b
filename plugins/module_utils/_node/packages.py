# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which packages bring what a host lacks. Pure: the host is its os-release.

``COMMON`` is what all types need; the tables of the types are in ``_protocols/*/packages.py``.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, NamedTuple

from .._errors import Error
from .._model import symptoms

if TYPE_CHECKING:
    from .._model.shapes import Choice

OS_RELEASE = "/etc/os-release"
PYTHON = "/usr/bin/python3"  # which the distribution's packages are for
TUN = "/dev/net/tun"
NO_TUN = (
    "This host has no %s, with which a process carries packets: run modprobe tun, or in a container or a small virtual "
    "server ask the provider for the device." % TUN
)
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


class Lacking(Error):
    """A tunnel can't be set up here, because a capability is missing."""

    symptom = symptoms.NOT_INSTALLED


def own_python() -> str | None:
    """The path of the Python that runs this, where it is not the distribution's, so that no package is for it."""
    return None if sys.prefix == "/usr" else sys.executable


def beyond_packages(missing: list[str], python: str | None) -> str | None:
    """What to do about a capability of ``missing`` that no package brings; ``python`` as ``own_python`` answers it."""
    if "tun" in missing:
        return NO_TUN
    if python and "cryptography" in missing:
        hint = "The Python of this run, %s, has no cryptography, and the distribution's package for it is for %s: set "
        return (hint + "ansible_python_interpreter to that, or install it with pip.") % (python, PYTHON)
    return None


def advice(missing: list[str], role: str, python: str | None) -> str:
    """What to do about the capabilities that a tunnel lacks; ``role`` installs them."""
    hint = "This host lacks %s: install it (the role marzban.tunnels.%s does)."
    return beyond_packages(missing, python) or hint % (", ".join(missing), role)


def choose(os_release: str, needs: list[tuple[Packages, list[str]]], python: str | None = None) -> Choice:
    """What to install, sorted; ``package_manager`` is apt, dnf or None; ``python`` as ``own_python`` answers it.

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
        beyond = beyond_packages(missing, python)
        if beyond:
            unavailable.append(beyond)
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
