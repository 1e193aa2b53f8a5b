# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's texts: who dials whom, what needs another process, what its socket says; certificates, the wrap key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils import (
    _certificate,
    _files,
    _keys,
    _openvpn,
    _received,
    _render,
    _wrap,
)
from ansible_collections.marzban.tunnels.plugins.module_utils import _openvpn_text as text
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._host import Host

from .test_render_and_received import PANEL, UUID, view

TEMPLATE = (Path(__file__).parents[4] / "roles/openvpn/templates/openvpn.conf.j2").read_text()
ONE, TWO = "ab" * 32, "0c" * 32
NODE = {
    "dir": f"/etc/marzban/tunnels/{UUID}",
    "mtu": 1444,
    "family": 6,
    "peer_fingerprints": text.fingerprint_lines([ONE, TWO]),
    "tls_groups": "X25519",
}
# What 2.6 said of a tunnel that was connected, lost, and connected anew.
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
    return _render.fill(_render.render(_received.view(raw, PANEL), TEMPLATE), {**NODE, **(node or {})})


def target(**changes):
    return {"local.role": "target", "peer.role": "source", **changes}


# Who dials


@pytest.mark.parametrize(
    ("changes", "wanted", "unwanted"),
    [
        ({}, ["tls-client", "proto udp", "lport 20003", "remote 203.0.113.3 20003"], ["dh"]),
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
    settings = text.lines(conf(**changes))
    assert [one for one in wanted if one not in settings] == []
    assert [one for one in unwanted if one in {line.split()[0] for line in settings}] == []
    text.check("\n".join(settings))


def test_a_host_without_ipv6_listens_on_ipv4():
    assert "proto udp4" in conf({"family": 4}, dial=False)
    assert "proto tcp4-server" in conf({"family": 4}, dial=False, transport="tcp")


# What needs another process


def test_what_a_running_process_can_go_on_with():
    both, first = conf(), conf({"peer_fingerprints": text.fingerprint_lines([ONE])})
    assert text.lets_in(both) == {ONE, TWO}
    assert text.same_process(both, conf(name="renamed"))
    assert text.same_process(both, first), "one certificate less can wait"
    assert not text.same_process(first, both), "one more can't"
    assert not text.same_process(both, conf(**{"peer.port": 1}))
    assert not text.same_process(None, both)
    assert text.listens(both) == ("udp", 20003)
    assert text.listens(conf(transport="tcp")) is None
    assert text.listens(conf(transport="tcp", dial=False)) == ("tcp", 20003)


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
        text.check(re.sub(cut, "", conf()))
    with pytest.raises(Error, match="holds a key"):
        text.check(conf() + "<tls-crypt>\n</tls-crypt>\n")


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
    assert text.tls_groups(choice, able) == groups


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
    assert text.versions(said) == (version, library)


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
    found = text.parse(said, conf({"tls_groups": offered}))
    assert found == {"handshake": 181, "key_exchange": group, "cipher": "CHACHA20-POLY1305"}


def test_the_servers_order_of_ciphers_counts():
    said = LOG.format(when=102, state="CONNECTED", old="").replace(
        "AES-256-GCM:CHACHA20-POLY1305", "X:CHACHA20-POLY1305:AES-256-GCM"
    )
    assert text.parse(said + "END\n", conf())["cipher"] == "CHACHA20-POLY1305"
    assert text.parse(said + "END\n", conf(**target()))["cipher"] == "AES-256-GCM"


def test_since_when_there_is_no_session():
    said = LOG.format(when=171, state="RECONNECTING", old="")
    assert text.parse(said + "END\n", conf()) == {"lost": 170}
    never = "\n".join(line for line in said.splitlines() if "Completed" not in line)
    assert text.parse(never + "\nEND\n", conf()) == {"lost": 100}
    assert text.parse("", conf()) == {}


# Keys


def test_certificates(tmp_path):
    made = _certificate.make(str(tmp_path))
    assert made.days == _certificate.LIFE - 1
    assert (tmp_path / "tls.pem").stat().st_mode & 0o777 == 0o600
    following = _certificate.make(str(tmp_path), _certificate.NEXT, life=-1)
    assert following.days < 0
    assert _certificate.load(str(tmp_path)).fingerprint == made.fingerprint != following.fingerprint
    _certificate.switch(str(tmp_path))
    assert _certificate.load(str(tmp_path)).fingerprint == following.fingerprint
    assert _certificate.load(str(tmp_path), _certificate.NEXT) is None


def test_broken_certificates_show_nothing(tmp_path):
    for name in ("one", "two"):
        _certificate.make(str(tmp_path), name)
    key, certificate = ((tmp_path / name).read_text().partition("-----BEGIN CERT") for name in ("one", "two"))
    mixed = key[0] + certificate[1] + certificate[2]
    for broken in (mixed, key[0], "rubbish", "\u00e9"):
        (tmp_path / "tls.pem").write_text(broken)
        with pytest.raises(_keys.BrokenKey) as caught:
            _certificate.load(str(tmp_path))
        assert str(tmp_path / "tls.pem") in str(caught.value)
        assert key[0].splitlines()[1] not in str(caught.value)


def test_both_ends_derive_the_same_wrap_key():
    a, b, other = (_keys.generate() for _end in range(3))
    keys = {
        _wrap.derive(a, _keys.public_key(b), UUID),
        _wrap.derive(b, _keys.public_key(a), UUID),
    }
    assert len(keys) == 1
    lines = keys.pop().splitlines()
    assert len(lines) == 18
    assert all(re.fullmatch("[0-9a-f]{32}", line) for line in lines[1:-1])
    assert _wrap.derive(a, _keys.public_key(b), PANEL).splitlines() != lines
    assert _wrap.derive(other, _keys.public_key(b), UUID).splitlines() != lines


class Told(Host):
    """A host whose OpenVPN is of another version."""

    def __init__(self, said):
        super().__init__(check=True)
        self.said = said

    def has(self, program):
        return True

    def look(self, *argv, **options):
        return self.said


def test_what_is_missing_and_refused():
    folders = _files.Folders("/etc/marzban/tunnels")
    old = _openvpn.OpenVPN(Told("OpenVPN 2.5.1 x\nlibrary versions: OpenSSL 1.1.1n"), folders)
    assert old.missing() == ["openvpn-2.6"]
    mid = _openvpn.OpenVPN(Told("OpenVPN 2.6.14 x\nlibrary versions: OpenSSL 3.0.20"), folders)
    assert mid.missing() == []
    checked = _received.view(view(type="openvpn", post_quantum="require"), PANEL)
    with pytest.raises(FieldError, match=r"OpenVPN of this host has OpenSSL 3\.0"):
        mid.check(checked)
    mid.check(dict(checked, post_quantum="auto"))
    hidden = _openvpn.OpenVPN(Told(""), _files.Folders("/root/tunnels"))
    with pytest.raises(FieldError, match="systemd hides this place from OpenVPN"):
        hidden.check(checked)
