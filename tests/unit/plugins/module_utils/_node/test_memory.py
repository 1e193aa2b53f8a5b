# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run finds out about the keys in the folders: real keys, no host."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model.types import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._model.views import check
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.keyring import Keyring
from ansible_collections.marzban.tunnels.plugins.module_utils._node.memory import Memory
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import preshared_key
from tests.support.views import PANEL, UUID, view


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


@pytest.fixture
def folders(tmp_path):
    return Folders(str(tmp_path / "tunnels"))


def run(kind, folders):
    """What a run does about keys, for a tunnel that waits for its peer."""
    tunnel = Tunnel(view(type=kind))
    tunnel.checked = check(
        view(type=kind, **({"local.port": 4500, "peer.port": 4500} if kind == "ipsec" else {})), PANEL
    )
    tunnel.state = folders.states().get(UUID)
    protocol, memory = registry.protocol(kind)(Host(), folders), Memory(Host(), folders)
    keyring = Keyring(Host(), memory)
    keyring.load(protocol, [tunnel])
    keyring.make(protocol, [tunnel])
    if tunnel.public:
        state = tunnel.state or new_state(tunnel.view)
        memory.save(tunnel, {**state, "public_key": tunnel.public["public_key"]})
    return tunnel


@pytest.mark.parametrize("active", [True, False])
def test_a_tunnel_that_moves_or_was_off_goes_on_with_its_pre_shared_key(folders, active):
    """The other end, which may be changed later or be away, goes on with it."""
    tunnel = run("wireguard", folders)
    tunnel.checked = {**tunnel.view, "active": active}
    used = preshared_key.make(folders.path(UUID), "x")
    applied = {"psk_fingerprint": used, "psk_since": 1, "routes": ["192.0.2.0/24"], "rules": "x"}
    tunnel.state = {**tunnel.state, "interface": "mz9", "applied": applied}
    memory = Memory(Host(), folders)
    memory.remember_nothing(tunnel)
    state = folders.states()[UUID]
    assert (state["interface"], state["applied"]) == (None, {"psk_fingerprint": used})
    public, theirs = dict(tunnel.public, psk_fingerprint=used), {"public_key": "x", "psk_fingerprint": used}
    done = registry.protocol("wireguard")(Host(), folders).exchange(tunnel.view, public, theirs, state, None)
    assert not done.needs_peer


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_private_key_is_a_missing_one(kind, folders, text):
    first = run(kind, folders)
    assert first.changes == ["key made"]
    Path(folders.path(UUID, "private.key")).write_text(text)
    again = run(kind, folders)
    assert again.changes == ["key made"]
    assert again.public["public_key"] != first.public["public_key"]
    assert run(kind, folders).changes == []


def test_a_broken_private_key_is_left_to_the_operator(kind, folders):
    run(kind, folders)
    Path(folders.path(UUID, "private.key")).write_text("x")
    tunnel = run(kind, folders)
    assert tunnel.refused
    assert "Put the right one back, or make a new one" in tunnel.error


def test_another_private_key_is_named(kind, folders, tmp_path):
    first = run(kind, folders)
    others = Folders(str(tmp_path / "others"))
    other = run(kind, others)
    Path(folders.path(UUID, "private.key")).write_text(Path(others.path(UUID, "private.key")).read_text())
    tunnel = run(kind, folders)
    assert tunnel.changes == ["another private key found"]
    assert tunnel.public["public_key"] == other.public["public_key"] != first.public["public_key"]
    (diff,) = tunnel.diff
    assert diff["before"].startswith("public key SHA256:")
    assert diff["before"] != diff["after"]
    assert run(kind, folders).changes == []


def test_a_key_of_a_former_version_changes_nothing(kind, folders):
    run(kind, folders)
    state = folders.states()[UUID]
    folders.write_state({**state, "public_key": None})
    assert run(kind, folders).changes == []


def published(tunnel):
    Keyring.complete(tunnel)
    return tunnel.public


def test_a_next_key_is_published_beside_the_present_one(kind, folders):
    first = run(kind, folders).public
    following = registry.protocol(kind)(Host(), folders).make_next(UUID)
    path = Path(folders.path(UUID, "private.next"))
    assert path.stat().st_mode & 0o777 == 0o600
    tunnel = run(kind, folders)
    assert (tunnel.changes, published(tunnel)) == ([], {**first, "next_public_key": following})
    path.write_text("rubbish")
    tunnel = run(kind, folders)
    assert (tunnel.changes, published(tunnel)) == ([], first), "nobody uses it yet"


def test_the_next_key_takes_the_place_of_one_that_nothing_runs_with(kind, folders):
    run(kind, folders)
    following = registry.protocol(kind)(Host(), folders).make_next(UUID)
    Path(folders.path(UUID, "private.key")).unlink()
    tunnel = run(kind, folders)
    assert tunnel.changes == ["key made"]
    assert published(tunnel)["public_key"] == following, "the peer may know it already"
    assert "next_public_key" not in tunnel.public
    assert not Path(folders.path(UUID, "private.next")).exists()
    assert run(kind, folders).changes == []


def test_a_key_that_is_replaced_at_once_has_no_next_one(kind, folders):
    run(kind, folders)
    protocol = registry.protocol(kind)(Host(), folders)
    protocol.make_next(UUID)
    protocol.make_key(UUID)
    assert protocol.load_next(UUID) is None
