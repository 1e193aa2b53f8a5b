# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The thread that looks at all tunnels every few seconds, measures them, and has repaired what others have broken."""

from __future__ import annotations

import logging
import threading
import time

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from marzban_node.board import Board, Entry
from marzban_node.engine import Engine
from marzban_node.panels import Panels
from marzban_node.recoveries import Repair
from marzban_node.work import Worker

_log = logging.getLogger(__name__)
INTERVAL = 5.0  # seconds between two looks


class Watch(threading.Thread):
    """Looks when ``INTERVAL`` is over, and at once when ``looked`` is set."""

    def __init__(self, engine: Engine, board: Board, panels: Panels, worker: Worker, looked: threading.Event) -> None:
        super().__init__(name="watch", daemon=True)
        self._engine, self._board, self._panels, self._worker, self._looked = engine, board, panels, worker, looked
        self._told: str | None = None
        self.last = time.monotonic()  # when it has looked last

    def run(self) -> None:
        """Until the process ends."""
        while True:
            begun = time.monotonic()
            try:
                self.look()
                self._told = None
            except Exception as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.exception("could not look at the tunnels")
            self.last = time.monotonic()
            # A look that was asked for does not put off the next one: what changes often is looked at often.
            self._looked.wait(max(0.2, begun + INTERVAL - time.monotonic()))
            self._looked.clear()

    def look(self) -> None:
        """Measures all tunnels, and has done what is to do."""
        panels = {panel.id: panel for panel in self._panels.all()}
        for entry in self._board.sync(self._engine.kept.views()):
            if entry.view["panel"] in panels and self._handles(entry):
                self._worker.repair(panels[entry.view["panel"]], entry.kept, Repair(""))
        for panel in panels.values():
            views = self._board.views(panel.id)
            if not views:
                continue
            begun = time.monotonic()
            try:
                tunnels = self._engine.check(panel.id, views)
            except Error as error:  # somebody takes something away at this moment
                _log.info("could not measure: %s", error)
                continue
            self._board.measured(tunnels, begun)
            for entry, repair in self._board.broken(tunnels, begun):
                if self._handles(entry):
                    self._worker.repair(panel, entry.kept, repair)
            self._board.routes(self._engine.ways(self._board.narrow(panel.id)))  # last: it may fail

    def _handles(self, entry: Entry) -> bool:
        """Whether the service sets up this type. Others that run are only measured."""
        return entry.view["type"] in self._engine.settings.types
