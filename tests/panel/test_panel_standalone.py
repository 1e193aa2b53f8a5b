# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What only the standalone door has: its process, admins, log, and what it makes of a database that others wrote to."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from marzban_tunnels.service import Tunnels
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone import cli, passwords
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node
from marzban_tunnels.standalone.throttle import FREE, LONGEST, Throttle
from tests.support.panel import Panel, database
from tests.support.panel_api import Api, client

Maker = Callable[..., Any]


@contextlib.contextmanager
def logged_in(panel: Panel) -> Iterator[Api]:
    api = client(panel)
    try:
        yield api
    finally:
        api.session.close()


@contextlib.contextmanager
def purging(panel: Panel) -> Iterator[None]:
    """What the start of a panel does to the database, without one."""
    yield
    with Database(str(panel.database)) as opened, opened.reading() as session:
        Tunnels(Node.__table__, Settings.from_env({})).start(session)  # type: ignore[arg-type]


def test_a_restart_keeps_records_tokens_and_the_panels_id(tmp_path: Path) -> None:
    with Panel.start(tmp_path, tls=False) as panel, logged_in(panel) as api:
        tunnel = api.tunnel(api.node(), api.node())
        panel_id = api.bare("GET", "/api/tunnels").headers["Marzban-Panel-Id"]
        with database(panel) as connection:
            admins = connection.execute("SELECT * FROM admins").fetchall()
        panel.restart()
        assert api.send("GET", "/api/tunnels") == [tunnel], "with the token of before"
        assert api.bare("GET", "/api/tunnels").headers["Marzban-Panel-Id"] == panel_id
        with database(panel) as connection:
            assert connection.execute("SELECT * FROM admins").fetchall() == admins, "the password isn't hashed again"
        panel.password, panel._env["NODE_API_KEY"] = "another one", ""
        panel.restart()
        (line,) = (line for line in panel.log_path.read_text().splitlines() if "the manager is off" in line)
        assert "NODE_API_KEY can't be used: it is empty" in line, "of the start with the empty one"
        assert api.refused("GET", "/api/tunnels", None, 401) == "Could not validate credentials"
        api.password = panel.password
        assert api.login().send("GET", "/api/tunnels") == [tunnel]
        port_file = panel.directory / "port"
        assert int(port_file.read_text()) == panel.port
        panel.stop()
        assert not port_file.exists()
        assert panel.error_path.read_text() == ""


def test_an_admin_who_is_not_sudo(panel: Panel, make_node: Maker) -> None:
    panel.add_admin("guest", "guest's password")
    guest = "guest", "guest's password"
    headers = {"Authorization": f"Bearer {panel.token(*guest)}"}
    body = {"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard"}
    assert panel.request("GET", "/api/admin", headers=headers)[1]["is_sudo"] is False
    assert panel.request("GET", "/api/system", headers=headers)[0] == 200
    node = make_node()
    for method, path, sent in (
        ("GET", "/api/nodes", None),
        ("GET", "/api/nodes/usage", None),
        ("POST", "/api/node", {"name": "x", "address": "x"}),
        ("GET", f"/api/node/{node['id']}", None),
        ("PUT", f"/api/node/{node['id']}", {"name": "x"}),
        ("DELETE", f"/api/node/{node['id']}", None),
        ("POST", f"/api/node/{node['id']}/reconnect", None),
        ("GET", "/api/node/settings", None),
        ("GET", "/api/tunnels", None),
        ("POST", "/api/tunnels", body),
        ("POST", "/api/tunnels/bulk", {"tunnels": [body]}),
        ("POST", "/api/tunnels/keys", {"keys": []}),
        ("POST", "/api/tunnels/status", {"reports": []}),
        ("GET", "/api/tunnels/1", None),
        ("PUT", "/api/tunnels/1", {}),
        ("DELETE", "/api/tunnels/1", None),
        ("POST", "/api/tunnels/1/activate", None),
        ("POST", "/api/tunnels/1/deactivate", None),
        ("GET", "/api/tunnels/1/status", None),
        ("GET", "/api/tunnels/nodes", None),
        ("PUT", "/api/tunnels/nodes", {"nodes": []}),
        ("POST", "/api/tunnels/nodes/access", {"nodes": []}),
        ("POST", f"/api/tunnels/nodes/{node['id']}/revoke", None),
        ("POST", f"/api/tunnels/nodes/{node['id']}/confirm", {"database": True}),
    ):
        assert panel.request(method, path, sent, headers=headers) == (403, {"detail": "You're not allowed"}), path
    assert panel.call("GET", f"/api/node/{node['id']}") == node | {"status": "connected"}

    with logged_in(panel) as api:
        login = dict(zip(("username", "password"), guest, strict=True))
        for _time in range(5):  # on a busy machine the second of delay may be over when the right password comes
            for _guess in range(FREE + 1):
                assert api.bare("POST", "/api/admin/token", data={**login, "password": "wrong"}).status_code == 401
            slowed = api.bare("POST", "/api/admin/token", data=login)
            if slowed.status_code == 429:
                break
    assert slowed.status_code == 429, "guessing is slowed down"
    assert 1 <= int(slowed.headers["Retry-After"]) <= 2
    assert "Too many wrong passwords" in slowed.json()["detail"]
    panel.token()  # another user isn't held up


