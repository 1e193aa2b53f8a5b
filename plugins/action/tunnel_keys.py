# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Resolves config_dir on the controller."""

from __future__ import annotations

from ansible_collections.marzban.tunnels.plugins.plugin_utils._node import NodeAction


class ActionModule(NodeAction):
    """The action of ``tunnel_keys``."""

    TAKES_VIEWS = False
