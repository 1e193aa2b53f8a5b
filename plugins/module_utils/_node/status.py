# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of one end after a probe, and the sentence about what it waits for or what is wrong. Pure.

An end that can't be probed has its status elsewhere: one that was refused (``tunnel``), and one that does not run or
of which others have taken something away (``health``), is an error; one that is not active is inactive (``measure``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._model import views
from .._protocols.base import Protocol
from .ping import LEAST

if TYPE_CHECKING:
    from .._model.shapes import Measured, View

PATIENCE = 180  # seconds; after this time without a handshake the other end isn't just late


def status(
    view: View,
    measured: Measured,
    up: float | None,
    protocol: Protocol,
    heard: bool = False,
    narrow: tuple[int, int | None] | None = None,
) -> tuple[str, str | None]:
    """``(status, words?)`` of the end of an active ``view`` that runs, after a probe: why it carries nothing (yet).

    ``measured`` as docs/development/contract.md has it, ``up`` the seconds since its service started (None: unknown).
    ``heard``: something came in from the peer while it was pinged. ``narrow``: ``ping.Pinged`` has it.
    """
    peer, age, limit = view["peer"], measured["handshake_age"], protocol.session_limit
    if measured["loss_percent"] is not None and measured["loss_percent"] < 100:
        return ("error", _narrow(*narrow)) if narrow else ("active", None)
    if measured["loss_percent"] is None and age is not None and (limit is None or age < limit):
        return "connecting", None  # nothing was measured
    if age is None:
        if up is None or up < PATIENCE:
            return "connecting", _awaited(view, up)
        seen = "no handshake with %s in %s" % (peer["node"], _duration(up))
        if protocol.forgets_sessions:  # there may have been one a moment ago
            seen = "there is no session with %s" % peer["node"]
        return "error", "%s: %s" % (seen, _advice(view))
    if limit is not None and age >= limit:
        advice = _advice(view)
        return "error", "the last handshake with %s was %s ago: %s" % (peer["node"], _duration(age), advice)
    address = peer["addresses"][0].split("/")[0]
    seen = "the handshake with %s is %s old, %s did not answer 3 pings inside the tunnel, and " % (
        *(peer["node"], _duration(age), address),
    )
    inside = "does a firewall on %s drop what comes out of the tunnel, or is its interface without its address?"
    if heard:
        return "error", seen + "other packets came in from it: " + inside % peer["node"]
    # A firewall inside the tunnel looks the same for some seconds, and is the less common cause.
    outside = "nothing else came in from it: %s? If it is, " % _way_in(view)
    return "error", seen + outside + inside % peer["node"]


def _narrow(size: int, passes: int | None) -> str:
    """What to do where small packets pass, and those of the interface's MTU don't: no large transfer would end."""
    seen = "packets of %d bytes, its MTU, do not pass" % size
    if passes is None:
        hint = "The path drops all large packets: try another type of tunnel, or the transport tcp (OpenVPN)."
        return "%s, nor does anything above %d, the least that mtu can be. %s" % (seen, LEAST, hint)
    return "%s, and those of %d bytes do: set mtu to %d in its record." % (seen, passes, passes)


def _duration(seconds: float | None) -> str:
    seconds = int(seconds or 0)
    if seconds < 120:
        return "%d s" % seconds
    if seconds < 7200:
        return "%d min" % (seconds // 60)
    return "%d h" % (seconds // 3600)


def _awaited(view: View, up: float | None) -> str:
    """What a tunnel without a session waits for."""
    peer, local = view["peer"], view["local"]
    since = "" if up is None else ", for %s" % _duration(up)
    if view["dial"]:
        place = views.dialed(view, peer)
        return "no answer yet from %s at %s, %s%s" % (peer["node"], peer["endpoint"], place, since)
    where = (peer["node"], views.dialed(view, local), local["endpoint"])
    return "%s has not dialed %s here at %s yet%s" % (*where, since)


def _advice(view: View) -> str:
    return "%s, and was the tunnel applied on %s?" % (_way_in(view), view["peer"]["node"])


def _way_in(view: View) -> str:
    """What has to be open for packets to arrive, as a question without its mark."""
    peer, local = view["peer"], view["local"]
    if view["dial"]:
        return views.way_in(view, peer)
    return "%s dials, %s (this host)" % (peer["node"], views.way_in(view, local))