def test_tokens_expire_and_are_checked(panel: Panel) -> None:
    token = panel.token()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 70 * 60
    assert (claims["sub"], claims["access"]) == ("admin", "sudo")
    with database(panel) as connection:
        (secret,) = connection.execute("SELECT value FROM secrets WHERE name = 'jwt'").fetchone()
    assert len(bytes.fromhex(secret)) == 32
    good = jwt.encode(claims, secret, "HS256")
    assert panel.request("GET", "/api/nodes", headers={"Authorization": f"Bearer {good}"})[0] == 200
    for forged in (
        jwt.encode(claims | {"exp": claims["iat"] - 1, "iat": claims["iat"] - 9}, secret, "HS256"),
        jwt.encode(claims, "0" * 64, "HS256"),
        jwt.encode(claims, "", "none"),
        jwt.encode(claims | {"sub": "nobody"}, secret, "HS256"),
        jwt.encode(claims | {"iat": 1}, secret, "HS256"),
        jwt.encode({key: value for key, value in claims.items() if key != "iat"}, secret, "HS256"),
        token[:-4],
        "",
    ):
        status, body = panel.request("GET", "/api/nodes", headers={"Authorization": f"Bearer {forged}"})
        assert (status, body["detail"]) == (401, "Could not validate credentials")


def test_the_backoff() -> None:
    now = 1000.0
    throttle = Throttle(lambda: now)
    waits = []
    for _time in range(FREE + 11):
        throttle.failed("192.0.2.1", "admin")
        waits.append(throttle.wait("192.0.2.1", "admin"))
    assert waits[:FREE] == [0] * FREE
    assert waits[FREE:] == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST, LONGEST]
    assert throttle.wait("192.0.2.2", "admin") == 0, "not from elsewhere"
    assert throttle.wait("192.0.2.1", "other") == 0
    now += LONGEST
    assert throttle.wait("192.0.2.1", "admin") == 0
    throttle.failed("192.0.2.1", "admin")
    assert throttle.wait("192.0.2.1", "admin") == LONGEST
    throttle.passed("192.0.2.1", "admin")
    assert throttle.wait("192.0.2.1", "admin") == 0
    for number in range(FREE + 1):
        throttle.failed(f"2001:db8::{number}", "admin")
    assert throttle.wait("2001:db8::ffff", "admin") == 1, "one IPv6 client has a whole /64"


def test_passwords_are_hashed() -> None:
    one, two = passwords.hash_password("ünlock"), passwords.hash_password("ünlock")
    assert one != two
    assert passwords.matches("ünlock", one)
    assert not passwords.matches("unlock", one)


