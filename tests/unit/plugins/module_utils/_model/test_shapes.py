# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shapes of docs/development/contract.md are those of the code, and each type of tunnel has what the table says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import shapes, types, validators

TOP = Path(__file__).resolve().parents[5]
CONTRACT = (TOP / "docs/development/contract.md").read_text()
_TOKENS = re.compile(r'"([^"]*)"|([{}\[\],])')


def shape_after(words: str) -> dict[str, Any]:
    """The first object after ``words`` on the page: its keys, each with the keys of the first object in its value."""
    tokens = _TOKENS.finditer(CONTRACT, CONTRACT.index("{", CONTRACT.index(words)))
    next(tokens)
    return _shape(tokens)


def _shape(tokens: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    key, wants_key, brackets = "", True, 0
    for token in tokens:
        text, mark = token.groups()
        if mark == "{":
            inner = _shape(tokens)
            found[key] = found[key] or inner
        elif mark == "}":
            return found
        elif mark in ("[", "]"):
            brackets += 1 if mark == "[" else -1
        elif mark == "," and not brackets:
            wants_key = True
        elif text is not None and wants_key:
            key, wants_key = text, False
            found[key] = {}
    raise AssertionError("the object has no end")


def fields(shape: Any) -> set[str]:
    return set(shape.__required_keys__ | shape.__optional_keys__)


APPLIED = shape_after("**Answer of `tunnel_apply`**")
VIEW = shape_after("**View**")
STATE = shape_after("**State on a node**")
VIEWS = shape_after("**Answer of `tunnel_views`**")


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        (shape_after("END ="), shapes.End),
        (shape_after("MEASURED ="), shapes.Measured),
        (shape_after("`POST /api/tunnels/status`")["reports"], shapes.Report),
        (shape_after('`{"updated": 2')["rejected"], shapes.Rejected),
        (shape_after("**Record**"), shapes.Record),
        (VIEW, shapes.View),
        (VIEW["local"], shapes.Side),
        (VIEW["peer"], shapes.Side),
        (VIEWS, shapes.ViewsAnswer),
        (VIEWS["broken"], shapes.Broken),
        (STATE, shapes.State),
        (STATE["peer"], shapes.Peer),
        (STATE["applied"], shapes.Applied),
        (APPLIED, shapes.Answer),
        (APPLIED["tunnels"], shapes.Outcome),
        (APPLIED["removed"], shapes.Removed),
        (APPLIED["orphans"], shapes.Known),
        (APPLIED["foreign"], shapes.Foreign),
        (shape_after("**Rounds.**"), shapes.RoundAnswer),
        (shape_after("PART ="), shapes.Part),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_page_and_the_code_have_the_same_fields(written: dict[str, Any], shape: Any) -> None:
    assert set(written) == fields(shape)


@pytest.mark.parametrize("kind", types.TYPES)
def test_a_public_half_has_the_same_fields_everywhere(kind: str) -> None:
    on_the_page = shape_after(f"{kind}: ")
    assert set(on_the_page) == fields(shapes.PUBLIC_SHAPES[kind]) == {part.name for part in types.BY_TYPE[kind].public}


def test_measurements_are_checked_field_by_field() -> None:
    assert set(validators.MEASURES) == fields(shapes.Measured)


def test_a_health_answer_is_an_answer_without_what_only_apply_knows() -> None:
    hidden = fields(shapes.Outcome) - fields(shapes.Health)
    assert hidden == {"public", "publish", "needs_peer", "hand", "new", "had_session", "changes"}


@pytest.mark.parametrize("kind", types.TYPES)
def test_the_template_of_a_type_is_in_its_role(kind: str) -> None:
    known = types.BY_TYPE[kind]
    assert (TOP / "roles" / known.role / "templates" / known.template).is_file()
    assert set(known.transports) <= set(validators.TRANSPORTS)
