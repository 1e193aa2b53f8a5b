# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts have answered in a round, and what follows from it for the next one. Pure.

A run is a number of rounds. In each one, some hosts do something (apply, or wait for traffic); then the action
``tunnel_round`` decides (``_decide``), once for all hosts, by what this finds. A run that finds nothing to do is one
round.

Nothing that a host answers is trusted: an entry counts only for the host's own node, and one that can't be read is
left to the report, which says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Collection, Dict, Iterable, List, NamedTuple

from .._errors import FieldError
from . import answers, validators, views

if TYPE_CHECKING:
    from .shapes import Lost, Part, Public, View

#: Rounds in which public halves are published: keys are made, handed over or accepted, and switched to.
PUBLISH_ROUNDS = 3

Answers = Dict[str, Dict[str, Any]]  # host → its newest answer, unchecked


class Entry(NamedTuple):
    """One end, as far as decisions need it."""

    host: str
    uuid: str
    node: str
    role: str | None
    status: str | None
    refused: bool
    withheld: bool  # refused, and not in order to agree with its peer first
    waiting: bool
    needs_peer: bool
    public: Public | None  # only where the panel lacks it
    preshared: str | None  # fingerprint of the pre-shared key that it holds
    new: bool
    had_session: bool
    changes: List[str]
    error: str | None
    answered: bool  # a ping through it, also where its status is an error because large packets do not pass

    @property
    def new_key(self) -> bool:
        """Whether its private key was made, or the certificate that belongs to it: the other end has to learn of it."""
        return bool({"key made", "certificate made"} & {*self.changes})


class Progress(NamedTuple):
    """What a run has done so far; it is carried from round to round as plain JSON."""

    published: List[Dict[str, Any]]  # public halves that the panel was given, with uuid and node
    rounds: int  # in which something was published
    new_keys: Dict[str, List[str]]  # host → uuids of those whose key was made
    failed: Dict[str, List[str]]  # host → what could not be removed or installed
    lost: Dict[str, Lost]  # host → why it is not in the run any more
    changes: Dict[str, Dict[str, List[str]]]  # uuid → node → what was changed there
    new: Dict[str, List[str]]  # uuid → the nodes that did not have it before
    had_session: List[str]  # uuids of the tunnels that were changed while they had a session
    removed: Dict[str, Dict[str, Any]]  # uuid → its name and the nodes that it was removed from
    asked: Dict[str, List[str]]  # host → uuids of the orphans that the panel was asked about
    installed: bool
    waited: bool

    @classmethod
    def load(cls, raw: dict[str, Any] | None) -> Progress:
        """The one in the result of the round before, or that of a run that begins."""
        return cls(**raw) if raw else cls([], 0, {}, {}, {}, {}, {}, [], {}, {}, False, False)

    def dump(self) -> dict[str, Any]:
        """For the next round."""
        return dict(self._asdict())


def entry_of(host: str, node: str, raw: Any) -> Entry | None:
    """The entry in what ``host`` answered about one tunnel, or None where it can't be used."""
    try:
        validators.mapping(raw, "tunnel")
        uuid = validators.uuid(raw.get("uuid"))
    except FieldError:
        return None
    if raw.get("node") != node:
        return None
    changes = raw.get("changes") if isinstance(raw.get("changes"), list) else []
    changes = [word for word in (answers.words(change, 100) for change in changes or []) if word]
    return Entry(
        host=host,
        uuid=uuid,
        node=node,
        role=raw.get("role") if raw.get("role") in validators.ROLES else None,
        status=raw.get("status") if raw.get("status") in validators.STATUSES else None,
        refused=bool(raw.get("refused")),
        withheld=bool(raw.get("refused")) and not raw.get("public"),
        waiting=bool(raw.get("waiting_for")),
        needs_peer=bool(raw.get("needs_peer", raw.get("hand"))),
        public=raw.get("public") if raw.get("publish") and isinstance(raw.get("public"), dict) else None,
        preshared=_preshared(raw.get("public")),
        new=bool(raw.get("new")),
        had_session=bool(raw.get("had_session")),
        changes=changes,
        error=answers.words(raw.get("error")),
        answered=_answered(raw.get("measured")),
    )


def _answered(measured: Any) -> bool:
    loss = measured.get("loss_percent") if isinstance(measured, dict) else None
    return isinstance(loss, (int, float)) and loss < 100


def _preshared(public: Any) -> str | None:
    found = public.get("psk_fingerprint") if isinstance(public, dict) else None
    return found if isinstance(found, str) else None


def entries_of(told: Answers, nodes: dict[str, str]) -> list[Entry]:
    """The entries of all hosts. ``nodes``: ``{host: node name}``."""
    found = []
    for host, answer in told.items():
        for raw in listed(answer, "tunnels"):
            entry = entry_of(host, nodes[host], raw)
            if entry:
                found.append(entry)
    return found


