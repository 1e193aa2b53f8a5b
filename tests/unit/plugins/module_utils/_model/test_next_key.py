# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When both ends of a tunnel use the next key of one of them, whatever cuts the runs off in between."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import next_key
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Public

OLD, NEW, OTHER = "old", "new", "other"


@dataclasses.dataclass
class Tunnel:
    """What the end with the next key has, what its peer uses, and what the record has of both."""

    key: str = OLD
    following: str | None = NEW
    used: str = OLD
    record: Public = dataclasses.field(default_factory=lambda: {"public_key": OLD})
    peer_record: Public = dataclasses.field(default_factory=lambda: {"public_key": OTHER})

    def round(self, applied: str, published: str, pair: bool = True) -> None:
        """A round that applies the ends in ``applied`` ("x", "y", "xy"), of which those in ``published`` can tell."""
        record, peer_record, paired = self.record, self.peer_record, applied == "xy" and pair
        if "x" in applied:
            if self.following and next_key.switches(self.following, record, peer_record, paired):
                self.key, self.following = self.following, None
            if "x" in published:
                self.record = {"public_key": self.key, **({next_key.NEXT: self.following} if self.following else {})}
        if "y" in applied:
            half, accepts = next_key.of_peer(peer_record, record, self.used, paired)
            assert not {next_key.NEXT, next_key.ACCEPTS} & set(half)
            self.used = half["public_key"]
            if "y" in published:
                self.peer_record = {"public_key": OTHER, **({next_key.ACCEPTS: accepts} if accepts else {})}

    @property
    def settled(self) -> bool:
        return (self.key, self.used, self.record, self.peer_record) == (
            *(NEW, NEW),
            *({"public_key": NEW}, {"public_key": OTHER}),
        )


def rounds() -> Iterator[tuple[str, str, bool]]:
    for applied, pair in (("x", False), ("y", False), ("xy", False), ("xy", True)):
        for published in ("", *({*applied, applied})):
            yield applied, published, pair


def test_a_run_of_both_ends_switches_in_its_third_round():
    tunnel = Tunnel()
    seen = []
    for number in range(4):
        tunnel.round("xy", "xy", pair=number > 0)
        seen.append((tunnel.key, tunnel.used))
    assert seen == [(OLD, OLD), (OLD, OLD), (NEW, NEW), (NEW, NEW)]
    assert tunnel.settled, "and three rounds publish something, as many as a run has"


def test_both_ends_have_the_same_key_wherever_the_runs_are_cut_off():
    for course in itertools.product(rounds(), repeat=4):
        tunnel = Tunnel()
        for applied, published, pair in course:
            tunnel.round(applied, published, pair)
            assert tunnel.key == tunnel.used, course
        for number in range(4):
            tunnel.round("xy", "xy", pair=number > 0)
            assert tunnel.key == tunnel.used, course
        assert tunnel.settled, course


@pytest.mark.parametrize("lost", ["x", "y"])
def test_an_end_that_is_lost_while_both_switch_comes_back_in_the_next_run(lost):
    tunnel = Tunnel()
    for _round in range(2):
        tunnel.round("xy", "xy")
    before = dataclasses.replace(tunnel)
    tunnel.round("xy", "xy")
    for name in ("key", "following", "record") if lost == "x" else ("used", "peer_record"):
        setattr(tunnel, name, getattr(before, name))
    assert tunnel.key != tunnel.used
    for number in range(4):
        tunnel.round("xy", "xy", pair=number > 0)
    assert tunnel.settled


def test_a_key_that_took_its_place_at_once_counts_more_than_the_next_one():
    half, accepts = next_key.of_peer({next_key.ACCEPTS: NEW}, {"public_key": OTHER}, NEW, True)
    assert (half, accepts) == ({"public_key": OTHER}, None)
