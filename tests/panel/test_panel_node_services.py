# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What is written down when tunnels go, the nodes' access keys, and what a manager adds to answers. The contract of the
calls is in tests/contract/test_contract_node_services.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from marzban_tunnels import node_access, responses
from marzban_tunnels.halves import fingerprint
from marzban_tunnels.live import STALE_BY_SERVICE, Live, Nothing
from marzban_tunnels.node_services import NodeServices
from marzban_tunnels.schemas import TunnelCreate
from marzban_tunnels.schemas_nodes import AccessWanted
from marzban_tunnels.service import LONGEST_ASKING, Tunnels
from marzban_tunnels.tables import Deletion, End, NodeService, Panel, Tunnel
from tests.support.beside import ForeignNode, our_tunnels, serving, sessions, with_nodes
from tests.support.panel_api import Api, key, publish, report
from tests.support.servers import MariaDB

__all__ = ["sessions"]
Sessions = sessionmaker[Session]
SECRET = "0123456789abcdef" * 4
NODES = "/api/tunnels/nodes"
PIN = "sha256:" + "A" * 43 + "="
ONE, TWO, THREE = ({"id": number, "name": f"node-{number - 1}"} for number in (1, 2, 3))


class FakeManager(Nothing):
    """A FAKE: it says what a test has told it, and keeps what it was asked for. With each ``wake`` it looks into the
    database by a session of its own, where a change that is not committed yet is not to be seen."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.sessions = sessions
        self.ends: dict[tuple[str, str], dict[str, Any]] = {}
        self.changes = 0
        self.woken: list[tuple[set[int], int]] = []
        self.asked: list[tuple[set[int], float]] = []
        self.confirmed: list[tuple[int, str | None]] = []
        self.code = "timed_out"

    def manager_state(self) -> dict[str, Any]:
        return {"state": "on"}

    def node(self, node_id: int) -> dict[str, Any]:
        problem = {"code": self.code, "detail": "no answer"}
        orphans = [{"uuid": "u", "id": 7, "name": "x", "type": "wireguard", "interface": "mz7"}]
        told = {"state": "problem", "problem": problem, "contact_age": 5, "engine": "abc"}
        return {**told, "missing": ["openvpn"], "recoveries": {"process": 1}, "orphans": orphans}

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        return self.ends.get((uuid, role))

    def revision(self) -> int:
        return self.changes

    def wake(self, node_ids: Iterable[int]) -> None:
        with self.sessions() as session:
            self.woken.append((set(node_ids), session.scalars(select(Panel.writes)).one()))

    def renew(self) -> None:
        self.changes += 1

    def refresh(self, node_ids: Iterable[int], seconds: float) -> None:
        self.asked.append((set(node_ids), seconds))

    def confirm_database(self, node_id: int, deleted: str | None = None) -> None:
        self.confirmed.append((node_id, deleted))


@pytest.fixture
def tunnels(sessions: Sessions) -> Tunnels:
    """With a key, and started."""
    made = our_tunnels(access=node_access.check_key(SECRET))
    with sessions() as session:
        made.start(session)
    return made


@pytest.fixture
def other(sessions: Sessions, tunnels: Tunnels) -> Iterator[Api]:
    with serving(sessions, tunnels) as api:
        yield api


@pytest.fixture
def manager(sessions: Sessions, tunnels: Tunnels) -> FakeManager:
    tunnels.live = FakeManager(sessions)
    return tunnels.live


def written(sessions: Sessions) -> dict[tuple[str, int], Deletion]:
    """The deletion records by the tunnel's uuid and the node's number."""
    with sessions() as session:
        return {(row.uuid, row.node_id): row for row in session.scalars(select(Deletion))}


def service(api: Api, node: Any, port: int | None = 62052) -> Any:
    (found,) = api.send("POST", NODES + "/access", {"nodes": [node["name"]]})["nodes"]
    item = {"node": node["name"], "uuid": found["uuid"], "port": port, "pin": PIN if port else None}
    assert api.send("PUT", NODES, {"nodes": [item]})["updated"] == 1
    return found


# keys


def test_the_access_key_is_hkdf_of_panel_node_and_generation() -> None:
    access = node_access.check_key(SECRET)
    made = HKDF(hashes.SHA256(), 32, b"panel", b"marzban.tunnels node uuid 3").derive(SECRET.encode())
    from_text = access.key("panel", "uuid", 3)
    assert (len(from_text), "=" in from_text) == (43, False)
    assert base64.urlsafe_b64decode(from_text + "=") == made
    assert access.hashes("panel", "uuid", 3) == [
        hashlib.sha256(access.key("panel", "uuid", number).encode()).hexdigest() for number in (3, 4)
    ]
    others = {access.key(*of) for of in (("panel", "uuid", 3), ("panel", "uuid", 4), ("panel", "b", 3), ("p", "b", 3))}
    assert len(others | {node_access.check_key(SECRET + "x").key("panel", "uuid", 3)}) == 5
    assert SECRET not in repr(access)
    assert SECRET not in str(vars(type(access)))


@pytest.mark.parametrize(
    ("value", "state", "said"),
    [
        (None, "unset", "is not set"),
        ("", "unusable", "it is empty"),
        ("  \n", "unusable", "it is empty"),
        ("your-secret-key", "unusable", "the example"),
        ("Your-Secret-Key ", "unusable", "the example"),
        ("x" * 31, "unusable", "it has 31 characters and needs at least 32"),
        ("x" * 31 + " " * 9, "unusable", "it has 31 characters and needs at least 32"),
        ("x" * 32, "key", None),
    ],
)
def test_what_is_a_key(value: str | None, state: str, said: str | None) -> None:
    access = node_access.from_env({} if value is None else {"NODE_API_KEY": value})
    assert access.state == state
    assert (said or "") in (access.detail or "")
    if said:
        assert access.detail is not None
        assert "openssl rand -hex 32" in access.detail
        assert "xxx" not in access.detail, "not even a bad one is shown"
        assert access.hashes("panel", "uuid", 1) == []
        with pytest.raises(ValueError, match="openssl"):
            access.key("panel", "uuid", 1)


def test_a_key_that_can_not_be_used_leaves_the_tunnels(sessions: Sessions) -> None:
    def certificate(session: Session) -> str:
        raise AssertionError("only where there is no NODE_API_KEY")

    tunnels = our_tunnels(access=node_access.check_key("short"), certificate=certificate)
    with sessions() as session:
        tunnels.start(session)
    with serving(sessions, tunnels) as api:
        assert api.tunnel(ONE, TWO)["id"] == 1
        told = api.send("POST", NODES + "/access", {"nodes": ["node-0"]})
    assert (told["manager"]["state"], told["nodes"][0]["hashes"], told["nodes"][0]["certificate"]) == ("off", [], None)
    assert "it has 5 characters" in told["manager"]["detail"]


def test_the_hashes_change_when_a_key_is_revoked(other: Api, tunnels: Tunnels, manager: FakeManager) -> None:
    before = service(other, ONE)
    assert before["hashes"] == tunnels.access.hashes(tunnels.panel_id, before["uuid"], 1)
    assert other.send("POST", f"{NODES}/1/revoke")["generation"] == 2
    (after,) = other.send("POST", NODES + "/access", {"nodes": ["node-0"]})["nodes"]
    assert after["hashes"][0] == before["hashes"][1], "the node has it already"
    assert after["hashes"][1] not in before["hashes"]
    answers = other.bare("GET", NODES).text + other.bare("GET", "/openapi.json").text
    assert SECRET not in answers
    assert tunnels.access.key(tunnels.panel_id, before["uuid"], 2) not in answers


def test_there_is_nothing_to_revoke_where_nodes_know_a_certificate(sessions: Sessions) -> None:
    tunnels = our_tunnels(access=node_access.check_key(None))
    with sessions() as session:
        tunnels.start(session)
    with serving(sessions, tunnels) as api:
        assert api.send("POST", f"{NODES}/1/revoke")["generation"] == 2
        tunnels.certificate = lambda session: "PEM"
        assert "stop marzban-node-front" in api.refused("POST", f"{NODES}/1/revoke", None, 409)
        api.refused("POST", f"{NODES}/99/revoke", None, 404)
        assert api.send("GET", NODES)["nodes"][0]["generation"] == 2


# deletion records


def test_a_record_is_written_with_the_delete_or_not_at_all(other: Api, sessions: Sessions) -> None:
    tunnel = other.tunnel(ONE, TWO)
    with sessions() as session:
        session.delete(session.get_one(ForeignNode, 1))
        session.flush()
        assert session.scalars(select(Deletion.uuid)).all() == [tunnel["uuid"]] * 2
        assert session.scalars(select(Tunnel)).all() == []
        session.rollback()
    assert written(sessions) == {}
    assert other.send("GET", f"/api/tunnels/{tunnel['id']}")["uuid"] == tunnel["uuid"]
    with sessions.begin() as session:  # a record that can't be written keeps the tunnel
        session.execute(text("CREATE TRIGGER no BEFORE INSERT ON tunnel_deletions BEGIN SELECT RAISE(FAIL, 'no'); END"))
    assert other.bare("DELETE", f"/api/tunnels/{tunnel['id']}").status_code == 503
    assert other.send("GET", f"/api/tunnels/{tunnel['id']}")["uuid"] == tunnel["uuid"]


def test_a_node_that_was_deleted_behind_our_back(other: Api, tunnels: Tunnels, sessions: Sessions) -> None:
    tunnel, kept = other.tunnel(ONE, THREE, name="gone"), other.tunnel(ONE, TWO)
    reached = service(other, THREE)
    with sessions.begin() as session:
        session.execute(update(NodeService).where(NodeService.node_id == 3).values(counter=41))
        session.execute(text("DELETE FROM nodes WHERE id = 3"))
    with sessions() as session:
        tunnels.start(session)
    records = written(sessions)
    assert set(records) == {(tunnel["uuid"], 1), (tunnel["uuid"], 3)}
    gone, here = records[tunnel["uuid"], 3], records[tunnel["uuid"], 1]
    assert (gone.node_uuid, gone.address, gone.node_name) == (reached["uuid"], "203.0.113.1", "node-2")
    assert (gone.port, gone.pin, gone.generation, gone.counter, gone.given_up) == (62052, PIN, 1, 41, False)
    assert (gone.name, gone.tunnel_id, gone.tunnel_type) == ("gone", tunnel["id"], "wireguard")
    assert (here.address, here.port, here.pin, here.given_up) == ("203.0.113.1", None, None, False)
    with sessions() as session:
        assert session.get(NodeService, 3) is None
        assert session.get_one(NodeService, 1).uuid == here.node_uuid
    assert [found["uuid"] for found in other.send("GET", "/api/tunnels")] == [kept["uuid"]]


@pytest.mark.parametrize("known", [True, False])
def test_a_node_that_gets_a_number_of_before_inherits_nothing(other: Api, sessions: Sessions, known: bool) -> None:
    tunnel = other.tunnel(TWO, THREE)
    before = service(other, THREE) if known else None
    with sessions.begin() as session:
        session.execute(text("DELETE FROM nodes WHERE id = 3"))  # past the listener
    with sessions.begin() as session:
        session.add(ForeignNode(name="later", address="x"))
    left = written(sessions)[tunnel["uuid"], 3]
    assert (left.port, left.given_up) == ((62052, False) if known else (None, True))
    (later,) = other.send("POST", NODES + "/access", {"nodes": ["later"]})["nodes"]
    assert (later["node_id"], later["generation"]) == (3, 1)
    assert later["uuid"] != left.node_uuid
    assert before is None or before["uuid"] == left.node_uuid
    entries = [entry for entry in other.send("GET", NODES)["nodes"] if entry["node_id"] == 3]
    assert [(entry["node"], entry["deleted"], len(entry["deletions"])) for entry in entries] == [
        ("later", False, 0),
        ("node-2" if known else None, True, 1),
    ]


def test_a_record_follows_how_its_node_is_reached(other: Api, sessions: Sessions) -> None:
    """The node gets its service after the tunnel was deleted, and is deleted itself while the record waits."""
    tunnel = other.tunnel(ONE, TWO)
    other.send("DELETE", f"/api/tunnels/{tunnel['id']}")
    assert written(sessions)[tunnel["uuid"], 1].port is None
    service(other, ONE, 443)
    other.send("POST", f"{NODES}/1/revoke")
    with sessions.begin() as session:
        session.get_one(ForeignNode, 1).address = "198.51.100.9"
    with sessions.begin() as session:
        session.delete(session.get_one(ForeignNode, 1))
    row = written(sessions)[tunnel["uuid"], 1]
    assert (row.port, row.pin, row.generation, row.address, row.given_up) == (443, PIN, 2, "198.51.100.9", False)


def test_a_pin_alone_takes_over_nothing(other: Api, sessions: Sessions) -> None:
    """It is public: a node in wrong hands may tell the run that another's pin is its own."""
    tunnel = other.tunnel(ONE, TWO)
    service(other, TWO)
    with sessions.begin() as session:
        session.delete(session.get_one(ForeignNode, 2))
        session.get_one(ForeignNode, 3).address = "198.51.100.66"
    service(other, THREE)
    assert (tunnel["uuid"], 2) in written(sessions)
    with sessions.begin() as session:
        session.add(ForeignNode(id=4, name="node-1", address="203.0.113.1"))
    service(other, {"name": "node-1"})
    assert set(written(sessions)) == {(tunnel["uuid"], 1), (tunnel["uuid"], 4)}


