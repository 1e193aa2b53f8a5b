# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A symptom leads to the row of the guide that fits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import symptoms, table
from ansible_collections.marzban.tunnels.plugins.modules import tunnel_apply, tunnel_health

TOP = Path(__file__).resolve().parents[5]


def words(text: str) -> list[str]:
    """The words of symptoms in a text that lists all of them, in its order."""
    return [word for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text) if symptoms.known(word)]


def test_each_symptom_has_a_row_in_the_guide_and_each_row_a_symptom() -> None:
    guide = (TOP / symptoms.GUIDE).read_text()
    section = guide[guide.index("## By symptom\n") :]
    section = section[: section.index("\n## ", 1)]
    rows = [heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", section, flags=re.M)]
    assert sorted(rows) == sorted(symptoms.SYMPTOMS)
    assert all(len(list(re.finditer(rf"^#+ {row.replace('-', ' ')}$", guide, re.M | re.I))) == 1 for row in rows)


@pytest.mark.parametrize("module", [tunnel_apply, tunnel_health])
def test_the_modules_name_all_of_them(module: Any) -> None:
    told = module.RETURN[module.RETURN.index("    symptom:") :]
    assert words(told[: told.index("type: str")].partition("One of")[2]) == list(symptoms.SYMPTOMS)


def test_the_contracts_name_all_of_them() -> None:
    contract = (TOP / "docs/development/contract.md").read_text()
    assert words(contract[contract.index("SYMPTOM = ") :].partition("\n\n")[0].partition("PUBLIC")[0]) == list(
        symptoms.SYMPTOMS
    )
    api = json.loads((TOP / "docs/node-api.openapi.json").read_text())
    listed = api["components"]["schemas"]["NodeTunnel"]["properties"]["symptom"]["enum"]
    assert listed == [*symptoms.SYMPTOMS, None]


@pytest.mark.parametrize(
    ("status", "age", "loss", "limit", "expected"),
    [
        ("active", 5, 0, 180, None),
        ("inactive", None, None, 180, None),
        ("connecting", None, 100, 180, "connecting"),
        ("error", None, 100, 180, "no-answer"),
        ("error", 400, 100, 180, "no-answer"),
        ("error", 400, 100, None, "no-packets"),
        ("error", 5, 100, 180, "no-packets"),
        ("error", 5, 0, 180, "large-packets"),
    ],
)
def test_what_a_probe_says(
    status: str, age: int | None, loss: float | None, limit: int | None, expected: str | None
) -> None:
    assert symptoms.of_probe(status, {"handshake_age": age, "loss_percent": loss}, limit) == expected


@pytest.mark.parametrize("word", [None, 1, "", "keys ", "KEYS", ["keys"], "later-word"])
def test_what_is_not_a_symptom_is_none(word: object) -> None:
    assert symptoms.known(word) is None


def test_the_table_leads_to_a_row_once_below_its_first_error() -> None:
    def end(number: int, symptom: str | None, error: str | None = "it is dead") -> dict[str, Any]:
        return {
            **dict.fromkeys(("note", "waiting_for", "measured"), None),
            "uuid": f"u{number}",
            "id": number,
            "name": f"t{number}",
            "type": "ipsec",
            "role": "source",
            "node": "de-1",
            "peer": "fi-1",
            "status": "error" if error else "connecting",
            "refused": False,
            "error": error,
            "symptom": symptom,
        }

    ends = [
        end(1, "large-packets"), end(2, "keys"), end(3, "large-packets"), end(4, None), end(5, "connecting", None),
    ]  # fmt: skip
    results = {"h": {"tunnels": ends, "orphans": []}}
    lost: Any = {"us-1": {"unreachable": True, "words": None}}
    _table, problems = table.report(results, lost)
    lines = list(table.guided(problems, results, lost))
    assert lines == [
        "! t1 on de-1: it is dead",
        "    see docs/trouble.md#large-packets",
        "! t2 on de-1: it is dead",
        "    see docs/trouble.md#keys",
        "! t3 on de-1: it is dead",
        "! t4 on de-1: it is dead",
        "! us-1 could not be reached: the table shows what other nodes reported.",
        "    see docs/trouble.md#unreachable",
    ]
    assert max(len(f"    see {symptoms.link(symptom)}") for symptom in symptoms.SYMPTOMS) <= table.COLUMNS
