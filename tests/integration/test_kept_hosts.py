# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs is kept: where its state is lost, where it is refused, where its name goes to another type, and where a
run crashes. A tunnel of each type on real hosts, without Ansible in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import CRASHED, Answer, Directly, View, leftovers, no_packet_lost, uuid
from tests.support.world import TYPES

pytestmark = pytest.mark.lab
CONFIG = "/etc/marzban/tunnels"
NUMBERS = dict(enumerate(TYPES, 1))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(labs.named("kept-hosts"), {"a": "bookworm+tunnels", "b": "trixie+tunnels"}) as lab:
        yield lab


def views(nodes: Directly, dials: bool = True) -> dict[str, list[View]]:
    """Those of one tunnel of each type, as they are after what was published. ``dials``: whether a calls b."""
    its = nodes.views(*(nodes.pair(number, type=kind) for number, kind in NUMBERS.items()))
    return {**its, "a": [{**view, "dial": dials} for view in its["a"]]}


def active(nodes: Directly) -> None:
    for answer in nodes.health(views(nodes), wait=60).values():
        assert answer.statuses() == {"active"}, answer.errors()


def settled(nodes: Directly) -> bool:
    """Whether nothing is to be done for these tunnels, and there is nothing else of ours."""
    return all(
        not (answer["changed"] or answer["orphans"] or answer["foreign"])
        and answer.statuses() == {"active"}
        and not any(tunnel["needs_peer"] or tunnel["publish"] for tunnel in answer["tunnels"])
        for answer in nodes.check(views(nodes)).values()
    )


@pytest.fixture
def running(served: Directly) -> Directly:
    """A tunnel of each type. They are set up again only where the test before has left something else."""
    if not settled(served):
        served.start_over()
        served.apply(views(served))
        served.apply(views(served))
        active(served)
    return served


def test_a_state_that_is_lost_is_written_again(running: Directly) -> None:
    known = dict(running.publics)
    running.sh("a", f"for state in {CONFIG}/*/state.json; do : > $state; done")
    would = running.check({"a": views(running)["a"]})["a"]
    answer = running.apply({"a": views(running)["a"]})["a"]
    assert answer.errors() == []
    for number in NUMBERS:
        changes = answer.tunnel(number)["changes"]
        assert changes == would.tunnel(number)["changes"]
        assert changes[0] == "state written again"
        assert not {"key made", "started", "restarted"} & set(changes), changes
    assert answer["foreign"] == []
    assert running.publics == known
    active(running)
    assert not running.apply(views(running))["a"]["changed"]


def test_what_runs_without_its_folder_is_adopted(running: Directly) -> None:
    known = dict(running.publics)
    running.sh("a", f"rm -r {CONFIG}/*")
    answer = running.apply(views(running))["a"]
    assert not any(tunnel["refused"] for tunnel in answer["tunnels"]), answer.errors()
    for number, kind in NUMBERS.items():
        key = "next key made" if kind == "openvpn" else "private key put back"
        assert {"state written again", key} <= set(answer.tunnel(number)["changes"])
        public = answer.tunnel(number)["public"]
        assert public["public_key"] == known[uuid(number), "a"]["public_key"]
    settle(running)
    active(running)
    assert not running.apply(views(running))["a"]["changed"]


def settle(nodes: Directly, dials: bool = True) -> list[dict[str, Answer]]:
    """The rounds of a run in which both ends have to agree on something."""
    rounds = [nodes.apply(views(nodes, dials))]
    while len(rounds) < 4:
        its = [tunnel["uuid"] for answer in rounds[-1].values() for tunnel in answer["tunnels"] if tunnel["needs_peer"]]
        rounds.append(nodes.apply(views(nodes, dials), paired=its))
    assert not any(tunnel["needs_peer"] for answer in rounds[-1].values() for tunnel in answer["tunnels"])
    return rounds


def test_a_private_key_that_is_lost_is_put_back_from_what_runs(running: Directly) -> None:
    known = dict(running.publics)
    kept = [number for number, kind in NUMBERS.items() if kind != "openvpn"]
    mine = {"a": [view for view in views(running)["a"] if view["id"] in kept]}
    before = running.sh("a", f"cd {CONFIG}; sha256sum */private.key")
    for damage in ("rm {}", ": > {}", "echo rubbish > {}"):
        with no_packet_lost(running, *kept):
            for number in kept:
                running.sh("a", damage.format(f"{CONFIG}/{uuid(number)}/private.key"))
            would = running.check(mine)["a"]
            answer = running.apply(mine)["a"]
        for number in kept:
            assert would.tunnel(number)["changes"] == answer.tunnel(number)["changes"] == ["private key put back"]
            assert not answer.tunnel(number)["publish"]
        assert running.publics == known
        assert running.sh("a", f"cd {CONFIG}; sha256sum */private.key") == before
        assert running.sh("a", f"stat -c %a {CONFIG}/*/private.key").split() == ["600"] * len(NUMBERS)
    assert not running.apply(mine)["a"]["changed"]


