# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of the tunnels that a person reads at the end of a run, and the sentences about what is wrong. Pure."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Collection, Iterable, Iterator, Mapping, Sequence

from .._errors import printable
from . import symptoms

if TYPE_CHECKING:
    from .shapes import Health, Lost, View

HEADER = ("name", "ends", "type", "status", "handshake", "rtt", "loss", "path", "pq")
WIDTHS = {"name": 32, "ends": 48}  # columns at most; the others are short by nature
COLUMNS = 80  # of a terminal
BETWEEN = "  "
INDENT = 4  # of a note on a line of its own
NARROWEST = 12  # columns that a name keeps, whatever else there is
MAX_ROWS = 200
NAMED = 10  # tunnels in one sentence
NEW = 60  # seconds in which a status is not old enough to say how old it is
WITHOUT_TRAFFIC = ("error", "connecting")
SOON = 30  # days: a run renews a certificate long before
LEFT_ALONE = (
    "it is missing in the list of tunnels, but the panel did not confirm that it is deleted, so it was left as it is. "
    "To keep it, look into the panel's log; otherwise delete it on the panel, then run marzban.tunnels.apply."
)
ANOTHERS = (
    "it was made for the node %s, and was left as it is. Where that is this machine's other name, remove one of the "
    "two nodes on the panel; where it is its former name, delete the tunnel there, then run marzban.tunnels.apply."
)
NOT_ASKED = (
    "it has left the list of tunnels while this run went on, and was left as it is: the next run of "
    "marzban.tunnels.apply asks the panel about it, and removes it if it is deleted."
)
RENEW = "run marzban.tunnels.apply on %s and %s, which makes a new one; both must be reachable for that."
# A host that is not in the run any more, by Lost.unreachable
_HOW_LOST = {True: "is unreachable", False: "failed", None: "is unreachable, or failed"}
_OTHERS = "the table shows what other nodes reported"
_WORST_FIRST = ("error", "connecting", "active", "inactive")


