# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's texts: who dials whom, what needs another process, what its socket says; certificates, the wrap key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render, views
from ansible_collections.marzban.tunnels.plugins.module_utils._node import state
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import base, x25519
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import (
    certificate as openvpn_certificate,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import conf as openvpn_conf
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import protocol as openvpn_protocol
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import tls_crypt
from tests.support.views import PANEL, UUID, view

TEMPLATE = (Path(__file__).parents[6] / "roles/openvpn/templates/openvpn.conf.j2").read_text()
ONE, TWO = "ab" * 32, "0c" * 32
NODE = {
    "dir": f"/etc/marzban/tunnels/{UUID}",
    "mtu": 1444,
    "family": 6,
    "peer_fingerprints": openvpn_conf.fingerprint_lines([ONE, TWO]),
    "tls_groups": "X25519",
}
# What 2.6 reported about a tunnel that was connected, lost, and connected again.
LOG = """>INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info
{when},{state},SUCCESS,,10.213.1.12,20001,,
END
100,I,UDPv4 link remote: [AF_INET]10.213.1.12:20001
101,I,peer info: IV_CIPHERS=AES-256-GCM:CHACHA20-POLY1305
101,,Control Channel: TLSv1.3, cipher TLSv1.3 TLS_AES_256_GCM_SHA384, peer certificate: 256 bits ECprime256v1{old}
102,I,Initialization Sequence Completed
170,I,[marzban.tunnels] Inactivity timeout (--ping-restart), restarting
170,I,SIGUSR1[soft,ping-restart] received, process restarting
"""
AGAIN = """181,I,peer info: IV_CIPHERS=CHACHA20-POLY1305
181,,Control Channel: TLSv1.3, cipher TLSv1.3 TLS_AES_256_GCM_SHA384, peer certificate: 256 bits ECprime256v1{new}
182,I,Initialization Sequence Completed
END
"""


def conf(node=None, **changes):
    raw = view(**{"type": "openvpn", **changes})
    return render.fill(render.render(views.check(raw, PANEL), TEMPLATE), {**NODE, **(node or {})})


def target(**changes):
    return {"local.role": "target", "peer.role": "source", **changes}


# Who dials


@pytest.mark.parametrize(
    ("changes", "wanted", "unwanted"),
    [
        ({}, ["tls-client", "proto udp", "lport 20003", "remote 203.0.113.3 20003"], ["dh"]),
        (
            {"local.endpoint_port": 80, "peer.endpoint_port": 443},
            ["lport 20003", "remote 203.0.113.3 443"],
            [],
        ),
        (target(), ["tls-server", "dh none", "proto udp", "remote 203.0.113.3 20003"], []),
        # A name may be of either family: the target waits on both, unless nobody else dials.
        (target(**{"peer.endpoint": "fi.example"}), ["proto udp6"], ["remote"]),
        (target(**{"peer.endpoint": "fi.example", "dialed": False}), ["proto udp", "remote fi.example 20003"], []),
        (target(**{"peer.endpoint": "2001:db8::3"}), ["proto udp6"], ["remote"]),
        ({"peer.endpoint": "2001:db8::3"}, ["proto udp", "remote 2001:db8::3 20003"], []),
        ({"dial": False}, ["proto udp6", "tls-client"], ["remote"]),
        ({"transport": "tcp"}, ["proto tcp-client", "nobind", "remote 203.0.113.3 20003"], ["lport", "float"]),
        (target(transport="tcp"), ["proto tcp6-server", "lport 20003"], ["remote", "explicit-exit-notify"]),
        ({"transport": "tcp", "dial": False}, ["proto tcp6-server", "tls-client"], ["remote"]),
        (target(transport="tcp", dialed=False), ["proto tcp-client", "tls-server"], ["lport"]),
        ({"keepalive": 1}, ["ping 1"], []),
        ({"keepalive": 0}, ["ping 2"], []),
    ],
)
def test_who_dials_and_who_listens(changes, wanted, unwanted):
    settings = openvpn_conf.lines(conf(**changes))
    assert [item for item in wanted if item not in settings] == []
    assert [item for item in unwanted if item in {line.split()[0] for line in settings}] == []
    openvpn_conf.check("\n".join(settings))


def test_a_host_without_ipv6_listens_on_ipv4():
    assert "proto udp4" in conf({"family": 4}, dial=False)
    assert "proto tcp4-server" in conf({"family": 4}, dial=False, transport="tcp")


# What needs another process


def test_what_a_running_process_can_go_on_with():
    both, first = conf(), conf({"peer_fingerprints": openvpn_conf.fingerprint_lines([ONE])})
    assert openvpn_conf.lets_in(both) == {ONE, TWO}
    assert openvpn_conf.same_process(both, conf(name="renamed"))
    assert openvpn_conf.same_process(both, first), "one certificate less can wait"
    assert not openvpn_conf.same_process(first, both), "one more can't"
    assert not openvpn_conf.same_process(both, conf(**{"peer.port": 1}))
    assert not openvpn_conf.same_process(None, both)
    assert openvpn_conf.listens(both) == ("udp", 20003)
    assert openvpn_conf.listens(conf(transport="tcp")) is None
    assert openvpn_conf.listens(conf(transport="tcp", dial=False)) == ("tcp", 20003)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ("tls-crypt.*", "no tls-crypt"),
        ("persist-tun", "no persist-tun"),
        (r"(?s)<peer.*print>\n", "lets in no certificate"),
    ],
)
def test_a_template_that_lacks_something_is_refused(cut, said):
    with pytest.raises(Error, match=said):
        openvpn_conf.check(re.sub(cut, "", conf()))
    with pytest.raises(Error, match="holds a key"):
        openvpn_conf.check(conf() + "<tls-crypt>\n</tls-crypt>\n")