def test_a_node_is_deleted_by_who_has_read_before(mariadb: MariaDB) -> None:
    """On MariaDB a transaction that has begun to read goes on to see what was there then."""
    engine = create_engine(mariadb.database("read_before"))
    sessions, tunnels = with_nodes(engine), our_tunnels()
    with sessions() as session:
        tunnels.start(session)
    with sessions() as theirs:
        node = theirs.get_one(ForeignNode, 1)
        with sessions() as session:
            body = TunnelCreate(source_node_id=1, target_node_id=2, tunnel_type="wireguard")
            tunnel = tunnels.create(session, body)
            NodeServices(tunnels).access(session, AccessWanted(nodes=["node-0"]))
        theirs.delete(node)
        theirs.commit()
    assert set(written(sessions)) == {(tunnel["uuid"], 1), (tunnel["uuid"], 2)}
    engine.dispose()


def test_old_records_go(other: Api, tunnels: Tunnels, sessions: Sessions) -> None:
    tunnel = other.tunnel(ONE, TWO)
    service(other, TWO)
    other.send("DELETE", f"/api/tunnels/{tunnel['id']}")
    for age, left in (("-59 days", {1, 2}), ("-61 days", {2})):
        with sessions.begin() as session:
            session.execute(text("UPDATE tunnel_deletions SET deleted_at = datetime('now', :age)"), {"age": age})
        with sessions() as session:
            tunnels.start(session)
        assert {node for _uuid, node in written(sessions)} == left, "a node with a service may be off for long"
    service(other, TWO, None)
    with sessions() as session:
        tunnels.start(session)
    assert not written(sessions), "its service was removed since"