def listed(answer: Any, key: str) -> list[Any]:
    """A list of a host's answer; empty where it has something else there, which the report names."""
    try:
        return answers.entries(answer, key)
    except FieldError:
        return []


def merge_health(answer: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """``answer`` of tunnel_apply with the status and the measurements that tunnel_health has just seen."""
    newer = {_uuid_of(entry): entry for entry in listed(seen, "tunnels") if _uuid_of(entry)}
    merged = [
        {**entry, **newer[_uuid_of(entry)]} if _uuid_of(entry) in newer else entry
        for entry in listed(answer, "tunnels")
    ]
    return {**answer, "tunnels": merged}


def note(progress: Progress, entries: Iterable[Entry], told: Answers) -> Progress:
    """``progress`` with what the hosts of ``told`` did in the round that has just ended."""
    new_keys = dict(progress.new_keys)
    changes, new = {uuid: dict(at) for uuid, at in progress.changes.items()}, dict(progress.new)
    had_session = list(progress.had_session)
    for entry in entries:
        if entry.host in told:
            if entry.new_key:
                new_keys[entry.host] = list(dict.fromkeys([*new_keys.get(entry.host, []), entry.uuid]))
            if entry.had_session and entry.uuid not in had_session:
                had_session.append(entry.uuid)
            if entry.changes and entry.new:
                new[entry.uuid] = list(dict.fromkeys([*new.get(entry.uuid, []), entry.node]))
            if entry.changes:
                at = changes.setdefault(entry.uuid, {})
                at[entry.node] = list(dict.fromkeys([*at.get(entry.node, []), *entry.changes]))
    failed = dict(progress.failed)
    for host, answer in told.items():
        errors = [
            answers.words(item["error"])
            for item in listed(answer, "removed")
            if isinstance(item, dict) and item.get("error")
        ]
        if errors:
            failed[host] = [*failed.get(host, []), *(error for error in errors if error)]
    return progress._replace(new_keys=new_keys, changes=changes, new=new, had_session=had_session, failed=failed)


def unasked(told: Answers, progress: Progress) -> dict[str, list[Any]]:
    """``{host: orphans}`` that the panel was not asked about in this run; what can't be read only in the first round.

    A tunnel that is deleted while a run goes on becomes one after the records are read again.
    """
    found = {}
    for host, answer in told.items():
        known = progress.asked.get(host, [])
        orphans = [orphan for orphan in listed(answer, "orphans") if _uuid_of(orphan) not in known]
        if progress.rounds:
            orphans = [orphan for orphan in orphans if _uuid_of(orphan)]
        if orphans:
            found[host] = orphans
    return found


def note_asked(progress: Progress, orphans: dict[str, list[Any]]) -> Progress:
    """``progress`` after the panel was asked about ``orphans`` (as ``unasked`` answers them)."""
    asked = dict(progress.asked)
    for host, its in orphans.items():
        asked[host] = [*asked.get(host, []), *(uuid for uuid in map(_uuid_of, its) if uuid)]
    return progress._replace(asked=asked)


def _uuid_of(entry: Any) -> str | None:
    uuid = entry.get("uuid") if isinstance(entry, dict) else None
    return uuid if isinstance(uuid, str) else None


def unpublished(entries: Iterable[Entry], progress: Progress) -> list[dict[str, Any]]:
    """The public halves that the records lack and that this run has not published yet."""
    keys = [{"uuid": entry.uuid, "node": entry.node, "public": entry.public} for entry in entries if entry.public]
    return [key for key in keys if key not in progress.published]


def paired(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """``{host: uuids}`` of the tunnels whose ends have to do something together, where both were applied."""
    entries = list(entries)
    roles: dict[str, set[str | None]] = {}
    for entry in entries:
        if not entry.withheld:  # or its peer would switch alone
            roles.setdefault(entry.uuid, set()).add(entry.role)
    needed = {
        entry.uuid for entry in entries if entry.needs_peer and {"source", "target"} <= roles.get(entry.uuid, set())
    }
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.uuid in needed:
            found.setdefault(entry.host, []).append(entry.uuid)
    return found


def agreed(entries: Iterable[Entry]) -> set[str]:
    """The uuids of the tunnels whose ends both use the same pre-shared key, whatever the panel knows of it by now."""
    held: dict[str, dict[str | None, str | None]] = {}
    for entry in entries:
        ready = not (entry.needs_peer or entry.refused)
        held.setdefault(entry.uuid, {})[entry.role] = entry.preshared if ready else None
    return {uuid for uuid, by in held.items() if by.get("source") and by.get("source") == by.get("target")}


def parts(
    before: dict[str, list[View]],
    now: dict[str, list[View]],
    removable: dict[str, list[str]],
    pairs: dict[str, list[str]],
    new_keys: dict[str, list[str]],
    known: Collection[str] = (),
) -> dict[str, Part]:
    """``{host: what it has to apply}`` for the hosts to which something is new.

    ``new_keys``: as in Progress. ``known``: the uuids of the tunnels to which the fingerprints of their pre-shared
    keys are not new.
    """
    made = {uuid for uuids in new_keys.values() for uuid in uuids}
    found: dict[str, Part] = {}
    for host, its in now.items():
        paired = pairs.get(host) or []
        part: Part = {
            "remove": removable.get(host) or [],
            "paired": paired,
            "new_keys": [uuid for uuid in paired if uuid in made],
        }
        news = _without_fingerprints(its, known) != _without_fingerprints(before.get(host) or [], known)
        if news or host not in before or part["remove"] or paired:
            found[host] = part
    return found


def _without_fingerprints(its: list[View], uuids: Collection[str]) -> list[Any]:
    """Views without the fingerprints of pre-shared keys, where they are of these tunnels."""
    return [_without_fingerprint(view) if view["uuid"] in uuids else view for view in its]


def _without_fingerprint(view: View) -> Any:
    sides = {}
    for name in ("local", "peer"):
        side = view[name]
        public = {key: value for key, value in (side["public"] or {}).items() if key != "psk_fingerprint"}
        sides[name] = dict(side, public=public)
    return dict(view, **sides)


def joined(entries: Iterable[Entry]) -> dict[str, set[str]]:
    """``{uuid: nodes}``: where this run has applied an end of a tunnel."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        if not entry.refused and not entry.waiting:
            found.setdefault(entry.uuid, set()).add(entry.node)
    return found


def silent(entries: Iterable[Entry]) -> list[Entry]:
    """The ends that should carry traffic, and through which no ping was answered."""
    return [
        entry
        for entry in entries
        if entry.status in ("connecting", "error") and not entry.refused and not entry.waiting
    ]


def unsettled(entries: Iterable[Entry], progress: Progress) -> dict[str, list[str]]:
    """``{host: uuids}`` of the tunnels that may come up by themselves within seconds: new ones, and changed ones.

    A change at one end counts for both: the other one saw the tunnel dead before it was repaired. Where the key was
    made in this run and the other end was not applied, that end can't know it: waiting is in vain.
    """
    entries = list(entries)
    ends = joined(entries)
    found: dict[str, list[str]] = {}
    for entry in silent(entries):
        if entry.status == "error" and entry.uuid not in progress.changes:
            continue
        if entry.uuid in progress.new_keys.get(entry.host, []) and not ends.get(entry.uuid, set()) - {entry.node}:
            continue
        found.setdefault(entry.host, []).append(entry.uuid)
    return found


def same_machines(told: Answers) -> list[list[str]]:
    """The hosts of a run that are one machine, in groups of two or more."""
    found: dict[str, list[str]] = {}
    for host, answer in told.items():
        machine = answer.get("machine")
        if isinstance(machine, str) and machine:
            found.setdefault(machine, []).append(host)
    return [hosts for hosts in found.values() if len(hosts) > 1]


def failures(
    told: Answers, entries: Iterable[Entry], progress: Progress, broken: Iterable[Any], nodes: dict[str, str]
) -> dict[str, list[str]]:
    """``{host: sentences}``: what could not be done there."""
    found: dict[str, list[str]] = {}
    for host, answer in told.items():
        sentences = ["%s: %s" % (host, answers.words(text)) for text in listed(answer, "unavailable")]
        sentences += [entry.error or "refused" for entry in entries if entry.host == host and entry.refused]
        sentences += progress.failed.get(host, [])
        sentences += [record["error"] for record in broken if nodes[host] in record["nodes"]]
        if sentences:
            found[host] = list(dict.fromkeys(sentences))
    return found


def without_traffic(entries: Iterable[Entry], read: dict[str, list[View]], wait: int) -> dict[str, list[str]]:
    """``{host: sentences}`` about the tunnels that have both ends in this run and carry no traffic.

    Where the other end was not in this run, a tunnel may still come up later; one that is an error has had its time.
    """
    entries = list(entries)
    ends = joined(entries)
    seen = {(host, view["uuid"]): view for host, its in read.items() for view in its}
    found: dict[str, list[str]] = {}
    for entry in silent(entries):
        view = seen.get((entry.host, entry.uuid))
        if entry.status == "error":
            sentence = entry.error or "no traffic"
        elif view and ends.get(entry.uuid, set()) - {entry.node}:
            sentence = _no_answer(view, wait)
        else:
            continue
        found.setdefault(entry.host, []).append(sentence)
    return found


def _no_answer(view: View, wait: int) -> str:
    local, peer = view["local"], view["peer"]
    return (
        "tunnel %s on %s: both ends were applied, and within %d s no ping to %s came back through %s: "
        "%s (%s), and %s (%s)?"
        % (
            *(views.title(view), local["node"], wait, peer["node"], view["interface"]),
            *(views.way_in(view, peer), peer["node"], views.way_in(view, local), local["node"]),
        )
    )
