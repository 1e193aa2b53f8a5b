# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run says at its end beside the table: which hosts left it and why, and what it has changed. Pure.

Nothing that a host answers is trusted, as in rounds.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Collection, Iterable, Mapping

from .._errors import FieldError
from . import answers, table, validators, views
from .rounds import Answers, Entry, Progress, joined, listed, silent

if TYPE_CHECKING:
    from .shapes import Lost, View

SHOWN = 60  # lines about changes
GO_BACK = "The lines about it with the table say more; to go back, undo the last change of its record and run again."
MEANWHILE = "Its record was changed or removed on the panel while this run worked: run again."


def note_lost(progress: Progress, results: dict[str, list[Any]]) -> Progress:
    """``progress`` with the hosts that left the run in this round. ``results``: ``{host: what its tasks ended with}``.

    What a host answered before a run lost it is not a reason; the first reason stays.
    """
    lost = {host: why_lost(found) for host, found in results.items()}
    return progress._replace(lost={**lost, **{host: why for host, why in progress.lost.items() if host in lost}})


def why_lost(results: Iterable[Any]) -> Lost:
    """Why a host left the run, out of what its tasks have ended with, the last one first."""
    for result in results:
        if isinstance(result, dict) and (result.get("unreachable") or result.get("failed")):
            words = answers.words(result.get("msg")) or None
            return {"unreachable": bool(result.get("unreachable")), "words": words}
    return {"unreachable": None, "words": None}


def note_installed(progress: Progress, told: Answers, results: dict[str, list[Any]]) -> tuple[Progress, list[str]]:
    """``(progress, warnings)`` after packages were installed, or not.

    ``results``: ``{host: what the tasks answered}``, which updated the package lists, and which installed. A host that
    lacks nothing any more is in order, whatever those said.
    """
    failed, warnings = dict(progress.failed), []
    for host, found in results.items():
        lists, installs = found[0] if found else None, found[1:]
        stale = answers.words(lists.get("msg")) if isinstance(lists, dict) and lists.get("msg") else None
        problem = why_lost(installs)
        lacking = [answers.words(name) for name in listed(told.get(host), "packages")]
        hint = "Its package lists could not be updated (%s): run apt-get update there to see which source fails." % (
            (stale or "").rstrip(" :.")
        )
        tried = any(isinstance(result, dict) and not result.get("skipped") for result in installs)
        if lacking and tried:
            why = problem["words"] or "the package manager brought nothing"
            sentence = "%s: %s could not be installed: %s." % (host, ", ".join(map(str, lacking)), why.rstrip("."))
            failed[host] = [*failed.get(host, []), sentence + (" " + hint if stale else "")]
        elif stale:
            warnings.append("%s: %s Nothing is missing all the same." % (host, hint))
    return progress._replace(failed=failed), warnings


def note_removed(progress: Progress, told: Answers, nodes: dict[str, str]) -> Progress:
    """``progress`` with the tunnels that the hosts of ``told`` took down in the round that has just ended."""
    removed = {uuid: dict(item) for uuid, item in progress.removed.items()}
    for host, answer in told.items():
        for item in listed(answer, "removed"):
            if not isinstance(item, dict) or item.get("error"):
                continue
            try:
                uuid = validators.uuid(item.get("uuid"))
            except FieldError:
                continue
            name = answers.words(item.get("name") or None, 64) or "#%s" % answers.words(item.get("id"), 16)
            known = removed.setdefault(uuid, {"name": name, "nodes": []})
            known["nodes"] = list(dict.fromkeys([*known["nodes"], nodes[host]]))
    return progress._replace(removed=removed)


