# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that a person reads."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._model import table as model_table


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("日本", 4), ("e\u0301", 1), ("تهران", 5), ("🙂", 2), ("🇩🇪", 2), ("a\u200db", 2), ("", 0)],
)
def test_width(text, columns):
    assert model_table.width(text) == columns


@given(st.text(max_size=40), st.integers(1, 20))
def test_cut_is_never_too_wide(text, columns):
    assert model_table.width(model_table.cut(text, columns)) <= columns


@given(st.lists(st.lists(st.text(max_size=60), min_size=3, max_size=3), max_size=5))
def test_lines_are_aligned_and_printable(rows):
    marked = [[first, "|", last] for first, _middle, last in rows]
    lines = model_table.lines(("name", "-", "note"), marked)
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() for line in lines)
    starts = {model_table.width(line[: line.rindex("  |") + 2]) for line in lines[1:] if line.count("  |") == 1}
    assert len(starts) <= 1


@pytest.mark.parametrize(
    ("age", "text"),
    [(None, "-"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_seconds(age, text):
    assert model_table.seconds(age) == text


def end(node, peer, status="active", number=1, **more):
    return {
        "uuid": f"u{number}",
        "id": number,
        "name": f"t{number}",
        "type": "wireguard",
        "node": node,
        "peer": peer,
        "role": "source" if node < peer else "target",
        "status": status,
        **more,
    }


@pytest.mark.parametrize(
    ("told", "together"),
    [
        (["active", "active"], "active"),
        (["active", "connecting"], "active"),
        (["active", "error"], "error"),
        (["connecting"], "connecting"),
        (["inactive", "error"], "inactive"),
    ],
)
def test_status_of_a_tunnel_is_put_together_as_on_the_panel(told, together):
    assert model_table.status([{"status": item} for item in told]) == together


def test_two_ends_are_one_row_whichever_came_first():
    one, other = end("a", "b", measured={"rtt_ms": 1.0}), end("b", "a", measured={"rtt_ms": 2.04, "handshake_age": 7})
    row = ["t1", "a -> b", "wireguard", "active", "7 s", "2.0 ms", "-", "-", "-"]
    assert model_table.row([one, other]) == model_table.row([other, one]) == row
    assert model_table.row([other]) == row


@pytest.mark.parametrize(
    ("ours", "theirs", "path", "quantum"),
    [
        ({"data_path": "kernel", "post_quantum": True}, {"data_path": "kernel", "post_quantum": True}, "kernel", "yes"),
        ({"data_path": "kernel", "post_quantum": True}, {"data_path": "userspace"}, "mixed", "yes"),
        ({"data_path": "userspace", "post_quantum": False}, {}, "userspace", "no"),
        ({"post_quantum": True}, {"post_quantum": False}, "-", "no"),
        ({}, {}, "-", "-"),
    ],
)
def test_what_was_negotiated_is_in_the_row(ours, theirs, path, quantum):
    one, other = end("a", "b", measured=ours), end("b", "a", measured=theirs)
    columns = [model_table.HEADER.index(name) for name in ("path", "pq")]
    for ends in ([one, other], [other, one]):
        assert [model_table.row(ends)[column] for column in columns] == [path, quantum]


@pytest.mark.parametrize(
    ("days", "said"), [(None, None), (30, None), (29, "ends in 29 d"), (0, "ends today"), (-1, "has ended")]
)
def test_a_certificate_that_ends_soon_is_told(days, said):
    ends = [end("a", "b", measured={"certificate_days": days}), end("b", "a", measured={"certificate_days": 400})]
    note = "; ".join(model_table.notes(ends))
    _lines, problems = model_table.report({"x": {"tunnels": ends[:1]}, "y": {"tunnels": ends[1:]}})
    if said is None:
        assert (note, problems) == ("", [])
        return
    assert note == f"certificate of a {said}"
    (problem,) = problems
    assert problem.startswith(f"t1 on a: its certificate {said}: run marzban.tunnels.apply on a and b")


def test_the_place_of_an_error_is_not_said_twice():
    broken = end("a", "b", "error", error="tunnel t1 on a: port 1 is taken")
    assert model_table.errors([broken]) == ["a: port 1 is taken"]
    table, problems = model_table.report({"host": {"tunnels": [broken]}})
    assert problems == ["t1 on a: port 1 is taken"]
    assert "port 1" not in "\n".join(table), "once is enough"


def test_a_tunnel_between_hosts_that_are_lost_has_a_row_too():
    """Where no host of a run can be reached, the records alone tell what there is."""

    def view(number, node, peer, role="source", active=True):
        sides = {"local": {"node": node, "role": role}, "peer": {"node": peer}}
        return {"id": number, "uuid": f"u{number}", "name": None, "type": "ipsec", "active": active, **sides}

    seen = {
        "h-a": [view(1, "a", "b")],
        "h-y": [view(2, "y", "z"), view(3, "y", "a", role="target"), view(4, "y", "b", active=False)],
        "h-z": [view(2, "z", "y", role="target")],
    }
    lost = {host: {"unreachable": True, "words": None} for host in ("h-y", "h-z")}
    nodes = {"h-a": "a", "h-y": "y", "h-z": "z"}
    told = {"h-a": {"tunnels": [end("a", "y", "active", 3, uuid="u3")]}}
    table, _problems = model_table.report(told, lost, nodes=nodes, views=seen)
    assert [re.split(" {2,}", line) for line in table[1:]] == [
        ["t3", "a -> y", "wireguard", "active", *"---", "y is unreachable"],
        ["#2", "y -> z", "ipsec", "-", *"---"],
        ["", "y is unreachable"],
        ["", "z is unreachable"],
        ["#4", "y -> b", "ipsec", "inactive", *"---", "y is unreachable"],
    ]


def test_a_node_that_is_unreachable_is_told_once():
    silent = [end("a", "z", "error", number, error="no handshake with z in 9 min", refused=False) for number in (1, 2)]
    refused = end("a", "z", "error", 3, error="port 1 is taken", refused=True)
    other = end("a", "b", "error", 4, error="no handshake with b in 9 min", refused=False)
    new = end("a", "z", "connecting", 5, note="no answer yet from z at 203.0.113.3, UDP 20005")
    lost = {"z": {"unreachable": True, "words": None}}
    table, problems = model_table.report({"a": {"tunnels": [*silent, refused, other, new]}}, lost)
    assert [line.rpartition("  ")[2] for line in table[1:]] == [*["z is unreachable"] * 3, "-", "z is unreachable"]
    assert problems == [
        "t3 on a: port 1 is taken",
        "t4 on a: no handshake with b in 9 min",
        "z could not be reached: the table shows what other nodes reported. No traffic to it in t1, t2.",
    ]
    many = [end("a", "z", "error", number, error="no answer") for number in range(1, 13)]
    assert model_table.report({"a": {"tunnels": many}}, lost)[1][0].endswith(", t9, t10, and 2 more.")


def test_what_a_tunnel_waits_for_is_a_note_and_no_problem():
    waiting = end("a", "b", "connecting", note="no answer yet from b at 203.0.113.3, UDP 20003")
    table, problems = model_table.report({"host": {"tunnels": [waiting]}})
    assert problems == []
    assert "no answer yet from b at 203.0.113.3, UDP 20003" in "\n".join(table)


GOOD = {"handshake_age": 5, "rtt_ms": 0.5, "loss_percent": 0, "data_path": "kernel", "post_quantum": True}


def shown(*ends, wide=False, **more):
    """The columns of a table, and its lines."""
    table, _problems = model_table.report({"host": {"tunnels": list(ends)}}, wide=wide, **more)
    return table[0].split(), table


@pytest.mark.parametrize(
    ("other", "columns"),
    [
        (GOOD, []),
        ({}, []),  # nothing is known of it
        ({**GOOD, "data_path": "userspace"}, ["path"]),
        ({**GOOD, "post_quantum": False}, ["pq"]),
    ],
)
def test_what_is_alike_everywhere_has_no_column(other, columns):
    ends = (end("a", "b", measured=GOOD), end("a", "b", number=2, measured=other))
    assert shown(*ends)[0] == [*model_table.HEADER[:7], *columns]
    assert shown(*ends, wide=True)[0] == list(model_table.HEADER)


def test_a_path_that_differs_at_the_ends_of_one_tunnel_is_a_column():
    mixed = (end("a", "b", measured=GOOD), end("b", "a", measured={**GOOD, "data_path": "userspace"}))
    assert "path" in shown(*mixed)[0]


@pytest.mark.parametrize(
    ("name", "node", "loss", "columns"),
    [
        ("de-fi", "de-1", 0, model_table.HEADER[:7]),
        ("frankfurt-helsinki", "frankfurt-1", 0, model_table.HEADER[:6]),
        ("frankfurt-helsinki", "frankfurt-1", 40, (*model_table.HEADER[:4], "rtt", "loss")),
        ("f" * 64, "n" * 64, 0, (*model_table.HEADER[:4], "rtt")),
        ("ی" * 64, "日" * 32, 0, (*model_table.HEADER[:4], "rtt")),
    ],
)
def test_a_table_fits_a_terminal(name, node, loss, columns):
    wordy = {"name": name, "measured": {**GOOD, "loss_percent": loss}}
    header, table = shown(end(node, "fi-1", **wordy), end("a", "b", number=2))
    assert header == list(columns)
    assert max(map(model_table.width, table)) <= model_table.COLUMNS
    assert any(line.startswith(name[:10]) for line in table)


def test_a_note_is_at_the_end_of_its_row_or_below_it():
    short = end("a", "b", "connecting", waiting_for="b")
    assert shown(short)[1][1].endswith("  waiting for b")
    words = "no answer yet from b at 2001:db8:1234:5678:9abc:def0:1234:5678, UDP 20003, for 40 s"
    long = end("a", "b", "connecting", note=words)
    _header, table = shown(long, end("a", "b", number=2))
    assert table[2:4] == [
        "    a: no answer yet from b at 2001:db8:1234:5678:9abc:def0:1234:5678, UDP",
        "      20003, for 40 s",
    ]
    assert table[4].startswith("t2 ")


@given(st.text(max_size=300))
def test_folded_lines_fit_and_keep_each_word(text):
    lines = list(model_table.folded(text))
    assert " ".join(lines).split() == text.split()
    assert all(model_table.width(line) <= model_table.COLUMNS or len(line.split()) == 1 for line in lines)


def test_no_tunnel_at_all():
    assert model_table.report({"host": {}, "other": None}) == (["No tunnel ends at these hosts."], [])


@pytest.mark.parametrize(
    ("unreachable", "words", "note", "problem"),
    [
        (True, "No route to host", "b is unreachable", "b could not be reached: No route to host; the table shows"),
        (False, "apt broke: ", "b failed", "b failed on the way: apt broke; the table shows"),
        (False, None, "b failed", "b failed on the way: the table shows"),
        (None, None, "b is unreachable, or failed", "b could not be reached, or failed on the way: the table shows"),
    ],
)
def test_a_host_that_failed_is_not_called_unreachable(unreachable, words, note, problem):
    lost = {"host-b": {"unreachable": unreachable, "words": words}}
    table, problems = model_table.report({"a": {"tunnels": [end("a", "b")]}}, lost, nodes={"host-b": "b"})
    assert table[1].endswith("  " + note)
    assert problems == [problem + " what other nodes reported."]


def test_a_long_table_shows_the_worst_first():
    ends = [end("a", "b", "active", number) for number in range(1, 300)]
    ends[250]["status"], ends[250]["error"] = "error", "broken cable"
    table, problems = model_table.report({"a": {"tunnels": ends}}, broken=[{"id": 999, "name": None, "error": "x"}])
    assert len(table) == 202
    assert table[1].startswith("#999")
    assert table[2].startswith("t251 ")
    assert table[-1] == "… and 100 more"
    assert len(problems) == 2


def test_more_columns_are_the_last():
    table, _problems = model_table.report(
        {"a": {"tunnels": [end("a", "b"), end("a", "b", number=2)]}}, columns={"speed": {"u1": "1 Gbit/s"}}
    )
    assert table[0].split()[-2:] == ["loss", "speed"]
    assert table[1].endswith("1 Gbit/s")
    assert table[2].endswith("-")


def test_a_tunnel_that_the_list_left_out_is_told_unless_its_record_is_broken() -> None:
    orphan = {"id": 4, "uuid": "1b4e28ba-2fa1-41d2-883f-0016d3cca427", "name": "de-fi"}
    results = {"host-a": {"tunnels": [], "orphans": [orphan]}}
    _table_lines, problems = model_table.report(results, nodes={"host-a": "de-1"})
    assert problems == ["de-fi on de-1: " + model_table.LEFT_ALONE]
    for asked, sentence in (
        ({"host-a": [orphan["uuid"]]}, model_table.LEFT_ALONE),
        ({"host-b": [orphan["uuid"]]}, model_table.NOT_ASKED),
        ({}, model_table.NOT_ASKED),
    ):
        _table_lines, problems = model_table.report(results, nodes={"host-a": "de-1"}, asked=asked)
        assert problems == ["de-fi on de-1: " + sentence]
    results["host-a"]["orphans"][0]["node"] = "de-9"
    _table_lines, problems = model_table.report(results, nodes={"host-a": "de-1"})
    assert problems == ["de-fi on de-1: " + model_table.ANOTHERS % "de-9"]
    both = {"host-a": "de-1", "host-b": "de-9"}
    assert model_table.report(results, nodes=both)[1] == [], "it is the other host's"
    broken = [
        {"id": 4, "uuid": orphan["uuid"], "name": "de-fi", "nodes": ["de-1", "fi-1"], "error": "mtu: 1 is too small."}
    ]
    assert model_table.report(results, broken=broken)[1] == ["de-fi: mtu: 1 is too small."]


def test_since_when_a_tunnel_carries_nothing():
    ends = [end("a", "b", "error", error="no answer"), end("a", "b", "connecting", number=2), end("a", "b", number=3)]
    _columns, table = shown(*ends, ages={"u1": 7300.0, "u2": 86400.0 * 3, "u4": 500.0})
    assert ("error for 2 h" in table[1], "connecting for 3 d" in table[2]) == (True, True)
    assert not any(" for " in line for line in table[3:])
    assert all(model_table.width(line) <= model_table.COLUMNS for line in table)
    assert not any(" for " in line for line in shown(*ends, ages={"u1": 59.0})[1]), "it has just begun"
    _columns, table = shown(*ends, ages={"u1": 7300.0, "u3": 500.0}, wide=True)
    assert table[0].endswith("  for")
    assert (table[1].endswith(" 2 h"), table[2].endswith(" -"), table[3].endswith(" 8 min")) == (True, True, True)


@given(st.text(max_size=40), st.integers(0, 10**9))
def test_its_age_fits_a_terminal(name, age):
    _columns, table = shown(end("a" * 50, "b" * 50, "error", error="x") | {"name": name}, ages={"u1": float(age)})
    assert all(model_table.width(line) <= model_table.COLUMNS for line in table)