def width(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    columns = 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns


def cut(text: str, columns: int) -> str:
    """``text``, shortened to at most ``columns``."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def lines(header: Sequence[str], rows: Iterable[Sequence[str]], wide: bool = True) -> list[str]:
    """Aligned lines of text: ``header`` (names of the columns) and ``rows`` (lists of texts of the same length).

    Without ``wide`` they fit a terminal: what says least is left out, then the longest names are cut.
    """
    cells = [[cut(printable(cell), WIDTHS.get(name, 24)) for name, cell in zip(header, row)] for row in rows]
    table = {name: [name, *(row[index] for row in cells)] for index, name in enumerate(header)}
    if not wide:
        _make_narrow(table)
    columns = {name: max(map(width, texts)) for name, texts in table.items()}
    return [
        BETWEEN.join(
            texts[index] + " " * (columns[name] - width(texts[index])) for name, texts in table.items()
        ).rstrip()
        for index in range(len(cells) + 1)
    ]


def _make_narrow(table: dict[str, list[str]]) -> None:
    """Leaves out of ``table``, ``{column: [its name, texts…]}``, what says least. ``-``: nothing is known."""

    def surplus() -> int:
        needed = sum(max(map(width, texts)) for texts in table.values()) + len(BETWEEN) * (len(table) - 1)
        return needed - COLUMNS

    for name in ("path", "pq"):  # what is alike everywhere is left to -v
        if len({*table.get(name, [])[1:]} - {"-"}) < 2 and "mixed" not in table.get(name, []):
            table.pop(name, None)
    if surplus() > 0 and set(table.get("loss", [])[1:]) <= {"-", "0 %"}:
        table.pop("loss", None)
    if surplus() > 0:
        table.pop("handshake", None)
    while surplus() > 0:
        longest = max(("name", "ends"), key=lambda name: max(map(width, table.get(name, [""]))))
        most = max(map(width, table.get(longest, [""]))) - 1
        if most < NARROWEST:
            return
        table[longest] = [cut(text, most) for text in table[longest]]


def _with_notes(lines_of: Sequence[str], notes: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each line with its notes: at its end where all of them fit there, else on lines of their own below it."""
    for line, its in zip(lines_of, notes):
        inline = BETWEEN.join((line, printable("; ".join(its))))
        if not its or width(inline) <= COLUMNS:
            yield inline.rstrip()
            continue
        yield line
        for note in its:
            yield from folded(printable(note))


def folded(text: str) -> Iterator[str]:
    """``text`` on indented lines that fit a terminal; a word that is longer than a line stays whole."""
    line = " " * INDENT
    for word in text.split():
        if line.strip() and width(line) + 1 + width(word) > COLUMNS:
            yield line
            line = " " * (INDENT + 2)
        line += (" " if line.strip() else "") + word
    yield line


def seconds(value: float | None) -> str:
    """An age as a person writes it: ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    if value is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return "%d %s" % (value // length, unit)
    return "%d s" % value


def merge(results: Mapping[str, Any]) -> list[list[Health]]:
    """The ends in ``results`` ``{host: answer of tunnel_apply, checked}``, by tunnel, in order of ids."""
    tunnels: dict[str, list[Any]] = {}
    for answer in results.values():
        for end in (answer.get("tunnels") if isinstance(answer, dict) else None) or []:
            tunnels.setdefault(end["uuid"], []).append(end)
    return sorted(tunnels.values(), key=lambda ends: (ends[0]["id"], ends[0]["uuid"]))


def status(ends: Iterable[Mapping[str, Any]]) -> str:
    """The tunnel's status out of its ends', by the panel's rule."""
    reported = [end["status"] for end in ends]
    if "inactive" in reported:
        return "inactive"
    return next((status for status in ("error", "active") if status in reported), "connecting")


def _name(end: Health) -> str:
    return end.get("name") or "#%s" % end["id"]


def _words(end: Health) -> str:
    """An end's error without the place that a node may have put before it: the table and the sentence name it."""
    error = end["error"] or ""
    place = "tunnel %s on %s: " % (end.get("name") or end["uuid"], end["node"])
    return error[len(place) :] if error.startswith(place) else error


def _certificate_ends(end: Health) -> str | None:
    """When a certificate ends, as the rest of a sentence; None where that is not soon."""
    days = (end.get("measured") or {}).get("certificate_days")
    if days is None or days >= SOON:
        return None
    return "has ended" if days < 0 else "ends today" if days == 0 else "ends in %d d" % days


def _explained(end: Health, lost: Collection[str]) -> bool:
    """Whether an end's error is what must be expected: nothing comes from a node that this run could not reach."""
    return bool(end.get("error")) and not end.get("refused") and end["peer"] in lost


def row(ends: Sequence[Health]) -> list[str]:
    """The cells of a tunnel, one for each of HEADER. ``ends``: the reported ones, at least one."""
    first = ends[0]
    # An end says its role; where it doesn't, the names are in alphabetical order.
    both = (str(first["node"]), str(first["peer"]))
    source, target = both if first.get("role") == "source" else both[::-1] if first.get("role") else sorted(both)

    def measured(key: str) -> list[Any]:
        reported: list[Mapping[str, Any]] = [end.get("measured") or {} for end in ends]
        return [values[key] for values in reported if values.get(key) is not None]

    handshakes, rtts, losses = measured("handshake_age"), measured("rtt_ms"), measured("loss_percent")
    paths, quantum = sorted(set(measured("data_path"))), measured("post_quantum")
    return [
        _name(first),
        "%s -> %s" % (source, target),
        str(first["type"]),
        status(ends),
        seconds(min(handshakes) if handshakes else None),
        "%.1f ms" % max(rtts) if rtts else "-",
        "%g %%" % round(max(losses), 1) if losses else "-",
        "mixed" if len(paths) > 1 else paths[0] if paths else "-",
        ("yes" if all(quantum) else "no") if quantum else "-",
    ]


def notes(ends: Sequence[Health], lost: Mapping[str, Lost] | None = None, age: float | None = None) -> list[str]:
    """What there is to say about a tunnel beside its row. ``lost``: nodes that left the run, and why; ``age``: the
    seconds since it has its status, where the panel knows.

    Errors are sentences that begin with the tunnel's name, and come after the table: see ``report``.
    """
    lost = lost or {}
    both = [str(node) for node in (ends[0]["node"], ends[0]["peer"])]
    is_old = age is not None and age >= NEW and status(ends) in WITHOUT_TRAFFIC
    found = ["%s for %s" % (status(ends), seconds(age))] if is_old else []
    found += ["%s %s" % (node, _HOW_LOST[lost[node]["unreachable"]]) for node in both if node in lost]
    found += ["waiting for %s" % end["waiting_for"] for end in ends if end.get("waiting_for")]
    expiring = [(end["node"], _certificate_ends(end)) for end in ends]
    found += ["certificate of %s %s" % (node, when) for node, when in expiring if when]
    found += ["%s: %s" % (end["node"], end["note"]) for end in ends if end.get("note") and end["peer"] not in lost]
    return list(dict.fromkeys(found))


def report(
    results: Mapping[str, Any],
    lost: Mapping[str, Lost] | None = None,
    broken: Sequence[Mapping[str, Any]] = (),
    nodes: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, object]] | None = None,
    asked: Mapping[str, Sequence[str]] | None = None,
    wide: bool = False,
    views: Mapping[str, Sequence[View]] | None = None,
    ages: Mapping[str, float] | None = None,
) -> tuple[list[str], list[str]]:
    """``(table, problems)``: lines of the table, and a sentence for each thing that somebody has to look at.

    ``results`` as in ``merge``; ``lost``: hosts that left the run, and why;
    ``nodes``: ``{host: node name}`` (default: the hosts' names);
    ``broken`` as tunnel_views answers; ``columns``: more of them, ``{name: {uuid: text}}``;
    ``asked``: the uuids of the orphans that the panel was asked about, by host (None: all); ``wide``: all columns, and
    nothing is cut to fit a terminal; ``views``: by host, so that the table also has what ends at lost hosts alone;
    ``ages``: the seconds for which tunnels have had their status, by uuid.
    """
    nodes = nodes or {}
    at_lost = [view for host in lost or () for view in (views or {}).get(host) or ()]
    lost = {nodes.get(host) or host: why for host, why in (lost or {}).items()}
    tunnels = merge(results)
    columns = dict(columns or {})
    if wide and ages:
        columns = {"for": {uuid: seconds(age) for uuid, age in ages.items()}, **columns}
    rows: list[tuple[list[str], list[str]]] = []
    for ends in tunnels:
        uuid = str(ends[0]["uuid"])
        cells = [*row(ends), *(str(texts.get(uuid, "-")) for texts in columns.values())]
        rows.append((cells, notes(ends, lost, None if wide else (ages or {}).get(uuid))))
    for view in {view["uuid"]: view for view in at_lost}.values():
        if view["uuid"] not in {ends[0]["uuid"] for ends in tunnels}:
            rows.append(_unmeasured(view, len(HEADER) - 4 + len(columns), lost))
    for tunnel in broken:
        name = tunnel.get("name") or ("#%s" % tunnel["id"] if tunnel.get("id") else "?")
        unknown = ["-"] * (len(HEADER) - 4 + len(columns))
        rows.append(([name, " -> ".join(tunnel.get("nodes") or ["?"]), "-", "broken", *unknown], []))
    left_out = len(rows) - MAX_ROWS
    if left_out > 0:
        rows.sort(key=lambda item: (("broken", "-", *_WORST_FIRST).index(item[0][3]), not item[1]))
    del rows[MAX_ROWS:]
    table = ["No tunnel ends at these hosts."]
    if rows:
        aligned = lines((*HEADER, *columns), (cells for cells, _notes in rows), wide)
        table = list(_with_notes(aligned, [[], *(its for _cells, its in rows)]))
    if left_out > 0:
        table.append("… and %d more" % left_out)
    return table, [
        *_problems_of_ends([end for ends in tunnels for end in ends], lost),
        *("%s: %s" % (tunnel.get("name") or "#%s" % tunnel.get("id"), printable(tunnel["error"])) for tunnel in broken),
        *_left_alone(results, nodes, {tunnel.get("uuid") for tunnel in broken}, asked),
        *(_left(node, why, tunnels, lost) for node, why in lost.items()),
    ]