# with a manager


def test_the_manager_is_woken_after_each_change(other: Api, sessions: Sessions, manager: FakeManager) -> None:
    def woken() -> set[int]:
        with sessions() as session:
            writes = session.scalars(select(Panel.writes)).one()
        found = set().union(*(nodes for nodes, _seen in manager.woken))
        assert all(seen == writes for _nodes, seen in manager.woken), "woken before the change was there"
        manager.woken.clear()
        return found

    tunnel = other.tunnel(ONE, TWO)
    path = f"/api/tunnels/{tunnel['id']}"
    assert woken() == {1, 2}
    body = {"source_node_id": 2, "target_node_id": 3, "tunnel_type": "wireguard"}
    other.send("POST", "/api/tunnels/bulk", {"tunnels": [body, {}]})
    assert woken() == {2, 3}
    other.send("PUT", path, {"source_node_id": 3})
    assert woken() == {1, 2, 3}
    other.send("PUT", path, {"source_node_id": 3})
    assert woken() == set(), "nothing was changed"
    for call, nodes in (("deactivate", {2, 3}), ("deactivate", set()), ("activate", {2, 3})):
        other.send("POST", f"{path}/{call}")
        assert woken() == nodes
    half = key()
    for nodes in ({2, 3}, set()):
        publish(other, tunnel, TWO, half)
        assert woken() == nodes
    report(other, tunnel | {"version": 4}, TWO)
    assert woken() == set()
    item = {"node": ONE["name"], "uuid": service(other, ONE)["uuid"], "port": 62052, "pin": PIN}
    assert woken() == {1}
    assert other.send("PUT", NODES, {"nodes": [item]})["updated"] == 0
    assert woken() == {1}, "something may have been set right there"
    other.send("POST", f"{NODES}/1/revoke")
    assert woken() == {1}
    other.send("DELETE", path)
    assert woken() == {2, 3}
    other.refused("DELETE", path, None, 404)
    assert woken() == set()