def test_the_log_is_complete_and_holds_no_secret(panel: Panel) -> None:
    before, written_before = len(panel.log_lines()), len(panel.writes())
    public = base64.b64encode(os.urandom(32)).decode()
    marks = [panel.password, "wr0ng-passw0rd", "s3cret-query", "a-note-in-a-config", "an-address-9", public]
    with logged_in(panel) as api:
        token = str(api.session.headers["Authorization"]).split()[1]
        api.bare("POST", "/api/admin/token", data={"username": "x", "password": "wr0ng-passw0rd"})
        api.bare("GET", "/api/nodes?token=s3cret-query")
        a, b = api.node(address="an-address-9"), api.node()
        tunnel = api.tunnel(a, b, config='{"note": "a-note-in-a-config"}')
        item = {"uuid": tunnel["uuid"], "node": a["name"], "public": {"public_key": public}}
        api.send("POST", "/api/tunnels/keys", {"keys": [item]})
        api.bare("POST", "/api/tunnels/keys", json={"keys": [item | {"private_key": public}]})
        api.bare("GET", "/api/no%0Athing\u00e9")
        api.bare("HEAD", "/api/nodes")
    lines = panel.log_lines()[before:]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/api/admin/token", 200),
        ("POST", "/api/admin/token", 401),
        ("GET", "/api/nodes", 200),
        ("POST", "/api/node", 200),
        ("POST", "/api/node", 200),
        ("POST", "/api/tunnels", 200),
        ("POST", "/api/tunnels/keys", 200),
        ("POST", "/api/tunnels/keys", 422),
        ("GET", "/api/no\nthing\u00e9", 404),
        ("HEAD", "/api/nodes", 405),
    ]
    assert [line["admin"] for line in lines][:3] == ["admin", None, "admin"]
    assert all(set(line) == {"time", "method", "path", "status", "milliseconds", "admin", "client"} for line in lines)
    assert (
        panel.writes()[written_before:]
        == ["POST /api/node", "POST /api/node", "POST /api/tunnels"] + ["POST /api/tunnels/keys"] * 2
    )
    written = panel.log_path.read_text() + panel.error_path.read_text()
    assert [mark for mark in [*marks, token] if mark in written] == []
    assert panel.error_path.read_text() == "", "no warning, no deprecation"
    assert stat.S_IMODE(panel.log_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(panel.database.stat().st_mode) == 0o600
    for path in panel.directory.glob("panel.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert panel.password.encode() not in path.read_bytes()


def test_a_node_that_gets_the_id_of_a_former_one(panel: Panel, api: Api, make_node: Maker) -> None:
    a, b = make_node(), make_node()
    tunnel = api.tunnel(a, b)
    api.send("DELETE", f"/api/node/{b['id']}")
    again = make_node()
    assert again["id"] == b["id"], "as SQLite does it on Marzban"
    api.refused("GET", f"/api/tunnels/{tunnel['id']}", None, 404)
    tunnel = api.tunnel(a, again)
    with purging(panel), database(panel) as connection:  # deleted while nobody watched, and the id given to another
        connection.execute("DELETE FROM nodes WHERE id = ?", (again["id"],))
        connection.execute(
            "INSERT INTO nodes (id, name, address, port, api_port, usage_coefficient, status, created_at)"
            " VALUES (?, 'later', 'x', 1, 1, 1, 'connected', '2031-01-01 00:00:00.000000')",
            (again["id"],),
        )
    assert api.refused("GET", f"/api/tunnels/{tunnel['id']}", None, 404) == "Tunnel not found"
    assert rows(panel, tunnel) == [0, 0, 0]


def rows(panel: Panel, tunnel: Any) -> list[int]:
    """How many rows a tunnel has in each table."""
    with database(panel) as connection:
        tables = {"tunnels": "id", "tunnel_ends": "tunnel_id", "tunnel_addresses": "tunnel_id"}
        query = "SELECT count(*) FROM {} WHERE {} = ?"
        return [connection.execute(query.format(*table), (tunnel["id"],)).fetchone()[0] for table in tables.items()]


def test_tunnels_whose_node_went_away_unseen(panel: Panel, api: Api, make_node: Maker) -> None:
    a, b, c = make_node(), make_node(), make_node()
    gone, kept = api.tunnel(a, b), api.tunnel(b, c)
    with database(panel) as connection:
        connection.execute("DELETE FROM nodes WHERE id = ?", (a["id"],))
    assert api.refused("GET", f"/api/tunnels/{gone['id']}", None, 404) == "Tunnel not found"
    assert kept in api.send("GET", "/api/tunnels?limit=1000")
    assert rows(panel, gone) == [1, 2, 4]
    with purging(panel):
        pass
    assert rows(panel, gone) == [0, 0, 0]
    assert rows(panel, kept) == [1, 2, 4]
    assert api.send("GET", f"/api/tunnels/{kept['id']}") == kept


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("config", "not json"),
        ("config", "[]"),
        ("config", '{"source": {"endpoint": 3, "routes": "x", "port": "y"}}'),
        ("config", '{"source": 3}'),
        ("name", "a\nb; $(reboot) \u202e"),
        ("name", ""),
        ("tunnel_type", "gre"),
        ("uuid", "none"),
    ],
)
def test_a_record_that_someone_else_wrote_breaks_no_other(
    api: Api, panel: Panel, pair: tuple[Any, Any], column: str, value: str
) -> None:
    bad, good = api.tunnel(*pair), api.tunnel(*pair)
    with database(panel) as connection:
        connection.execute(f"UPDATE tunnels SET {column} = ? WHERE id = ?", (value, bad["id"]))
        connection.execute("UPDATE tunnel_ends SET public = '{', measured = '[]' WHERE tunnel_id = ?", (bad["id"],))
    listed = {tunnel["id"]: tunnel for tunnel in api.send("GET", "/api/tunnels?limit=1000")}
    assert listed[good["id"]] == good
    assert listed[bad["id"]][column] == value, "shown as it is"
    assert [end["public"] for end in listed[bad["id"]]["ends"]] == [None, None]
    api.send("GET", f"/api/tunnels/{bad['id']}/status")
    repaired = api.send("PUT", f"/api/tunnels/{bad['id']}", {"config": "{}", "tunnel_type": "wireguard", "name": None})
    assert (repaired["config"], repaired["tunnel_type"]) == ("{}", "wireguard")
    api.send("DELETE", f"/api/tunnels/{bad['id']}")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"usage_coefficient": -1}, 422, "usage_coefficient"),
        ({"port": 2**40}, 422, "port"),
        ({"status": "gone"}, 422, "status"),
        ({"name": "taken"}, 409, "taken"),
    ],
)
def test_what_breaks_marzban_is_refused(api: Api, make_node: Maker, body: Any, status: int, field: str) -> None:
    make_node(name="taken")
    node = make_node()
    assert field in api.refused("PUT", f"/api/node/{node['id']}", body, status)
    assert api.send("GET", f"/api/node/{node['id']}") == node | {"status": "connected"}
    assert api.refused("GET", "/api/node/" + "9" * 30, None, 404) == "Node not found"
    infinite = '{"name": "i", "address": "x", "usage_coefficient": Infinity}'
    assert api.bare("POST", "/api/node", data=infinite, headers={"Content-Type": "application/json"}).status_code == 422


