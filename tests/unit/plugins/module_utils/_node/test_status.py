# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a probe means for one end."""

from __future__ import annotations

import re

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.status import status
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.ipsec.protocol import IPsec
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard.protocol import WireGuard
from tests.support.views import view

OUTSIDE = "is UDP 20003 open at 203.0.113.3"
INSIDE = "does a firewall on fi-1 drop what comes out of the tunnel"


@pytest.mark.parametrize(
    ("loss", "age", "up", "heard", "wanted", "said"),
    [
        (0, 5, 10, False, "active", ""),
        (66.7, None, None, False, "active", ""),
        (100, None, 20, False, "connecting", r"^no answer yet from fi-1 at 203.0.113.3, UDP 20003, for 20 s$"),
        (None, None, None, False, "connecting", r"^no answer yet from fi-1 at 203.0.113.3, UDP 20003$"),
        (None, 20, 900, False, "connecting", ""),
        (100, None, 200, False, "error", f"no handshake with fi-1 in 3 min: {OUTSIDE}"),
        (None, None, 200, False, "error", "no handshake"),
        (100, 400, 900, True, "error", "last handshake with fi-1 was 6 min ago"),
        (100, 20, 900, True, "error", f"10.201.0.3 did not answer .* other packets came in from it: {INSIDE}"),
        (
            100,
            20,
            900,
            False,
            "error",
            rf"10.201.0.3 did not answer .* came in from it: {OUTSIDE}\? If it is, {INSIDE}",
        ),
    ],
)
def test_status(loss, age, up, heard, wanted, said):
    measured = {"handshake_age": age, "loss_percent": loss, "rtt_ms": None, "rx_bytes": 0, "tx_bytes": 0}
    found, error = status(view(), measured, up, WireGuard(None, None), heard)
    assert found == wanted
    assert (error is None) is (not said)
    assert re.search(said, error or "")


def test_the_age_of_a_unit_is_not_told_as_that_of_a_silence():
    """Of an association that has ended charon knows nothing: it may have been there a moment ago."""
    measured = {"handshake_age": None, "loss_percent": 100.0}
    found, error = status(view(type="ipsec"), measured, 540, IPsec(None, None))
    assert found == "error"
    assert (error or "").startswith("there is no session with fi-1: is UDP ")
    assert "9 min" not in (error or "")


def test_an_end_that_is_dialled_says_so():
    measured = {"handshake_age": None, "loss_percent": 100.0}
    assert status(view(dial=False), measured, 40, WireGuard(None, None)) == (
        "connecting",
        "fi-1 has not dialed UDP 20003 here at 203.0.113.2 yet, for 40 s",
    )
    assert "fi-1 dials, is UDP 20003 open at 203.0.113.2 (this host)" in (
        status(view(dial=False), measured, 300, WireGuard(None, None))[1] or ""
    )