def test_what_the_manager_has_measured(other: Api, manager: FakeManager, sessions: Sessions) -> None:
    tunnel = other.tunnel(ONE, TWO)
    path, live = f"/api/tunnels/{tunnel['id']}", {"status": "active", "error": None, "version": 1}

    def source() -> dict[str, Any]:
        found: dict[str, Any] = other.send("GET", path)["ends"][0]
        return {name: found[name] for name in ("status", "measured", "age", "by", "stale", "stale_after")}

    manager.ends[tunnel["uuid"], "source"] = {**live, "measured": {"rtt_ms": 2.0}, "age": 22.6}
    told = {"status": "active", "measured": {"rtt_ms": 2.0}, "age": 22, "by": "service"}
    assert source() == {**told, "stale": False, "stale_after": 22}
    manager.ends[tunnel["uuid"], "source"]["age"] = 23.2
    assert source() == {**told, "age": 23, "stale": True, "stale_after": 22}
    report(other, tunnel, ONE, "error", error="no answer", measured={"rtt_ms": 1.0})
    assert source() | {"age": 0} == {
        "status": "error", "measured": {"rtt_ms": 1.0}, "age": 0, "by": "run", "stale": False, "stale_after": 300
    }  # fmt: skip
    for moved in ("-1 hour", "+1 hour"):  # and the panel's clock was set back since
        with sessions.begin() as session:
            session.execute(text("UPDATE tunnel_ends SET reported_at = datetime('now', :moved)"), {"moved": moved})
        assert source()["by"] == "service", "the newer one"
    with sessions.begin() as session:
        stored = {"reported_by": "service", "status": "active"}
        session.execute(update(End).values(**stored, reported_at=responses.now()))
    manager.ends[tunnel["uuid"], "source"]["status"] = "error"
    assert source() | {"measured": None} == {
        "status": "error", "measured": None, "age": 23, "by": "service", "stale": True, "stale_after": 22
    }, "what is stored was measured before, and written a moment ago"  # fmt: skip
    assert other.send("GET", path + "/status")["ends"][0]["by"] == "service"
    assert manager.asked == [({1, 2}, LONGEST_ASKING)], "only a call for the status asks the nodes"
    other.send("PUT", path, {"config": '{"mtu": 1400}'})
    assert (source()["status"], source()["by"]) == (None, "service"), "it was about the record before"
    manager.ends.clear()
    with sessions.begin() as session:
        session.execute(update(End).values(reported_by="service"))
    assert (source()["by"], source()["stale"], source()["stale_after"]) == ("service", True, 22), "nobody says so now"


