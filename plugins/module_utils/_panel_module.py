# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules that speak to the panel have in common. Apart from ``_module``, which goes to every node."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback

from ._panel.client import Panel


def panel_argument_spec() -> dict[str, dict[str, Any]]:
    """The options of plugins/doc_fragments/panel.py."""

    def option(name: str, **spec: Any) -> dict[str, Any]:
        return dict(spec, fallback=(env_fallback, ["MARZBAN_" + name.upper()]))

    return {
        "url": option("url", type="str"),
        "username": option("username", type="str"),
        "password": option("password", type="str", no_log=True),
        "token": option("token", type="str", no_log=True),
        "ca_path": option("ca_path", type="path"),
        "validate_certs": option("validate_certs", type="bool", default=True),
        "timeout": option("timeout", type="int", default=10),
        "retries": option("retries", type="int", default=3),
    }


def open_panel(module: AnsibleModule) -> Panel:
    """The Panel of the module's options. Nothing is asked yet."""
    options = {name: module.params[name] for name in panel_argument_spec()}
    return Panel(warn=module.warn, **options)
