# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: public halves and measurements (docs/development/contract.md). Runs against any panel (see conftest)."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from marzban_tunnels import responses
from marzban_tunnels.live import Nothing
from tests.support.panel_api import Api, key, publish, report

Maker = Callable[..., Any]
Pair = tuple[Any, Any]


def test_keys_follow_their_end(api: Api, pair: Pair, make_node: Maker) -> None:
    tunnel, public = api.tunnel(*pair), [key(), key()]
    path = f"/api/tunnels/{tunnel['id']}"
    for node, half in zip(pair, public, strict=True):
        assert publish(api, tunnel, node, half) == {"updated": 1, "rejected": []}
        assert publish(api, tunnel, node, half) == {"updated": 0, "rejected": []}, "the same key changes nothing"
        report(api, tunnel, node, measured={"rtt_ms": 1.5})
    seen = api.send("GET", path)
    assert [end["public"] for end in seen["ends"]] == public
    assert (seen["version"], seen["status"], seen["updated_at"]) == (1, "active", tunnel["updated_at"])
    renamed = api.send("PUT", path, {"config": '{"source": {"port": 4000}}'})
    assert [end["public"] for end in renamed["ends"]] == public, "neither lost with a new config"
    assert [end["status"] for end in renamed["ends"]] == [None, None]
    assert renamed["status"] == "connecting"
    third = make_node()
    moved = api.send("PUT", path, {"source_node_id": third["id"]})
    assert [end["public"] for end in moved["ends"]] == [None, public[1]]
    assert (moved["ends"][0]["measured"], moved["ends"][0]["age"]) == (None, None)
    assert moved["ends"][0]["node"] == third["name"]
    assert [end["addresses"] for end in moved["ends"]] == [end["addresses"] for end in tunnel["ends"]]
    swapped = api.send("PUT", path, {"source_node_id": pair[1]["id"], "target_node_id": third["id"]})
    assert [end["public"] for end in swapped["ends"]] == [None, None]
    publish(api, tunnel, third, public[0])
    other = api.send("PUT", path, {"tunnel_type": "openvpn"})
    assert [end["public"] for end in other["ends"]] == [None, None]
    assert "openvpn" in publish(api, tunnel, third, public[0])["rejected"][0]["detail"]


SHA = ["a" * 64, "0123456789abcdef" * 4]


def following(kind: str = "wireguard") -> dict[str, str]:
    """A next key, and the peer's that is accepted."""
    return {name: key(kind)["public_key"] for name in ("next_public_key", "accepts_public_key")}