@pytest.mark.parametrize(
    ("choice", "able", "groups"),
    [
        ("auto", True, "X25519MLKEM768:X25519"),
        ("auto", False, "X25519"),
        ("require", True, "X25519MLKEM768"),
        ("off", True, "X25519"),
    ],
)
def test_tls_groups(choice, able, groups):
    assert openvpn_conf.tls_groups(choice, able) == groups


# What it says


@pytest.mark.parametrize(
    ("said", "version", "library"),
    [
        ("OpenVPN 2.6.14 x86_64-pc-linux-gnu\nlibrary versions: OpenSSL 3.5.9 29 Sep 2026, LZO 2.10\n", (2, 6), (3, 5)),
        ("OpenVPN 2.5.1 x86\nlibrary versions: OpenSSL 1.1.1n  15 Mar 2022\n", (2, 5), (1, 1)),
        ("OpenVPN 2.10.0 x86\nlibrary versions: mbed TLS 3.6.0\n", (2, 10), ()),
        ("", (), ()),
    ],
)
def test_versions(said, version, library):
    assert openvpn_conf.versions(said) == (version, library)


@pytest.mark.parametrize(
    ("told", "offered", "group"),
    [
        (", signature: ecdsa-with-SHA256, peer temporary key: 253 bits X25519", "X25519MLKEM768:X25519", "X25519"),
        (", peer temporary key: 768 bits X25519MLKEM768", "X25519MLKEM768:X25519", "X25519MLKEM768"),
        (", peer temporary key: 768 bits X25519MLKEM768, key agreement: X25519MLKEM768", "X25519", "X25519MLKEM768"),
        (", peer temporary key: 253 bits X25519, key agreement: x25519", "X25519", "X25519"),
        (", signature: ecdsa-with-SHA256", "X25519MLKEM768:X25519", "X25519MLKEM768"),
        (", signature: ecdsa-with-SHA256", "X25519", None),
    ],
)
def test_the_last_handshake_counts(told, offered, group):
    said = (LOG + AGAIN).format(when=182, state="CONNECTED", old=", peer temporary key: 253 bits X448", new=told)
    found = openvpn_conf.parse(said, conf({"tls_groups": offered}))
    assert found == {"handshake": 181, "key_exchange": group, "cipher": "CHACHA20-POLY1305"}


def test_the_servers_order_of_ciphers_counts():
    said = LOG.format(when=102, state="CONNECTED", old="").replace(
        "AES-256-GCM:CHACHA20-POLY1305", "X:CHACHA20-POLY1305:AES-256-GCM"
    )
    assert openvpn_conf.parse(said + "END\n", conf())["cipher"] == "CHACHA20-POLY1305"
    assert openvpn_conf.parse(said + "END\n", conf(**target()))["cipher"] == "AES-256-GCM"


