# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: nodes
short_description: The nodes of a Marzban panel as hosts
version_added: 0.1.0
description:
  - Makes a host of each node of the panel, named after the node, with its address as C(ansible_host).
  - The name of the inventory file ends in C(marzban.yml) or C(marzban.yaml).
  - A node that can't be a host (its name or address is not valid, or Ansible uses the name for the controller, a group
    or another host) is left out with a warning that names it.
  - So is a node whose address is a loopback or link-local one, unless O(compose) sets C(ansible_host) - Ansible would
    take the controller for it.
  - Groups are C(marzban_nodes), C(marzban_status_connected) and so on for each status, and C(marzban_type_wireguard)
    and so on for hosts where a tunnel of that type ends.
  - The nodes of a panel without the tunnels API are hosts as well.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel.inventory
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
notes:
  - O(url), O(username), O(password), O(token), O(ca_path) and O(hostname) may be templates in the
    inventory file. Variables for them come from C(--extra-vars).
  - The host variables are C(ansible_host), C(marzban_node) (a dictionary with C(id), C(name), C(address), C(port),
    C(api_port), C(status), C(usage_coefficient), C(xray_version) and C(message)) and C(marzban_tunnels) (the tunnels
    of that node as M(marzban.tunnels.tunnel_views) answers them, for reading - a run reads them again). They hold no
    secret.
  - The cache holds nodes and tunnels, and no secret. While it is valid the panel is not asked.
options:
  plugin:
    description: This plugin's name.
    type: str
    required: true
    choices: [marzban.tunnels.nodes]
  hostname:
    description:
      - A template for the hosts' names, which can use the host variables. Without it, hosts have their nodes' names.
    type: str
  statuses:
    description:
      - Only nodes with one of these statuses (V(connected), V(connecting), V(error), V(disabled)). Empty for all.
    type: list
    elements: str
    default: []
  name_patterns:
    description:
      - Only nodes whose name matches one of these patterns with C(*), C(?) and C([…]). Case counts. Empty for all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
# marzban.yml: all nodes; MARZBAN_URL, MARZBAN_USERNAME and MARZBAN_PASSWORD come from the environment
plugin: marzban.tunnels.nodes

---
# Some nodes of a panel with a certificate of its own, with a group per country
# (variables for templates: ansible-inventory -i marzban.yml -e @vault.yml --graph)
plugin: marzban.tunnels.nodes
url: https://panel.example.com:8000
username: admin
password: "{{ vault_marzban_password }}"
ca_path: panel-ca.pem
statuses: [connected, connecting]
name_patterns: ["de-*", "fi-*"]
keyed_groups:
  - key: marzban_node.name.split('-')[0]
    prefix: country
compose:
  ansible_port: "2222"