WHOLE = {
    "wireguard": key() | following() | {"psk_fingerprint": SHA[0]},
    "openvpn": key("openvpn") | following() | {"next_fingerprint": SHA[0], "accepts": SHA[1]},
    "ipsec": key("ipsec") | following("ipsec"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_public_halves_of_each_type(api: Api, pair: Pair, kind: str) -> None:
    tunnel = api.tunnel(*pair, tunnel_type=kind)
    path = f"/api/tunnels/{tunnel['id']}"
    least = key(kind)
    for half, updated in ((least, 1), (WHOLE[kind], 1), (WHOLE[kind], 0), (least, 1)):
        assert publish(api, tunnel, pair[0], half) == {"updated": updated, "rejected": []}
        assert api.send("GET", path)["ends"][0]["public"] == half
    nothing = dict.fromkeys((*following(), "psk_fingerprint", "next_fingerprint", "accepts"))
    assert publish(api, tunnel, pair[0], nothing | least) == {"updated": 0, "rejected": []}, "null is left out"
    assert api.send("GET", path)["ends"][0]["public"] == least


@pytest.mark.parametrize(
    ("kind", "half", "wrong"),
    [
        ("wireguard", WHOLE["openvpn"], "has accepts and has fingerprint and has next_fingerprint"),
        ("wireguard", WHOLE["ipsec"], "has a public_key of 60 characters instead of 44"),
        ("openvpn", WHOLE["wireguard"], "lacks fingerprint and has psk_fingerprint"),
        ("openvpn", key(), "lacks fingerprint"),
        ("openvpn", key() | {"fingerprint": None}, "lacks fingerprint"),
        ("openvpn", WHOLE["openvpn"] | WHOLE["ipsec"], "has a public_key of 60 characters instead of 44"),
        ("ipsec", WHOLE["ipsec"] | {"fingerprint": SHA[0]}, "has fingerprint"),
        ("ipsec", key(), "has a public_key of 44 characters instead of 60"),
    ],
)
def test_a_public_half_of_another_type_is_rejected_by_itself(
    api: Api, pair: Pair, kind: str, half: dict[str, Any], wrong: str
) -> None:
    tunnel, good = api.tunnel(*pair, tunnel_type=kind), api.tunnel(*pair, tunnel_type=kind)
    publish(api, tunnel, pair[0], WHOLE[kind])
    keys = [
        {"uuid": tunnel["uuid"], "node": pair[0]["name"], "public": half},
        {"uuid": good["uuid"], "node": pair[0]["name"], "public": WHOLE[kind]},
    ]
    answer = api.send("POST", "/api/tunnels/keys", {"keys": keys})
    detail = f"public: the tunnel's type is '{kind}', and what was sent {wrong}; run the playbook again"
    assert answer == {
        "updated": 1,
        "rejected": [{"uuid": tunnel["uuid"], "node": pair[0]["name"], "detail": detail}],
    }
    stored = [api.send("GET", f"/api/tunnels/{item['id']}")["ends"][0]["public"] for item in (tunnel, good)]
    assert stored == [WHOLE[kind]] * 2


@pytest.mark.parametrize("kind", WHOLE)
def test_nodes_that_are_copies_of_each_other(api: Api, pair: Pair, kind: str) -> None:
    """Told by the key: what else they hold may have been made after the copy."""
    tunnel = api.tunnel(*pair, tunnel_type=kind)
    first, second = WHOLE[kind], key(kind) | {"public_key": WHOLE[kind]["public_key"]}
    assert publish(api, tunnel, pair[0], first)["updated"] == 1
    (rejected,) = publish(api, tunnel, pair[1], second)["rejected"]
    assert "copies of each other" in rejected["detail"]
    assert [end["public"] for end in api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]] == [first, None]
    assert publish(api, tunnel, pair[1], key(kind))["updated"] == 1


def test_keys_in_bulk(api: Api, pair: Pair) -> None:
    first, second = api.tunnel(*pair), api.tunnel(*pair)
    a, b = key(), key()
    stranger = str(uuid.uuid4())
    items = [
        {"uuid": first["uuid"], "node": pair[0]["name"], "public": a},
        {"uuid": stranger, "node": pair[0]["name"], "public": a},
        {"uuid": second["uuid"], "node": "nobody", "public": a},
        {"uuid": second["uuid"], "node": pair[1]["name"], "public": b},
        {"uuid": second["uuid"], "node": pair[1]["name"], "public": a},
        {"uuid": first["uuid"], "node": pair[1]["name"], "public": a},
    ]
    answer = api.send("POST", "/api/tunnels/keys", {"keys": items})
    assert answer["updated"] == 2
    assert [(item["uuid"], item["node"]) for item in answer["rejected"]] == [
        (stranger, pair[0]["name"]),
        (second["uuid"], "nobody"),
        (second["uuid"], pair[1]["name"]),
        (first["uuid"], pair[1]["name"]),
    ]
    assert all(item["detail"] for item in answer["rejected"])
    assert [end["public"] for end in api.send("GET", f"/api/tunnels/{second['id']}")["ends"]] == [None, b]
    assert api.send("POST", "/api/tunnels/keys", {"keys": []}) == {"updated": 0, "rejected": []}


@pytest.mark.parametrize(
    ("public", "wrong"),
    [
        ({"public_key": base64.b64encode(bytes(32)).decode()}, "keys.0.public.public_key"),
        ({"public_key": base64.b64encode(bytes(range(31))).decode()}, "keys.0.public.public_key"),
        ({"public_key": "A" * 42 + "B="}, "keys.0.public.public_key"),
        ({"public_key": base64.b64encode(bytes(range(32))).decode() + "\n"}, "keys.0.public.public_key"),
        ({"public_key": base64.b64encode(bytes(range(32))).decode(), "private_key": "x"}, "keys.0.public.private_key"),
        *((key("openvpn") | {name: "x"}, "keys.0.public." + name) for name in ("tls_key", "wrap_key", "psk", "key")),
        *(
            (key("openvpn") | {name: text}, "keys.0.public." + name)
            for name in ("psk_fingerprint", "fingerprint", "next_fingerprint", "accepts")
            for text in ("", "A" * 64, "a" * 63, "a" * 64 + "\n", ":".join(["ab"] * 32), 5, ["a" * 64])
        ),
        ({"public_key": key("ipsec")["public_key"][:-1]}, "keys.0.public.public_key"),
        *(
            (key() | {name: text}, "keys.0.public." + name)
            for name in ("next_public_key", "accepts_public_key")
            for text in ("", key()["public_key"][:-1], base64.b64encode(bytes(32)).decode())
        ),
        ({"public_key": base64.b64encode(b"0" * 12 + bytes(range(32))).decode()}, "keys.0.public.public_key"),
        ({"public_key": "MCowBQYDK2VwAyEA" + "A" * 43 + "="}, "keys.0.public.public_key"),
        # an Ed25519 private key as PKCS #8
        (
            {"public_key": "MC4CAQAwBQYDK2VwBCIEIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh"},
            "keys.0.public.public_key",
        ),
        ({"public_key": "-----BEGIN PRIVATE KEY-----"}, "keys.0.public.public_key"),
        ({}, "keys.0.public.public_key"),
        (None, "keys.0.public"),
        (base64.b64encode(bytes(range(32))).decode(), "keys.0.public"),
        ([base64.b64encode(bytes(range(32))).decode()], "keys.0.public"),
    ],
)
def test_only_public_halves_are_taken(api: Api, pair: Pair, public: Any, wrong: str) -> None:
    tunnel = api.tunnel(*pair)
    body = {"keys": [{"uuid": tunnel["uuid"], "node": pair[0]["name"], "public": public}]}
    detail = api.refused("POST", "/api/tunnels/keys", body, 422)
    assert set(detail) == {wrong}
    for text in re.findall(r"[A-Za-z0-9+/]{20,}", json.dumps(public)):
        assert text not in detail[wrong], "what may be a secret isn't sent back"
    assert [end["public"] for end in api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]] == [None, None]


