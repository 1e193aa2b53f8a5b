# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When OpenVPN's process has to be started again, and what goes without."""

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import Situation
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import plan as planning
from tests.support.views import UUID, view

UNIT = "openvpn-server@mz3.service"
CONF = "proto udp\nlport 20003\ncipher AES-256-GCM\n"
PUBLIC = {"public_key": "x", "fingerprint": "ab" * 32}
ADDRESSES = ["10.201.0.2/31", "fd6d:7a00::2/127"]
APPLIED = {"addresses": ADDRESSES, "routes": ["192.168.7.0/24"], "rules": "digest", "fingerprint": "ab" * 32}
ROUTES = [("192.168.7.0/24", "mz3", False), ("10.201.0.2/31", "mz3", True)]


def live(**changes):
    return {
        "units": {UNIT: {"active": "active", "enabled": True}},
        "links": {"mz3": {"up": True, "mtu": 1444, "ipv6": True, "addresses": ADDRESSES}},
        "tables": {f"marzban-{UUID}": "digest"},
        "ports": set(),
        **changes,
    }


def plan(before=CONF, drop_in="same", wrap=False, public="same", found=None, active=True):
    """Of a tunnel that runs as it should, but for what the arguments say."""
    made = planning.Plan(view(type="openvpn"), UNIT, CONF)
    made.write("/etc/openvpn/server/mz3.conf", before, CONF)
    made.write(f"/etc/systemd/system/{UNIT}.d/marzban.conf", drop_in, "same")
    made.wrap_changes = wrap
    found = found or live()
    there = planning.Before(before, active, APPLIED if before else {})
    situation = Situation(
        made.view,
        "",
        PUBLIC if public == "same" else public,
        {},
        None,
        found,
        ROUTES,
        {"203.0.113.3": ["203.0.113.3"]},
        {},
    )
    planning.compare(made, there, situation, 1444)
    planning.check_port(made, there, found)
    return made


def test_nothing_to_do():
    made = plan()
    assert made.changes == made.hot == made.files == []
    assert not any((made.start, made.units, made.load, made.enable))


def test_from_nothing():
    made = plan(None, None, True, found=live(units={}, links={}, tables={}), active=False)
    assert made.changes == ["conf written", "wrap key derived", "enabled", "started"]
    assert made.start
    assert made.units
    assert made.hot == []


@pytest.mark.parametrize(
    ("what", "changes", "again"),
    [
        ({"before": CONF.replace("lport 20003", "lport 20004")}, ["conf changed", "restarted"], True),
        ({"wrap": True}, ["wrap key derived", "restarted"], True),
        ({"public": {**PUBLIC, "fingerprint": "0c" * 32}}, ["restarted"], True),
        ({"public": None}, [], False),
        ({"drop_in": "other"}, ["unit changed"], False),
        ({"drop_in": None}, ["files put back"], False),
    ],
)
def test_a_process_is_started_again_for_what_it_reads_at_its_start(what, changes, again):
    made = plan(**what)
    assert (made.changes, made.start) == (changes, again)


def test_a_port_counts_as_taken_only_where_the_process_is_not_there_already():
    taken = live(ports={("udp", 20003)})
    plan(found=taken)
    plan(wrap=True, found=taken)
    with pytest.raises(FieldError, match=r"^local\.port: 20003 can't be used\. Another program"):
        plan(wrap=True, found=taken, active=False)
