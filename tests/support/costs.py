# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What each test file cost, and the dearest tests: a pytest plugin that prints both tables at the end of a run.

Seconds of CPU, because the clock also counts what else the machine does: of this process and of the processes that
it has waited for (getrusage(2)), and those of its labs' hosts (cpu.stat of their control groups).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import cgroup

NAME = "cost"
#: A test that cost so many CPU seconds is listed, set-up and teardown of its fixtures included.
DEAR = 3


@dataclass
class Cost:
    """Seconds: of the clock, of CPU on the controller, of CPU on the lab's hosts."""

    clock: float = 0
    own: float = 0
    labs: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.clock + other.clock, self.own + other.own, self.labs + other.labs)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.clock - other.clock, self.own - other.own, self.labs - other.labs)

    @property
    def cpu(self) -> float:
        return self.own + self.labs


def so_far() -> Cost:
    """What this process and its labs have cost until now."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return Cost(times.elapsed, own, cgroup.cpu_seconds())


def table(what: str, costs: dict[str, Cost], least: float = 0) -> list[str]:
    """The dearest first, down to ``least`` CPU seconds, then the sum of all."""
    dearest = [item for item in sorted(costs.items(), key=lambda item: -item[1].cpu) if item[1].cpu >= least]
    total = sum(costs.values(), Cost())
    lines = [f"{'CPU s':>8} {'labs s':>8} {'clock s':>8}  {what}"]
    lines += [
        f"{cost.cpu:8.1f} {cost.labs:8.1f} {cost.clock:8.1f}  {name}" for name, cost in [*dearest, ("all", total)]
    ]
    return lines


class Costs:
    """The plugin. Under xdist the workers measure, and the controller adds up what their reports carry."""

    def __init__(self) -> None:
        self.begun = so_far()
        self.files: dict[str, Cost] = defaultdict(Cost)
        self.tests: dict[str, Cost] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self.begun = so_far()
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "teardown":
            cost = so_far() - self.begun
            item.user_properties.append((NAME, [cost.clock, cost.own, cost.labs]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == NAME and isinstance(value, list):
                    self.tests[report.nodeid] = Cost(*value)
                    self.files[report.nodeid.partition("::")[0]] += Cost(*value)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.files:
            terminalreporter.section("what each file cost, and the dearest tests")
            for line in [*table("file", self.files), "", *table("test", self.tests, DEAR)]:
                terminalreporter.write_line(line)
