# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules that speak to the panel, run against an embedded panel over TLS: by ansible-playbook, or directly.

What was sent is read from the panel's access log: check mode and an unchanged run send no write. All that a module
answers is held against what its RETURN says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import yaml

from tests.support import module_calls
from tests.support.world import Run, World

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
OTHER_KEY = "ZWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
Task = tuple[str, dict[str, Any], bool]
KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}
COMMON = {"changed", "diff", "exception", "failed", "invocation", "msg", "warnings"}  # what any module may answer


def start_over(world: World) -> None:
    """Each test begins with three nodes and no tunnel."""
    for node in world.api("GET", "/nodes"):
        world.api("DELETE", f"/node/{node['id']}")
    for number, name in enumerate(("de-1", "fi-1", "us-1"), 1):
        body = {"name": name, "address": f"203.0.113.{number}", "add_as_new_host": False}
        world.api("POST", "/node", json=body)
    assert world.tunnels() == {}


def run(world: World, tasks: list[Task], **env: str) -> list[dict[str, Any]]:
    """Results of the modules, in order; a failure is a result with ``failed``. Warnings fail the test."""
    return results_of(tasks, play(world, tasks, **env).expect())


def call(world: World, tasks: list[Task], **env: str) -> list[dict[str, Any]]:
    """The same without Ansible in between: a tenth of the time, for what is true of the module itself."""
    results = module_calls.call(tasks, world.environment(**with_token(world, env)))
    for (module, _options, _check), result in zip(tasks, results, strict=True):
        assert not result.get("warnings"), result
        assert not result.get("deprecations"), result
        is_documented(module, result)
    return results


def with_token(world: World, env: dict[str, str]) -> dict[str, str]:
    """A token saves a login per task."""
    return {"MARZBAN_TOKEN": world.token, **env}


def play(world: World, tasks: list[Task], *words: str, **env: str) -> Run:
    """The same by Ansible, as it ended."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [
            {f"marzban.tunnels.{module}": options, "check_mode": check, "diff": True, "ignore_errors": True}
            for module, options, check in tasks
        ],
    }
    return world.play([play], *words, inventory="localhost,", env=with_token(world, env))


def results_of(tasks: list[Task], done: Run) -> list[dict[str, Any]]:
    results = [dict(event["result"], failed=event["outcome"] == "failed") for event in done.events]
    assert len(results) == len(tasks), done.text
    for (module, _options, _check), result in zip(tasks, results, strict=True):
        is_documented(module, result)
    return results


def own(result: dict[str, Any]) -> dict[str, Any]:
    """What a module answers of its own."""
    return {key: value for key, value in result.items() if key not in COMMON and not key.startswith("_ansible_")}


def is_documented(module: str, result: dict[str, Any]) -> None:
    """The result and the module's RETURN say the same."""
    name = f"ansible_collections.marzban.tunnels.plugins.modules.{module}"
    docs = yaml.safe_load(importlib.import_module(name).RETURN)
    needed = {key for key, doc in docs.items() if not result["failed"] and doc["returned"].startswith("success")}
    answered = own(result)
    assert needed <= set(answered) <= set(docs), module
    for key, value in answered.items():
        fits(f"{module}.{key}", value, docs[key])


def fits(place: str, value: Any, doc: dict[str, Any]) -> None:
    """``value`` is what ``doc`` of a RETURN says, down to the last key. Anything may be null."""
    if value is None:
        return
    assert isinstance(value, KINDS[doc["type"]]), (place, value)
    assert isinstance(value, bool) == (doc["type"] == "bool"), (place, value)
    for element in value if isinstance(value, list) else [value]:
        if element is not value:
            assert isinstance(element, KINDS[doc["elements"]]), (place, element)
        inner = doc.get("contains")
        if inner is None:
            continue
        if set(inner) in ({"inventory_hostname"}, {"node_name"}):  # a placeholder for the name of a host or node
            inner = dict.fromkeys(element, *inner.values())
        at_times = {key for key, doc in inner.items() if "returned" in doc}
        assert set(inner) - at_times <= set(element) <= set(inner), place
        for key, item in element.items():
            fits(f"{place}.{key}", item, inner[key])


def agree(predicted: Any, real: Any) -> None:
    """What check mode predicted has come. It can't know an id, a uuid and a moment that it gave as null, ends that it
    gave as an empty list, and how much time has passed."""
    if isinstance(real, dict):
        assert set(predicted) == set(real)
        known = {key for key in real if key != "age" and (predicted[key] or key not in ("id", "uuid", "since", "ends"))}
        for key in known:
            agree(predicted[key], real[key])
    elif isinstance(real, list):
        for item, other in zip(predicted, real, strict=True):
            agree(item, other)
    else:
        assert predicted == real


Way = Callable[..., list[dict[str, Any]]]  # ``run`` or ``call``


def quartet(
    world: World, module: str, options: dict[str, Any], *writes: str, way: Way = call
) -> tuple[dict[str, Any], dict[str, Any]]:
    """check, apply, check, apply: answers the first two results. The panel saw ``writes``, once."""
    before = len(world.panel.writes())
    check, apply, check_again, apply_again = way(
        world, [(module, options, check) for check in (True, False, True, False)]
    )
    for result in (check, apply, check_again, apply_again):
        assert not result["failed"], result
    assert [item["changed"] for item in (check, apply, check_again, apply_again)] == [True, True, False, False]
    assert world.panel.writes()[before:] == list(writes)
    assert check["diff"] == apply["diff"], "check mode and diff tell the truth"
    agree(own(check), own(apply))
    return check, apply


def errors(world: World, module: str, *cases: tuple[dict[str, Any], str]) -> None:
    """Each set of options fails with its text before anything is sent; every other one in check mode."""
    before = len(world.panel.writes())
    results = call(world, [(module, options, bool(number % 2)) for number, (options, _text) in enumerate(cases)])
    for (options, text), result in zip(cases, results, strict=True):
        assert result["failed"], (options, result)
        assert text in result["msg"], (options, result["msg"])
    assert world.panel.writes()[before:] == []


def nodes(world: World) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in world.api("GET", "/nodes")}
