# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The panel's calls, by what they are about. Nothing that it answers is checked here beyond its shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from .._errors import PanelError
from .._model import answers, validators
from . import api
from .transport import TUNNELS_PATH, Transport, readable

if TYPE_CHECKING:
    from .._model.shapes import Raw, Rejected

PAGE = 1000  # tunnels per request: a panel gives at most so many
LARGE_PAGE = 2000  # likewise, a panel of version 3 or later
CREATES = 100  # tunnels that a panel creates in one request, at most
CREATES_TIME = 0.2  # seconds that a slow panel needs for each: a request has to be answered within the timeout
CREATES_SIZE = 700_000  # bytes of such a request: nginx before a panel refuses 1 MiB, unless it is told otherwise
AT_ONCE = 1000  # ends in one request: a panel writes nothing else meanwhile, and 20,000 took it 4 to 9 seconds
REREADS = 5  # attempts to read a list that changes meanwhile
# What differs between panels is here and in _nodes_of.
NODES_PATH = "/api/nodes"
NODE_PATH = "/api/node"
# Refusals that concern one record, and not the others of a call
ITS_OWN = ("conflict", "full", "invalid", "not_found", "outdated")


def _nodes_of(data: Any) -> Any:
    """The list of nodes in the panel's answer: Marzban answers with the list itself."""
    return data


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Panel(Transport):
    """One panel; options as Transport."""

    # Nodes

    def nodes(self) -> list[Raw]:
        """All nodes as the panel has them, unchecked: a list of dicts."""
        nodes = _nodes_of(self.ask("GET", NODES_PATH))
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise self.bad("GET", NODES_PATH, "with something that is not a list of nodes")
        return nodes

    def create_node(self, body: Raw) -> Raw:
        """The new node."""
        return self.ask_object("POST", NODE_PATH, body=body)

    def update_node(self, node_id: int, body: Raw) -> Raw:
        """The node as it is now."""
        return self.ask_object("PUT", "%s/%d" % (NODE_PATH, node_id), body=body, again=True)

    def delete_node(self, node_id: int) -> None:
        """Also where it does not exist any more."""
        self.delete("%s/%d" % (NODE_PATH, node_id))

    # The nodes' services

    def node_access(self, names: list[str], check: bool = False) -> Raw:
        """With ``check`` the panel stores nothing.

        ``{"manager": {"state", "detail"}, "nodes": [dict], "rejected": [dict]}``, what is inside unchecked."""
        self._need_node_services()
        path = TUNNELS_PATH + "/nodes/access"
        answer = self.ask_object("POST", path, body={"nodes": names, **({"check": True} if check else {})}, again=True)
        manager = answer.get("manager")
        found = {name: answer.get(name) for name in ("nodes", "rejected")}
        listed = all(isinstance(items, list) and all(isinstance(i, dict) for i in items) for items in found.values())
        if not listed or not isinstance(manager, dict):
            raise self.bad("POST", path, "with something that is not about nodes")
        told = {"state": answers.words(manager.get("state"), 32), "detail": None}
        if manager.get("detail") is not None:
            told["detail"] = readable(manager["detail"])
        return {"manager": told, **found}

    def node_services(self) -> list[Raw]:
        """Each node's service as the panel has it, unchecked: a list of dicts."""
        self._need_node_services()
        path = TUNNELS_PATH + "/nodes"
        listed = self.ask_object("GET", path).get("nodes")
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise self.bad("GET", path, "with something that is not a list of nodes")
        return listed

    def put_node_services(self, services: list[Raw]) -> tuple[int, list[Raw]]:
        """``(updated, rejected)``; ``services`` are ``{"node", "uuid", "port", "pin"}``."""
        self._need_node_services()
        answer = self.ask_object("PUT", TUNNELS_PATH + "/nodes", body={"nodes": services}, again=True)
        updated = validators.integer(answer.get("updated"), "updated", 0, len(services))
        listed = answer.get("rejected")
        refused = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return updated, [
            {"node": answers.words(item.get("node"), 128), "detail": readable(item.get("detail"))} for item in refused
        ]

    def _need_node_services(self) -> None:
        version = self._version() or 1
        if version < api.NODE_SERVICES:
            seen = "The panel at %s has version %d of the tunnels API, which does not know the nodes' services."
            raise PanelError("old_panel", seen % (self.url, version))

    # Tunnels

    def tunnels(self) -> list[Raw]:
        """All tunnels as the panel has them, unchecked: a list of dicts, ordered by id.

        A tunnel must not be missed because others were deleted between two pages: each page begins with the last
        tunnel of the page before. If that tunnel isn't there, the reading starts again.
        """
        for _reread in range(REREADS):
            found: list[Raw] = []
            while True:
                overlap = 1 if found else 0
                limit = LARGE_PAGE if (self.api or 1) >= api.LARGE_PAGES else PAGE
                page = self._page(len(found) - overlap, limit)
                if overlap and (not page or page[0]["id"] != found[-1]["id"]):
                    break
                found += page[overlap:]
                if any(tunnel["id"] >= after["id"] for tunnel, after in zip(found, found[1:])):
                    raise self.bad("GET", TUNNELS_PATH, "with tunnels that are not in the order of their ids")
                if len(page) < limit:
                    return found
        raise self.bad("GET", TUNNELS_PATH, "with another list each time: %d readings did not agree" % REREADS)

    def _page(self, skip: int, limit: int) -> list[Raw]:
        page = self.ask("GET", TUNNELS_PATH, params={"skip": skip, "limit": limit})
        if (
            not isinstance(page, list)
            or len(page) > limit
            or not all(isinstance(tunnel, dict) and _is_id(tunnel.get("id")) for tunnel in page)
        ):
            raise self.bad("GET", TUNNELS_PATH, "with something that is not a page of tunnels")
        return page

    def tunnel(self, tunnel_id: int) -> Raw:
        """One tunnel, unchecked. Raises PanelError of the kind ``not_found`` only when the panel itself says so."""
        return self.ask_object("GET", "%s/%d" % (TUNNELS_PATH, tunnel_id))

    def create_tunnel(self, body: Raw) -> Raw:
        """The new tunnel."""
        return self.ask_object("POST", TUNNELS_PATH, body=body)

    def check_known(self, body: Raw) -> None:
        """Refuses (``old_panel``) what this panel's version does not know of a tunnel; ``body`` has its config as a
        dict. Sends no write."""
        if api.unknown_in(0, body):  # there is something that some version does not know
            version = self._version() or 1
            unknown = api.unknown_in(version, body)
            if unknown:
                seen = "The panel at %s has version %d of the tunnels API, which does not know %s."
                raise PanelError("old_panel", seen % (self.url, version, ", ".join(unknown)))

    def batches(self, bodies: Sequence[Raw]) -> Iterator[Sequence[Raw]]:
        """``bodies`` of new tunnels in their order, as ``create_tunnels`` takes them: one by one for an older panel."""
        start, size = 0, 0
        most = min(CREATES, int(self._timeout / CREATES_TIME)) if (self._version() or 1) >= api.BULK else 1
        for place, body in enumerate(bodies):
            length = len(json.dumps(body))
            if place > start and (place - start == most or size + length > CREATES_SIZE):
                yield bodies[start:place]
                start, size = place, 0
            size += length
        if bodies:
            yield bodies[start:]

    def create_tunnels(self, bodies: Sequence[Raw]) -> list[Raw | PanelError]:
        """Each new tunnel, or why the panel refused it, in one request. ``bodies`` is one of ``batches``.

        Raises the PanelError that concerns all of them; when there was no answer, some may have been created.
        """
        if len(bodies) == 1:
            try:
                return [self.create_tunnel(bodies[0])]
            except PanelError as error:
                if error.kind not in ITS_OWN:
                    raise
                return [error]
        path = TUNNELS_PATH + "/bulk"
        answer = self.ask_object("POST", path, body={"tunnels": bodies})
        tunnels, rejected = (answer.get(key) for key in ("tunnels", "rejected"))
        found: list[tuple[int, Raw | PanelError]] = []
        if isinstance(tunnels, list) and isinstance(rejected, list):
            found += [(place, tunnel) for place, tunnel in enumerate(tunnels) if isinstance(tunnel, dict)]
            for item in rejected:
                if isinstance(item, dict) and _is_id(item.get("index")) and _is_id(item.get("status")):
                    found.append((item["index"], self.refusal("POST", path, item["status"], item.get("detail"))))
        found.sort(key=lambda pair: pair[0])
        if [place for place, _answer in found] != list(range(len(bodies))):
            raise self.bad("POST", path, "with something that is not an answer for each of %d tunnels" % len(bodies))
        return [answer for _place, answer in found]

    def update_tunnel(self, tunnel_id: int, body: Raw, version: int) -> Raw:
        """The tunnel as it is now; refused (``outdated``) unless the panel's version is ``version``."""
        return self.ask_object("PUT", "%s/%d" % (TUNNELS_PATH, tunnel_id), body=body, version=version)

    def delete_tunnel(self, tunnel_id: int, version: int) -> None:
        """Refused (``outdated``) unless the panel's version is ``version``."""
        self.delete("%s/%d" % (TUNNELS_PATH, tunnel_id), version=version)

    def post_keys(self, keys: Sequence[Mapping[str, Any]]) -> tuple[int, list[Rejected]]:
        """``(updated, rejected)`` as ``_post_all``; ``keys`` are ``{"uuid", "node", "public"}``."""
        return self._post_all("/keys", "keys", keys)

    def knows_next_keys(self) -> bool:
        """Whether the panel takes public halves with a next key, and with the peer's that is accepted."""
        return (self._version() or 1) >= api.NEXT_KEYS

    def refuses_alike_names(self) -> bool:
        """Whether it refuses a new name that looks like another tunnel's."""
        return (self._version() or 1) >= api.ALIKE_NAMES

    def post_status(self, reports: Sequence[Mapping[str, Any]]) -> tuple[int, list[Rejected]]:
        """``(updated, rejected)`` as ``_post_all``; ``reports`` are Reports, maybe with measurements of later versions.

        A panel of version 1 gets the measurements that it knows. The others are left out with a warning.
        Symptoms are for a page that links by them: where the panel does not know them, nothing is missing.
        """
        if any("symptom" in report for report in reports) and (self._version() or 1) < api.SYMPTOMS:
            reports = api.without_symptoms(reports)
        unknown = api.unknown_in_1(reports)
        if unknown and self._version() == 1:
            self._warn(
                "The panel at %s has version 1 of the tunnels API and does not know %s: left out of the reports. "
                "Update the panel: run the playbook marzban.tunnels.panel." % (self.url, ", ".join(unknown))
            )
            reports = api.reports_for_1(reports)
        return self._post_all("/status", "reports", reports)

    def _version(self) -> int | None:
        """The version of the panel's tunnels API. Asks for it, unless an answer has had it already."""
        if self.api is None:
            self.ask("GET", TUNNELS_PATH, params={"limit": 1})
        return self.api

    def _post_all(self, path: str, key: str, items: Sequence[Any]) -> tuple[int, list[Rejected]]:
        """How many of ``items`` the panel took, and what it refused."""
        taken = 0
        rejected: list[Rejected] = []
        for start in range(0, max(len(items), 1), AT_ONCE):
            some, refused = self._post_some(path, key, items[start : start + AT_ONCE])
            taken += some
            rejected += refused
        return taken, rejected

    def _post_some(self, path: str, key: str, items: Sequence[Any]) -> tuple[int, list[Rejected]]:
        answer = self.ask_object("POST", TUNNELS_PATH + path, body={key: items}, again=True)
        updated = validators.integer(answer.get("updated"), "updated", 0, len(items))
        listed = answer.get("rejected")
        refused = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return updated, [
            {
                "uuid": answers.words(item.get("uuid"), 128),
                "node": answers.words(item.get("node"), 128),
                "detail": readable(item.get("detail")),
            }
            for item in refused
        ]
