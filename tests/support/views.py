# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A view as the tests of the protocols want it, and the WireGuard configuration made from it."""

from __future__ import annotations

import base64
from pathlib import Path

from ansible_collections.marzban.tunnels.plugins.module_utils._model import render, views

PANEL = "9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
KEY = base64.b64encode(b"k" * 32).decode()
TEMPLATE = (Path(__file__).parents[2] / "roles/wireguard/templates/wg-quick.conf.j2").read_text()
NODE = {"dir": f"/etc/marzban/tunnels/{UUID}", "mtu": 1420, "peer_public_key": KEY, "preshared_key": "/dev/null"}


def view(**changes):
    """The view of de-1; ``changes`` are dotted: ``{"local.port": 1}``."""

    def end(role, node, step):
        return {
            "node": node,
            "role": role,
            "endpoint": f"203.0.113.{step}",
            "port": 20003,
            "addresses": [f"10.201.0.{step}/31", f"fd6d:7a00::{step}/127"],
            "routes": [],
            "public": None,
        }

    made = {
        "panel": PANEL,
        "id": 3,
        "uuid": UUID,
        "name": "de-fi",
        "type": "wireguard",
        "active": True,
        "version": 1,
        "interface": "mz3",
        "mtu": None,
        "keepalive": 25,
        "dial": True,
        "dialed": True,
        "transport": "udp",
        "post_quantum": "auto",
        "routes": ["192.168.7.0/24"],
        "local": end("source", "de-1", 2),
        "peer": end("target", "fi-1", 3),
    }
    for key, value in changes.items():
        *path, last = key.split(".")
        place = made
        for part in path:
            place = place[part]
        place[last] = value
    for side in (made["local"], made["peer"]):
        if isinstance(side, dict):
            side.setdefault("endpoint_port", side.get("port"))
    return made


def conf(raw, template=TEMPLATE):
    return render.fill(render.render(views.check(raw, PANEL), template), NODE)