def test_what_a_service_measured_too_long_ago_makes_no_tunnel_active(other: Api, manager: FakeManager) -> None:
    tunnel = other.tunnel(ONE, TWO)
    path, measured = f"/api/tunnels/{tunnel['id']}", {"error": None, "version": 1, "measured": None}

    def seen(source: Any, target: Any) -> tuple[str, bool]:
        told = {"source": source, "target": target}
        manager.ends = {
            (tunnel["uuid"], role): {**measured, "status": end[0], "age": end[1]} for role, end in told.items() if end
        }
        answers = [other.send("GET", path), other.send("GET", path + "/status"), *other.send("GET", "/api/tunnels")]
        ((status, stale),) = {(answer["status"], answer["stale"]) for answer in answers}
        return status, stale

    assert seen(("active", 22.9), ("active", 40)) == ("active", False)
    assert seen(("active", 23), ("active", 40)) == ("connecting", True)
    assert seen(("connecting", 1), ("active", 23)) == ("connecting", False)
    assert seen(("error", 40), ("active", 40)) == ("error", True)
    assert report(other, tunnel, TWO)["updated"] == 1  # by a run; this node has no service
    assert seen(None, None) == ("active", False), "a run's report counts as before"
    assert seen(("connecting", 1), None) == ("active", False)
    with manager.sessions.begin() as session:
        session.execute(text("UPDATE tunnel_ends SET reported_at = datetime('now', '-30 seconds')"))
    assert seen(None, None) == ("active", False)
    assert seen(("connecting", 1), None) == ("connecting", False), "the service knows better"


