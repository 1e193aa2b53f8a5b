# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which packages a host is to get, out of its os-release and what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._node import packages
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry

TABLES = {kind: registry.protocol(kind).packages for kind in registry.TYPES}
DEBIAN_12 = 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
DEBIAN_11 = 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="11"\nVERSION_CODENAME=bullseye\n'
UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n'
MINT = 'NAME="Linux Mint"\nVERSION_ID="21"\nID=linuxmint\nID_LIKE="ubuntu debian"\nUBUNTU_CODENAME=jammy\n'
ROCKY = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
FEDORA = "NAME='Fedora Linux'\nID=fedora\n"
ALPINE = 'NAME="Alpine Linux"\nID=alpine\n'


@pytest.mark.parametrize(
    ("text", "family", "manager"),
    [
        (DEBIAN_12, "Debian", "apt"),
        (UBUNTU, "Debian", "apt"),
        (MINT, "Debian", "apt"),
        (ROCKY, "RedHat", "dnf"),
        (FEDORA, "RedHat", "dnf"),
        (ALPINE, None, None),
        ("", None, None),
    ],
)
def test_the_family_is_ansibles(text, family, manager):
    assert packages.family(packages.parse_os_release(text)) == family
    assert packages.choose(text, [])["package_manager"] == manager


def test_all_types_packages_are_installed_at_once_and_once():
    needs = [
        (TABLES["wireguard"], ["cryptography", "wireguard-tools", "wireguard-go", "ping"]),
        (TABLES["openvpn"], []),
        (TABLES["ipsec"], ["strongswan", "swanctl", "cryptography"]),
    ]
    assert packages.choose(DEBIAN_12, needs) == {
        "packages": [
            "charon-systemd",
            "iputils-ping",
            "python3-cryptography",
            "strongswan-swanctl",
            "wireguard-go",
            "wireguard-tools",
        ],
        "unavailable": [],
        "package_manager": "apt",
    }
    assert packages.choose(ROCKY, needs[2:]) == {
        "packages": ["python3-cryptography", "strongswan"],
        "unavailable": [],
        "package_manager": "dnf",
    }


@pytest.mark.parametrize(
    ("name", "text", "kind", "missing", "lacking"),
    [
        ("Debian 11", DEBIAN_11, "wireguard", ["cryptography", "wireguard-go"], "wireguard-go"),
        ("Rocky Linux 9.4", ROCKY, "wireguard", ["wireguard-tools", "wireguard-go"], "wireguard-go"),
        ("Debian 11", DEBIAN_11, "openvpn", ["cryptography", "openvpn"], "openvpn"),
        ("Linux Mint 21", MINT, "openvpn", ["openvpn"], "openvpn"),  # by the name of the Ubuntu below it
        ("Debian 12", DEBIAN_12, "openvpn", ["openvpn-2.6"], "openvpn-2.6"),
    ],
)
def test_a_type_without_a_package_gets_none_and_the_others_theirs(name, text, kind, missing, lacking):
    found = packages.choose(text, [(TABLES[kind], missing), (TABLES["ipsec"], ["nftables"])])
    assert found["unavailable"] == [f"{name} has no package for {lacking}. {TABLES[kind].hint}"]
    assert found["packages"] == ["nftables"]


def test_another_system_is_named_with_what_it_lacks():
    found = packages.choose(ALPINE, [(TABLES["wireguard"], ["wireguard-tools", "nftables"])])
    assert found["packages"] == []
    (sentence,) = found["unavailable"]
    assert sentence.startswith(
        "Alpine Linux is not of the families Debian and RedHat. Install wireguard-tools, nftables"
    )


def test_what_no_package_brings():
    """A device, and a library for a Python that is not the distribution's: installing would change nothing."""
    needs = [(TABLES["wireguard"], ["wireguard-go", "tun"]), (TABLES["openvpn"], ["openvpn"])]
    found = packages.choose(DEBIAN_12, needs)
    assert (found["packages"], found["unavailable"]) == (["openvpn"], [packages.NO_TUN])
    assert packages.advice(["openvpn", "tun"], "openvpn", None) == packages.NO_TUN
    needs = [(TABLES["wireguard"], ["cryptography", "wireguard-tools"]), (TABLES["openvpn"], ["openvpn"])]
    python = "/opt/venv/bin/python3"
    found = packages.choose(DEBIAN_12, needs, python)
    sentence = packages.advice(["cryptography"], "wireguard", python)
    assert (found["packages"], found["unavailable"]) == (["openvpn"], [sentence])
    assert sentence.startswith(f"The Python of this run, {python}, has no cryptography, and the distribution's package")
    assert "set ansible_python_interpreter to that" in sentence
    plain = "This host lacks cryptography: install it (the role marzban.tunnels.wireguard does)."
    assert packages.advice(["cryptography"], "wireguard", None) == plain
    assert packages.advice(["nftables"], "wireguard", python) == plain.replace("cryptography", "nftables")


def test_which_python_the_packages_are_for():
    assert packages.own_python() == sys.executable, "that of the tests is in a virtual environment"
    code = "from ansible_collections.marzban.tunnels.plugins.module_utils._node.packages import *; print(own_python())"
    there = {"PYTHONPATH": str(Path(packages.__file__).parents[6])}
    if os.path.exists(packages.PYTHON):
        said = subprocess.run([packages.PYTHON, "-c", code], env=there, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == "None"


@given(st.text(), st.lists(st.sampled_from(["wireguard-tools", "openvpn", "ping", "whatever"]), max_size=3))
def test_any_os_release_gives_an_answer_that_covers_what_is_missing(text, missing):
    found = packages.choose(text, [(TABLES["wireguard"], missing)])
    assert bool(found["packages"]) != bool(found["unavailable"]) or not missing


@given(st.text(st.characters(exclude_characters="\"'\\\0\n\r", exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"])))
def test_quotes_are_taken_off(value):
    if value and not value.startswith("#"):
        for quoted in ('K="%s"', "K='%s'"):
            assert packages.parse_os_release(quoted % value) == {"K": value}
