# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run says at its end beside the table."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import rounds, summary
from tests.support.views import UUID, view

NODES = {"h1": "de-1", "h2": "fi-1"}
NONE = rounds.Progress.load(None)


UNREACHABLE: dict[str, Any] = {"unreachable": True, "msg": "Failed to connect to the host via ssh: No route to host"}
FAILED: dict[str, Any] = {"failed": True, "msg": "Failed to update apt cache after 5 retries: "}


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([UNREACHABLE], (True, UNREACHABLE["msg"])),
        ([FAILED], (False, FAILED["msg"].strip())),
        ([None, {"tunnels": []}, FAILED], (False, FAILED["msg"].strip())),
        ([{"failed": True}], (False, None)),
        ([{"failed": True, "msg": ["\x1b[31m"]}], (False, "['\\x1b[31m']")),
        ([{"tunnels": []}], (None, None)),
        ([5], (None, None)),
        ([], (None, None)),
    ],
)
def test_why_a_host_left_the_run(results, why):
    assert summary.why_lost(results) == {"unreachable": why[0], "words": why[1]}


def test_the_first_reason_stays():
    first = summary.note_lost(NONE, {"h1": [UNREACHABLE]})
    later = summary.note_lost(first, {"h1": [None], "h2": [FAILED]})
    assert {host: why["unreachable"] for host, why in later.lost.items()} == {"h1": True, "h2": False}


DEAD = {"failed": False, "msg": "Failed to update apt cache after 2 retries: http://mirror.example: refused"}
NO_PACKAGE = {"failed": True, "msg": "No package matching 'charon-systemd' is available"}


@pytest.mark.parametrize(
    ("packages", "results", "sentences", "warned"),
    [
        ([], [{"changed": False}, {"changed": True}, None], [], []),
        (
            [],
            [DEAD, {"changed": True}, None],
            [],
            [f"h1: Its package lists could not be updated ({DEAD['msg']}): run apt-get update there"],
        ),
        (["openvpn"], [None, None, NO_PACKAGE], ["h1: openvpn could not be installed: No package matching"], []),
        (
            ["openvpn", "nftables"],
            [DEAD, NO_PACKAGE, None],
            [f"h1: openvpn, nftables could not be installed: {NO_PACKAGE['msg']}. Its package lists could"],
            [],
        ),
        (["openvpn"], [DEAD, {"changed": False}], ["h1: openvpn could not be installed: the package manager"], []),
        (["openvpn"], [], [], []),  # nothing was tried
        ([{}], [5, "x", NO_PACKAGE], ["h1: {} could not be installed"], []),
    ],
)
def test_what_could_not_be_installed_is_told_and_a_dead_source_alone_fails_nothing(
    packages, results, sentences, warned
):
    answers = {"h1": {"tunnels": [], "packages": packages}}
    progress, warnings = summary.note_installed(NONE, answers, {"h1": results})
    failed = rounds.failures(answers, [], progress, [], NODES).get("h1", [])
    for said, expected in ((failed, sentences), (warnings, warned)):
        assert [text[: len(begin)] for text, begin in zip(said, expected, strict=False)] == expected
        assert len(said) == len(expected)
        assert all("apt-get update there to see which source fails" in text for text in said if results[0] == DEAD)


def after(*rounds_told: dict[str, Any]) -> rounds.Progress:
    """The progress after rounds in which the hosts said this."""
    progress = NONE
    for told in rounds_told:
        progress = rounds.note(progress, rounds.entries_of(told, NODES), told)
        progress = summary.note_removed(progress, told, NODES)
    return progress


def did(node: str, *changes: str, new: bool = False) -> dict[str, Any]:
    return {"tunnels": [{"uuid": UUID, "node": node, "new": new, "changes": list(changes)}]}


READ = {"h1": [view()], "h2": [view()]}
NEW = {"h1": did("de-1", "key made", new=True), "h2": did("fi-1", "key made", "conf written", "started", new=True)}
GONE = {"uuid": "00000000-0000-4000-8000-000000000000", "id": 9, "name": "exit-o"}


@pytest.mark.parametrize(
    ("told", "check", "lines"),
    [
        ([{"h1": did("de-1"), "h2": did("fi-1")}], False, []),
        ([NEW, {"h1": did("de-1", "conf written", "started")}], False, ["+ de-fi: set up on de-1, fi-1"]),
        (
            [{**NEW, "h1": did("de-1", "conf changed")}],
            True,
            ["+ de-fi: would be set up on fi-1", "~ de-fi: would be changed on de-1: conf changed"],
        ),
        ([{"h1": did("de-1", new=True)}], False, []),  # refused, or not active
        (
            [{"h1": did("de-1", "MTU 1420 -> 1400"), "h2": did("fi-1", "MTU 1420 -> 1400")}],
            True,
            ["~ de-fi: would be changed on de-1, fi-1: MTU 1420 -> 1400"],
        ),
        (
            [{"h1": {"removed": [GONE]}}, {"h2": {"removed": [GONE]}}, {"h1": {"removed": []}}],
            False,
            ["- exit-o: removed from de-1, fi-1 (there is no record of it that ends there)"],
        ),
        (
            [{"h1": {"removed": [{**GONE, "name": None}, {**GONE, "uuid": UUID, "error": "wg-quick down failed"}]}}],
            True,
            ["- #9: would be removed from de-1 (there is no record of it that ends there)"],
        ),
        ([{"h1": {"removed": [5, {"uuid": "x"}]}, "h2": {"removed": "x"}}], False, []),
    ],
)
def test_what_a_run_has_changed(told: list[dict[str, Any]], check: bool, lines: list[str]) -> None:
    assert summary.summary(after(*told), READ, check) == lines


