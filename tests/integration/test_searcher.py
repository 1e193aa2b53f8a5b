# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search of the test of secrets finds keys, whatever form they are in."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.search import LARGE, Searcher, key_forms


@pytest.mark.parametrize("wrap", ["plain", "large", "zip", "gzip", "module"])
def test_the_searcher_finds_each_form(wrap: str) -> None:
    key = base64.b64encode(bytes(range(200, 232)))
    searcher = Searcher({"key": key_forms(key)})
    for form, data in key_forms(key).items():
        blob = b"before " + data + b" after"
        if wrap == "large":
            blob += bytes(LARGE)
        elif wrap == "gzip":
            blob = gzip.compress(blob)
        elif wrap != "plain":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("args", blob + os.urandom(400).hex().encode())
            blob = packed.getvalue()
        if wrap == "module":
            blob = b'ZIPDATA = """' + base64.b64encode(blob) + b'"""'
        assert searcher.find(blob), form
    assert not searcher.find(b"before after")
    assert not searcher.find(b"before after" + bytes(LARGE))


def test_the_searcher_finds_each_form_in_a_file_of_many(tmp_path: Path) -> None:
    key = base64.b64encode(b"\n\0" + bytes(range(200, 230)))  # what a line can't hold, too
    shapes = key_forms(key)
    assert any(b"\n" in data for data in shapes.values())
    holders = {tmp_path / f"{number}": data for number, data in enumerate(shapes.values())}
    for path, data in holders.items():
        path.write_bytes(b"before\n" + data)
        path.with_suffix(".other").write_bytes(b"before\nafter")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(key))
    assert Searcher({"key": shapes}).find_in(tmp_path).keys() == holders.keys() | {tmp_path / "packed.gz"}


@pytest.mark.parametrize(
    "said",
    [
        lambda raw: raw,
        base64.b64encode,
        lambda raw: base64.b64encode(raw).rstrip(b"="),
        base64.urlsafe_b64encode,
        lambda raw: base64.b64encode(b'{"key": "' + raw + b'"}'),
        lambda raw: base64.b64encode(b"PrivateKey = " + base64.b64encode(raw) + b"\n"),
        lambda raw: raw.hex().encode(),
        lambda raw: raw.hex().upper().encode(),
        lambda raw: base64.b64encode(raw).hex().encode(),
        lambda raw: json.dumps({"key": raw.decode("latin-1")}).encode(),
        lambda raw: json.dumps({"key": raw.decode("utf-8", "surrogateescape")}).encode(),
        lambda raw: json.dumps({"key": base64.b64encode(raw).decode()}).replace("/", "\\/").encode(),
        lambda raw: json.dumps({"key": list(raw)}).encode(),
        lambda raw: str({"key": raw}).encode(),
    ],
)
def test_the_searcher_finds_what_programs_say(said: Callable[[bytes], bytes]) -> None:
    for seed in range(20):  # with and without the characters that are escaped
        raw = bytes((seed * 37 + step * 91 + step * step * 7) % 256 for step in range(32))
        assert Searcher({"key": key_forms(base64.b64encode(raw))}).find(b"<<" + said(raw) + b">>"), seed