def test_where_it_is_written_when_a_services_measurement_is_stale(other: Api) -> None:
    told = other.send("GET", "/openapi.json")["components"]["schemas"]["EndOut"]["properties"]["stale_after"]
    top = Path(__file__).resolve().parents[2]
    documents = [
        (top / "docs" / name).read_text() for name in ("page.md", "how-it-works.md", "development/contract.md")
    ]
    for words in (told["description"], *documents, (top / "docs/development/node-service.md").read_text()):
        assert re.search(rf"\b{STALE_BY_SERVICE}( s\b| seconds| for a node service)", " ".join(words.split()))


def test_the_list_is_another_one_when_the_manager_says_so(other: Api, manager: FakeManager) -> None:
    tag = other.bare("GET", "/api/tunnels").headers["ETag"]
    assert other.bare("GET", "/api/tunnels", headers={"If-None-Match": tag}).status_code == 304
    manager.changes += 1
    assert other.bare("GET", "/api/tunnels", headers={"If-None-Match": tag}).status_code == 200


def test_what_the_manager_knows_about_a_node(other: Api, manager: FakeManager, sessions: Sessions) -> None:
    assert other.send("GET", NODES)["manager"] == {"state": "on", "detail": None}
    service(other, ONE)
    first, second, _third = other.send("GET", NODES)["nodes"]
    assert {name: first[name] for name in manager.node(1)} == manager.node(1)
    assert (second["state"], second["problem"]) == ("none", None), "without a service nobody is asked"
    path, body = f"{NODES}/1/confirm", {"database": True}
    assert "no answer" in other.refused("POST", path, body, 409), "it does not wait for this"
    manager.code = "older_database"
    told = other.send("POST", path, body)
    assert (told, manager.confirmed) == (other.send("GET", NODES)["nodes"][0], [(1, None)])
    gone = {**body, "uuid": first["uuid"]}
    other.refused("POST", path, gone, 404)
    other.tunnel(ONE, TWO)
    with sessions.begin() as session:
        session.delete(session.get_one(ForeignNode, 1))
    (deleted,) = (node for node in other.send("GET", NODES)["nodes"] if node["deleted"] and node["port"])
    assert deleted["problem"]["code"] == "older_database"
    assert other.send("POST", path, gone)["problem"] == deleted["problem"]
    assert manager.confirmed[1:] == [(1, first["uuid"])]
    other.refused("POST", f"{NODES}/2/confirm", gone, 404)


