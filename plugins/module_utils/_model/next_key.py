# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a key that replaces another is used: what the two ends decide out of the same record, in the same round. Pure.

An end that has a next key publishes it beside the present one (``next_public_key``). Its peer says that it has seen it
(``accepts_public_key``). Once the record has both, and both ends are applied in one round, both switch. An end that has
switched to its peer's next key keeps to that, although the record may still have the former key as the present one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .shapes import Public


NEXT, ACCEPTS = "next_public_key", "accepts_public_key"


def switches(following: str, own: Public | None, peer: Public | None, paired: bool) -> bool:
    """Whether this end uses its next key ``following`` from now on. ``own``, ``peer``: as the record has them."""
    return paired and following == (own or {}).get(NEXT) == (peer or {}).get(ACCEPTS)


def without(public: Public) -> Public:
    """A public half as it was before there were next keys."""
    return {name: value for name, value in public.items() if name not in (NEXT, ACCEPTS)}


def of_peer(own: Public | None, peer: Public, used: str | None, paired: bool) -> tuple[Public, str | None]:
    """``(the peer's public half to apply, its next key that this end accepts or None)``.

    ``own``, ``peer``: as the record has them. ``used``: the key of the same peer that was applied last.
    """
    half = without(peer)
    following = peer.get(NEXT)
    if not following:
        return half, None
    if following == used:  # this end has switched, and the peer has not, or could not say so: it may try again
        return dict(half, public_key=following), following
    if paired and following == (own or {}).get(ACCEPTS):
        return dict(half, public_key=following), None
    return half, following