def test_what_a_node_says_is_one_bounded_line() -> None:
    rude = "\x1b[2J\n" + "x" * 1000
    told = {"h1": {**did("de-1", rude), "removed": [{**GONE, "name": rude}]}}
    lines = summary.summary(after(told), READ, False)
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 200 for line in lines)


def test_not_more_lines_than_a_person_reads() -> None:
    gone = [{**GONE, "uuid": f"00000000-0000-4000-8000-{number:012}", "name": f"t{number}"} for number in range(200)]
    lines = summary.summary(after({"h1": {"removed": gone}}), READ, False)
    assert (len(lines), lines[-1]) == (summary.SHOWN + 1, "… and 140 more changes")


def ended(node: str, status: str, *changes: str, **more: Any) -> dict[str, Any]:
    end = {"uuid": UUID, "node": node, "status": status, "changes": list(changes), "had_session": bool(changes)}
    return {"tunnels": [{**end, **more}]}


@pytest.mark.parametrize(
    ("first", "last", "hosts"),
    [
        # changed at both ends, and nothing comes back
        ((("connecting", "conf changed"), ("connecting", "conf changed")), ("connecting", "error"), ["h1", "h2"]),
        ((("error", "conf changed"), ("active",)), ("error", "error"), ["h1"]),
        # an answered ping at either end is traffic
        ((("connecting", "conf changed"), ("connecting",)), ("active", "error"), []),
        ((("connecting",), ("connecting",)), ("error", "error"), []),  # not changed by this run
        ((("active", "conf changed"), ("active", "conf changed")), ("inactive", "inactive"), []),
    ],
)
def test_a_tunnel_that_a_run_cuts_off_is_a_failure(first: Any, last: Any, hosts: list[str]) -> None:
    told = {host: ended(node, *did) for (host, node), did in zip(NODES.items(), first, strict=True)}
    now = {host: ended(node, status) for (host, node), status in zip(NODES.items(), last, strict=True)}
    found = summary.cut_off(rounds.entries_of(now, NODES), after(told), READ)
    assert sorted(found) == hosts
    assert all(
        "tunnel de-fi had a session before this run changed it" in text for its in found.values() for text in its
    )


def test_a_tunnel_that_was_changed_on_the_panel_meanwhile_is_not_to_be_undone() -> None:
    told = {host: ended(node, "connecting", "conf changed") for host, node in NODES.items()}
    now = {host: ended(node, "error") for host, node in NODES.items()}
    for outdated, words in (((), "undo the last change"), ({UUID}, "while this run worked: run again.")):
        found = summary.cut_off(rounds.entries_of(now, NODES), after(told), READ, outdated)
        assert sorted(found) == ["h1", "h2"]
        assert all(words in text for its in found.values() for text in its), found


def test_a_tunnel_through_which_only_small_packets_pass_is_not_cut_off() -> None:
    told = {host: ended(node, "connecting", "conf changed") for host, node in NODES.items()}
    narrow = {"error": "packets of 1420 bytes, its MTU, do not pass", "measured": {"loss_percent": 0.0}}
    now = {"h1": ended("de-1", "error", **narrow), "h2": ended("fi-1", "error")}
    assert summary.cut_off(rounds.entries_of(now, NODES), after(told), READ) == {}


def test_a_tunnel_whose_other_end_was_not_in_the_run_is_not_cut_off_for_good() -> None:
    told = {"h1": ended("de-1", "connecting", "conf changed")}
    assert summary.cut_off(rounds.entries_of(told, NODES), after(told), READ) == {}
    told["h2"] = ended("fi-1", "connecting", waiting_for="de-1")
    assert summary.cut_off(rounds.entries_of(told, NODES), after(told), READ) == {}


def checked(node: str, peer: str, status: str, **more: Any) -> dict[str, Any]:
    end = {"uuid": UUID, "id": 3, "name": "de-fi", "type": "wireguard", "node": node, "peer": peer}
    return {"tunnels": [{**end, "role": "source" if node == "de-1" else "target", "status": status, **more}]}


@pytest.mark.parametrize(
    ("statuses", "hosts"),
    [
        ([], {}),
        (["connecting"], {}),  # the tunnel is an error where one end is
        (["error"], {"h1": 1, "h2": 1}),
        (["error", "broken"], {"h1": 1, "h2": 2}),
    ],
)
def test_a_status_that_is_a_failure(statuses: list[str], hosts: dict[str, int]) -> None:
    results = {
        "h1": checked("de-1", "fi-1", "connecting"),
        "h2": checked("fi-1", "de-1", "error", error="no handshake with de-1 in 3 min"),
    }
    broken = [{"nodes": ["fi-1", "us-1"], "error": "mtu: 1 is too small."}]
    found = summary.strict(results, statuses, broken, NODES)
    assert {host: len(its) for host, its in found.items()} == hosts
    for its in found.values():
        assert its[0] == "tunnel de-fi (de-1 -> fi-1): error: fi-1: no handshake with de-1 in 3 min"


def test_sentences_of_several_kinds_are_told_once() -> None:
    assert summary.merged({"a": ["x", "y"]}, {"a": ["y"], "b": ["z"]}) == {"a": ["x", "y"], "b": ["z"]}