def test_a_body_without_end_is_cut(api: Api) -> None:
    answer = api.bare("POST", "/api/tunnels/keys", data=b" " * (17 * 1024 * 1024))
    assert answer.status_code == 413


def test_cost_does_not_grow_with_the_number_of_tunnels(api: Api, panel: Panel, pair: tuple[Any, Any]) -> None:
    """As ratios within this run: a page of a thousand against one of one, a create among 2000 against one among few."""
    nodes = pair
    first = api.tunnel(*nodes)
    body = {key: first[key] for key in ("source_node_id", "target_node_id", "tunnel_type")}

    def best(method: str, path: str, below: float = 0, **more: Any) -> float:
        """Seconds of the quickest of ten; of more, on a busy machine, until one is quick enough."""
        seconds: list[float] = []
        while len(seconds) < 10 or (min(seconds) >= below > 0 and len(seconds) < 100):
            answer = api.bare(method, path, **more)
            assert answer.status_code == 200
            seconds.append(answer.elapsed.total_seconds())
        return min(seconds)

    create_among_few = best("POST", "/api/tunnels", json=body)
    with database(panel) as connection:
        for number in range(10_000, 12_000):
            record = (number, f"u{number}", *(first[key] for key in ("source_node_id", "target_node_id")))
            connection.execute(
                "INSERT INTO tunnels (id, uuid, version, source_node_id, target_node_id, tunnel_type, config,"
                " is_active, created_at, updated_at)"
                " SELECT ?, ?, 1, ?, ?, 'wireguard', '{}', 1, created_at, updated_at FROM tunnels LIMIT 1",
                record,
            )
            for role, node in zip(("source", "target"), nodes, strict=True):
                connection.execute(
                    "INSERT INTO tunnel_ends (tunnel_id, role, node_id, port, interface) VALUES (?, ?, ?, ?, ?)",
                    (number, role, node["id"], number + 30000, f"mz{number}"),
                )
                for family in ("ffff", "fd6d"):
                    host = f"{family}{number:020x}{ord(role[0]):08x}"
                    connection.execute(
                        "INSERT INTO tunnel_addresses VALUES (?, ?, ?, 0, '10.0.0.1/31', ?, ?)",
                        (host, number, role, host, host),
                    )
    assert len(api.bare("GET", "/api/tunnels?limit=1000").json()) == 1000
    page = 200 * best("GET", "/api/tunnels?limit=1")
    assert best("GET", "/api/tunnels?limit=1000", page) < page
    create = 5 * create_among_few
    assert best("POST", "/api/tunnels", create, json=body) < create
    api.send("DELETE", f"/api/node/{nodes[0]['id']}")
    with database(panel) as connection:
        assert connection.execute("SELECT count(*) FROM tunnels WHERE id >= 10000").fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["serve"], {}, "there is no admin: set SUDO_USERNAME and SUDO_PASSWORD"),
        (["serve", "--tls-cert", "x.pem"], {}, "--tls-cert and --tls-key belong together"),
        (["serve"], {"TUNNEL_IPV4_POOL": "x"}, "TUNNEL_IPV4_POOL: "),
        (["serve"], {"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "soon"}, "JWT_ACCESS_TOKEN_EXPIRE_MINUTES: 'soon'"),
        (["serve", "--host", "192.0.2.1"], {"SUDO_USERNAME": "a", "SUDO_PASSWORD": "b"}, "Cannot assign"),
        (["admin", "x"], {"ADMIN_PASSWORD": ""}, "The password is empty"),
        (["admin", "a\nb"], {"ADMIN_PASSWORD": "x"}, "printable"),
    ],
)
def test_commands_say_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    for name in ("SUDO_USERNAME", "SUDO_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command, *rest = arguments
    assert cli.main([command, "--database", str(tmp_path / "x.db"), *rest]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
