# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's client and what a panel answers: in order, refused, over TLS, page by page."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import client as panel_client
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import transport
from tests.integration.client.conftest import SECRET, client, refused
from tests.support.faulty import HTML_404, NO_ROUTE, Answer, Faulty, Request, answer
from tests.support.panel import Panel

ID = "9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
OTHER_ID = "11111111-4b5a-4c6d-8e7f-0a1b2c3d4e5f"


# A panel in order


def test_nodes_and_tunnels(panel: Panel) -> None:
    reader = client(panel)
    assert [node["name"] for node in reader.nodes()] == ["de-1", "fi-1", "us-1"]
    before, listed, after = reader.id, reader.tunnels(), reader.id
    assert (before, bool(after)) == ("", True), "the first answer about tunnels names the panel"
    assert [tunnel["name"] for tunnel in listed] == ["t0", "t1", "t2"]
    assert reader.tunnel(1)["name"] == "t0"


def test_one_login_for_all(panel: Panel) -> None:
    before = len(panel.log_lines())
    reader = client(panel)
    reader.nodes()
    reader.tunnels()
    reader.tunnel(2)
    lines = [f"{line['method']} {line['path']}" for line in panel.log_lines()[before:]]
    assert lines == ["POST /api/admin/token", "GET /api/nodes", "GET /api/tunnels", "GET /api/tunnels/2"]


def test_a_token_is_enough(panel: Panel) -> None:
    for around in ("", "\n", " \r\n"):  # as a file or a vault gives it
        reader = client(panel, username=None, password=None, token=panel.token() + around)
        assert len(reader.nodes()) == 3


def test_a_write_needs_the_version_that_was_read(panel: Panel) -> None:
    reader = client(panel)
    tunnel = reader.tunnel(3)
    changed = reader.update_tunnel(3, {"config": '{"mtu": 1400}'}, tunnel["version"])
    assert changed["version"] == tunnel["version"] + 1
    refused("outdated", lambda: reader.update_tunnel(3, {"config": "{}"}, tunnel["version"]), "412", "/api/tunnels/3")
    refused("outdated", lambda: reader.delete_tunnel(3, tunnel["version"]), "412")


# What the panel refuses


def test_wrong_password(panel: Panel) -> None:
    before = len(panel.log_lines())
    refused("login", client(panel, password="wrong").nodes, "401", "Incorrect username or password")
    assert len(panel.log_lines()) == before + 1, "a wrong password must not be tried twice"


def test_no_sudo_admin(panel: Panel) -> None:
    panel.add_admin("bob", SECRET)
    refused("forbidden", client(panel, username="bob").nodes, "403", "You're not allowed")


def test_a_bad_token_without_a_password(panel: Panel) -> None:
    refused("login", client(panel, username=None, password=None, token="rubbish").nodes, "401")


def test_a_token_that_expired_is_replaced_once(panel: Panel) -> None:
    before = len(panel.log_lines())
    assert len(client(panel, token="expired").nodes()) == 3
    lines = [(line["path"], line["status"]) for line in panel.log_lines()[before:]]
    assert lines == [("/api/nodes", 401), ("/api/admin/token", 200), ("/api/nodes", 200)]


def test_no_such_tunnel_is_told_from_no_tunnels_api(panel: Panel) -> None:
    refused("not_found", lambda: client(panel).tunnel(99999), "Tunnel not found")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Hostname mismatch, certificate is not valid for 'wrong.example.com'. (_ssl.c:1006)",
         "Hostname mismatch, certificate is not valid for 'wrong.example.com'"),
        ("IP address mismatch, certificate is not valid for '192.0.2.1'. (_ssl.c:1000)",
         "IP address mismatch, certificate is not valid for '192.0.2.1'"),
        ("unable to get local issuer certificate (_ssl.c:1006)", "unable to get local issuer certificate"),
    ],
)  # fmt: skip
def test_why_a_certificate_is_not_trusted_is_told_to_its_end(said: str, told: str) -> None:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {said}")
    assert transport.tls_reason(Exception(f"Max retries exceeded (Caused by SSLError({error!r}))")) == told


@pytest.mark.parametrize("rule", [NO_ROUTE, HTML_404], ids=["json", "html"])
def test_a_panel_without_the_tunnels_api(faulty: Faulty, panel: Panel, rule: Any) -> None:
    faulty.on("GET", "/api/tunnels.*", rule)
    reader = client(faulty, panel)
    assert len(reader.nodes()) == 3
    refused("no_tunnels_api", reader.tunnels, "404", "Use a panel that has the tunnels API")
    refused("no_tunnels_api", lambda: reader.tunnel(1))