def test_since_when_there_is_no_session():
    said = LOG.format(when=171, state="RECONNECTING", old="")
    assert openvpn_conf.parse(said + "END\n", conf()) == {"lost": 170}
    never = "\n".join(line for line in said.splitlines() if "Completed" not in line)
    assert openvpn_conf.parse(never + "\nEND\n", conf()) == {"lost": 100}
    assert openvpn_conf.parse("", conf()) == {}


# Keys


def used(folder):
    found = openvpn_certificate.load(str(folder))
    return found and found.fingerprint


def test_certificates(tmp_path):
    made = openvpn_certificate.make(str(tmp_path))
    assert made.days == openvpn_certificate.LIFE - 1
    assert (tmp_path / "tls.pem").stat().st_mode & 0o777 == 0o600
    following = openvpn_certificate.make(str(tmp_path), openvpn_certificate.NEXT, life=-1)
    assert following.days < 0
    assert used(tmp_path) == made.fingerprint != following.fingerprint
    openvpn_certificate.switch(str(tmp_path))
    assert used(tmp_path) == following.fingerprint
    assert openvpn_certificate.load(str(tmp_path), openvpn_certificate.NEXT) is None


def test_broken_certificates_show_nothing(tmp_path):
    for name in ("one", "two"):
        openvpn_certificate.make(str(tmp_path), name)
    key, certificate = ((tmp_path / name).read_text().partition("-----BEGIN CERT") for name in ("one", "two"))
    mixed = key[0] + certificate[1] + certificate[2]
    for broken in (mixed, key[0], "rubbish", "\u00e9"):
        (tmp_path / "tls.pem").write_text(broken)
        with pytest.raises(x25519.BrokenKey) as caught:
            openvpn_certificate.load(str(tmp_path))
        assert str(tmp_path / "tls.pem") in str(caught.value)
        assert key[0].splitlines()[1] not in str(caught.value)


def test_both_ends_derive_the_same_wrap_key():
    a, b, other = (x25519.generate() for _end in range(3))
    keys = {
        tls_crypt.derive(a, x25519.public_key(b), UUID),
        tls_crypt.derive(b, x25519.public_key(a), UUID),
    }
    assert len(keys) == 1
    lines = keys.pop().splitlines()
    assert len(lines) == 18
    assert all(re.fullmatch("[0-9a-f]{32}", line) for line in lines[1:-1])
    assert tls_crypt.derive(a, x25519.public_key(b), PANEL).splitlines() != lines
    assert tls_crypt.derive(other, x25519.public_key(b), UUID).splitlines() != lines


class Told(Host):
    """A host whose OpenVPN is of another version."""

    def __init__(self, said):
        super().__init__(check=True)
        self.said = said

    def has(self, program):
        return True

    def query(self, *argv, **options):
        return self.said


def test_what_is_missing_and_refused(monkeypatch):
    monkeypatch.setattr(base, "TUN", "/dev/null")
    folders = state.Folders("/etc/marzban/tunnels")
    old = openvpn_protocol.OpenVPN(Told("OpenVPN 2.5.1 x\nlibrary versions: OpenSSL 1.1.1n"), folders)
    assert old.missing() == ["openvpn-2.6"]
    mid = openvpn_protocol.OpenVPN(Told("OpenVPN 2.6.14 x\nlibrary versions: OpenSSL 3.0.20"), folders)
    assert mid.missing() == []
    monkeypatch.setattr(base, "TUN", "/dev/no/tun")
    assert mid.missing() == ["tun"]
    monkeypatch.setattr(openvpn_protocol, "DCO", ("/sys/module/no such", "/sys/module"))
    assert mid.missing() == []
    checked = views.check(view(type="openvpn", post_quantum="require"), PANEL)
    with pytest.raises(FieldError, match=r"OpenVPN of this host has OpenSSL 3\.0"):
        mid.check(checked)
    mid.check(dict(checked, post_quantum="auto"))
    hidden = openvpn_protocol.OpenVPN(Told(""), state.Folders("/root/tunnels"))
    with pytest.raises(FieldError, match="systemd hides this place from OpenVPN"):
        hidden.check(checked)


def test_a_counter_of_an_interface_that_goes_is_not_known(tmp_path):
    """The kernel answers EINVAL then; a folder can't be read either."""
    (tmp_path / "rx_bytes").write_text("7\n")
    assert openvpn_protocol._number(str(tmp_path / "rx_bytes")) == 7
    assert openvpn_protocol._number(str(tmp_path)) is None