@pytest.mark.variation
def test_what_runs_with_another_key_is_not_put_back(running: Directly) -> None:
    """Somebody set another one by hand: the peer does not know it, and to keep it would help nobody."""
    running.sh("a", f"wg genkey | wg set mz1 private-key /dev/stdin; rm {CONFIG}/{uuid(1)}/private.key")
    changes = running.apply(views(running))["a"].tunnel(1)["changes"]
    assert "key made" in changes
    assert "private key put back" not in changes


@pytest.mark.variation
def test_a_key_that_was_replaced_at_once_does_not_come_back(running: Directly) -> None:
    """tunnel_keys made another one, which was lost before a run could use it: what runs has the one that leaked."""
    for number in NUMBERS:
        folder, other = f"{CONFIG}/{uuid(number)}", running.publics[uuid(number), "b"]["public_key"]
        mine = running.publics[uuid(number), "a"]["public_key"]
        running.sh("a", f"sed -i 's|{mine}|{other}|' {folder}/state.json; rm {folder}/private.key")
    before = dict(running.publics)
    answer = running.apply(views(running))["a"]
    for number in NUMBERS:
        assert "key made" in answer.tunnel(number)["changes"]
        assert running.publics[uuid(number), "a"]["public_key"] != before[uuid(number), "a"]["public_key"]


def processes(nodes: Directly) -> str:
    units = "openvpn-server@mz2 strongswan wg-quick@mz1 marzban-ipsec-mz3"
    return nodes.sh("a", f"systemctl show --property=MainPID,InvocationID {units}")


def test_a_key_is_replaced_once_both_ends_have_the_next_one(running: Directly) -> None:
    """OpenVPN's is lost, IPsec's with its copy too, and a new one is asked for of WireGuard."""
    folders = {number: f"{CONFIG}/{uuid(number)}" for number in NUMBERS}
    began, known = processes(running), dict(running.publics)
    with no_packet_lost(running, *NUMBERS):
        running.sh("a", f"umask 077; wg genkey > {folders[1]}/private.next")
        running.sh("a", f"rm {folders[2]}/private.key {folders[3]}/private.key /etc/swanctl/private/marzban-mz3.pem")
        # The panel answers nothing but errors: nobody learns of what was published.
        for changes in (["next key made"], []):
            answer = running.apply({"a": views(running)["a"]})["a"]
            running.publics = dict(known)
            for number in (2, 3):
                assert answer.tunnel(number)["changes"] == changes
            for number in NUMBERS:
                tunnel = answer.tunnel(number)
                assert (tunnel["status"], tunnel["publish"], tunnel["needs_peer"]) == ("active", True, True)
                assert tunnel["public"]["public_key"] == known[uuid(number), "a"]["public_key"]
        assert processes(running) == began
    following = {number: answer.tunnel(number)["public"]["next_public_key"] for number in NUMBERS}
    rounds = settle(running)
    for number in NUMBERS:
        seen = [(at["a"].tunnel(number)["public"], at["b"].tunnel(number)["public"]) for at in rounds]
        assert [b.get("accepts_public_key") for _a, b in seen] == [None, following[number], None, None]
        assert [a.get("next_public_key") for a, _b in seen] == [following[number]] * 2 + [None, None]
        assert seen[-1][0]["public_key"] == following[number]
        assert "next key in use" in rounds[2]["a"].tunnel(number)["changes"]
    assert not any(answer["changed"] for answer in rounds[3].values())
    assert running.sh("a", f"ls {CONFIG}/*/private.*").count("private.key") == len(NUMBERS)
    assert "private.next" not in running.sh("a", f"ls {CONFIG}/*")
    active(running)
    assert not any(answer["changed"] for answer in running.apply(views(running)).values())


def test_what_would_end_a_process_that_alone_has_its_key_waits(running: Directly) -> None:
    running.sh("a", f"rm {CONFIG}/{uuid(2)}/* {CONFIG}/{uuid(3)}/private.key /etc/swanctl/private/marzban-mz3.pem")
    began = processes(running)
    answer = running.apply({"a": views(running, dials=False)["a"]})["a"]
    for number in (2, 3):
        tunnel = answer.tunnel(number)
        assert "is lost, and what runs would have to be started again" in tunnel["error"]
        assert tunnel["refused"]
        assert tunnel["publish"], "or they could never agree"
    assert processes(running) == began
    settle(running, dials=False)
    active(running)


