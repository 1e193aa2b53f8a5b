# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the panel and the operator are told of the ends, out of what the hosts have answered. Pure."""

from __future__ import annotations

from .._errors import FieldError
from . import answers, table, validators, views
from .answers import words


def checked_end(end, field, own):
    """One end of an answer, as far as the table and the panel want it. A node may be compromised: all is checked."""
    validators.mapping(end, field)
    measured = validators.measured(end.get("measured") or {}, field + ".measured")
    checked = {
        "uuid": validators.uuid(end.get("uuid"), field + ".uuid"),
        "id": validators.integer(end.get("id"), field + ".id", 1, 2**31 - 1),
        "name": None if end.get("name") is None else validators.tunnel_name(end["name"], field + ".name"),
        "version": validators.integer(end.get("version"), field + ".version", 0, 2**63 - 1),
        "type": validators.tunnel_type(end.get("type"), field + ".type"),
        "node": validators.node_name(end.get("node"), field + ".node"),
        "peer": validators.node_name(end.get("peer"), field + ".peer"),
        "role": None if end.get("role") is None else validators.choice(end["role"], field + ".role", validators.ROLES),
        "status": validators.choice(end.get("status"), field + ".status", validators.STATUSES),
        "error": words(end.get("error") or None),
        "waiting_for": words(end.get("waiting_for") or None, 128),
        "measured": {key: value for key, value in measured.items() if value is not None},
    }
    if own is not None and checked["node"] != own:
        raise FieldError(field + ".node", checked["node"], "This host is the node %s, and speaks for that only." % own)
    return checked


def checked_orphan(orphan, field, own):
    """What is told of a tunnel that is on a host and in no view."""
    validators.mapping(orphan, field)
    return dict(views.seen(orphan), uuid=validators.uuid(orphan.get("uuid"), field + ".uuid"))


def checked_answer(answer, own):
    """``(answer, errors)``: what of a host's answer can be used, and a sentence for each part that can't."""
    checked, errors = {}, []
    for key, check in (("tunnels", checked_end), ("orphans", checked_orphan)):
        checked[key] = []
        try:
            listed = answers.entries(answer, key)
        except FieldError as error:
            errors.append(str(error))
            continue
        for number, one in enumerate(listed):
            try:
                checked[key].append(check(one, "%s[%d]" % (key, number), own))
            except FieldError as error:
                # A tunnel that the node refused may lack what it can't tell; it says why.
                said = one.get("error") if isinstance(one, dict) else None
                errors.append(words(said) if said else str(error))
    return checked, errors


def checked_results(results, nodes):
    """``(results, problems)`` of all hosts. A node may be compromised: its answer can hold anything."""
    checked, problems = {}, []
    for host, answer in results.items():
        checked[host], errors = checked_answer(answer, None if nodes is None else nodes.get(host) or host)
        problems += ["%s: %s" % (host, error) for error in dict.fromkeys(errors)]
    return checked, problems


def reports_of(results):
    """The body of the panel's call."""
    return [
        dict({key: end[key] for key in ("uuid", "node", "version", "status", "error")}, measured=end["measured"])
        for ends in table.merge(results)
        for end in ends
    ]
