# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Logging in, and who asks."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from sqlalchemy import select
from sqlalchemy.orm import Session

from marzban_tunnels.standalone import passwords, schemas
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Admin, Secret
from marzban_tunnels.standalone.throttle import Throttle

_BEARER = {"WWW-Authenticate": "Bearer"}
_token_from_header = OAuth2PasswordBearer(tokenUrl="/api/admin/token")


class Admins:
    """The admins of a database, and their tokens (``lifetime`` in minutes; 0 or less: for ever)."""

    def __init__(self, database: Database, lifetime: int) -> None:
        self._database = database
        self._lifetime = lifetime
        self._throttle = Throttle()
        self._secret = ""

    def start(self) -> None:
        """Load the secret that signs tokens; it is made at the first start."""
        with self._database.writing() as session:
            kept = session.get(Secret, "jwt")
            if kept is None:
                kept = Secret(name="jwt", value=secrets.token_hex(32))
                session.add(kept)
            self._secret = kept.value

    def put(self, username: str, password: str, is_sudo: bool) -> None:
        """Make an admin, or give it this password and rank; nothing changes when it has them."""
        if not (1 <= len(username) <= 64 and username.isprintable()):
            raise ValueError("A user name has 1 to 64 printable characters")
        if not password:
            raise ValueError("The password is empty")
        with self._database.writing() as session:
            admin = session.scalar(select(Admin).where(Admin.username == username))
            if admin is None:
                admin = Admin(username=username, password_hash="", password_set_at=0)
                session.add(admin)
            admin.is_sudo = is_sudo
            if not admin.password_hash or not passwords.matches(password, admin.password_hash):
                admin.password_hash = passwords.hash_password(password)
                admin.password_set_at = int(time.time())

    def exist(self) -> bool:
        """Whether anybody could log in."""
        with self._database.reading() as session:
            return session.scalar(select(Admin.id).limit(1)) is not None

    def session(self) -> Iterator[Session]:
        """Dependency: a session for one request."""
        with self._database.reading() as session:
            yield session

    def current(self) -> Callable[..., schemas.AdminOut]:
        """Dependency: the admin that asks, or 401."""

        def find(
            request: Request,
            token: str = Depends(_token_from_header),
            session: Session = Depends(self.session),
        ) -> schemas.AdminOut:
            admin = self._holder(token, session)
            if admin is None:
                raise HTTPException(401, "Could not validate credentials", _BEARER)
            request.state.admin = admin.username  # for the access log
            return schemas.AdminOut(username=admin.username, is_sudo=admin.is_sudo)

        return find

    def sudo(self) -> Callable[..., schemas.AdminOut]:
        """Dependency: the sudo admin that asks, or 401, or 403."""

        def check(admin: schemas.AdminOut = Depends(self.current())) -> schemas.AdminOut:
            if not admin.is_sudo:
                raise HTTPException(403, "You're not allowed")
            return admin

        return check

    def router(self) -> APIRouter:
        """``/api/admin``."""
        router = APIRouter(prefix="/api", tags=["Admin"])

        def admin_token(request: Request, form: OAuth2PasswordRequestForm = Depends()) -> schemas.Token:
            """Log in with a form, get a token."""
            address = request.client.host if request.client else ""
            wait = self._throttle.wait(address, form.username)
            if wait:
                seconds = str(math.ceil(wait))
                raise HTTPException(
                    429, f"Too many wrong passwords: try again in {seconds} s", {"Retry-After": seconds}
                )
            admin = self._login(form.username, form.password)
            if admin is None:
                self._throttle.failed(address, form.username)
                raise HTTPException(401, "Incorrect username or password", _BEARER)
            self._throttle.passed(address, form.username)
            request.state.admin = admin.username
            return schemas.Token(access_token=self._token(admin))

        def get_current_admin(admin: schemas.AdminOut = Depends(self.current())) -> schemas.AdminOut:
            """Who asks."""
            return admin

        unknown: dict[int | str, dict[str, Any]] = {401: {"model": schemas.Detail}}
        router.add_api_route(
            "/admin/token",
            admin_token,
            methods=["POST"],
            response_model=schemas.Token,
            responses={
                **unknown,
                400: {"model": schemas.Detail},
                429: {"model": schemas.Detail},
                422: {"model": schemas.FieldDetail},
            },
        )
        router.add_api_route("/admin", get_current_admin, response_model=schemas.AdminOut, responses=unknown)
        return router

    def _login(self, username: str, password: str) -> Admin | None:
        with self._database.reading() as session:
            admin = session.scalar(select(Admin).where(Admin.username == username))
        if admin is None:
            passwords.waste_time(password)
            return None
        return admin if passwords.matches(password, admin.password_hash) else None

    def _token(self, admin: Admin) -> str:
        now = int(time.time())
        claims: dict[str, object] = {"sub": admin.username, "access": "sudo" if admin.is_sudo else "admin", "iat": now}
        if self._lifetime > 0:
            claims["exp"] = now + 60 * self._lifetime
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _holder(self, token: str, session: Session) -> Admin | None:
        """The admin that a token was made for, as it is today; none for a token older than the password."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"], options={"require": ["sub", "iat"]})
        except jwt.PyJWTError:
            return None
        admin = session.scalar(select(Admin).where(Admin.username == claims["sub"]))
        return admin if admin is not None and claims["iat"] >= admin.password_set_at else None