@pytest.mark.variation
def test_what_is_switched_off_without_its_folder_stops(running: Directly) -> None:
    running.sh("a", f"rm -r {CONFIG}/*")
    off = running.views(*(running.pair(number, type=kind, active=False) for number, kind in NUMBERS.items()))
    answer = running.apply(off)["a"]
    assert all(answer.tunnel(number)["changes"][-1] == "stopped" for number in NUMBERS)
    assert "mz" not in running.sh("a", "ip -o link; nft list tables")


def test_nobody_learns_of_a_key_that_is_not_used(nodes: Directly) -> None:
    nodes.sh("a", "for number in 1 2 3; do ip tuntap add mz$number mode tun; done")
    try:
        answer = nodes.apply({"a": views(nodes)["a"]})["a"]
    finally:
        nodes.sh("a", "for number in 1 2 3; do ip tuntap del mz$number mode tun; done")
    assert len(answer.errors()) == len(NUMBERS)
    for tunnel in answer["tunnels"]:
        assert "was not made by marzban.tunnels" in tunnel["error"]
        assert (tunnel["refused"], tunnel["public"], tunnel["publish"]) == (True, None, False)
    assert not answer["changed"]
    assert nodes.sh("a", f"ls {CONFIG} 2>/dev/null || true") == "", "no key was made"


def test_status_calls_no_error_what_waits_for_a_run(nodes: Directly) -> None:
    """Its peer has published since it was applied, so that apply said that it waits."""
    for answer in nodes.apply(views(nodes)).values():
        assert answer.statuses() == {"connecting"}
    for answer in nodes.health(views(nodes)).values():
        assert (answer.statuses(), answer.errors()) == ({"connecting"}, [])
        for tunnel in answer["tunnels"]:
            assert tunnel["note"] == "it was not applied on this host yet: run marzban.tunnels.apply"


def test_of_two_new_tunnels_with_one_route_the_second_gets_no_key(nodes: Directly) -> None:
    ends = {"b": {"routes": ["10.43.0.0/24"]}}
    kinds = ("wireguard", "wireguard", "openvpn", "ipsec")
    pairs = [nodes.pair(number, ends=ends, type=kind) for number, kind in enumerate(kinds, 1)]
    answer = nodes.apply({"a": [pair["a"] for pair in pairs]})["a"]
    assert answer.tunnel(1)["changes"] == ["key made"]
    for number in (2, 3, 4):
        assert "The tunnel t1 takes it already" in answer.tunnel(number)["error"]
        assert (answer.tunnel(number)["changes"], answer.tunnel(number)["public"]) == ([], None)


def test_a_name_goes_to_another_type_in_one_run(running: Directly) -> None:
    """A panel of which a backup was put back gives an id again: the new tunnel has the place of the one that goes."""
    for number, like in ((4, 2), (5, 1), (6, 1)):  # so that they do not wait for their peers' keys
        for host in "ab":
            running.publics[uuid(number), host] = running.publics[uuid(like), host]
    others = [
        running.pair(4, type="openvpn", interface="mz1", ends={host: {"port": 20001} for host in "ab"}),
        running.pair(5, interface="mz2", ends={host: {"port": 20002} for host in "ab"}),
        running.pair(6, interface="mz3"),
    ]
    answers = running.apply(running.views(*others), remove=[uuid(number) for number in NUMBERS])
    for answer in answers.values():
        assert not any(tunnel["refused"] for tunnel in answer["tunnels"]), answer.errors()
    fresh = running.views(
        running.pair(4, type="openvpn", interface="mz1", ends={host: {"port": 20001} for host in "ab"}),
        running.pair(5, interface="mz2", ends={host: {"port": 20002} for host in "ab"}),
        running.pair(6, interface="mz3"),
    )
    running.apply(fresh)
    for answer in running.health(fresh, wait=60).values():
        assert answer.statuses() == {"active"}, answer.errors()


@pytest.mark.variation
def test_a_tunnel_that_moves_is_the_way_to_a_name_server_as_before(nodes: Directly) -> None:
    ends = {"b": {"routes": ["10.66.0.0/24"]}}
    nodes.up(1, ends=ends)
    nodes.sh("a", "cp /etc/resolv.conf /root/resolv.conf; echo nameserver 10.66.0.53 > /etc/resolv.conf")
    try:
        answer = nodes.apply(nodes.views(nodes.pair(1, ends=ends, interface="mz9")))["a"]
    finally:
        nodes.sh("a", "cp /root/resolv.conf /etc/resolv.conf")
    assert answer.errors() == []
    assert "dev mz9" in nodes.sh("a", "ip route show 10.66.0.0/24")


