# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one node seals for its peer goes over the controller, and nobody sees it there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible import constants

from ansible_collections.marzban.tunnels.plugins.plugin_utils import _sealed_keys
from tests.support.views import UUID, view

SEALED = "c2VhbGVk"
OURS = view()
THEIRS = view(local=OURS["peer"], peer=OURS["local"])


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
    return tmp_path


def test_the_peer_gets_what_was_sealed_and_the_answer_loses_it(temporary):
    answer = {"tunnels": [], "sealed": {UUID: SEALED}}
    _sealed_keys.keep(answer, [OURS])
    assert answer == {"tunnels": []}
    assert _sealed_keys.for_node([THEIRS]) == {UUID: SEALED}
    assert _sealed_keys.for_node([OURS]) == {}, "not the one that made it"
    (file,) = temporary.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert UUID not in file.name


@pytest.mark.parametrize("other", [{"panel": "00000000-0000-4000-8000-000000000000"}, {"peer.node": "us-1"}])
def test_nobody_else_gets_it(other):
    _sealed_keys.keep({"sealed": {UUID: SEALED}}, [OURS])
    assert _sealed_keys.for_node([view(**{"local": OURS["peer"], "peer": dict(OURS["local"]), **other})]) == {}


@pytest.mark.parametrize("bad", [5, [], {UUID: 5}, {UUID: "x" * 5000}, {UUID: "ü"}, {"another": SEALED}])
def test_a_compromised_node_puts_nothing_else_there(temporary, bad):
    answer = {"sealed": bad}
    _sealed_keys.keep(answer, [OURS])
    assert answer == {}
    assert list(temporary.iterdir()) == []


def test_a_connection_shows_nothing_meanwhile_and_as_before_afterwards():
    action = SimpleNamespace(
        _play_context=SimpleNamespace(no_log=False),
        _connection=SimpleNamespace(_play_context=SimpleNamespace(no_log=None)),
    )

    def fail():
        with _sealed_keys.unseen(action):
            assert action._play_context.no_log is action._connection._play_context.no_log is True
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert action._play_context.no_log is False
    assert action._connection._play_context.no_log is None
