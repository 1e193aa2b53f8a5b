# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Peers whose name has another address than the one that packets go to: whether they are still there.

WireGuard looks a name up when it is set, and follows a peer only by its packets. A peer that has moved and does not
dial would be lost until its session ends after three minutes, though its name says where it is. But the name may also
be the one that is wrong: a peer behind NAT is where its packets come from. So the session is asked, by pings in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Mapping

from ..._node.measure import inside
from ..._node.netdev import Live
from ..._node.ping import Pinged, is_address
from .conf import STALE
from .plan import is_elsewhere

if TYPE_CHECKING:
    from ..._model.shapes import View

Dump = Dict[str, Dict[str, Any]]  # as ``conf.parse_dump`` answers it


def suspects(views: Iterable[View], live: Live, resolved: Mapping[str, list[str]]) -> list[View]:
    """Those of ``views`` that dial, and have a session with a peer that is not where its name says now. Pure.

    A peer with an address instead of a name may be elsewhere because of a NAT: it is followed by its packets only.
    """
    found = []
    for view in (view for view in views if not is_address(view["peer"]["endpoint"])):
        addresses, port = resolved.get(view["peer"]["endpoint"]) or [], view["peer"]["port"]
        peers = [peer for peer in _peers(live["wg"], view) if live["now"] - peer["handshake"] <= STALE]
        if view["dial"] and any(is_elsewhere(peer, addresses, port) for peer in peers):
            found.append(view)
    return found


def note(
    views: Iterable[View],
    live: Live,
    resolved: Mapping[str, list[str]],
    ping: Callable[[Mapping[Any, "tuple[str, str]"]], Pinged],
    dump: Callable[[], Dump],
) -> None:
    """Marks as ``silent`` in ``live`` the peers of which no answer and no byte came while they were pinged."""
    asked = suspects(views, live, resolved)
    if not asked:
        return
    answers = ping({view["uuid"]: (view["interface"], inside(view)) for view in asked}).answers
    after = dump()
    for view in asked:
        peers = _peers(live["wg"], view)
        quiet = sum(peer["rx"] for peer in peers) == sum(peer["rx"] for peer in _peers(after, view))
        if quiet and answers[view["uuid"]]["loss_percent"] == 100:
            for peer in peers:
                peer["silent"] = True


def _peers(dump: Dump, view: View) -> list[dict[str, Any]]:
    return list(dump.get(view["interface"], {"peers": {}})["peers"].values())
