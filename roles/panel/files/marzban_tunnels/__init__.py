# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The tunnels API for a Marzban panel.

One package, two doors: *mounted* into a real Marzban (its database, its admins), or *standalone*
(``python -m marzban_tunnels serve``) with a database of its own, for the demo, the tests and people without a panel.
What is directly in this package knows neither door: it is given the table of nodes, a session and a check for
sudo admins (see ``router.tunnels_router``). What belongs to the standalone door only is in ``standalone``.
"""

from __future__ import annotations

__version__ = "0.3.0-dev"