def summary(progress: Progress, read: dict[str, list[View]], check: bool) -> list[str]:
    """A line for each tunnel that the run has set up, changed or removed, or would have in check mode."""
    titles = {view["uuid"]: views.title(view) for its in read.values() for view in its}
    found: list[tuple[int, str, str]] = []  # in which order, the tunnel, the line
    would = "would be " if check else ""

    def line(sign: str, title: str, done: str, at: Iterable[str], words: str) -> None:
        found.append(("+~-".index(sign), title, "%s %s: %s%s %s%s" % (sign, title, would, done, ", ".join(at), words)))

    for uuid, at in progress.changes.items():
        title = titles.get(uuid) or uuid
        new = [node for node in at if node in progress.new.get(uuid, [])]
        if new:
            line("+", title, "set up on", new, "")
        alike: dict[tuple[str, ...], list[str]] = {}
        for node, did in at.items():
            if node not in new:
                alike.setdefault(tuple(did), []).append(node)
        for words, its in alike.items():
            line("~", title, "changed on", its, ": " + ", ".join(words))
    for item in progress.removed.values():
        line("-", item["name"], "removed from", item["nodes"], " (there is no record of it that ends there)")
    lines = [text for _order, _title, text in sorted(found)]
    left_out = len(lines) - SHOWN
    return [*lines[:SHOWN], "… and %d more changes" % left_out] if left_out > 0 else lines


def cut_off(
    entries: Iterable[Entry], progress: Progress, read: dict[str, list[View]], outdated: Collection[str] = ()
) -> dict[str, list[str]]:
    """``{host: sentences}`` about the tunnels that had a session before this run changed them, and carry nothing now.

    ``outdated``: uuids of those whose records were changed or removed on the panel while this run worked.
    Where the other end was not applied in this run, it may not know of the change yet, and its own run sets that right.
    """
    entries = list(entries)
    ends, quiet = joined(entries), {entry.uuid for entry in silent(entries)}
    alive = {entry.uuid for entry in entries if entry.status == "active" or entry.answered}
    titles = {view["uuid"]: views.title(view) for its in read.values() for view in its}
    found: dict[str, list[str]] = {}
    for uuid in progress.had_session:
        if uuid not in quiet - alive or len(ends.get(uuid, ())) < 2:
            continue
        words = "; ".join("on %s: %s" % (node, ", ".join(did)) for node, did in progress.changes.get(uuid, {}).items())
        sentence = (
            "tunnel %s had a session before this run changed it, and no ping passes through it now (changed %s). %s"
        ) % (titles.get(uuid, uuid), words, MEANWHILE if uuid in outdated else GO_BACK)
        for entry in entries:
            if entry.uuid == uuid and entry.node in progress.changes.get(uuid, {}):
                found.setdefault(entry.host, []).append(sentence)
    return found


def strict(
    results: Mapping[str, Any], statuses: Collection[str], broken: Iterable[Mapping[str, Any]], nodes: Mapping[str, str]
) -> dict[str, list[str]]:
    """``{host: sentences}`` about the tunnels that have one of these statuses. ``results``: answers, checked."""
    sentences = {}
    for ends in table.merge(results):
        status = table.status(ends)
        if status in statuses:
            name, where = table.row(ends)[:2]
            said = "; ".join([*table.notes(ends), *table.errors(ends)])
            sentences[ends[0]["uuid"]] = "tunnel %s (%s): %s%s" % (name, where, status, ": " + said if said else "")
    found: dict[str, list[str]] = {}
    for host, answer in results.items():
        for end in answer.get("tunnels") or []:
            if end["uuid"] in sentences:
                found.setdefault(host, []).append(sentences[end["uuid"]])
        if "broken" in statuses:
            its = [record["error"] for record in broken if (nodes.get(host) or host) in (record.get("nodes") or [])]
            found.setdefault(host, []).extend(its)
    return {host: list(dict.fromkeys(its)) for host, its in found.items() if its}


def merged(*found: dict[str, list[str]]) -> dict[str, list[str]]:
    """``{host: sentences}`` of all of them, each sentence once."""
    hosts = dict.fromkeys(host for part in found for host in part)
    return {host: list(dict.fromkeys(text for part in found for text in part.get(host, []))) for host in hosts}
