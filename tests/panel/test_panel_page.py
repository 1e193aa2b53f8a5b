# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The page's files: where they are, with which headers, and what must not be in them."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from marzban_tunnels import errors, page
from tests.support.panel import PACKAGES, Panel

TOP = PACKAGES.parents[2]
FOLDER = PACKAGES / "marzban_tunnels" / "page"
SCRIPTS = sorted(FOLDER.glob("*.js"))
LANGUAGES = ["en", "fa", "ru", "zh"]


def locale(language: str) -> dict[str, str]:
    words: dict[str, str] = json.loads((FOLDER / "locales" / f"{language}.json").read_text(encoding="utf-8"))
    return words


def fetch(panel: Panel, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection(panel.host, panel.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("dashboard_path", "place"),
    [
        (None, "/dashboard/tunnels"),
        ("/", "/tunnels"),
        ("/panel", "/panel/tunnels"),
        ("secret/path/", "/secret/path/tunnels"),
    ],
)
def test_where_it_is_and_its_headers(tmp_path: Path, dashboard_path: str | None, place: str) -> None:
    env = {} if dashboard_path is None else {"DASHBOARD_PATH": dashboard_path}
    with Panel.start(tmp_path, tls=False, env=env) as panel:
        answer, text = fetch(panel, place)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy == {
            **dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"), "'none'"),
            **dict.fromkeys(("script-src", "style-src", "img-src", "connect-src"), "'self'"),
            "require-trusted-types-for": "'script'",
        }
        assert fetch(panel, place, If_None_Match=answer.headers["ETag"])[0].status == 304
        assert fetch(panel, place, "HEAD")[0].headers["Content-Length"] == str(len(text.encode()))
        assert fetch(panel, place, "POST")[0].status == 405
        redirect = fetch(panel, f"{place}/")[0]
        assert (redirect.status, redirect.headers["Location"]) == (308, "../tunnels")
        linked = re.findall(r'(?:src|href)="(tunnels/[^"]+)"', text)
        assert len(linked) == 5
        base = place.removesuffix("tunnels")
        release = base + linked[0].rpartition("/")[0]
        names = [*(path.name for path in SCRIPTS), "page.css", "dialogs.css", "icon.svg", "locales/fa.json"]
        names += ["trouble.html", "guide.css"]
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "json": "application/json"}
        kinds["html"] = "text/html"
        for path in [*(base + link for link in linked), *(f"{release}/{name}" for name in names)]:
            answer, content = fetch(panel, path)
            assert answer.status == 200, path
            assert content == (FOLDER / path.removeprefix(release + "/")).read_text(encoding="utf-8")
            assert answer.headers["Content-Type"] == f"{kinds[path.rpartition('.')[2]]}; charset=utf-8"
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        for path in (
            "../page.py",
            "%2e%2e/page.py",
            "..%2fpage.py",
            "/etc/passwd",
            "index.html",
            "",
            "locales",
            "main.js/",
        ):
            assert fetch(panel, f"{release}/{path}")[0].status == 404, path
        assert fetch(panel, f"{base}tunnels/0000000000000000/main.js")[0].status == 404
        assert "/tunnels/{" not in fetch(panel, "/openapi.json")[1].replace("/api/tunnels/{", "")
        assert {line["path"] for line in panel.log_lines()} >= {place, f"{release}/main.js"}