def test_tunnel_not_found_from_somebody_else_proves_nothing(faulty: Faulty, panel: Panel) -> None:
    faulty.on("GET", "/api/tunnels/1", answer(404, {"detail": "Tunnel not found"}))
    refused("no_tunnels_api", lambda: client(faulty, panel).tunnel(1))


def test_conflict_and_invalid(panel: Panel) -> None:
    reader = client(panel)
    refused("conflict", lambda: reader.create_node({"name": "de-1", "address": "203.0.113.9"}), "already exists")
    body = {"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "config": '{"mtu": 5}'}
    refused("invalid", lambda: reader.create_tunnel(body), "config.mtu: ")
    other = dict(body, config="{}", target_node_id=77)
    refused("not_found", lambda: reader.create_tunnel(other), "target_node_id: there")


# TLS and addresses


def test_an_unknown_authority_is_explained(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    refused("tls", client(panel, ca_path=None).nodes, "issuer certificate", "ca_path")


def test_ca_path_beats_the_environment(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "other.pem"
    panel.run("certificate", str(tmp_path), "--name", "other")
    (tmp_path / "ca.pem").rename(wrong)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(wrong))
    assert len(client(panel).nodes()) == 3
    refused("tls", client(panel, ca_path=None).nodes)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(panel.ca_path))
    assert len(client(panel, ca_path=None).nodes()) == 3


def test_netrc_does_not_replace_the_token(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert len(client(panel).nodes()) == 3


def test_a_panel_on_this_machine_is_not_asked_through_a_proxy(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    with Faulty() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        assert len(client(panel).nodes()) == 3
        reader = panel_client.Panel("http://panel.invalid", "admin", SECRET, retries=0, timeout=2)
        assert reader._session.proxies.get("https") == proxy.url
        assert proxy.requests == []


def test_certificates_are_not_checked_on_demand(panel: Panel) -> None:
    assert len(client(panel, ca_path=None, validate_certs=False).nodes()) == 3


def test_tls_where_there_is_none(alone: Faulty) -> None:
    reader = panel_client.Panel(alone.url.replace("http:", "https:"), "admin", SECRET, retries=0, timeout=2)
    refused("tls", reader.nodes, "does not speak TLS on this port")


def test_a_ca_path_that_is_none(panel: Panel, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"ca_path: .* There is no such file here: give the path"):
        client(panel, ca_path=str(tmp_path / "none.pem"))
    with pytest.raises(FieldError, match=r"ca_path: 'none.pem' .* no such file below /.*: give an absolute path"):
        client(panel, ca_path="none.pem")
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(Error):
        client(panel, ca_path=str(tmp_path / "empty.pem")).nodes()


def test_plain_http_is_warned_of_except_on_loopback() -> None:
    def warnings(url: str) -> list[str]:
        said: list[str] = []
        panel_client.Panel(url, token="x", warn=said.append)
        return said

    assert len(warnings("http://panel.example.com")) == 1
    assert "without TLS" in warnings("HTTP://203.0.113.7:8000")[0]
    for url in ("http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost", "https://panel.example.com"):
        assert warnings(url) == []


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "panel.example.com",
        "ftp://x",
        "https://",
        "https://a b",
        "https://x:99999",
        "https://x/?a=b",
        "https://x/#/",
    ],
)
def test_an_address_that_is_none(url: Any) -> None:
    with pytest.raises(FieldError, match="^url is required. Give " if url is None else "^url: .* Give "):
        panel_client.Panel(url, token="x")


@pytest.mark.parametrize("token", [SECRET + "\nX-Other: 1", SECRET + "…", SECRET + " " + SECRET])
def test_a_token_that_is_none_of_a_panel_is_not_shown(token: str) -> None:
    with pytest.raises(Error, match=r"^token: ") as caught:
        panel_client.Panel("https://panel.example.com", token=token)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
        ("Mon, 1 Jan 99999 00:00:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_when_a_panel_asks_to_come_back(said: str, seconds: int | None) -> None:
    assert transport.retry_after(said) == seconds


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(FieldError) as caught:
        panel_client.Panel(f"https://admin:{SECRET}@panel.example.com", token="x")
    assert SECRET not in str(caught.value)


def test_no_login_at_all() -> None:
    with pytest.raises(Error, match="A login for the panel is required"):
        panel_client.Panel("https://panel.example.com", username="admin")


# Pages


class ManyTunnels:
    """A list of numbers that a server hands out in pages, and that may change between them."""

    def __init__(self, server: Faulty, count: int, version: int = 2) -> None:
        self.ids = list(range(1, count + 1))
        self.between: list[Any] = []
        self.headers = {"Content-Type": "application/json", "Marzban-Panel-Id": ID, "Marzban-Tunnels-Api": str(version)}
        self.most = 2000 if version > 2 else 1000
        server.on("GET", "/api/tunnels", self.page)

    def page(self, request: Request) -> Answer:
        skip, limit = int(request.query["skip"]), int(request.query["limit"])
        if limit > self.most:
            return Answer(422, b'{"detail": {"limit": "too large"}}', self.headers)
        body = json.dumps([{"id": number} for number in self.ids[skip : skip + limit]])
        if self.between:
            self.between.pop(0)(self.ids)
        return Answer(200, body.encode(), self.headers)


@pytest.mark.parametrize(
    ("version", "count", "requests"),
    [
        *((2, 0, 1), (2, 1, 1), (2, 999, 1), (2, 1000, 2), (2, 1001, 2), (2, 1999, 3), (2, 2500, 3), (2, 10_000, 11)),
        *((3, 0, 1), (3, 999, 1), (3, 1000, 2), (3, 2998, 2), (3, 2999, 3), (3, 10_000, 6)),
    ],
)
def test_all_pages_are_read(alone: Faulty, version: int, count: int, requests: int) -> None:
    """The first page is one that each panel gives; by then it has said its version."""
    ManyTunnels(alone, count, version)
    panel = client(alone)
    assert [tunnel["id"] for tunnel in panel.tunnels()] == list(range(1, count + 1))
    assert alone.seen("GET", "/api/tunnels") == requests
    assert len(panel.tunnels()) == count, "also where the version is known from the start"


@pytest.mark.parametrize("gone", [1, 500, 1000, 1001])
def test_a_tunnel_deleted_between_pages_loses_no_other(alone: Faulty, gone: int) -> None:
    many = ManyTunnels(alone, 1500)
    many.between.append(lambda ids: ids.remove(gone))
    assert [tunnel["id"] for tunnel in client(alone).tunnels()] == [n for n in range(1, 1501) if n != gone]


def test_a_tunnel_added_between_pages_does_no_harm(alone: Faulty) -> None:
    many = ManyTunnels(alone, 1000)
    many.between.append(lambda ids: ids.append(1001))
    assert len(client(alone).tunnels()) == 1001


def test_a_list_that_always_changes_is_refused(alone: Faulty) -> None:
    many = ManyTunnels(alone, 1500)
    many.between += [lambda ids: ids.pop(0)] * 100
    refused("bad_answer", client(alone).tunnels, "another list each time")


def test_a_page_that_fails_fails_all(faulty: Faulty, panel: Panel) -> None:
    faulty.one_page_then_fails()
    refused("bad_answer", client(faulty, panel, retries=0).tunnels, "500")


@pytest.mark.parametrize(
    "page",
    [
        [{"id": 2}, {"id": 1}],
        [{"id": 1}, {"id": 1}],
        [{"id": "1"}],
        [{"id": True}],
        [{}],
        [1],
        {},
        None,
        [{"id": 1}] * 1001,
    ],
)
def test_pages_that_are_none(alone: Faulty, page: Any) -> None:
    alone.on("GET", "/api/tunnels", answer(200, page, Marzban_Panel_Id=ID))
    refused("bad_answer", client(alone).tunnels)


def test_a_list_without_the_panels_id_is_refused(alone: Faulty) -> None:
    alone.on("GET", "/api/tunnels", answer(200, []))
    refused("bad_answer", client(alone).tunnels, "without the header Marzban-Panel-Id")


def test_an_id_that_is_none(alone: Faulty) -> None:
    alone.on("GET", "/api/tunnels", answer(200, [], Marzban_Panel_Id="../../etc"))
    refused("bad_answer", client(alone).tunnels, "Marzban-Panel-Id: '../../etc'")


def test_two_panels_behind_one_address(alone: Faulty) -> None:
    alone.on("GET", "/api/tunnels", answer(200, [], Marzban_Panel_Id=ID))
    alone.on("GET", "/api/tunnels/1", answer(404, {"detail": "Tunnel not found"}, Marzban_Panel_Id=OTHER_ID))
    reader = client(alone)
    reader.tunnels()
    refused("bad_answer", lambda: reader.tunnel(1), "as two panels")