@pytest.mark.variation
def test_a_new_interface_at_one_end_goes_on_with_the_pre_shared_key(nodes: Directly) -> None:
    """Where one is required, the other end, which this run does not reach, goes on with it as well."""

    def pair(**more: Any) -> dict[str, list[View]]:
        return nodes.views(nodes.pair(1, post_quantum="require", **more))

    nodes.apply(pair())  # the keys
    assert nodes.apply(pair())["a"].tunnel(1)["needs_peer"]
    handed = {uuid(1): json.loads(nodes.sh("a", f"cat {CONFIG}/{uuid(1)}/preshared.sealed"))["sealed"]}
    for _round in range(2):  # it is taken, and switched to
        nodes.apply(pair(), handed=handed, paired=[uuid(1)])
    assert nodes.health(pair(), wait=60)["a"].statuses() == {"active"}
    used = nodes.sh("b", "wg show mz1 preshared-keys")
    assert "(none)" not in used
    renamed = {"a": pair(interface="mz9")["a"]}
    answer = nodes.apply(renamed)["a"]
    assert answer.errors() == []
    assert answer.tunnel(1)["had_session"]
    assert nodes.sh("b", "wg show mz1 preshared-keys") == used
    assert nodes.health(renamed, wait=60)["a"].statuses() == {"active"}


def test_what_moves_is_kept_until_the_pre_shared_key_that_it_now_requires_is_there(nodes: Directly) -> None:
    """One record asks for both, and the first run reaches one end: it was taken down, and then refused."""
    nodes.up(1)

    def moved() -> dict[str, list[View]]:
        return nodes.views(nodes.pair(1, post_quantum="require", interface="mz9"))

    with no_packet_lost(nodes, 1):
        tunnel = nodes.apply({"a": moved()["a"]})["a"].tunnel(1)
    assert "does not use this tunnel's pre-shared key yet" in tunnel["error"]
    assert (tunnel["refused"], tunnel["publish"], tunnel["needs_peer"]) == (True, True, True)
    handed = {uuid(1): json.loads(nodes.sh("a", f"cat {CONFIG}/{uuid(1)}/preshared.sealed"))["sealed"]}
    for _round in range(2):  # it is taken, and switched to
        nodes.apply(moved(), handed=handed, paired=[uuid(1)])
    assert nodes.health(moved(), wait=60)["a"].statuses() == {"active"}
    assert "(none)" not in nodes.sh("a", "wg show mz9 preshared-keys")
    assert not any(answer["changed"] for answer in nodes.apply(moved()).values())


@pytest.mark.variation
def test_tunnels_of_two_types_change_their_names(running: Directly) -> None:
    changed = running.views(
        running.pair(1, interface="mz2"),
        running.pair(2, type="openvpn", interface="mz3"),
        running.pair(3, type="ipsec", interface="mz1"),
    )
    would = running.check(changed)
    answers = running.apply(changed)
    for host, answer in answers.items():
        assert answer.errors() == []
        for number in NUMBERS:
            assert answer.tunnel(number)["changes"] == would[host].tunnel(number)["changes"]
    for answer in running.health(changed, wait=60).values():
        assert answer.statuses() == {"active"}, answer.errors()
    assert not running.apply(changed)["a"]["changed"]


@pytest.mark.parametrize(
    ("active", "first"),
    [
        (True, 0),
        *(pytest.param(True, first, marks=pytest.mark.variation) for first in (1, 2)),
        *(pytest.param(False, first, marks=pytest.mark.variation) for first in (0, 1, 2)),
    ],
)
def test_a_crash_at_any_step_is_repaired_by_the_next_run(nodes: Directly, active: bool, first: int) -> None:
    """Bringing a tunnel up, and (not active) taking one off; each third step from the first on."""
    views = nodes.up(1)["a"]
    if active:
        nodes.clear("a")
    for step in range(first, 100, 3):
        options = {"crash": step, "probe": False} if active else {"crash": step, "probe": False, "remove": [uuid(1)]}
        done = nodes.run_on("a", "tunnel_apply", views if active else [], **options)
        if active:
            answer = nodes.apply({"a": views}, probe=False)["a"]
            assert answer.errors() == [], f"after a crash before step {step}"
            assert nodes.sh("a", "systemctl is-active wg-quick@mz1; wg show mz1 peers | wc -l").split() == [
                "active",
                "1",
            ]
            assert not nodes.apply({"a": views}, probe=False)["a"]["changed"], f"after a crash before step {step}"
        nodes.apply({"a": []}, remove_all=True, probe=False)
        assert leftovers(nodes, "a") == "", f"after a crash before step {step}"
        if done.code != CRASHED:
            break
        if not active:
            nodes.apply({"a": views}, probe=False)
    assert 5 < step < 99
    print(f"crashed at {step} steps")
