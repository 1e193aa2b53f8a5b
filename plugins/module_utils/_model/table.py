# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of the tunnels that a person reads at the end of a run, and the sentences about what is wrong. Pure."""

from __future__ import annotations

import unicodedata

from .._errors import printable

HEADER = ("name", "ends", "type", "status", "handshake", "rtt", "loss", "path", "pq", "note")
WIDTHS = {"name": 32, "ends": 48, "note": 100}  # columns at most; the others are short by nature
MAX_ROWS = 200
SOON = 30  # days: a run renews a certificate long before
LEFT_ALONE = (
    "the list of tunnels leaves it out, but did not prove that it is deleted, so it was left as it is. "
    "If it shall stay, look into the panel's log; if not, delete it on the panel, then run marzban.tunnels.apply."
)
RENEW = "run marzban.tunnels.apply on %s and %s, which makes a new one; both have to be reached for that."
_WORST_FIRST = ("error", "connecting", "active", "inactive")


def width(text):
    """Columns of a terminal that ``text`` takes."""
    columns = 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns


def cut(text, columns):
    """``text``, shortened to at most ``columns``."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def lines(header, rows):
    """Aligned lines of text: ``header`` (names of the columns) and ``rows`` (lists of texts of the same length)."""
    rows = [[cut(printable(cell), WIDTHS.get(name, 24)) for name, cell in zip(header, row)] for row in rows]
    table = [list(header), *rows]
    columns = [max(width(row[index]) for row in table) for index in range(len(header))]
    return [
        "  ".join(cell + " " * (columns[index] - width(cell)) for index, cell in enumerate(row)).rstrip()
        for row in table
    ]


def seconds(value):
    """An age as a person says it: ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    if value is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return "%d %s" % (value // length, unit)
    return "%d s" % value


def merge(results):
    """The ends that the hosts of ``results`` ``{host: answer of tunnel_apply}`` told of, by tunnel, in order of ids."""
    tunnels = {}
    for answer in results.values():
        for end in (answer.get("tunnels") if isinstance(answer, dict) else None) or []:
            tunnels.setdefault(end["uuid"], []).append(end)
    return sorted(tunnels.values(), key=lambda ends: (ends[0]["id"], ends[0]["uuid"]))


def status(ends):
    """The tunnel's status out of its ends', as the panel puts it together."""
    told = [end["status"] for end in ends]
    if "inactive" in told:
        return "inactive"
    return next((one for one in ("error", "active") if one in told), "connecting")


def _words(end):
    """An end's error without the place that a node may have put before it: the table and the sentence name it."""
    name = end.get("name") or end["uuid"]
    place = "tunnel %s on %s: " % (name, end["node"])
    return end["error"][len(place) :] if end["error"].startswith(place) else end["error"]


def _end_of_certificate(end):
    """A sentence's end about a certificate that ends soon, or None."""
    days = (end.get("measured") or {}).get("certificate_days")
    if days is None or days >= SOON:
        return None
    return "has ended" if days < 0 else "ends today" if days == 0 else "ends in %d d" % days


def row(ends, lost=()):
    """One row for one tunnel. ``lost``: names of the nodes that could not be reached."""
    one = ends[0]
    # An end says its role; where it doesn't, the names stand in their order.
    both = (one["node"], one["peer"])
    source, target = both if one.get("role") == "source" else both[::-1] if one.get("role") else sorted(both)

    def measured(key):
        values = [(end.get("measured") or {}).get(key) for end in ends]
        return [value for value in values if value is not None]

    handshakes, rtts, losses = measured("handshake_age"), measured("rtt_ms"), measured("loss_percent")
    paths, quantum = sorted(set(measured("data_path"))), measured("post_quantum")
    # The short ones first, which often explain the long ones: the column is cut.
    notes = ["%s is unreachable" % node for node in both if node in lost]
    notes += ["waiting for %s" % end["waiting_for"] for end in ends if end.get("waiting_for")]
    expiring = [(end["node"], _end_of_certificate(end)) for end in ends]
    notes += ["certificate of %s %s" % (node, when) for node, when in expiring if when]
    notes += ["%s: %s" % (end["node"], _words(end)) for end in ends if end.get("error")]
    return [
        one.get("name") or "#%s" % one["id"],
        "%s -> %s" % (source, target),
        one["type"],
        status(ends),
        seconds(min(handshakes) if handshakes else None),
        "%.1f ms" % max(rtts) if rtts else "-",
        "%g %%" % round(max(losses), 1) if losses else "-",
        "mixed" if len(paths) > 1 else paths[0] if paths else "-",
        ("yes" if all(quantum) else "no") if quantum else "-",
        "; ".join(dict.fromkeys(notes)),
    ]


def report(results, unreachable=(), broken=(), nodes=None, columns=None):
    """``(table, problems)``: lines of the table, and a sentence for each thing that somebody has to look at.

    ``unreachable``: hosts; ``nodes``: ``{host: node name}`` (default: their own); ``broken`` as tunnel_views answers;
    ``columns``: more of them, ``{name: {uuid: text}}``, before the note.
    """
    lost = [(nodes or {}).get(host) or host for host in unreachable]
    tunnels = merge(results)
    columns = columns or {}
    header = (*HEADER[:-1], *columns, HEADER[-1])
    rows = []
    for ends in tunnels:
        *cells, note = row(ends, lost)
        rows.append([*cells, *(str(texts.get(ends[0]["uuid"], "-")) for texts in columns.values()), note])
    for one in broken:
        name = one.get("name") or ("#%s" % one["id"] if one.get("id") else "?")
        unknown = ["-"] * (len(HEADER) - 5 + len(columns))
        rows.append([name, " -> ".join(one.get("nodes") or ["?"]), "-", "broken", *unknown, one["error"]])
    left_out = len(rows) - MAX_ROWS
    if left_out > 0:
        rows.sort(key=lambda cells: (("broken", *_WORST_FIRST).index(cells[3]), not cells[-1]))
    table = lines(header, rows[:MAX_ROWS]) if rows else ["No tunnel ends at these hosts."]
    if left_out > 0:
        table.append("… and %d more" % left_out)
    problems = [
        "%s on %s: %s" % (end.get("name") or "#%s" % end["id"], end["node"], printable(_words(end)))
        for ends in tunnels
        for end in ends
        if end.get("error")
    ]
    problems += [
        "%s on %s: its certificate %s: %s"
        % (
            end.get("name") or "#%s" % end["id"],
            end["node"],
            _end_of_certificate(end),
            RENEW % (end["node"], end["peer"]),
        )
        for ends in tunnels
        for end in ends
        if _end_of_certificate(end)
    ]
    problems += ["%s: %s" % (one.get("name") or "#%s" % one.get("id"), printable(one["error"])) for one in broken]
    told = {one.get("uuid") for one in broken}
    problems += [
        "%s on %s: %s" % (one.get("name") or "#%s" % one["id"], (nodes or {}).get(host) or host, LEFT_ALONE)
        for host, answer in results.items()
        for one in (answer.get("orphans") if isinstance(answer, dict) else None) or []
        if one["uuid"] not in told
    ]
    problems += [
        "%s could not be reached, or failed on the way: what is told of its ends comes from the others." % node
        for node in lost
    ]
    return table, problems
