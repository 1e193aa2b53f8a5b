# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The panel's calls, by what they are about. Nothing that it answers is checked here beyond its shape."""

from __future__ import annotations

from .._model import answers, validators
from . import api
from .transport import TUNNELS_PATH, Transport, readable

PAGE = 1000  # tunnels asked for at once: the most that the panel gives
REREADS = 5  # how often a list that changes while it is read is begun anew
# What differs between panels is here and in _nodes_of.
NODES_PATH = "/api/nodes"
NODE_PATH = "/api/node"


def _nodes_of(data):
    """The list of nodes in the panel's answer: Marzban gives it bare."""
    return data


def _is_id(value):
    return isinstance(value, int) and not isinstance(value, bool)


class Panel(Transport):
    """One panel; options as Transport."""

    # Nodes

    def nodes(self):
        """All nodes as the panel has them, unchecked: a list of dicts."""
        nodes = _nodes_of(self.ask("GET", NODES_PATH))
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise self.bad("GET", NODES_PATH, "with something that is no list of nodes")
        return nodes

    def create_node(self, body):
        """The new node."""
        return self.object("POST", NODE_PATH, body=body)

    def update_node(self, number, body):
        """The node as it is now."""
        return self.object("PUT", "%s/%d" % (NODE_PATH, number), body=body, again=True)

    def delete_node(self, number):
        self.delete("%s/%d" % (NODE_PATH, number))

    # Tunnels

    def tunnels(self):
        """All tunnels as the panel has them, unchecked: a list of dicts, ordered by id.

        A page may not lose what moved while the pages were read: each one begins with the last tunnel of the one
        before. If that one isn't there, something before it was deleted, and the reading begins anew.
        """
        for _reread in range(REREADS):
            found = []
            while True:
                overlap = 1 if found else 0
                page = self._page(len(found) - overlap)
                if overlap and (not page or page[0]["id"] != found[-1]["id"]):
                    break
                found += page[overlap:]
                if any(one["id"] >= after["id"] for one, after in zip(found, found[1:])):
                    raise self.bad("GET", TUNNELS_PATH, "with tunnels that are not in the order of their ids")
                if len(page) < PAGE:
                    return found
        raise self.bad("GET", TUNNELS_PATH, "with another list each time: %d readings did not agree" % REREADS)

    def _page(self, skip):
        page = self.ask("GET", TUNNELS_PATH, params={"skip": skip, "limit": PAGE})
        good = isinstance(page, list) and len(page) <= PAGE
        if not good or not all(isinstance(one, dict) and _is_id(one.get("id")) for one in page):
            raise self.bad("GET", TUNNELS_PATH, "with something that is no page of tunnels")
        return page

    def tunnel(self, number):
        """One tunnel, unchecked. Raises PanelError of the kind ``not_found`` only when the panel itself says so."""
        return self.object("GET", "%s/%d" % (TUNNELS_PATH, number))

    def create_tunnel(self, body):
        """The new tunnel."""
        return self.object("POST", TUNNELS_PATH, body=body)

    def update_tunnel(self, number, body, version):
        """The tunnel as it is now; refused (``outdated``) unless the panel's version is ``version``."""
        return self.object("PUT", "%s/%d" % (TUNNELS_PATH, number), body=body, version=version)

    def delete_tunnel(self, number, version):
        """Refused (``outdated``) unless the panel's version is ``version``."""
        self.delete("%s/%d" % (TUNNELS_PATH, number), version=version)

    def post_keys(self, keys):
        """``(updated, rejected)`` as ``_post_all``; ``keys`` is a list of ``{"uuid", "node", "public"}``."""
        return self._post_all("/keys", "keys", keys)

    def post_status(self, reports):
        """``(updated, rejected)`` as ``_post_all``; ``reports`` as in docs/contract.md.

        A panel of version 1 gets the measurements that it knows. The others are left out with a warning.
        """
        unknown = api.unknown_in_1(reports)
        if unknown and self._version() == 1:
            self._warn(
                "The panel at %s has version 1 of the tunnels API and does not know %s: left out of the reports. "
                "Update the panel: run the playbook marzban.tunnels.panel." % (self.url, ", ".join(unknown))
            )
            reports = api.reports_for_1(reports)
        return self._post_all("/status", "reports", reports)

    def _version(self):
        """The version of the panel's tunnels API, which is asked for where no answer has told it yet."""
        if self.api is None:
            self.ask("GET", TUNNELS_PATH, params={"limit": 1})
        return self.api

    def _post_all(self, path, key, items):
        """How many of ``items`` the panel took, and what it refused: a list of ``{"uuid"?, "node"?, "detail"}``."""
        answer = self.object("POST", TUNNELS_PATH + path, body={key: items}, again=True)
        updated = validators.integer(answer.get("updated"), "updated", 0, len(items))
        listed = answer.get("rejected")
        refused = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        named = [{name: answers.words(one.get(name), 128) for name in ("uuid", "node")} for one in refused]
        return updated, [dict(one, detail=readable(raw.get("detail"))) for one, raw in zip(named, refused)]