def test_a_changed_key_is_taken_when_an_admin_says_so(other: Api, manager: FakeManager, sessions: Sessions) -> None:
    tunnel, known, seen = other.tunnel(ONE, TWO), key(), key()
    path = f"/api/tunnels/{tunnel['id']}"

    def show(half: Any) -> None:
        where = (End.tunnel_id == tunnel["id"], End.role == "source")
        with sessions.begin() as session:
            session.execute(update(End).where(*where).values(changed_public=json.dumps(half)))

    publish(other, tunnel, ONE, known)
    show(seen)
    both: dict[str, Any] = {"known": known["public_key"], "seen": seen["public_key"]}
    both |= {"known_fingerprint": fingerprint(known), "seen_fingerprint": fingerprint(seen)}
    assert [end["changed_key"] for end in other.send("GET", path)["ends"]] == [both, None]
    assert other.send("GET", path)["ends"][0]["symptom"] is None, "nothing is known to be wrong"
    report(other, tunnel, ONE, "error", error="no handshake", symptom="no-answer")
    assert other.send("GET", path)["ends"][0]["symptom"] == "reinstalled"
    assert other.send("GET", path)["ends"][0]["public"] == known, "not taken by itself"
    assert other.send("GET", NODES)["nodes"][0]["changed_keys"] == [{"tunnel_id": tunnel["id"], "name": None, **both}]
    tag = other.bare("GET", "/api/tunnels").headers["ETag"]
    manager.woken.clear()
    body = {"tunnel_id": tunnel["id"], **seen}
    other.refused("POST", f"{NODES}/2/confirm", body, 409)
    other.refused("POST", f"{NODES}/1/confirm", body | key(), 409)
    told = other.send("POST", f"{NODES}/1/confirm", body)
    assert told["changed_keys"] == []
    assert [nodes for nodes, _writes in manager.woken] == [{1, 2}]
    source = other.send("GET", path)["ends"][0]
    assert (source["public"], source["changed_key"]) == (seen, None)
    assert other.bare("GET", "/api/tunnels", headers={"If-None-Match": tag}).status_code == 200
    show(key())
    assert publish(other, tunnel, ONE, seen)["updated"] == 0, "a run says that it is the same"
    assert other.send("GET", path)["ends"][0]["changed_key"] is None
    twin = key()
    publish(other, tunnel, TWO, twin)
    show(twin)
    assert "copies of each other" in other.refused("POST", f"{NODES}/1/confirm", {**body, **twin}, 409)
    show(key())
    other.send("PUT", path, {"source_node_id": 3})
    assert other.send("GET", path)["ends"][0]["changed_key"] is None, "it was of another node"


def test_a_changed_certificate_is_told_apart(other: Api, manager: FakeManager, sessions: Sessions) -> None:
    tunnel, known = other.tunnel(ONE, TWO, tunnel_type="openvpn"), key("openvpn")
    path, seen = f"{NODES}/1/confirm", known | {"fingerprint": key("openvpn")["fingerprint"]}
    publish(other, tunnel, ONE, known)
    with sessions.begin() as session:
        where = (End.tunnel_id == tunnel["id"], End.role == "source")
        session.execute(update(End).where(*where).values(changed_public=json.dumps(seen)))
    (changed,) = other.send("GET", NODES)["nodes"][0]["changed_keys"]
    assert changed["known"] == changed["seen"] == known["public_key"]
    key_print, _comma, certificate = changed["seen_fingerprint"].partition(", certificate ")
    assert certificate == seen["fingerprint"]
    assert changed["known_fingerprint"] == f"{key_print}, certificate {known['fingerprint']}"
    body = {"tunnel_id": tunnel["id"]}
    by_key = other.refused("POST", path, body | {"public_key": known["public_key"]}, 409)
    assert by_key.startswith("fingerprint: this end has a certificate too")
    old = other.refused("POST", path, body | {"fingerprint": changed["known_fingerprint"]}, 409)
    assert old.startswith("fingerprint: the node does not show this half any more")
    told = other.send("POST", path, body | {"fingerprint": changed["seen_fingerprint"]})
    assert told["changed_keys"] == []
    assert other.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"][0]["public"] == seen


def test_nothing_is_a_manager_too() -> None:
    live: Live = Nothing("why")
    assert live.manager_state() == {"state": "off", "detail": "why"}