---
# Other names, and a cache
plugin: marzban.tunnels.nodes
hostname: "{{ marzban_node.name | lower }}.example.com"
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/marzban-inventory
cache_timeout: 600
"""

import fnmatch
import hashlib
import os
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible.utils.vars import combine_vars

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError, PanelError, shown
from ansible_collections.marzban.tunnels.plugins.module_utils._model import nodes as model_nodes
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Node, Raw, View
from ansible_collections.marzban.tunnels.plugins.module_utils._model.types import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.transport import TOKENS

# Since core 2.19 a string is data unless something trusts it as a template, and nothing trusts the panel's. A cache
# keeps such trust, so what is from there is marked as data with any core.
DATA_BY_DEFAULT = not hasattr(wrap_var(""), "__UNSAFE__")
TEMPLATED = ("url", "username", "password", "token", "ca_path")


def hosts_of(raws: list[Raw], tunnels: list[Raw], panel_id: str) -> tuple[list[dict[str, Any]], list[str]]:
    """``(hosts, problems)`` out of the panel's nodes and tunnels: plain dicts for the cache, and sentences.

    A host is ``{"node": Node, "tunnels": [View…]}``.
    """
    nodes: dict[str, Node] = {}
    problems = []
    for raw in raws:
        try:
            node = model_nodes.checked(raw)
            if node["name"] in nodes:
                raise FieldError("name", node["name"], "Two nodes have it: rename one on the panel.")
            nodes[node["name"]] = node
        except FieldError as error:
            problems.append("Node %s (id %s) is left out: %s" % (shown(raw.get("name")), shown(raw.get("id")), error))
    records = model_records.parse_all(tunnels)[0]
    views = model_views.views(records, {name: name for name in nodes}, panel_id)
    return [{"node": node, "tunnels": views[name]} for name, node in nodes.items()], problems


def _bare(text: str) -> str:
    # A checked name without marks: core before 2.19 would list a host as {"__ansible_unsafe": …}, and str() keeps them.
    return str.__str__(text)


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "marzban.tunnels.nodes"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("marzban.yml", "marzban.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self.templar.available_variables = self._vars
        config = self._read_config_data(path)
        options = {name: self._option(name, config) for name in TEMPLATED}
        if options["ca_path"]:
            base = os.path.dirname(os.path.abspath(path)) if "ca_path" in config else os.getcwd()
            options["ca_path"] = os.path.join(base, os.path.expanduser(options["ca_path"]))
        try:
            found, from_cache = self._cached(path, options, cache)
            for problem in found["problems"]:
                self.display.warning(problem)
            hosts = [host for host in found["hosts"] if self._is_asked_for(host["node"])]
            self._populate(hosts, from_cache or not DATA_BY_DEFAULT)
        except Error as error:
            raise AnsibleError("%s: %s" % (self.NAME, error)) from error

    def _option(self, name: str, config: dict[str, Any]) -> Any:
        value = self.get_option(name)
        if value is None or name not in config:
            return value  # a value of the environment is not a template: a password may hold any characters
        try:
            value = self.templar.template(value)
        except Exception as error:
            raise AnsibleError("%s: the template of %s fails: %s" % (self.NAME, name, error)) from error
        return None if value is None else str(value)

    # The panel and the cache

    def _cached(self, path: str, options: dict[str, Any], cache: bool) -> tuple[Any, bool]:
        """What ``_ask`` returns, from the cache if it may be used and has it, and whether it is from there."""
        if not self.get_option("cache"):
            return self._ask(options), False
        source = "%s %s" % (self.get_cache_key(path), options["url"])
        key = "marzban_nodes_" + hashlib.sha256(source.encode("utf-8")).hexdigest()[:16]
        if cache and key in self._cache:
            return self._cache[key], True
        self._cache[key] = found = self._ask(options)
        return found, False

    def _ask(self, options: dict[str, Any]) -> dict[str, Any]:
        more = {name: self.get_option(name) for name in ("validate_certs", "timeout", "retries")}
        panel = Panel(warn=self.display.warning, tokens=TOKENS, **options, **more)
        nodes = panel.nodes()
        try:
            tunnels = panel.tunnels()
        except PanelError as error:
            if error.kind != "no_tunnels_api":
                raise
            self.display.vv("%s: %s" % (self.NAME, error))
            tunnels = []
        hosts, problems = hosts_of(nodes, tunnels, panel.id)
        return {"hosts": hosts, "problems": problems}

    # Hosts

    def _is_asked_for(self, node: Node) -> bool:
        statuses, patterns = self.get_option("statuses"), self.get_option("name_patterns")
        return (not statuses or node["status"] in statuses) and (
            not patterns or any(fnmatch.fnmatchcase(node["name"], pattern) for pattern in patterns)
        )

    def _populate(self, hosts: list[dict[str, Any]], mark: bool) -> None:
        """``mark``: whether their strings have to be marked as data, which takes a while for thousands of hosts."""
        self.inventory.add_group("marzban_nodes")
        for status in validators.NODE_STATUSES:
            self.inventory.add_group("marzban_status_" + status)
        for kind in TYPES:
            self.inventory.add_group("marzban_type_" + kind)
        names = {}
        for host in hosts:
            node = host["node"]
            variables = {"ansible_host": node["address"], "marzban_node": node, "marzban_tunnels": host["tunnels"]}
            variables = wrap_var(variables) if mark else variables
            try:
                name = self._hostname(variables)
                if name in names:
                    raise FieldError("hostname", name, "The node %s has it already." % shown(names[name]))
                if name in self.inventory.groups:
                    raise FieldError("hostname", name, "A group has this name: rename one of them.")
            except FieldError as error:
                self.display.warning("Node %s is left out: %s" % (shown(node["name"]), error))
                continue
            if validators.is_here(node["address"]) and "ansible_host" not in self.get_option("compose"):
                hint = "Ansible would take this machine for it. Give ansible_host by compose, or correct the address."
                why = FieldError("address", node["address"], hint)
                self.display.warning("Node %s is left out: %s" % (shown(node["name"]), why))
                continue
            names[name] = node["name"]
            self._add(name, node, host["tunnels"], variables)
        for name in names:
            if name in self.inventory.groups:
                # By keyed_groups, after the host was made.
                self.display.warning("Node %s is left out: a group has this name." % shown(names[name]))
                self.inventory.remove_host(self.inventory.get_host(name))

    def _hostname(self, variables: dict[str, Any]) -> str:
        template = self.get_option("hostname")
        if not template:
            return _bare(variables["marzban_node"]["name"])
        self.templar.available_variables = combine_vars(variables, self._vars)
        try:
            name = self.templar.template(template)
        except Exception as error:
            if self.get_option("strict"):
                raise AnsibleError("%s: the template of hostname fails: %s" % (self.NAME, error)) from error
            raise FieldError("hostname", template, "The template fails: %s" % error) from None
        return _bare(validators.node_name(name, "hostname"))

    def _add(self, name: str, node: Node, tunnels: list[View], variables: dict[str, Any]) -> None:
        self.inventory.add_host(name, group="marzban_nodes")
        if node["status"]:
            self.inventory.add_host(name, group="marzban_status_" + node["status"])
        for kind in sorted({view["type"] for view in tunnels}):
            self.inventory.add_host(name, group="marzban_type_" + kind)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), {}, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), {}, name, strict=strict)
