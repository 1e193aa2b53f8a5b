# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of its peer's halves a tunnel uses. The whole of it is in tests/integration/test_service_hosts.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import find_peer

OLD = {"public_key": "k", "fingerprint": "a" * 64}
NEW = {"public_key": "k", "fingerprint": "b" * 64}


@pytest.mark.parametrize(("trusted", "taken"), [({}, False), ({"u": "another"}, False), ({"u": "k"}, True)])
def test_a_certificate_that_changed_alone_is_taken_where_its_key_is_accepted(
    trusted: dict[str, str], taken: bool
) -> None:
    state = {"peer": {"node": "b", "public": OLD}}
    tunnel: Any = SimpleNamespace(
        view={"peer": {"node": "b", "public": NEW}}, state=state, former=None, uuid="u", peer_key=None
    )
    find_peer(tunnel, trusted)
    assert tunnel.peer_public == (NEW if taken else OLD)
    assert tunnel.peer_key == (None if taken else {"known": "k", "seen": "k"})