def test_an_upgrade_has_other_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text('<script src="tunnels/@release@/main.js"></script>@dashboard@')
    (tmp_path / "notes.txt").write_text("no file of the page")
    monkeypatch.setattr(page, "_FOLDER", tmp_path)

    async def look(content: str) -> list[str]:
        (tmp_path / "main.js").write_text(content)
        app = FastAPI()
        app.include_router(page.page_router("/x/"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://panel") as client:
            answer = await client.get("/x/tunnels")
            address = answer.text.split('"')[1]
            assert answer.text.endswith("yes"), "there is a dashboard to be linked to, unless told otherwise"
            assert (await client.get(f"/x/{address}")).text == content
            assert (await client.get(f"/x/{address.replace('main.js', 'notes.txt')}")).status_code == 404
            assert (await client.get("/x/tunnels/", follow_redirects=True)).url.path == "/x/tunnels"
            return [address, answer.headers["ETag"]]

    assert len({*asyncio.run(look("1")), *asyncio.run(look("2"))}) == 4


def sentences() -> dict[str, str]:
    """What the panel says in English by itself, as keys of the page's: each is translated there."""
    found = {f"refused.{code}": f"{text} (got {{got}})" for code, text in errors.CODED.items()}
    for module in {*(PACKAGES / "marzban_tunnels").glob("*.py")} - {Path(errors.__file__)}:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("say", "wrong"):
                code, text = (str(argument.value) for argument in node.args[:2] if isinstance(argument, ast.Constant))
                assert found.setdefault(f"refused.{code}", text) == text, "one code for two sentences"
    return found


def test_all_languages_say_the_same() -> None:
    english = locale("en") | sentences()
    assert len(english) > 150
    for language in LANGUAGES:
        words = (sentences() if language == "en" else {}) | locale(language)
        assert set(words) == set(english), language
        for key, text in words.items():
            assert text.strip(), f"{language}: {key}"
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", english[key])), (
                f"{language}: {key}"
            )
    assert sorted(path.stem for path in (FOLDER / "locales").iterdir()) == sorted(LANGUAGES)


def test_every_key_that_is_used_exists_and_every_one_that_exists_is_used() -> None:
    english = locale("en")
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    used = set(re.findall(r'data-t(?:-label|-placeholder)?="([^"]+)"', html))
    families = {key.partition(".")[0] for key in english if "." in key}
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        used |= {key for key in re.findall(r'"([a-z]+\.[a-z_]+)"', text) if key.partition(".")[0] in families}
        used |= set(re.findall(r'\bt\("([^"]+)"', text))
        assert not re.search(r"\bt\(`", text), f"{script.name}: a key that is put together can't be found"
    assert used == set(english)


def test_every_placeholder_gets_a_value() -> None:
    english = locale("en")
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    calls = re.findall(r'\bt\("([^"]+)"(?:, \{([^}]*)\})?\)', scripts)
    assert len(calls) > 50
    for key, given in calls:
        names = set(re.findall(r"(?:^|,)\s*(\w+)\s*(?=:|,|$)", re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", given)))
        if "..." not in given:
            assert set(re.findall(r"\{(\w+)\}", english[key])) == names, key


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_anything_of_text_but_text(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    never = [r"\beval\b", "new Function", "DOMParser", "srcdoc", "setHTML", "createContextualFragment"]
    never += ["innerHTML", "outerHTML", "insertAdjacentHTML", r"document\.write"]
    assert re.findall("|".join(never), text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert text.startswith("// SPDX-License-Identifier: AGPL-3.0-or-later\n")


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for name in ("index.html", "trouble.html"):
        html = re.sub(r'<a href="https://[^"]*" rel="noreferrer"', "", (FOLDER / name).read_text(encoding="utf-8"))
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:|<img|=\"https?://", html) == []
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://", html) == []
    for css in FOLDER.glob("*.css"):
        assert re.findall(r"@import|url\(|https?://", css.read_text(encoding="utf-8")) == []


def test_the_page_has_words_for_each_problem_of_a_node() -> None:
    source = (PACKAGES / "marzban_tunnels/manager/problems.py").read_text(encoding="utf-8")
    codes = re.findall(r'at: Problem\(\s*"(\w+)"', source)
    assert len(codes) == source.count("at: Problem(")
    table = (FOLDER / "nodes.js").read_text(encoding="utf-8").partition("const PROBLEMS = {")[2].partition("};")[0]
    assert set(re.findall(r"^    (\w+): \[", table, re.MULTILINE)) == set(codes)
    documented = (TOP / "docs/development/node-service.md").read_text(encoding="utf-8")
    listed = documented.partition("Codes of a problem: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(codes)
