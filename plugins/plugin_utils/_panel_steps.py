# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run does with the panel, once for all its hosts: read the records, publish public halves, report."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, NamedTuple

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import (
    Error,
    FieldError,
    PanelError,
    not_none,
    printable,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._model import (
    handwritten,
    next_key,
    publishing,
    records,
    reports,
    summary,
    table,
    validators,
    views,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Lost
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import api
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel


class Orphan(NamedTuple):
    """A tunnel that is on a host, and in none of its views. ``node``: whose end it was made for, as its folder says."""

    id: int
    uuid: str
    node: str | None


Orphans = Dict[str, List[Orphan]]


class Source(NamedTuple):
    """Where the records of a run are from: a panel, or a hand-written list of the name ``list_name``."""

    panel: Panel | None
    listed: list[Any] | None
    list_name: str
    post_quantum: str


class Read(NamedTuple):
    """The records of one moment, as the hosts of a run see them. ``confirmed_deleted``: {host: uuids}."""

    panel: str
    views: dict[str, list[Any]]
    confirmed_deleted: dict[str, list[str]]
    broken: list[Any]
    list_digest: str | None


# Reading


def read(
    source: Source,
    nodes: dict[str, str],
    orphans: dict[str, Any],
    published: dict[str, Any],
    warn: Callable[[str], None],
) -> Read:
    """``nodes``: {host: node name}. ``orphans``, ``published``: what the hosts reported, which can be anything."""
    found, problems = orphans_of(orphans)
    digest = None
    if source.panel is None:
        place = handwritten.panel_id(source.list_name)
        good, broken = handwritten.from_list(source.listed, source.list_name)
        good, more = with_published(good, published, nodes)
        problems += more
        digest = digest_of(source.listed)
    else:
        good, broken = records.parse_all(source.panel.tunnels())
        place = source.panel.id
    for problem in problems:
        warn("Left out: %s" % problem)
    seen = views.views(good, nodes, place, source.post_quantum)
    names: list[set[Any]] = []  # of the panel's nodes, asked for once, and only where they are needed

    def known(node: str) -> bool:
        if not names:
            panel = not_none(source.panel, "only a panel is asked")
            names.append({entry.get("name") for entry in panel.nodes()})
        return node in names[0]

    listed = {(record["uuid"], end["node"]) for record in good for end in record["ends"].values()}
    deleted = {}
    for host, its in found.items():
        # What is in the host's view is not an orphan, whatever the host says. What the list has at the orphan's node is
        # not one either: one machine may have two names, and each name's run finds the other's tunnels.
        wanted = {view["uuid"] for view in seen.get(host, [])}
        deleted[host] = [
            orphan.uuid
            for orphan in its
            if orphan.uuid not in wanted
            and (orphan.uuid, orphan.node) not in listed
            and (is_confirmed_deleted(source.panel, orphan, known) if source.panel else is_out(good, broken, orphan))
        ]
    return Read(place, seen, deleted, broken, digest)


def orphans_of(listed: dict[str, Any]) -> tuple[Orphans, list[str]]:
    """``({host: [(id, uuid)]}, problems)``. A node may be compromised: it spoils its own part only."""
    checked: Orphans = {}
    problems = []
    for host, orphans in listed.items():
        field = "orphans[%s]" % host
        checked[host] = []
        for orphan in orphans if isinstance(orphans, list) else [orphans]:
            try:
                validators.mapping(orphan, field)
                number = validators.integer(orphan.get("id"), field + ".id", 1, records.MAX_ID)
                uuid, node = validators.uuid(orphan.get("uuid"), field + ".uuid"), orphan.get("node")
                node = None if node is None else validators.node_name(node, field + ".node")
                checked[host].append(Orphan(number, uuid, node))
            except FieldError as error:
                problems.append(str(error))
    return checked, problems


def with_published(good: list[Any], published: dict[str, Any], nodes: dict[str, str]) -> tuple[list[Any], list[str]]:
    """``(records, problems)`` with the public halves that the hosts made, each host by itself for the same reason."""
    problems = []
    for host, keys in published.items():
        try:
            good = views.publish(good, {host: keys}, nodes)
        except FieldError as error:
            problems.append(str(error))
    return good, problems


def digest_of(listed: Any) -> str:
    """Of a hand-written list: two hosts have the same one, or a run would take the tunnels of the one off the other."""
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode("utf-8")).hexdigest()


def is_confirmed_deleted(panel: Panel, orphan: Orphan, known: Callable[[str], bool]) -> bool:
    """Whether the panel says that this tunnel is not there, or does not end at its node. In doubt it is not deleted.

    The node is the one in the orphan's folder, not that of the host that asks: one machine may be in the inventory
    under two names.
    """
    try:
        raw = panel.tunnel(orphan.id)
    except PanelError as error:
        if error.kind == "not_found":
            return True
        raise
    if raw.get("uuid") != orphan.uuid:
        # Its id belongs to another tunnel now: that is a "not found" too, if the answer is sane.
        try:
            return bool(validators.uuid(raw.get("uuid")) != orphan.uuid)
        except FieldError:
            return False
    if orphan.node is None:
        return False
    try:
        elsewhere = views.role_of(records.parse(raw), orphan.node) is None
    except FieldError:
        return False
    # Where the panel knows no node of this name, the node got another one, and its tunnels are still its own.
    return elsewhere and known(orphan.node)


def is_out(good: list[Any], broken: list[Any], orphan: Orphan) -> bool:
    """The same for a hand-written list. An empty one, or one that holds a tunnel without a name, proves nothing."""
    if not good or any(record["uuid"] is None or record["uuid"] == orphan.uuid for record in broken):
        return False
    found = [record for record in good if record["uuid"] == orphan.uuid]
    return not found or (orphan.node is not None and all(views.role_of(r, orphan.node) is None for r in found))


# Publishing

OUTDATED = (
    "The panel at %s does not know the next key of a tunnel, so its ends can't agree on it: what runs goes on with the "
    "former key. Update the panel: run the playbook marzban.tunnels.panel."
)


class Published(NamedTuple):
    """What the panel was told: how many it took, those sent, what they replace, and what was not taken."""

    updated: int
    keys: list[Any]
    before: list[Any]
    rejected: list[Any]

    @property
    def diff(self) -> dict[str, Any]:
        """As Ansible shows it."""
        return {"before": {"keys": self.before}, "after": {"keys": self.keys}}


def publish(panel: Panel, keys: list[Any], rejected: list[Any], check: bool, warn: Callable[[str], None]) -> Published:
    """Gives the panel those of ``keys`` (``{"uuid", "node", "public"}``, unchecked) that it lacks."""
    news, before, outdated = [], [], False
    ends = publishing.ends_of(records.parse_all(panel.tunnels())[0]) if keys else {}
    for key in keys:
        try:
            uuid = validators.uuid(key["uuid"])
            node = validators.node_name(key["node"], "node")
            if (uuid, node) not in ends:
                raise FieldError("uuid", uuid, "The panel has no such tunnel that ends at %s and is in order." % node)
            kind, known = ends[uuid, node]
            public = validators.public_half(key["public"], "public", kind)
            if public != next_key.without(public) and not panel.knows_next_keys():
                public, outdated = next_key.without(public), True
        except FieldError as error:
            rejected.append(publishing.refusal(key, error))
            continue
        if public != known:
            news.append({"uuid": uuid, "node": node, "public": public})
            before.append({"uuid": uuid, "node": node, "public": known})
    if outdated:
        warn(OUTDATED % panel.url)
    updated = len(news)
    if news and not check:
        updated, refused = panel.post_keys(news)
        rejected += refused
    for key in rejected:
        warn("Not published for %s: %s" % (key["node"], key["detail"]))
    return Published(updated, news, before, rejected)


# Reporting

ASKED_ONE_BY_ONE = 5  # tunnels; for more of them the list is read


class Told(NamedTuple):
    """What a run knows at its end. ``results``: ``{host: answer}``, unchecked; ``lost``: the hosts without one.

    ``done``: lines about what was changed; ``asked``: the uuids of the orphans that the panel was asked about, by host
    (None: it is not known); ``strict``: the statuses of a tunnel that are a failure; ``views``: by host, as read.
    """

    results: dict[str, Any]
    nodes: dict[str, str] | None
    lost: dict[str, Lost]
    broken: list[Any]
    columns: dict[str, Any]
    done: list[str] = []
    asked: dict[str, list[str]] | None = None
    strict: list[str] = []
    views: dict[str, list[Any]] = {}


class Reported(NamedTuple):
    """What the operator reads, and what the panel took. ``error``: why the panel could not be told.

    ``strict``: by host, the sentences about tunnels with a status that is a failure. ``lines``: the problems as they
    are printed.
    """

    table: list[str]
    problems: list[str]
    reported: int
    rejected: list[Any]
    error: Error | None
    strict: dict[str, list[str]]
    lines: list[str]


def status_now(panel: Panel, checked: dict[str, Any], wide: bool) -> list[Any]:
    """What the panel has, unchecked, of the tunnels without traffic, or of all of them: it knows since when that is
    so. Empty where it can't say, or where there is no such tunnel."""
    ids = reports.ids(checked, wide)
    if not ids or (panel.api or 1) < api.HISTORY:
        return []
    try:
        return panel.tunnels() if len(ids) > ASKED_ONE_BY_ONE else [panel.tunnel(number) for number in ids]
    except Error:
        return []  # one was just deleted, or the panel is busy: the table is more important


def report(panel: Panel | None, told: Told, wide: bool = False) -> Reported:
    """Makes the table (``wide``: with all its columns), and tells the panel where there is one."""
    checked, problems = reports.checked_results(told.results, told.nodes)
    broken = [dict(record, error=printable(str(record.get("error") or "broken"))) for record in told.broken]
    named = ((name, validators.mapping(texts, "columns.%s" % name)) for name, texts in told.columns.items())
    columns = {printable(name, 32): texts for name, texts in named}
    bodies = reports.reports_of(checked)
    reported, rejected, failure = 0, [], None
    known: list[Any] = []
    if panel and bodies:
        try:
            reported, rejected = panel.post_status(bodies)
            known = status_now(panel, checked, wide)
        except Error as error:
            failure = error
    ages = reports.status_ages(checked, known, datetime.now(timezone.utc).replace(tzinfo=None))
    lines, found = table.report(checked, told.lost, broken, told.nodes, columns, told.asked, wide, told.views, ages)
    problems = found + problems
    for refused in rejected:
        problems.append("The panel did not take the report of {node} about {uuid}: {detail}".format(**refused))
    strict = summary.strict(checked, told.strict, broken, told.nodes or {})
    printed = list(table.guided(problems, checked, told.lost, told.nodes))
    return Reported(lines, problems, reported, rejected, failure, strict, printed)
