# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Begins a run, and decides after each of its rounds what comes next: once for all hosts, on the controller."""

from __future__ import annotations

from typing import Any, Mapping

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import printable
from ansible_collections.marzban.tunnels.plugins.module_utils._model import rounds, summary
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Part, RoundAnswer
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import STRICT, ControllerAction

SAME_MACHINE = (
    "These hosts are one machine (they have the same machine id and the same boot id): %s. Their tunnels share its "
    "ports, routes and interfaces. Give each machine one node."
)


class ActionModule(ControllerAction):
    """The action of ``tunnel_round``."""

    SPEC = {
        "answers": {"type": "str"},
        "previous": {"type": "str", "default": "tunnels_round"},
        "records": {"type": "raw"},
        "list_name": {"type": "str", "default": "local"},
        "post_quantum": {"type": "str", "choices": ["auto", "require", "off"], "default": "auto"},
        "wait": {"type": "int", "default": 15},
        "strict": STRICT,
        "unreachable": {"type": "str"},
        "installed": {"type": "list", "elements": "str", "default": ["tunnels_lists", "tunnels_apt", "tunnels_dnf"]},
    }

    def work(self) -> dict[str, Any]:
        """The result: what comes next (``step``, ``parts``), and what the round after it has to know."""
        if self.options["unreachable"] is not None:
            return {"unreachable": True, "msg": self.options["unreachable"]}
        if self.options["answers"] is None:
            return self._begin()
        before = self.variables.get(self.options["previous"]) or {}
        self.nodes_of = before["nodes"]
        self.views, self.broken = before["views"], before["broken"]
        self.place, self.list_digest = before["panel"], before["list_digest"]
        self.addresses = before.get("panel_addresses") or []
        self.progress = rounds.Progress.load(before["progress"])
        self._hear(before)
        return self._decide()

    def _begin(self) -> dict[str, Any]:
        self.nodes_of, self.answers, self.unreached_now = self.nodes(), {}, []
        self.progress = rounds.Progress.load(None)
        self._read({}, {})
        self.addresses = self.panel_addresses()
        return self._next("apply", {host: {"remove": [], "paired": [], "new_keys": []} for host in self.views})

    def _hear(self, before: dict[str, Any]) -> None:
        """Takes what the hosts have answered in the round that has just ended."""
        told = self.answers_of(self.options["answers"])
        self.unreached_now = self.unreached(self.options["answers"])
        self.answers = {host: answer for host, answer in before["answers"].items() if host in self.batch}
        if before["step"] == "wait":
            told = {host: rounds.merge_health(self.answers.get(host, {}), seen) for host, seen in told.items()}
        self.answers.update(told)
        self.entries = rounds.entries_of(self.answers, self.nodes_of)
        names = (self.options["answers"], *(self.options["installed"] if before["step"] == "install" else ()))
        self.progress = summary.note_lost(self.progress, self.ended_with(self.lost(names[0]), *names))
        if before["step"] == "install" and not self.check_mode:
            results = self.ended_with(list(before["parts"]), *self.options["installed"])
            kept = {host: found for host, found in results.items() if host in self.answers}
            self.progress, warnings = summary.note_installed(self.progress, self.answers, kept)
            for warning in warnings:
                self.warn(warning)
        if before["step"] != "wait":
            self.progress = rounds.note(self.progress, self.entries, told)
            self.progress = summary.note_removed(self.progress, told, self.nodes_of)

    def _decide(self) -> dict[str, Any]:
        missing: dict[str, Part] = {
            host: {"packages": answer.get("packages") or [], "manager": answer.get("package_manager")}
            for host, answer in self.answers.items()
            if answer.get("packages")
        }
        if missing and not self.progress.installed:
            self.progress = self.progress._replace(installed=True)
            return self._next("install", missing)
        parts = self._exchange()
        if parts:
            return self._next("apply", parts)
        unsettled = rounds.unsettled(self.entries, self.progress)
        if unsettled and not self.progress.waited and not self.check_mode:
            self.progress = self.progress._replace(waited=True)
            return self._next("wait", {host: {"uuids": uuids} for host, uuids in unsettled.items()})
        return self._end()

    def _exchange(self) -> dict[str, Part]:
        """Publishes what is new, reads again, and answers what the hosts have to apply of it."""
        keys = rounds.unpublished(self.entries, self.progress)
        pairs = rounds.paired(self.entries)
        orphans = rounds.unasked(self.answers, self.progress)
        if self.progress.rounds >= rounds.PUBLISH_ROUNDS or not (keys or pairs or orphans):
            return {}
        if keys and not self.by_hand:
            done = _panel_steps.publish(self.panel(), keys, [], self.check_mode, self.warn)
            self.result.update(changed=done.updated > 0, diff=done.diff)
        self.progress = rounds.note_asked(self.progress, orphans)._replace(
            published=self.progress.published + keys, rounds=self.progress.rounds + 1
        )
        earlier = self.views
        deleted = self._read(orphans, self._listed("tunnels"))
        known = rounds.agreed(self.entries)
        parts = rounds.parts(earlier, self.views, deleted, pairs, self.progress.new_keys, known)
        return {host: part for host, part in parts.items() if host in self.answers}

    def _end(self) -> dict[str, Any]:
        """The last round reports: it is the one that an unchanged run has anyway."""
        for hosts in rounds.same_machines(self.answers):
            self.warn(SAME_MACHINE % ", ".join(printable(host) for host in hosts))
        result = self._next("done", {})
        done = summary.summary(self.progress, self.views, self.check_mode)
        # What check mode has not applied can't be measured.
        strict = [] if self.check_mode else self.options["strict"]
        told = _panel_steps.Told(
            self.answers,
            self.nodes_of,
            self.progress.lost,
            self.broken,
            {},
            done,
            self.progress.asked,
            strict,
            self.views,
        )
        answer, dead = self.report(told, post=not self.by_hand)
        failures = summary.merged(result["failures"], dead)
        if self.progress.waited and self.options["wait"] > 0:
            # The panel takes no report about a record that it has changed or removed since it was read.
            outdated = {refused["uuid"] for refused in answer["rejected"]}
            failures = summary.merged(failures, summary.cut_off(self.entries, self.progress, self.views, outdated))
        result.update(answer, done=done, failures=failures)
        return result

    def _read(self, orphans: dict[str, Any], published: dict[str, Any]) -> dict[str, list[str]]:
        """Reads the records of this moment, and answers which of ``orphans`` are deleted for certain."""
        read = _panel_steps.read(self.source(), self.nodes_of, orphans, published, self.warn)
        self.place, self.views, self.broken, self.list_digest = read.panel, read.views, read.broken, read.list_digest
        return read.confirmed_deleted

    def _listed(self, key: str) -> dict[str, list[Any]]:
        return {host: rounds.listed(answer, key) for host, answer in self.answers.items()}

    def _next(self, step: str, parts: Mapping[str, Part]) -> dict[str, Any]:
        result: RoundAnswer = {
            "step": step,
            "parts": dict(parts),
            "panel": self.place,
            "panel_addresses": self.addresses,
            "views": self.views,
            "broken": self.broken,
            "list_digest": self.list_digest,
            "nodes": self.nodes_of,
            "answers": self.answers,
            "progress": self.progress.dump(),
            "unreached": self.unreached_now,
            "failures": {},
            "without_traffic": {},
        }
        if step == "done":
            failures = rounds.failures(self.answers, self.entries, self.progress, self.broken, self.nodes_of)
            without_traffic = rounds.without_traffic(self.entries, self.views, self.options["wait"])
            result["failures"], result["without_traffic"] = failures, without_traffic
        return dict(result)
