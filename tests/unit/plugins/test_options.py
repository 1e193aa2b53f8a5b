# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's options are in three places, which have to agree: the modules, their documentation, the inventory's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import yaml
from ansible.module_utils.basic import env_fallback

from ansible_collections.marzban.tunnels.plugins.doc_fragments.panel import ModuleDocFragment
from ansible_collections.marzban.tunnels.plugins.inventory import nodes
from ansible_collections.marzban.tunnels.plugins.module_utils import _panel_module

SPEC = _panel_module.panel_argument_spec()
MODULES = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
INVENTORY = yaml.safe_load(ModuleDocFragment.INVENTORY)["options"]


def test_there_are_the_same_options_everywhere():
    assert set(SPEC) == set(MODULES) == set(INVENTORY)


@pytest.mark.parametrize("name", sorted({*SPEC, *MODULES, *INVENTORY}))
def test_an_option_is_the_same_everywhere(name):
    variable = "MARZBAN_" + name.upper()
    assert SPEC[name]["fallback"] == (env_fallback, [variable])
    assert INVENTORY[name]["env"] == [{"name": variable}]
    assert f"E({variable})" in str(MODULES[name]["description"])
    assert SPEC[name]["type"] == MODULES[name]["type"]
    # The inventory plugin itself makes a path of it, which starts at the inventory file.
    assert INVENTORY[name]["type"] == ("str" if name == "ca_path" else SPEC[name]["type"])
    assert SPEC[name].get("default") == MODULES[name].get("default") == INVENTORY[name].get("default")


@pytest.mark.parametrize(("url", "warned"), [("http://panel.example.com:8000", 1), ("http://127.0.0.1:8000", 0)])
def test_a_module_warns_of_plain_http(url, warned):
    said = []
    params = {name: SPEC[name].get("default") for name in SPEC}
    _panel_module.open_panel(SimpleNamespace(params={**params, "url": url, "token": "x"}, warn=said.append))
    assert len(said) == warned
    assert all("panel.example.com is asked without TLS" in text for text in said)


def test_two_nodes_of_one_name_are_one_host():
    names = ("de-1", "fi-1", "de-1")
    raws = [{"id": n, "name": name, "address": f"203.0.113.{n}"} for n, name in enumerate(names, 1)]
    hosts, problems = nodes.hosts_of(raws, [], "")
    assert [(host["node"]["id"], host["node"]["name"]) for host in hosts] == [(1, "de-1"), (2, "fi-1")]
    assert problems == [
        "Node 'de-1' (id 3) is left out: name: 'de-1' can't be used. Two nodes have it: rename one on the panel."
    ]


@pytest.mark.parametrize(
    "name", ["node_access", "node_publish", "tunnel_views", "tunnel_publish", "tunnel_report", "tunnel_round"]
)
def test_an_action_on_the_controller_takes_what_its_module_documents(name):
    place = "ansible_collections.marzban.tunnels.plugins"
    documented = yaml.safe_load(importlib.import_module(f"{place}.modules.{name}").DOCUMENTATION)["options"]
    spec = importlib.import_module(f"{place}.action.{name}").ActionModule.SPEC

    def compare(options, documented):
        assert set(options) == set(documented)
        for option, told in options.items():
            for key, default in (("type", "str"), ("default", None), ("choices", None), ("required", False)):
                assert told.get(key, default) == documented[option].get(key, default), (option, key)
            compare(told.get("options", {}), documented[option].get("suboptions", {}))

    compare(spec, documented)
