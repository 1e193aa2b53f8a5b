# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ends of IPsec tunnels agree on, and what is refused: releases, post-quantum, keys, selectors, data paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ipsec_hosts import CONFIG, ipsec, known, up
from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import PANEL, Directly, Nodes, View, uuid
from tests.support.world import Pings, until

pytestmark = pytest.mark.lab
CLASSIC = ("X25519", False)
HYBRID = ("X25519+ML-KEM-768", True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """strongSwan 5.9.8, 6.0.1 without ML-KEM, and 6.1.0 twice."""
    hosts = {"old": "bookworm+tunnels", "mid": "trixie+tunnels", "a": "forky+tunnels", "b": "forky+tunnels"}
    with Lab.up(labs.named("ipsec-choices"), hosts) as lab:
        yield lab


def agreed(answer: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(tunnel["measured"]["key_exchange"], tunnel["measured"]["post_quantum"]) for tunnel in answer["tunnels"]]


@pytest.mark.variation
def test_releases_and_post_quantum(nodes: Directly) -> None:
    """Each pair of releases; what was negotiated is told by both ends; all choices work side by side."""
    pairs = [
        *(ipsec(nodes, 1, "old", "mid"), ipsec(nodes, 2, "old", "a"), ipsec(nodes, 3, "mid", "a")),
        *(ipsec(nodes, 4), ipsec(nodes, 5, post_quantum="require"), ipsec(nodes, 6, post_quantum="off")),
        ipsec(nodes, 7, "b", "mid", post_quantum="off"),
    ]
    views = up(nodes, *pairs)
    answers = nodes.health(views)
    assert agreed(answers["old"]) == [CLASSIC, CLASSIC]
    assert agreed(answers["mid"]) == [CLASSIC, CLASSIC, CLASSIC]
    assert agreed(answers["a"]) == [CLASSIC, CLASSIC, HYBRID, HYBRID, CLASSIC]
    assert agreed(answers["b"]) == [HYBRID, HYBRID, CLASSIC, CLASSIC]

    # What was agreed on lives on: new keys for both associations cost no packet.
    pings = Pings(nodes.lab.host("a"), "10.201.4.3", 0.01).start()
    nodes.sh("a", "swanctl --rekey --child mz4; swanctl --rekey --ike mz4")
    seen = "swanctl --list-sas --ike mz4 --raw 2>/dev/null"
    until("new keys", lambda: " uniqueid=2" not in nodes.sh("a", seen) and "ake1=ML_KEM_768" in nodes.sh("a", seen))
    assert pings.stop() == set()
    assert agreed(nodes.health(views)["a"])[2] == HYBRID

    # One end changes its mind.
    off = known(nodes, ipsec(nodes, 4, post_quantum="off"))["b"]
    changed = [off if view["uuid"] == off["uuid"] else view for view in views["b"]]
    nodes.apply({"b": changed})
    assert nodes.health({"a": views["a"]}, wait=60)["a"].statuses() == {"active"}
    assert agreed(nodes.health({"b": changed}, wait=60)["b"]) == [CLASSIC, HYBRID, CLASSIC, CLASSIC]


@pytest.mark.variation
def test_require_is_kept(nodes: Directly) -> None:
    """Where it can't be had it is refused by name, and no other connection of the same hosts is a way around it."""
    up(nodes, ipsec(nodes, 1, "mid", "a"))
    pair = ipsec(nodes, 2, "mid", "a")
    nodes.apply(nodes.views(pair))
    pair = known(nodes, pair)
    pair["a"]["post_quantum"] = "require"
    steady = known(nodes, ipsec(nodes, 1, "mid", "a"))
    nodes.apply(nodes.views(steady, pair))
    refused = "journalctl --no-pager -o cat -u strongswan | grep -cE 'received (AUTH.*FAILED|NO_PROPOSAL_CHOSEN)'"
    until("refusals", lambda: int(nodes.sh("mid", refused, check=False)) >= 3)
    answer = nodes.health({"a": [steady["a"], pair["a"]]})["a"]
    assert [tunnel["status"] for tunnel in answer["tunnels"]] == ["active", "connecting"]
    for host, version in (("mid", "6.0.1"), ("old", "5.9.8")):
        view = known(nodes, ipsec(nodes, 3, host, "a", post_quantum="require"))[host]
        answer = nodes.apply({host: [*([steady["mid"]] if host == "mid" else []), view]})[host]
        assert f"strongSwan {version} on this host has no ML-KEM" in answer.tunnel(3)["error"]
        assert answer.tunnel(3)["refused"]
        assert answer.tunnel(3)["changes"] == []
    assert nodes.reaches("mid", 1, 1)


@pytest.mark.variation
def test_keys(nodes: Directly) -> None:
    views = up(nodes, ipsec(nodes, 1), ipsec(nodes, 2))
    path = f"{CONFIG}/{uuid(1)}/private.key"
    nodes.sh("a", "rm /etc/swanctl/private/marzban-mz1.pem")  # or it would be put back from there
    for broken, why in (
        ("echo broken", "not a private key in PEM"),
        ("openssl genpkey -algorithm x25519", "not an Ed25519 key"),
        ("openssl genpkey -algorithm ed25519 -aes256 -pass pass:x", "it has a passphrase"),
    ):
        nodes.sh("a", f"{broken} > {path}")
        answer = nodes.apply({"a": views["a"]})["a"]
        assert path in answer.tunnel(1)["error"]
        assert why in answer.tunnel(1)["error"]
        assert "if_invalid" in answer.tunnel(1)["error"]
        assert answer.tunnel(2)["status"] == "active"
    nodes.sh("a", f"openssl genpkey -algorithm ed25519 > {path}")
    old = nodes.publics[uuid(1), "a"]
    answer = nodes.apply({"a": views["a"]})["a"]
    assert answer.tunnel(1)["changes"] == [
        *("another private key found", "connection changed", "private key given to strongSwan", "connection loaded")
    ]
    assert nodes.publics[uuid(1), "a"] != old
    # The other end has not heard of the new key: it lets nobody in who has it.
    refused = "journalctl --no-pager -o cat -u strongswan | grep -c 'received AUTHENTICATION_FAILED'"
    until("refusals", lambda: int(nodes.sh("a", refused, check=False)) >= 1)
    assert not nodes.reaches("a", 1, 1)
    assert nodes.reaches("a", 2, 1)
    views = nodes.views(known(nodes, ipsec(nodes, 1)), known(nodes, ipsec(nodes, 2)))
    nodes.apply({"b": views["b"]})
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    assert not any(answer["changed"] for answer in nodes.apply(views).values())


def test_selectors(nodes: Directly) -> None:
    """The userspace data path can't tell overlapping networks apart, and wants an address in those behind it."""
    wide, narrow = {"b": {"routes": ["192.168.0.0/16"]}}, {"mid": {"routes": ["192.168.7.0/24"]}}
    pairs = [ipsec(nodes, 1, ends=wide), ipsec(nodes, 2, "a", "mid", ends=narrow)]
    nodes.apply(nodes.views(*pairs))
    answer = nodes.apply({"a": nodes.views(*(known(nodes, pair) for pair in pairs))["a"]})["a"]
    assert answer.tunnel(1)["error"] is None
    assert "routes: '192.168.7.0/24'" in answer.tunnel(2)["error"]
    assert "192.168.0.0/16 of the tunnel t1" in answer.tunnel(2)["error"]

    ends = {"old": {"routes": ["192.168.50.0/24"]}}
    pair = ipsec(nodes, 3, "old", "mid", ends=ends)
    nodes.apply(nodes.views(pair))
    pair = known(nodes, pair)
    answer = nodes.apply({"old": [pair["old"]]})["old"]
    assert "192.168.50.0/24" in answer.tunnel(3)["error"]
    assert "give it an address there, or use a kernel with ESP and XFRM interfaces" in answer.tunnel(3)["error"]
    nodes.sh("old", "ip addr add 192.168.50.1/24 dev lo")
    try:
        up(nodes, pair)
        nodes.sh("mid", "ping -n -c 1 -W 1 192.168.50.1")
    finally:
        nodes.sh("old", "ip addr del 192.168.50.1/24 dev lo")


@pytest.mark.variation
def test_files_of_the_owner_that_are_none(nodes: Directly) -> None:
    """One that swanctl can't take is the owner's business; one that it can't read stops new tunnels, and takes none."""
    up(nodes, ipsec(nodes, 1))
    pairs = [ipsec(nodes, 1), ipsec(nodes, 2)]
    path = "/etc/swanctl/conf.d/owner.conf"
    nodes.sh("a", f"printf 'connections {{\\n owner {{\\n version = 7\\n }}\\n}}\\n' > {path}")
    try:
        nodes.apply(nodes.views(*pairs))
        pairs = [known(nodes, pair) for pair in pairs]
        nodes.sh("a", f"printf 'connections {{\\n' > {path}")
        answer = nodes.apply(nodes.views(*pairs))["a"]
        assert "swanctl can't read its configuration, so nothing was loaded: syntax error" in answer.tunnel(2)["error"]
        assert answer.tunnel(1)["status"] == "active"
        assert "mz1: IKEv2" in nodes.sh("a", "swanctl --list-conns")
        nodes.sh("a", f"printf 'connections {{\\n owner {{\\n version = 7\\n }}\\n}}\\n' > {path}")
        assert nodes.apply(nodes.views(*pairs))["a"].tunnel(2)["changes"] == [
            *("firewall rules loaded", "connection loaded")
        ]
        assert nodes.health(nodes.views(*pairs), wait=60)["a"].statuses() == {"active"}
    finally:
        nodes.sh("a", f"rm {path}")


@pytest.mark.variation
def test_interfaces_swap(nodes: Directly) -> None:
    up(nodes, ipsec(nodes, 1), ipsec(nodes, 2))
    pairs = [known(nodes, ipsec(nodes, 1, interface="mz2")), known(nodes, ipsec(nodes, 2, interface="mz1"))]
    answer = nodes.apply(nodes.views(*pairs))
    assert "interface mz2 instead of mz1" in answer["a"].tunnel(1)["changes"]
    assert nodes.health(nodes.views(*pairs), wait=60)["a"].statuses() == {"active"}
    assert not nodes.apply(nodes.views(*pairs))["a"]["changed"]


def test_what_this_host_can_not_do(nodes: Directly, lab: Lab, tmp_path: Path) -> None:
    """By Ansible: the kernel's data path on a kernel without; TCP; and a host without any package."""
    played = Nodes(lab, tmp_path)
    views: dict[str, list[View]] = {"a": [ipsec(nodes, 1)["a"], ipsec(nodes, 2, transport="tcp")["a"]]}
    arguments = {"panel": PANEL, "views": played.mine(views), "ipsec_data_path": "kernel"}
    answer = played.module("tunnel_apply", "a", arguments)["a"]
    assert "ipsec_data_path: 'kernel'" in answer.tunnel(1)["error"]
    assert "xfrm_interface" in answer.tunnel(1)["error"]
    assert "IPsec speaks udp only" in answer.tunnel(2)["error"]
    assert not answer["changed"]
