# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node service's files and certificate, and the firewall's rule. The whole is in test_role_node_api.py."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import (
    firewall,
    node_files,
    node_service,
    package,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from tests.support.front import make_certificate, pin_of

A, B = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81", "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"


def test_a_certificate_is_made_once_and_its_pin_is_of_its_public_key(tmp_path, monkeypatch):
    monkeypatch.setattr(node_files, "SETTINGS", str(tmp_path))
    assert node_files.pin() is None
    node_files.make_certificate()
    pin = node_files.pin()
    assert pin == pin_of(tmp_path)
    assert pin.startswith("sha256:")
    assert len(pin) == 51
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    former = (tmp_path / "tls.key").read_text()
    node_files.make_certificate()
    assert node_files.pin() != pin
    (tmp_path / "tls.key").write_text(former)
    assert node_files.pin() is None, "the certificate is not of this key"
    (tmp_path / "tls.key").write_text("nonsense")
    assert node_files.pin() is None


def test_each_panel_has_its_own_certificate_in_the_file_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(node_files, "SETTINGS", str(tmp_path))
    pems = {}
    for name in "ab":
        make_certificate(tmp_path, name)
        pems[name], digest = node_files.client_certificate((tmp_path / f"{name}.crt").read_text())
        assert len(digest) == 64
    (tmp_path / "clients.pem").write_text(node_files.clients(A, pems["a"]))
    both = node_files.clients(B, pems["b"])
    assert both == f"# {A}\n{pems['a']}# {B}\n{pems['b']}"
    (tmp_path / "clients.pem").write_text(both)
    assert node_files.clients(A, None) == f"# {B}\n{pems['b']}"
    assert node_files.clients(A, pems["b"]) == f"# {A}\n{pems['b']}# {B}\n{pems['b']}"
    with pytest.raises(Error, match="not a certificate"):
        node_files.client_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_only_the_half_whose_code_differs_is_started_again():
    before = {"front.py": b"1", "marzban_node/front_calls.py": b"1", "root.py": b"1", "version": b"1"}
    halves = node_files.changed_halves
    assert halves(before, before) == set()
    assert halves(before, {**before, "marzban_node/front_calls.py": b"2"}) == {node_files.FRONT}
    assert halves(before, {**before, "version": b"2"}) == {node_files.ROOT}
    assert halves(before, {**before, "marzban_node/__init__.py": b""}) == {node_files.FRONT, node_files.ROOT}
    assert halves(None, before) == {node_files.FRONT, node_files.ROOT}


@pytest.mark.parametrize("files", [{}, {"front.py": b""}, {"front.py": b"", "../x": b""}])
def test_what_the_controller_did_not_send_is_refused(files):
    with pytest.raises(Error, match="The controller"):
        node_files.Sent(package.pack(files) if files else None, "0" * 16)


SETTINGS = {
    "engine": "1",
    "config_dir": "/etc/marzban/tunnels",
    "post_quantum": "auto",
    "ipsec_data_path": "auto",
    "types": ["wireguard", "openvpn"],
    "templates": {kind: hashlib.sha256(b"a").hexdigest() for kind in ("wireguard", "openvpn")},
    "port": 62052,
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"types": ["openvpn", "wireguard"]}, None),
        ({"engine": "2", "template": b"b"}, None),  # an update
        ({"template": b"b"}, "works with other templates"),
        ({"port": 62053}, "works with port: 62052, and this run has 62053"),
        ({"types": ["wireguard"]}, r"types: \['openvpn', 'wireguard'\], and this run has \['wireguard'\]"),
        ({"post_quantum": "off"}, "post_quantum: auto, and this run has off"),
        ({"ipsec_data_path": "kernel"}, "ipsec_data_path: auto, and this run has kernel"),
        ({"config_dir": "/srv/tunnels"}, "config_dir: /etc/marzban/tunnels, and this run has /srv/tunnels"),
    ],
)
def test_a_second_panel_does_not_change_what_the_first_has_chosen(tmp_path, monkeypatch, changes, why):
    monkeypatch.setattr(node_files, "SETTINGS", str(tmp_path))
    given = {**SETTINGS, **changes, "node": A, "hashes": ["0" * 64], "certificate": None, "panel_addresses": []}
    given |= {"panel": B, "state": "present", "all_panels": False, "metrics_hash": None}
    sent = node_files.Sent.__new__(node_files.Sent)
    sent.templates = {f"{kind}.conf.j2": changes.get("template", b"a") for kind in ("wireguard", "openvpn")}

    def wanted(**more):
        return node_service.Run({**given, **more}, check=True)._wanted(sent)

    wanted()  # nobody else is there
    (tmp_path / "panels").mkdir()
    (tmp_path / f"panels/{A}.json").write_text("{}")
    (tmp_path / "settings.json").write_text(node_files.text_of(SETTINGS))
    if why is None:
        wanted()
        return
    with pytest.raises(Error, match=why) as refused:
        wanted()
    assert A in str(refused.value)
    assert "-e node_api_all_panels=true" in str(refused.value)
    wanted(all_panels=True)
    (tmp_path / f"panels/{A}.json").rename(tmp_path / f"panels/{B}.json")
    wanted()  # it is alone


