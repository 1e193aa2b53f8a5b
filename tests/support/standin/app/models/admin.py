# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): who may ask, where Marzban tells it."""

from __future__ import annotations

from app.db import database, get_db
from marzban_tunnels.standalone.admins import Admins


class OneSession(Admins):
    """A request has one session, the login's as well."""

    session = staticmethod(get_db)


admins = OneSession(database, lifetime=70)


class Admin:
    """Marzban's model has the dependency as a class method."""

    check_sudo_admin = staticmethod(admins.sudo())
