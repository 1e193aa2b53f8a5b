# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of a tunnel whose folder or state is lost: what on the host has its uuid is ours."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Iterable

from .._errors import FieldError
from .._model import validators
from .._protocols.base import Protocol
from . import netdev
from .host import Host
from .state import Folders, new_state

if TYPE_CHECKING:
    from .._model.shapes import State, View


def rebuild(view: View, host: Host, folders: Folders, protocols: Iterable[Protocol]) -> State | None:
    """The state of ``view``'s tunnel as it was, as far as can be told; None where nothing of it is on the host.

    ``protocols``: those that it may have been of, the likeliest first. Its peer, addresses and routes are not known.
    """
    protocols = list(protocols)
    state = new_state(view)
    for protocol in protocols:
        interface = _valid(protocol.find(view["uuid"]))
        if interface:
            state["type"], state["interface"] = protocol.name, interface
            state["applied"] = protocol.recovered(interface)
            return state
    interface = _guarded(view, host)
    if interface:
        state["interface"], state["applied"] = interface, protocols[0].recovered(interface)
    return state if interface or os.path.lexists(folders.path(view["uuid"])) else None


def _guarded(view: View, host: Host) -> str | None:
    """The interface that the tunnel's own table of nftables names, where its files are lost too."""
    if not os.path.exists("/sys/class/net/%s" % view["interface"]):
        return None
    listed = host.query("nft", "list", "table", "inet", netdev.table(view["uuid"])) or ""
    return view["interface"] if re.search('iifname != "%s"' % re.escape(view["interface"]), listed) else None


def _valid(interface: str | None) -> str | None:
    try:
        return None if interface is None else validators.interface(interface)
    except FieldError:
        return None