UFW = "Status: active\n\nTo                         Action      From\n--                         ------      ----\n"
ROW = "62052/tcp                  ALLOW       "
ALLOWED = f"{ROW}203.0.113.1\n"
RICH = (
    "case $1 in --state) echo running;; --query-port*) echo no; exit 1;; --list-rich-rules)"
    """ echo 'rule family="ipv4" source address="{}" port port="62052" protocol="tcp" accept';; esac"""
)


@pytest.mark.parametrize(
    ("programs", "addresses", "expected"),
    [
        ({}, ["203.0.113.1"], None),
        ({"ufw": "echo 'Status: inactive'"}, ["203.0.113.1"], None),
        (
            {"ufw": f"cat <<END\n{UFW}END"},
            ["127.0.0.1", "203.0.113.1"],
            "On this host:\nufw allow proto tcp from 203.0.113.1 to any port 62052",
        ),
        ({"ufw": f"cat <<END\n{UFW}END"}, ["127.0.0.1"], "from THE_PANELS_ADDRESS to any port 62052"),
        ({"ufw": f"cat <<END\n{UFW}{ALLOWED}END"}, ["203.0.113.1"], None),
        ({"ufw": f"cat <<END\n{UFW}{ALLOWED.replace('62052', '162052')}END"}, ["203.0.113.1"], "port 62052"),
        (
            {"ufw": f"cat <<END\n{UFW}{ALLOWED}END"},
            ["2001:db8::1", "203.0.113.1"],
            "ufw allow proto tcp from 2001:db8::1",
        ),
        ({"ufw": f"cat <<END\n{UFW}{ROW}203.0.113.0/24\nEND"}, ["203.0.113.1"], None),
        ({"ufw": f"cat <<END\n{UFW}{ROW}Anywhere\nEND"}, ["203.0.113.1"], None),
        ({"ufw": f"cat <<END\n{UFW}{ROW}198.51.100.7\nEND"}, ["203.0.113.1"], "from 203.0.113.1 to any"),
        ({"ufw": f"cat <<END\n{UFW}{ROW.replace('ALLOW', 'DENY ')}Anywhere\nEND"}, ["203.0.113.1"], "port 62052"),
        ({"ufw": f"cat <<END\n{UFW}62000:62100/tcp (v6)  ALLOW  Anywhere (v6)\nEND"}, ["2001:db8::1"], None),
        ({"ufw": f"cat <<END\n{UFW}2001:470:1::5  ALLOW  Anywhere\nEND"}, ["203.0.113.1"], "port 62052"),
        ({"firewall-cmd": RICH.format("203.0.113.1")}, ["203.0.113.1"], None),
        ({"firewall-cmd": RICH.format("198.51.100.7")}, ["203.0.113.1"], "source address=203.0.113.1 port"),
        (
            {"firewall-cmd": "case $1 in --state) echo running;; --query-port*) echo no; exit 1;; esac"},
            ["2001:db8::1"],
            "--add-rich-rule='rule family=ipv6 source address=2001:db8::1 port port=62052 protocol=tcp accept'",
        ),
        ({"firewall-cmd": "case $1 in --state) echo running;; --query-port*) echo yes;; esac"}, [], None),
    ],
)
def test_the_rule_that_a_firewall_lacks(tmp_path: Path, monkeypatch, programs, addresses, expected):
    """With STAND-INs for ufw and firewall-cmd."""
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    host = Host(check=True)
    host._environment["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", host._environment["PATH"])
    told = firewall.rule(host, 62052, addresses)
    assert (told is None) == (expected is None)
    assert expected is None or expected in str(told)


def test_the_place_of_the_folders_is_there_before_the_root_half_starts(tmp_path, monkeypatch):
    """Or it is one that the root half may never write to, since it was not there."""
    monkeypatch.setattr(node_files, "PENDING", str(tmp_path / "pending"))
    place = tmp_path / "data/marzban"
    given = {"panel": A, "state": "present", "config_dir": str(place / "tunnels")}
    for check, there in ((True, False), (False, False), (False, True)):
        run = node_service.Run(given, check)
        run._make_place()
        assert (run.changes, run._again) == (([], set()) if there else ([f"{place} made"], {node_files.ROOT}))
        assert place.is_dir() is not check
        assert node_files.pending() == (set() if check else {node_files.ROOT}), "also where this run is cut off"
    run = node_service.Run({**given, "config_dir": "/etc/marzban/tunnels"}, check=True)
    run._make_place()
    assert run.changes == [], "it is made with the settings"
    folders = Folders(given["config_dir"])
    for service in (True, False):
        with folders.locked():
            folders.drop_root(service)
        assert place.is_dir() is service


def test_the_root_half_may_write_where_the_folders_are():
    sent = node_files.Sent.__new__(node_files.Sent)
    sent.units = {"u": b"ReadWritePaths=/etc @config_dir@ # @port@"}
    assert sent.unit("u", 1, "/srv/a b/tunnels") == 'ReadWritePaths=/etc "-/srv/a b" # 1'
    assert node_service.check_config_dir("/srv/tunnels") == "/srv/tunnels"
    with pytest.raises(Error, match="The node service sees nothing of /home"):
        node_service.check_config_dir("/home/x/tunnels")
