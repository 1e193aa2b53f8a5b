# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast it is: always one thing beside another in the same run, because a second here is not a second there.

`make bench` prints the numbers. What is asserted is so loose that only a fault of design breaks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.world import World

pytestmark = pytest.mark.lab
MANY = 50
TIMES = 3


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(a="bookworm+tunnels", b="bookworm+tunnels")


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs: the others were disturbed."""
    taken = []
    for _time in range(TIMES):
        start = time.monotonic()
        run()
        taken.append(time.monotonic() - start)
    return min(taken)


def test_one_run_by_the_number_of_tunnels(world: World) -> None:
    def unchanged() -> None:
        assert world.apply().expect().changed() == []

    def timed_apply() -> float:
        start = time.monotonic()
        world.apply().expect()
        return time.monotonic() - start

    world.tunnel("t1", "a", "b")
    first_one, one = timed_apply(), fastest(unchanged)
    for number in range(2, MANY + 1):
        world.tunnel(f"t{number}", "a", "b")
    first_many, many = timed_apply(), fastest(unchanged)
    print(
        f"\n  new:        1 tunnel {first_one:.1f} s, {MANY - 1} tunnels {first_many:.1f} s"
        f"\n  unchanged:  1 tunnel {one:.1f} s, {MANY} tunnels {many:.1f} s, ratio {many / one:.1f}"
    )
    assert many / one < MANY / 5
