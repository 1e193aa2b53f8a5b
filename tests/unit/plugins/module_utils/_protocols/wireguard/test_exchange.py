# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the two ends of a WireGuard tunnel switch their pre-shared key on: two folders, real keys, no host."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard.protocol import WireGuard
from tests.support.views import UUID, view


class End:
    """One end, and what the panel knows about it."""

    def __init__(self, root, role):
        self.role, self.folders = role, Folders(str(root))
        self.state = self.published = None
        self.other = self  # until the fixture joins the two
        (root / UUID).mkdir(parents=True)
        WireGuard(Host(), self.folders).make_key(UUID)

    def apply(self, handed=None, paired=False, new_keys=False, require=False):
        """One round: whether the end needs its peer once more, and which pre-shared key it uses.

        ``require``: an end without one is refused, so that its state stays as it was."""
        protocol = WireGuard(Host(), self.folders)
        protocol.paired, protocol.new_keys = {UUID} if paired else set(), {UUID} if new_keys else set()
        seen = view(**{"local.role": self.role, "local.public": self.published})
        public = protocol.load_key(UUID)[1]
        try:
            done = protocol.exchange(seen, public, self.other.published or self.other.public(), self.state, handed)
        except Error:  # what was sealed for a key that this end does not have any more: it is refused in this round
            return False, None
        self.used = protocol._used[UUID]
        if require and not self.used:
            return done.needs_peer, None
        applied = {"psk_fingerprint": self.used}
        self.state = {"interface": seen["interface"], "peer": {"public": done.peer_public}, "applied": applied}
        return done.needs_peer, self.used

    def public(self):
        return WireGuard(Host(), self.folders).load_key(UUID)[1]

    def publish(self):
        self.published = self.public()

    def sealed(self):
        return WireGuard(Host(), self.folders).sealed(UUID)


@pytest.fixture
def ends(tmp_path):
    source, target = End(tmp_path / "source", "source"), End(tmp_path / "target", "target")
    source.other, target.other = target, source
    for end in (source, target):
        end.publish()
    assert source.apply() == (True, None)
    assert target.apply() == (False, None)
    source.publish()
    return source, target


def test_with_new_keys_both_switch_in_the_round_in_which_the_target_takes_it(ends):
    source, target = ends
    sealed = source.sealed()
    needs, used = source.apply(paired=True, new_keys=True)
    assert not needs
    assert target.apply(handed=sealed, paired=True, new_keys=True) == (False, used)
    assert used == source.public()["psk_fingerprint"] == target.public()["psk_fingerprint"]
    target.publish()
    for end in ends:
        before = end.state
        assert end.apply() == (False, used), "and it stays, also in a run that reaches one end only"
        assert end.state == before, "and that run changes nothing"


def test_where_traffic_may_pass_both_wait_until_each_knows_of_the_other(ends):
    source, target = ends
    assert source.apply(paired=True) == (True, None)
    assert target.apply(handed=source.sealed(), paired=True) == (True, None)
    target.publish()
    (_needs, used) = source.apply(paired=True)
    assert target.apply(paired=True) == (False, used)
    assert used


def test_a_target_that_did_not_take_it_is_met_without_it_in_the_next_run(ends):
    source, target = ends
    assert source.apply(paired=True, new_keys=True)[1]
    assert target.apply() == (False, None)
    assert source.apply() == (True, None), "and it is offered again"
    sealed = source.sealed()
    assert source.apply(paired=True) == (True, None)
    assert target.apply(handed=sealed, paired=True) == (True, None)


def test_what_was_made_just_now_is_not_used_before_it_was_offered(ends):
    source, target = ends
    WireGuard(Host(), target.folders).make_key(UUID)  # a new machine
    target.publish()
    assert source.apply(paired=True, new_keys=True) == (True, None)


def run(source, target, new_keys=()):
    """A run with both ends and ``require``: its rounds, as tunnel_round has them; how many there were."""
    paired = False
    handed = None
    for number in range(4):
        needs = [
            source.apply(paired=paired, new_keys=paired and bool(new_keys), require=True)[0],
            target.apply(handed, paired=paired, new_keys=paired and bool(new_keys), require=True)[0],
        ]
        news = [end for end in (source, target) if end.public() != end.published]
        for end in news:
            end.publish()
        if not (news or any(needs)):
            return number + 1
        paired, handed = any(needs), source.sealed() if any(needs) else None
    return 4


@pytest.mark.parametrize("changed", [["source"], ["target"], ["source", "target"]])
@pytest.mark.parametrize("fresh", [False, True], ids=["another key", "an empty disk"])
@pytest.mark.parametrize("by_the_run", [False, True], ids=["by tunnel_keys", "by the run"])
def test_what_requires_it_comes_back_with_another_key(ends, changed, fresh, by_the_run):
    source, target = ends
    run(source, target)
    assert source.used is not None
    assert source.used == target.used
    for end in ends:
        if end.role in changed:
            folder = Path(end.folders.path(UUID))
            if fresh:
                for path in folder.iterdir():
                    path.unlink()
                end.state = None
            WireGuard(Host(), end.folders).make_key(UUID)
    run(source, target, changed if by_the_run else ())
    assert source.used == target.used == source.public()["psk_fingerprint"], "which a run of four rounds does"
    assert run(source, target) == 1, "and the next one finds nothing to do"


def test_it_stays_where_the_target_switches_to_its_next_private_key(ends):
    source, target = ends
    run(source, target)
    used, before = source.used, source.public()
    following = WireGuard(Host(), target.folders).make_next(UUID)
    recorded = {**target.published, "next_public_key": following}
    WireGuard(Host(), target.folders).use_next(UUID)
    target.publish()
    for half in (recorded, target.published):  # in the round in which it switches, and afterwards
        seen = view(**{"local.role": "source", "local.public": source.published, "peer.public": half})
        protocol = WireGuard(Host(), source.folders)
        done = protocol.exchange(seen, source.public(), target.published, source.state, None)
        assert (done.changes, done.needs_peer, protocol._used[UUID]) == ([], False, used)
    assert source.public() == before


def test_what_waits_to_be_handed_over_is_sealed_by_the_key_that_the_source_has(ends):
    source, target = ends
    WireGuard(Host(), source.folders).make_key(UUID)
    source.publish()
    source.apply()
    assert target.apply(handed=source.sealed(), paired=True) == (True, None), "before, it could not be opened"
