# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The commands of ``python -m marzban_tunnels``."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from marzban_tunnels import __version__, metrics_access, node_access
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone import certificate

if TYPE_CHECKING:
    from marzban_tunnels.standalone.database import Database

# FastAPI, SQLAlchemy and Alembic take a second to import: each command imports what it needs.

_SETTINGS = """settings, by environment:
  SUDO_USERNAME, SUDO_PASSWORD     the first admin; made, or given this password, at each start
  JWT_ACCESS_TOKEN_EXPIRE_MINUTES  how long a token is good for (1440; 0: for ever)
  DASHBOARD_PATH                   where the page is, at tunnels below it (/dashboard/)
  TUNNEL_IPV4_POOL                 addresses inside the tunnels (10.201.0.0/16)
  TUNNEL_IPV6_POOL                 the same for IPv6 (fd6d:7a00::/64)
  TUNNEL_PORT_RANGE                ports of the ends (20000-32767)
  NODE_API_KEY                     the secret by which the panel calls the nodes' services
  TUNNEL_METRICS_KEY               the key with which Prometheus reads /api/tunnels/metrics
"""
_CERTIFICATES = {
    "kept": "kept; the certificate covers the names, and is good for 30 days more",
    "renewed": "renewed by the same CA: restart the panel",
    "made": f"made, with a new CA: restart the panel, and copy {certificate.CA} to every controller",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the answer is the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        print(f"marzban_tunnels: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m marzban_tunnels", description="A panel with the tunnels API.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the panel", epilog=_SETTINGS, formatter_class=raw)
    _database(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (%(default)s)")
    command.add_argument("--port-file", type=Path, help="file that holds the port from the moment requests are taken")
    command.add_argument("--tls-cert", type=Path, help="certificate (PEM)")
    command.add_argument("--tls-key", type=Path, help="its private key (PEM)")
    command.add_argument("--log-file", help="where the log goes, one JSON object a line (stderr)")
    command.add_argument("--trusted-proxy", help="address of a reverse proxy whose X-Forwarded-For is believed")
    command.set_defaults(run=_serve)

    command = commands.add_parser("migrate", help="change the database's tables")
    _database(command)
    command.add_argument("direction", choices=["upgrade", "downgrade"])
    command.add_argument("revision", help="head, base, or a revision of one part")
    command.set_defaults(run=_migrate)

    command = commands.add_parser(
        "admin", help="add an admin, or set its password", description="The password is read from ADMIN_PASSWORD."
    )
    _database(command)
    command.add_argument("username")
    command.add_argument("--sudo", action="store_true", help="may use nodes and tunnels")
    command.set_defaults(run=_admin)

    command = commands.add_parser("certificate", help="make or renew a server certificate, and its CA")
    command.add_argument("directory", type=Path, help="gets ca.pem, ca-key.pem, server.pem and server-key.pem")
    command.add_argument("--name", action="append", required=True, help="host name or address; may be repeated")
    command.set_defaults(run=_certificate)
    return parser


def _database(command: argparse.ArgumentParser) -> None:
    command.add_argument("--database", required=True, help="SQLite file, or a SQLAlchemy URL")


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[Database]:
    from sqlalchemy.exc import SQLAlchemyError

    from marzban_tunnels.standalone.database import Database

    try:
        with Database(options.database) as database:
            yield database
    except SQLAlchemyError as error:
        where = options.database if "://" not in options.database else "the database"  # a URL may hold a password
        raise ValueError(f"--database: {where}: {error}") from error


def _serve(options: argparse.Namespace) -> None:
    from marzban_tunnels.page import DEFAULT_DASHBOARD_PATH
    from marzban_tunnels.standalone.access_log import Lines
    from marzban_tunnels.standalone.admins import Admins
    from marzban_tunnels.standalone.app import build
    from marzban_tunnels.standalone.serve import listen, log_to, serve

    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key belong together")
    settings, access = Settings.from_env(os.environ), node_access.from_env(os.environ)
    metrics = metrics_access.from_env(os.environ)
    lifetime = _minutes(os.environ.get("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "1440"))
    dashboard_path = os.environ.get("DASHBOARD_PATH", DEFAULT_DASHBOARD_PATH)
    lines = Lines(options.log_file)
    pem = _certificate_text(options.tls_cert, options.tls_key) if options.tls_cert else ""
    with _opened(options) as database:
        database.upgrade()
        admins = Admins(database, lifetime)
        username, password = os.environ.pop("SUDO_USERNAME", ""), os.environ.pop("SUDO_PASSWORD", "")
        if username and password:
            admins.put(username, password, is_sudo=True)
        if not admins.exist():
            raise ValueError("there is no admin: set SUDO_USERNAME and SUDO_PASSWORD")
        app, manager, events = build(
            database, admins, settings, access, lines, pem, dashboard_path, metrics=metrics, environ=os.environ
        )
        bound = listen(options.host, options.port)
        log_to(lines)
        with manager, events.feed:
            serve(app, events.end, bound, options.port_file, options.tls_cert, options.tls_key, options.trusted_proxy)


def _certificate_text(path: Path, key: Path) -> str:
    """The certificate's PEM, after it was seen that it can be used: uvicorn's own errors name no file."""
    for option, file in (("--tls-cert", path), ("--tls-key", key)):
        try:
            file.open("rb").close()
        except PermissionError:
            user = _user()
            raise ValueError(f"{option}: the user {user} may not read {file}: chown {user}: {file}") from None
        except OSError as error:
            raise ValueError(f"{option}: {file}: {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key)
    except ssl.SSLError as error:
        raise ValueError(f"--tls-cert {path} and --tls-key {key}: {error.reason or error}") from None
    return path.read_text()


def _user() -> str:
    """The user that this process runs as, as ``chown`` takes it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container
        return str(os.geteuid())


def _minutes(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"JWT_ACCESS_TOKEN_EXPIRE_MINUTES: {text!r} is not a whole number of minutes") from None


def _migrate(options: argparse.Namespace) -> None:
    from marzban_tunnels import migrate

    down = options.direction == "downgrade"
    trees = [tree for tree in migrate.TREES if options.revision in migrate.revisions(tree)]
    if options.revision == ("base" if down else "head"):
        trees = list(migrate.TREES)
    if not trees:
        raise ValueError(f"{options.revision} is not a revision")
    with _opened(options) as database, migrate.locked(database.engine) as connection:
        for tree in reversed(trees) if down else trees:
            (migrate.downgrade if down else migrate.upgrade)(connection, tree, options.revision)


def _admin(options: argparse.Namespace) -> None:
    from marzban_tunnels.standalone.admins import Admins

    with _opened(options) as database:
        database.upgrade()
        Admins(database, 0).put(options.username, os.environ.get("ADMIN_PASSWORD", ""), options.sudo)


def _certificate(options: argparse.Namespace) -> None:
    done = certificate.ensure(options.directory, options.name)
    print(f"{options.directory}: {_CERTIFICATES[done]}")
