# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the panel and the operator get to know about the ends, out of the hosts' answers. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from .._errors import FieldError
from . import answers, records, symptoms, table, validators, views
from .answers import words

if TYPE_CHECKING:
    from .shapes import Raw

_Results = Mapping[str, Any]  # {host: the checked part of its answer}


def checked_end(value: object, field: str, own: str | None) -> Raw:
    """One end of an answer: what the table and the panel need. A node may be compromised, so all of it is checked."""
    end = validators.mapping(value, field)
    measured = validators.measured(end.get("measured") or {}, field + ".measured")
    checked = {
        "uuid": validators.uuid(end.get("uuid"), field + ".uuid"),
        "id": validators.integer(end.get("id"), field + ".id", 1, 2**31 - 1),
        "name": None if end.get("name") is None else validators.tunnel_name(end["name"], field + ".name"),
        "version": validators.version(end.get("version"), field + ".version"),
        "type": validators.tunnel_type(end.get("type"), field + ".type"),
        "node": validators.node_name(end.get("node"), field + ".node"),
        "peer": validators.node_name(end.get("peer"), field + ".peer"),
        "role": None if end.get("role") is None else validators.choice(end["role"], field + ".role", validators.ROLES),
        "status": validators.choice(end.get("status"), field + ".status", validators.STATUSES),
        "error": words(end.get("error") or None),
        "symptom": symptoms.known(end.get("symptom")),
        "note": words(end.get("note") or None, 200),
        "refused": bool(end.get("refused")),
        "waiting_for": words(end.get("waiting_for") or None, 128),
        "measured": {key: value for key, value in measured.items() if value is not None},
    }
    if own is not None and checked["node"] != own:
        raise FieldError(field + ".node", checked["node"], "This host is the node %s, and speaks for that only." % own)
    return checked


def checked_orphan(value: object, field: str, own: str | None) -> Raw:
    """What an answer says about a tunnel that is on the host, but in none of its views."""
    orphan = validators.mapping(value, field)
    uuid = validators.uuid(orphan.get("uuid"), field + ".uuid")
    return dict(views.seen(orphan), uuid=uuid, node=validators.if_valid(validators.node_name, orphan.get("node")))


def checked_answer(answer: object, own: str | None) -> tuple[Raw, list[str]]:
    """``(answer, errors)``: what of a host's answer can be used, and a sentence for each part that can't."""
    checked: Raw = {}
    errors: list[str] = []
    parts: tuple[tuple[str, Callable[[object, str, str | None], Raw]], ...] = (
        ("tunnels", checked_end),
        ("orphans", checked_orphan),
    )
    for key, check in parts:
        checked[key] = []
        try:
            listed = answers.entries(answer, key)
        except FieldError as error:
            errors.append(str(error))
            continue
        for number, entry in enumerate(listed):
            try:
                checked[key].append(check(entry, "%s[%d]" % (key, number), own))
            except FieldError as error:
                # A tunnel that the node refused may lack what it can't tell; it says why.
                said = entry.get("error") if isinstance(entry, dict) else None
                errors.append(words(said or None) or str(error))
    return checked, errors


def checked_results(results: Mapping[str, object], nodes: Mapping[str, str] | None) -> tuple[dict[str, Raw], list[str]]:
    """``(results, problems)`` of all hosts. A node may be compromised: its answer can hold anything."""
    checked: dict[str, Raw] = {}
    problems: list[str] = []
    for host, answer in results.items():
        checked[host], errors = checked_answer(answer, None if nodes is None else nodes.get(host) or host)
        problems += ["%s: %s" % (host, error) for error in dict.fromkeys(errors)]
    return checked, problems


def reports_of(results: _Results) -> list[Raw]:
    """The body of the panel's call."""
    return [
        dict(
            {key: end[key] for key in ("uuid", "node", "version", "status", "error", "symptom")},
            measured=end["measured"],
        )
        for ends in table.merge(results)
        for end in ends
    ]


def ids(results: _Results, all_of_them: bool) -> list[int]:
    """The ids of the tunnels, or of those in error or connecting, sorted."""
    found = (
        ends[0]["id"] for ends in table.merge(results) if all_of_them or table.status(ends) in table.WITHOUT_TRAFFIC
    )
    return sorted({number for number in found if number is not None})


def status_ages(results: _Results, raws: Sequence[object], moment: datetime) -> dict[str, float]:
    """``{uuid: seconds}`` for which tunnels have had their status. ``raws``: tunnels as the panel has them now.

    Only where this run has measured the same status that the panel has: else the panel's moment is that of another one.
    """
    told = {raw.get("uuid"): raw for raw in raws if isinstance(raw, dict) and isinstance(raw.get("uuid"), str)}
    ages: dict[str, float] = {}
    for ends in table.merge(results):
        uuid = str(ends[0]["uuid"])
        raw = told.get(uuid)
        if raw is not None and raw.get("status") == table.status(ends):
            age = records.status_age(raw, moment)
            if age is not None:
                ages[uuid] = age
    return ages