def test_status(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    never = api.send("GET", path + "/status")
    assert {key: never[key] for key in ("tunnel_id", "status", "is_active", "stale", "age")} == {
        "tunnel_id": tunnel["id"],
        "status": "connecting",
        "is_active": True,
        "stale": True,
        "age": None,
    }
    assert never["last_updated"] == tunnel["updated_at"]
    measured: dict[str, Any] = {
        "handshake_age": 5,
        "rx_bytes": 2**40,
        "tx_bytes": 0,
        "rtt_ms": 0.5,
        "loss_percent": 12.5,
    }
    measured |= {"cipher": "AES_GCM_16-256", "key_exchange": "CURVE_25519/KE1_ML_KEM_768", "post_quantum": True}
    measured |= {"data_path": "userspace", "certificate_days": -3, "mtu": 1340}
    assert report(api, tunnel, pair[0], measured=measured) == {"updated": 1, "rejected": []}
    seen = api.send("GET", path + "/status")
    assert (seen["status"], seen["stale"]) == ("active", False)
    assert seen["age"] < 30
    source, target = seen["ends"]
    assert (source["node"], source["status"], source["measured"], source["stale"]) == (
        pair[0]["name"],
        "active",
        measured,
        False,
    )
    assert (target["status"], target["measured"], target["age"], target["stale"]) == (None, None, None, True)
    report(api, tunnel, pair[1], "error", error="no answer\nfrom \u202efi-1" + "x" * 2000)
    seen = api.send("GET", path + "/status")
    assert seen["status"] == "error"
    assert seen["ends"][1]["error"].startswith("no answer from fi-1x")
    assert len(seen["ends"][1]["error"]) == 1000
    assert api.send("GET", path)["status"] == "error"
    api.send("POST", path + "/deactivate")
    off = api.send("GET", path + "/status")
    assert (off["status"], off["is_active"], off["ends"][1]["error"]) == ("inactive", False, None)
    assert api.refused("GET", "/api/tunnels/2000000000/status", None, 404) == "Tunnel not found"


@pytest.mark.parametrize(
    ("ages", "age", "stale"),
    [
        ((300, 301), 300, [False, True]),
        ((301, 300), 300, [True, False]),
        ((301, 302), 301, [True, True]),
        ((None, 300), 300, [True, False]),
        ((None, 301), 301, [True, True]),
        ((None, None), None, [True, True]),
    ],
)
def test_what_is_stale(ages: tuple[int | None, int | None], age: int | None, stale: list[bool]) -> None:
    moment = datetime(2026, 11, 22, 18, 0)
    nodes = {"source_name": "a", "target_name": "b", "source_address": "x", "target_address": "y"}
    ids = {"id": 3, "uuid": "u", "version": 1, "source_node_id": 1, "target_node_id": 2, "name": None}
    rest = {"tunnel_type": "wireguard", "config": "{}", "is_active": True}
    rest |= {"last_status": "connecting", "status_since": None}
    changed = datetime(2026, 11, 22, 17, 0)
    row = SimpleNamespace(**ids, **nodes, **rest, created_at=changed, updated_at=changed)
    empty = dict.fromkeys(("public", "changed_public", "error", "symptom", "measured", "gaps", "reported_by"))
    ends = []
    for role, seconds in zip(("source", "target"), ages, strict=True):
        reported = None if seconds is None else moment - timedelta(seconds=seconds)
        status = "active" if role == "source" else "error"
        place = {"role": role, "node_id": 1, "port": 1, "interface": "mz3", "status": status}
        ends.append(SimpleNamespace(**empty, **place, reported_at=reported))
    record = responses.tunnel(row, ends, {}, moment, Nothing())
    assert [end["stale"] for end in record["ends"]] == stale
    assert [end["by"] for end in record["ends"]] == [seconds and "run" for seconds in ages]
    told = responses.status(record, moment)
    assert [end["stale"] for end in told["ends"]] == stale
    assert (told["age"], told["stale"]) == (age, all(stale)), "the newest report counts"
    assert told["status"] == ("active" if stale == [False, True] else "error"), "what is stale counts where all is"
    ago = {300: "17:55:00", 301: "17:54:59", None: "17:00:00"}
    assert told["last_updated"] == "2026-11-22T" + ago[age]


def test_stale_is_what_is_late() -> None:
    """A run every quarter of an hour, an hour's outage, and somebody who runs by hand."""
    began = datetime(2026, 11, 22)
    gaps, before, seen = None, None, []
    for minute in (0, 15, 30, 90, 105, 105.5, 108, 120):
        moment = began + timedelta(minutes=minute)
        gaps = responses.gaps(gaps, before, moment)
        before = moment
        seen.append(responses.stale_after(gaps))
    assert seen == [300, 1800, 1800, 1800, 1800, 1800, 1800, 1800]
    assert gaps == "720 150 900 3600 900"
    assert responses.stale_after("60 60") == 300
    assert responses.stale_after("9999999") == 2 * 86400
    assert responses.stale_after("what somebody else wrote") == 300
    assert len(" ".join(["9999999"] * 5)) <= 64, "what the column takes"


def test_a_symptom_is_kept_with_the_report(api: Api, pair: Pair) -> None:
    """One that this panel does not know is left out: a run may be of a later version."""
    tunnel = api.tunnel(*pair)

    def symptoms() -> list[Any]:
        ends = [api.send("GET", f"/api/tunnels/{tunnel['id']}{path}")["ends"][0] for path in ("", "/status")]
        return [end["symptom"] for end in ends]

    assert symptoms() == [None, None]
    for said, kept in (("no-answer", "no-answer"), ("later-word", None), ("keys", "keys"), (None, None)):
        assert report(api, tunnel, pair[0], "error", error="it is dead", symptom=said)["updated"] == 1
        assert symptoms() == [kept, kept]
    report(api, tunnel, pair[0], "error", error="it is dead", symptom="keys")
    api.send("PUT", f"/api/tunnels/{tunnel['id']}", {"config": '{"mtu": 1400}'})
    assert symptoms() == [None, None], "it was about the former record"
    api.refused(
        "POST",
        "/api/tunnels/status",
        {"reports": [{"uuid": "u", "node": "n", "version": 1, "status": "error", "symptom": 7}]},
        422,
    )


def test_reports_about_another_version(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    api.send("PUT", f"/api/tunnels/{tunnel['id']}", {"is_active": False})
    answer = report(api, tunnel, pair[0])
    assert answer["updated"] == 0
    assert "version" in answer["rejected"][0]["detail"]
    assert report(api, tunnel | {"version": 2}, pair[0], "inactive")["updated"] == 1
    assert "nobody" in report(api, tunnel | {"version": 2}, {"name": "nobody"})["rejected"][0]["detail"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"status": "fine"}, "reports.0.status"),
        ({"version": 0}, "reports.0.version"),
        ({"measured": {"rtt_ms": -1}}, "reports.0.measured.rtt_ms"),
        ({"measured": {"loss_percent": 101}}, "reports.0.measured.loss_percent"),
        ({"measured": {"rx_bytes": 1.5}}, "reports.0.measured.rx_bytes"),
        *(
            ({"measured": {name: text}}, "reports.0.measured." + name)
            for name in ("cipher", "key_exchange")
            for text in ("", "a\nb", "a@b", "{{ a }}", "a\u202e", "x" * 65, 5, ["AES"])
        ),
        ({"measured": {"post_quantum": "yes"}}, "reports.0.measured.post_quantum"),
        ({"measured": {"post_quantum": 1}}, "reports.0.measured.post_quantum"),
        ({"measured": {"data_path": "hyperspace"}}, "reports.0.measured.data_path"),
        ({"measured": {"certificate_days": 1.5}}, "reports.0.measured.certificate_days"),
        ({"measured": {"certificate_days": 10**6}}, "reports.0.measured.certificate_days"),
        ({"measured": {"mtu": 65536}}, "reports.0.measured.mtu"),
        ({"private_key": "x"}, "reports.0.private_key"),
    ],
)
def test_bad_reports(api: Api, pair: Pair, fields: Any, wrong: str) -> None:
    tunnel = api.tunnel(*pair)
    item = {"uuid": tunnel["uuid"], "node": pair[0]["name"], "version": 1, "status": "active"} | fields
    assert set(api.refused("POST", "/api/tunnels/status", {"reports": [item]}, 422)) == {wrong}


def test_an_unknown_measurement_is_ignored(api: Api, pair: Pair) -> None:
    """A collection that is newer than the panel may send one: the rest of its report is good."""
    tunnel = api.tunnel(*pair)
    measured = {"rtt_ms": 1.5, "jitter_ms": 0.25, "path": {"hops": [1, None]}, "": "x"}
    assert report(api, tunnel, pair[0], measured=measured) == {"updated": 1, "rejected": []}
    assert api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"][0]["measured"] == {"rtt_ms": 1.5}
    assert report(api, tunnel, pair[1], measured={"jitter_ms": 0.25}) == {"updated": 1, "rejected": []}
    assert api.send("GET", f"/api/tunnels/{tunnel['id']}/status")["ends"][1]["measured"] == {}