def _unmeasured(view: View, columns: int, lost: Mapping[str, Lost]) -> tuple[list[str], list[str]]:
    """The cells (the last ``columns`` of them empty) and the notes of a tunnel about which no host said anything."""
    local, peer = view["local"]["node"], view["peer"]["node"]
    both = (local, peer) if view["local"]["role"] == "source" else (peer, local)
    name, status_ = view["name"] or "#%s" % view["id"], "-" if view["active"] else "inactive"
    said = ["%s %s" % (node, _HOW_LOST[lost[node]["unreachable"]]) for node in both if node in lost]
    return [name, "%s -> %s" % both, view["type"], status_, *["-"] * columns], said


def _left(node: str, why: Lost, tunnels: Iterable[Sequence[Health]], lost: Collection[str]) -> str:
    """One sentence about a node, instead of one for each of its tunnels that carry nothing."""
    if why["unreachable"] is None:
        said = "%s could not be reached, or failed on the way: %s." % (node, _OTHERS)
    else:
        how = "could not be reached" if why["unreachable"] else "failed on the way"
        words = printable(why["words"], 300).rstrip(" .:") if why["words"] else None
        said = "%s %s: %s" % (node, how, "%s; %s." % (words, _OTHERS) if words else _OTHERS + ".")
    names = [_name(end) for ends in tunnels for end in ends if end["peer"] == node and _explained(end, lost)]
    if names:
        more = ", and %d more" % (len(names) - NAMED) if len(names) > NAMED else ""
        said += " No traffic to it in %s%s." % (", ".join(names[:NAMED]), more)
    return said


