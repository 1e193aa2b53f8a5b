# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The versions of the tunnels API: which one a panel has, and what may be sent to it. Pure.

Panel and collection are not updated in one moment. contract.md says what each version has, and what an older
side may expect of a newer one.
"""

from __future__ import annotations

import re
from typing import Any, Iterable, Mapping

from .._errors import FieldError

HEADER = "Marzban-Tunnels-Api"
VERSION = 6  # the newest version that this collection knows
BULK = 3  # the first version that creates many tunnels in one call
LARGE_PAGES = 3  # the first version that gives 2000 tunnels at once, and not 1000
ENDPOINT_PORT = 4  # the first version that knows the port at which an end is dialed, where that is not its own
ALIKE_NAMES = 4  # the first version that refuses a new name which looks like another tunnel's
NEXT_KEYS = 4  # the first version whose public halves have a next key, and the peer's next key that is accepted
NODE_SERVICES = 5  # the first version that knows the nodes' services
SYMPTOMS = 6  # the first version whose reports have the symptom of an end
HISTORY = 6  # the first version that says since when a tunnel has its status
# A panel of version 1 refuses all reports of a call when one of them has a measurement that is not in this list.
# Later versions ignore what they do not know. So this list never changes.
MEASURED_IN_1 = (
    "handshake_age",
    "rx_bytes",
    "tx_bytes",
    "rtt_ms",
    "loss_percent",
    "cipher",
    "key_exchange",
    "post_quantum",
    "data_path",
    "certificate_days",
)
# How a 503 of the tunnels API itself begins: the panel answers, and one of these is wrong with it.
TROUBLE = {"The tunnels could not be started": "not_started", "The database is busy": "database_busy"}


def trouble(detail: object) -> str | None:
    """The kind of PanelError of a 503 whose reason is ``detail``; None when it is not the tunnels API's own."""
    found = [kind for begin, kind in TROUBLE.items() if isinstance(detail, str) and detail.startswith(begin)]
    return found[0] if found else None


def version(text: str | None) -> int:
    """The version in a panel's header; 1 when there is no header. Raises FieldError."""
    if text is None:
        return 1
    if not re.match(r"[1-9][0-9]{0,8}\Z", text):
        raise FieldError(HEADER, text, "Expected an integer from 1: check that this address is the panel's.")
    return int(text)


def unknown_in(panel: int, body: Mapping[str, Any]) -> list[str]:
    """The fields of a tunnel's ``body`` (its config a dict) that a panel of this version does not know.

    It would keep them, as it keeps whatever it does not know in a config, and neither check nor give them.
    """
    config = body.get("config")
    if panel >= ENDPOINT_PORT or not isinstance(config, Mapping):
        return []
    ends = [role for role in ("source", "target") if isinstance(config.get(role), Mapping)]
    return ["config.%s.endpoint_port" % role for role in ends if config[role].get("endpoint_port") is not None]


def unknown_in_1(reports: Iterable[Mapping[str, Any]]) -> list[str]:
    """The measurements in ``reports`` (contract.md) that a panel of version 1 does not know, sorted."""
    found = {key for report in reports for key in report.get("measured") or ()}
    return sorted(found - set(MEASURED_IN_1))


def without_symptoms(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``reports`` for a panel before version 6, which refuses what it does not know in a report."""
    return [{key: value for key, value in report.items() if key != "symptom"} for report in reports]


def reports_for_1(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``reports`` with only the measurements that a panel of version 1 knows."""
    return [
        dict(report, measured={key: value for key, value in report["measured"].items() if key in MEASURED_IN_1})
        if report.get("measured")
        else dict(report)
        for report in reports
    ]
