# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): serves the app, found again by its name, as Marzban does."""

from __future__ import annotations

import uvicorn
from app import app
from config import UVICORN_PORT, UVICORN_SSL_CERTFILE, UVICORN_SSL_KEYFILE

__all__ = ["app"]  # "main:app"

if __name__ == "__main__":
    uvicorn.run(
        "main:app",
        host="127.0.0.1",
        port=UVICORN_PORT,
        ssl_certfile=UVICORN_SSL_CERTFILE,
        ssl_keyfile=UVICORN_SSL_KEYFILE,
        workers=1,
    )