def errors(ends: Sequence[Health]) -> list[str]:
    """What is wrong at the ends of a tunnel."""
    return ["%s: %s" % (end["node"], printable(_words(end))) for end in ends if end.get("error")]


def _sentence(end: Health) -> str:
    """The one about an end's error."""
    return "%s on %s: %s" % (_name(end), end["node"], printable(_words(end)))


def guided(
    problems: Iterable[str],
    results: Mapping[str, Any],
    lost: Iterable[str] = (),
    nodes: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The lines of ``report``'s problems. Below the first one of a symptom is the row of the guide that it leads to."""
    ends = [end for ends in merge(results) for end in ends if end.get("error")]
    symptom_of = {_sentence(end): end.get("symptom") for end in ends}
    away = tuple("%s could not be reached" % ((nodes or {}).get(host) or host) for host in lost)
    told = set()
    for problem in problems:
        yield "! " + problem
        symptom = symptoms.UNREACHABLE if problem.startswith(away) else symptom_of.get(problem)
        if symptom and symptom not in told:
            told.add(symptom)
            yield " " * INDENT + "see " + symptoms.link(symptom)


def _problems_of_ends(ends: Sequence[Health], lost: Collection[str]) -> Iterator[str]:
    for end in ends:
        if end.get("error") and not _explained(end, lost):
            yield _sentence(end)
    for end in ends:
        when = _certificate_ends(end)
        if when:
            renew = RENEW % (end["node"], end["peer"])
            yield "%s on %s: its certificate %s: %s" % (_name(end), end["node"], when, renew)


def _left_alone(
    results: Mapping[str, Any],
    nodes: Mapping[str, str],
    broken: set[str | None],
    asked: Mapping[str, Sequence[str]] | None,
) -> Iterator[str]:
    """A sentence for each orphan, unless its record is among the ``broken`` (uuids), which explains it.

    One of another node of this run is that node's: both are one machine, and a warning says so.
    """
    here = set(nodes.values())
    for host, answer in results.items():
        node = nodes.get(host) or host
        for orphan in (answer.get("orphans") if isinstance(answer, dict) else None) or []:
            owner = orphan.get("node") or node
            if orphan["uuid"] not in broken and (owner == node or owner not in here):
                name = orphan.get("name") or "#%s" % orphan["id"]
                known = asked is None or orphan["uuid"] in asked.get(host, ())
                words = ANOTHERS % owner if owner != node else LEFT_ALONE if known else NOT_ASKED
                yield "%s on %s: %s" % (name, node, words)
