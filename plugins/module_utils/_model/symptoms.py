# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One word for what is wrong with an end, and the row of the troubleshooting guide that it leads to. Pure.

The word is the row's anchor in docs/trouble.md. A test holds that each word has a row there, and each row a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .shapes import Measured

NOT_INSTALLED = "not-installed"  # a package or a device is missing, or no run has applied the tunnel here
NO_ANSWER = "no-answer"  # no session with the peer: nothing came back from its endpoint
KEYS = "keys"  # a key is lost, or the two ends do not have the same one
CONNECTING = "connecting"  # no session yet, or it waits for the other end
NO_PACKETS = "no-packets"  # a session, and no packet passes
LARGE_PACKETS = "large-packets"  # small packets pass, and those of the interface's MTU do not
FLAPPING = "flapping"  # it comes and goes
DIES = "dies"  # its process or its interface does not run, or does not stay
TAKEN_AWAY = "taken-away"  # it runs, and something else on the host has removed a part of it
REINSTALLED = "reinstalled"  # the peer shows another key than the known one, and nobody has accepted it
UNREACHABLE = "unreachable"  # the panel, or a run, can't reach the node

SYMPTOMS = (
    NOT_INSTALLED,
    NO_ANSWER,
    KEYS,
    CONNECTING,
    NO_PACKETS,
    LARGE_PACKETS,
    FLAPPING,
    DIES,
    TAKEN_AWAY,
    REINSTALLED,
    UNREACHABLE,
)
GUIDE = "docs/trouble.md"


def link(symptom: str) -> str:
    """Where the guide has the row of a symptom."""
    return "%s#%s" % (GUIDE, symptom)


def known(value: object) -> str | None:
    """``value``, as somebody else sent it, where it is a symptom; else None: a later version may know more of them."""
    return value if isinstance(value, str) and value in SYMPTOMS else None


def of_probe(status: str, measured: Measured, limit: float | None) -> str | None:
    """The symptom of an end that runs and was probed. ``limit``: seconds, after which a handshake is too old."""
    if status == "connecting":
        return CONNECTING
    if status != "error":
        return None
    age, loss = measured["handshake_age"], measured["loss_percent"]
    if loss is not None and loss < 100:
        return LARGE_PACKETS
    return NO_ANSWER if age is None or (limit is not None and age >= limit) else NO_PACKETS
