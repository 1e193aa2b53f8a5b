# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done with the panel about the nodes' services, once for all hosts of a play."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError, printable
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel

PIN = re.compile(r"sha256:[A-Za-z0-9+/]{43}=\Z")
HASH = re.compile(r"[0-9a-f]{64}\Z")
PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,16384}\n-----END CERTIFICATE-----\n?\Z")
OFF = "The panel at %s does not see to nodes: %s. Nothing was changed: correct that on the panel, and run again."


def access(panel: Panel, nodes: dict[str, str], without_key: bool, check: bool) -> dict[str, Any]:
    """``panel``, ``manager``, ``hosts`` ({host: access}) and ``refused`` ({host: sentence}).

    ``nodes``: {host: node name}; ``without_key``: whether a panel that could not get in is fine; ``check``: the panel
    is not to store anything. Raises Error.
    """
    answer = panel.node_access(sorted(set(nodes.values())), check)
    state, detail = answer["manager"]["state"], answer["manager"]["detail"]
    given = {}
    for entry in answer["nodes"]:
        given[entry.get("node")] = {
            "node": validators.uuid(entry.get("uuid"), "uuid"),
            "generation": validators.integer(entry.get("generation"), "generation", 1, 2**31 - 1),
            "hashes": _hashes(entry.get("hashes")),
            "certificate": _certificate(entry.get("certificate")),
            "metrics_hash": _metrics_hash(entry.get("metrics_hash")),
        }
    if not without_key and given and not any(entry["hashes"] or entry["certificate"] for entry in given.values()):
        raise Error(OFF % (panel.url, (detail or "it has no key").rstrip(".")))
    reasons = {entry.get("node"): printable(str(entry.get("detail"))) for entry in answer["rejected"]}
    refused = {}
    for host, node in nodes.items():
        if node not in given:
            why = reasons.get(node) or "The panel did not answer about it."
            refused[host] = "%s: the panel has no access for the node %s: %s" % (host, node, why)
    return {
        "panel": panel.id,
        "manager": {"state": state, "detail": detail},
        "hosts": {host: given[node] for host, node in nodes.items() if node in given},
        "refused": refused,
    }


def _hashes(found: Any) -> list[str]:
    hashes = []
    for text in found if isinstance(found, list) else [None]:
        if not isinstance(text, str) or not HASH.match(text):
            raise FieldError("hashes", text, "The panel has to answer SHA-256 in hex: look into its log.")
        hashes.append(text)
    return hashes


def _certificate(found: Any) -> str | None:
    if found is not None and not (isinstance(found, str) and PEM.match(found)):
        raise FieldError("certificate", found, "The panel has to answer a certificate in PEM: look into its log.")
    return found


def _metrics_hash(found: Any) -> str | None:
    """None where the panel has no key for metrics, or is older than they are."""
    return None if found is None else _hashes([found])[0]


def services(given: dict[str, Any], results: dict[str, Any], nodes: dict[str, str]) -> tuple[list[Any], list[Any]]:
    """``(services, rejected)``: what the hosts answered as node_service. A host may be compromised: it speaks for its
    own node only. ``given``: the answer of node_access."""
    hosts = given.get("hosts") if isinstance(given.get("hosts"), dict) else {}
    wanted, rejected = [], []
    for host, result in sorted(results.items()):
        if not isinstance(result, dict) or result.get("failed") or result.get("unreachable") or "pin" not in result:
            continue
        known = (hosts or {}).get(host)
        if not isinstance(known, dict) or host not in nodes:
            continue
        port, pin = result.get("port"), result.get("pin")
        if pin is None and port is not None:  # check mode: there is no certificate yet
            continue
        try:
            if pin is not None:
                port = validators.integer(port, "port", 1, 65535)
                if not isinstance(pin, str) or not PIN.match(pin):
                    raise FieldError("pin", pin, "A host has to answer sha256: and 44 characters of Base64.")
        except FieldError as error:
            rejected.append({"node": nodes[host], "detail": str(error)})
            continue
        wanted.append({"node": nodes[host], "uuid": known["node"], "port": port, "pin": pin})
    return wanted, rejected


def refused(rejected: list[Any], nodes: dict[str, str]) -> dict[str, str]:
    """``{host: sentence}`` of the hosts whose node the panel did not take something about."""
    details = {entry.get("node"): printable(str(entry.get("detail"))) for entry in rejected}
    said = "%s: the panel did not take where its service is, and can't call it: %s"
    return {host: said % (host, details[node]) for host, node in nodes.items() if node in details}


def publish(panel: Panel, wanted: list[Any], rejected: list[Any], check: bool) -> dict[str, Any]:
    """Gives the panel those of ``wanted`` that it does not have so. Adds to ``rejected``.

    A service that the panel had a problem with is given again: what was wrong may be right since this run, a key for
    example, and the panel would look again only within a minute.
    """
    known = {entry.get("node"): entry for entry in panel.node_services()} if wanted else {}
    fields = ("node", "uuid", "port", "pin")
    before, news, again = [], [], []
    for service in wanted:
        found = {field: (known.get(service["node"]) or {}).get(field) for field in fields}
        if found != service and (service["pin"] or found["pin"]):
            news.append(service)
            before.append(found)
        elif service["pin"] and known[service["node"]].get("state") == "problem":
            again.append(service)
    updated = len(news)
    if (news or again) and not check:
        updated, refused = panel.put_node_services(news + again)
        rejected += refused
    return {
        "changed": updated > 0,
        "updated": updated,
        "published": news,
        "rejected": rejected,
        "diff": {"before": {"nodes": before}, "after": {"nodes": news}},
    }
