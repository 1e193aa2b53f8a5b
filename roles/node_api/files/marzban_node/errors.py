# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a call is refused with."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """An answer that is not a success. ``told``: further fields of its body."""

    def __init__(self, status: int, code: str, detail: str | dict[str, str], **told: Any) -> None:
        super().__init__(str(detail))
        self.status = status
        self.body: dict[str, Any] = {"detail": detail, "code": code, **told}
