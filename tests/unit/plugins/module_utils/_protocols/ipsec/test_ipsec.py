# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IPsec's texts: what swanctl reads and says, what is proposed and selected, and what this host can't do."""

from __future__ import annotations

import base64
import platform
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import render, views
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Hangs, Host
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.ipsec import (
    charon,
    ed25519,
    installed,
    swanctl,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.ipsec import plan as ipsec_plan
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.x25519 import BrokenKey
from tests.support.views import PANEL, UUID, view

TEMPLATE = (Path(__file__).parents[6] / "roles/strongswan/templates/swanctl.conf.j2").read_text()
KEY = "MCowBQYDK2VwAyEA" + "k" * 43 + "="
NODE = {
    "public_key": KEY,
    "peer_public_key": KEY.replace("k", "p"),
    "proposals": "one, two",
    "esp_proposals": "three",
    "local_ts": "10.201.0.2/32",
    "remote_ts": "10.201.0.3/32, 192.168.7.0/24",
    "if_id": 7,
}
# What 6.1.0 printed about two connections, the second one of the host's owner.
SAS = (
    "list-sa event {mz3 {uniqueid=2 version=2 state=ESTABLISHED local-host=203.0.113.2 remote-host=203.0.113.3"
    " local-id=source.1 remote-id=target.1 encr-alg=AES_GCM_16 encr-keysize=256 dh-group=CURVE_25519 ake1=ML_KEM_768"
    " established=15 rekey-time=13276 child-sas {mz3-1 {name=mz3 uniqueid=1 state=REKEYED encr-alg=AES_GCM_16"
    " encr-keysize=256 bytes-in=7 bytes-out=7 install-time=3600 local-ts=[10.201.0.2/32] remote-ts=[10.201.0.3/32]}"
    " mz3-2 {name=mz3 uniqueid=2 state=INSTALLED encr-alg=CHACHA20_POLY1305 encr-keysize=256 bytes-in=1008"
    " bytes-out=84 install-time=4 local-ts=[10.201.0.2/32 fd6d::2/128] remote-ts=[10.201.0.3/32]}}}}\n"
    "list-sa event {owner {uniqueid=1 local-id=C=DE, O=Some One, CN=x state=CONNECTING child-sas {}}}\n"
    "list-sa event {mz3 {uniqueid=9 state=CONNECTING child-sas {}}}\n"
    "list-sas reply {}\n"
)


def ipsec(**changes):
    return view(**{"type": "ipsec", "local.port": 4500, "peer.port": 4500, **changes})


def conf(raw):
    return render.fill(render.render(views.check(raw, PANEL), TEMPLATE), NODE)


# The connection


def test_the_connection_of_a_plain_view():
    lines = [line.strip() for line in conf(ipsec()).splitlines() if not line.startswith("#")]
    for wanted in (
        "mz3 {",
        "version = 2",
        "remote_addrs = 203.0.113.3, %any",
        "proposals = one, two",
        f"id = source.{UUID}",
        f"id = target.{UUID}",
        f"pubkeys = 0s{KEY}",
        "local_ts = 10.201.0.2/32",
        "remote_ts = 10.201.0.3/32, 192.168.7.0/24",
        "if_id_in = 7",
        "start_action = none",
    ):
        assert wanted in lines
    assert "\n".join(lines).count("{") == "\n".join(lines).count("}")
    assert [line for line in lines if "_port" in line] == ["local_port = 4500", "remote_port = 4500"]
    behind = conf(ipsec(**{"local.endpoint_port": 443, "peer.endpoint_port": 14500}))
    assert re.findall("\\w+_port = .*", behind) == ["local_port = 4500", "remote_port = 14500"]
    assert "remote_addrs = %any" in conf(ipsec(dial=False))


def test_a_name_is_not_in_what_charon_is_given():
    plain, named = conf(ipsec()), conf(ipsec(name="fi (2) #7"))
    assert plain != named
    assert swanctl.digest(plain) == swanctl.digest(named)
    assert swanctl.digest(plain) != swanctl.digest(conf(ipsec(dial=False)))


@pytest.mark.parametrize(
    ("post_quantum", "able", "first", "quick", "counts"),
    [
        ("auto", True, "aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes128gcm16-x25519-ke1_mlkem768", (4, 6)),
        ("auto", False, "aes256gcm16-prfsha384-x25519", "aes128gcm16-x25519", (2, 3)),
        ("require", True, "aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-x25519-ke1_mlkem768", (2, 2)),
        ("off", True, "aes256gcm16-prfsha384-x25519", "aes128gcm16-x25519", (2, 3)),
    ],
)
def test_proposals(post_quantum, able, first, quick, counts):
    ike, esp = (item.split(", ") for item in swanctl.proposals(post_quantum, able))
    assert (ike[0], esp[0]) == (first, quick)
    assert (len(ike), len(esp)) == counts
    assert {item.replace("-prfsha384", "") for item in ike} <= set(esp)
    for kind in (ike, esp):
        assert all("mlkem" in item for item in kind) is (post_quantum == "require")


def test_selectors():
    given = views.check(ipsec(**{"peer.routes": ["192.168.7.0/24", "fd77::/64"]}), PANEL)
    here, there = swanctl.selectors(given, swanctl.USERSPACE)
    assert here == ["10.201.0.2/32", "fd6d:7a00::2/128"]
    assert there == ["10.201.0.3/32", "fd6d:7a00::3/128", "192.168.7.0/24", "fd77::/64"]
    given["local"]["addresses"] = given["local"]["addresses"][:1]  # IPv6 is off here
    assert swanctl.selectors(given, swanctl.USERSPACE) == (["10.201.0.2/32"], ["10.201.0.3/32", "192.168.7.0/24"])
    assert swanctl.selectors(given, swanctl.KERNEL) == (["0.0.0.0/0", "::/0"],) * 2


def test_overlapping_selectors_are_refused_by_name():
    with pytest.raises(FieldError, match=r"'192.168.7.0/24'.* with 192.168.0.0/16 of the tunnel other, and"):
        ipsec_plan.check_overlap({"192.168.0.0/16": "other"}, ["192.168.7.0/24"])
    ipsec_plan.check_overlap({"192.168.6.0/24": "other", "::/0": "x"}, ["192.168.7.0/24"])


def test_userspace_wants_an_address_in_what_is_behind_it():
    given = views.check(ipsec(**{"local.routes": ["192.168.50.0/24"]}), PANEL)
    links = {"eth1": {"addresses": ["192.168.5.1/24"]}, "eth2": {"addresses": ["fd00::1/64"]}}
    with pytest.raises(FieldError, match=r"userspace data path wants one"):
        ipsec_plan.check_selectors(given, links)
    links["eth2"]["addresses"].append("192.168.50.1/24")
    ipsec_plan.check_selectors(given, links)


# What swanctl says


def test_what_was_negotiated_is_told():
    sas = swanctl.by_name(swanctl.parse_raw(SAS))
    assert sorted(sas) == ["mz3", "owner"]
    ike, children = swanctl.session(sas["mz3"])
    assert ike
    assert ike["uniqueid"] == "2"
    assert [item["local-ts"] for item in children] == [["10.201.0.2/32", "fd6d::2/128"]]
    assert swanctl.measured(sas["mz3"], swanctl.KERNEL) == {
        "handshake_age": 15,
        "rx_bytes": 1008,
        "tx_bytes": 84,
        "cipher": "CHACHA20-POLY1305",
        "key_exchange": "X25519+ML-KEM-768",
        "post_quantum": True,
        "data_path": "kernel",
    }
    for nothing in ([], sas["owner"], sas["mz3"][1:]):
        told = swanctl.measured(nothing, swanctl.USERSPACE)
        assert (told["handshake_age"], told["data_path"]) == (None, "userspace")


def test_what_swanctl_says_may_be_anything():
    assert swanctl.parse_raw("") == []
    assert swanctl.parse_raw("no such thing\nlist-sa event {x {a=1 b=[1 2] c {}} y=2}\nz reply {}") == [
        {"x": {"a": "1", "b": ["1", "2"], "c": {}}, "y": "2"},
        {},
    ]
    assert swanctl.parse_raw("a event {} } {b=1}") != []


# The host


def test_whether_the_kernel_carries_esp(tmp_path):
    assert installed.kernel_lacks(str(tmp_path)) == ["esp4", "xfrm_user", "xfrm_interface"]
    modules = tmp_path / "lib/modules" / platform.release()
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(
        "kernel/net/ipv4/esp4.ko.xz: kernel/net/xfrm/xfrm_algo.ko.xz\nkernel/net/xfrm/xfrm_interface_other.ko:\n"
    )
    (modules / "modules.builtin").write_text("kernel/net/xfrm/xfrm_user.ko\n")
    assert installed.kernel_lacks(str(tmp_path)) == ["xfrm_interface"]
    (tmp_path / "sys/module/xfrm_interface").mkdir(parents=True)
    assert installed.kernel_lacks(str(tmp_path)) == []


def test_files():
    assert "load = yes" in swanctl.settings(swanctl.USERSPACE)
    assert "kernel-libipsec" not in swanctl.settings(swanctl.KERNEL)
    for path in (swanctl.USERSPACE, swanctl.KERNEL):
        assert swanctl.settings(path).count("{") == swanctl.settings(path).count("}")
    assert swanctl.make_link("mz3", swanctl.KERNEL, 7) == "link add dev mz3 type xfrm dev lo if_id 7\n"
    assert swanctl.make_link("mz3", swanctl.USERSPACE, 7) == "tuntap add dev mz3 mode tun\n"
    assert swanctl.if_id("00000000-2fa1-41d2-883f-0016d3cca427") == 1
    assert swanctl.if_id("ffffffff-2fa1-41d2-883f-0016d3cca427") == 2**32 - 1
    assert "%" not in swanctl.script("/etc/swanctl/conf.d").replace('"%any"', "").replace("%.conf", "")


# Keys


def test_a_key_and_its_public_half(tmp_path):
    public = ed25519.make(str(tmp_path))
    assert ed25519.load(str(tmp_path)) == public == ed25519.public_key((tmp_path / "private.key").read_text())
    assert len(public) == 60
    assert base64.b64decode(public)[:12] == bytes.fromhex("302a300506032b6570032100")
    assert (tmp_path / "private.key").stat().st_mode & 0o777 == 0o600
    assert ed25519.make(str(tmp_path)) != public


@pytest.mark.parametrize("content", ["", "x", "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n", "\0"])
def test_a_broken_key_is_named_and_not_shown(tmp_path, content):
    (tmp_path / "private.key").write_text(content)
    with pytest.raises(BrokenKey, match=r"private\.key can't be used: it is not a private key in PEM.*if_inv") as error:
        ed25519.load(str(tmp_path))
    assert ed25519.public_key(content) is None
    assert "secret" not in str(error.value)


# charon


class Answering(Host):
    """A fake swanctl that takes ``seconds``, and notes what was run."""

    def __init__(self, seconds, patience):
        super().__init__(patience=patience)
        self.seconds, self.ran = seconds, []

    def has(self, program):
        return True

    def ask(self, *argv, lenient=False, share=1.0):
        if self.seconds > self.patience * share:
            raise Hangs("did not end")
        return "stats reply {plugins=[x] ke {ML_KEM_768=[openssl]}}\n"

    def query(self, *argv, stdin=None, lenient=False):
        return self.ask(*argv, share=15)

    def run(self, *argv, **_options):
        self.ran.append(argv)
        return ""


@pytest.mark.parametrize(("seconds", "late", "hung"), [(0.1, False, False), (3, True, False), (9, True, True)])
def test_charon_is_ended_only_after_it_was_silent_for_longer_than_a_look_waits(seconds, late, hung):
    assert (charon.Charon(Answering(seconds, 2.0)).ask("--stats") is None) is late
    asked = charon.Charon(Answering(seconds, 2.0))
    assert asked.is_hung() is hung
    assert (asked.ask("--stats") is None) is hung, "the answer is used"
    asked = charon.Charon(Answering(seconds, 2.0))
    asked._asked["version"] = (6, 0, 1)
    assert asked.has_ml_kem() is not late
    assert asked.is_hung() is hung, "also where something else was asked first"
    assert asked.has_ml_kem() is not hung, "and what it could not say then is asked again"


def test_a_version_that_is_not_said_in_time_is_not_known():
    assert charon.Charon(Answering(9, 2.0)).version() == ()


def test_many_calls_do_not_keep_charon_busy():
    """Measured on a lab host with 60 peers away: up to 5.6 s for an answer where calls wait, and 0.2 s where not."""
    host = Answering(0, 2.0)
    plan: Any = SimpleNamespace(view={"local": {"role": "source"}, "dial": True}, interface="mz1")
    for number in (1, charon.FEW + 1):
        charon.Charon(host).renew([plan] * number)
    assert [argv[4:6] for argv in host.ran] == [("--timeout 2", "--timeout 1"), ("--force", "--timeout -1")]
    assert [set(argv[6:]) for argv in host.ran] == [{"source:mz1"}] * 2
    assert "--timeout -1" in swanctl.script("/etc/swanctl/conf.d")
