# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which public halves a run publishes, out of what the hosts have answered. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping

from .._errors import FieldError
from . import answers, validators
from .answers import words

if TYPE_CHECKING:
    from .shapes import Public, Raw, Record, Rejected


def offered(results: Mapping[str, object], nodes: Mapping[str, str] | None) -> tuple[list[Raw], list[Rejected]]:
    """``(keys, rejected)`` out of the answers of tunnel_apply. A node may be compromised: they can hold anything."""
    keys: list[Raw] = []
    rejected: list[Rejected] = []
    for host, answer in results.items():
        own = host if nodes is None else nodes.get(host) or host
        try:
            ends = answers.entries(answer, "tunnels")
            ends = [validators.mapping(end, "tunnels[%d]" % number) for number, end in enumerate(ends)]
        except FieldError as error:
            rejected.append(refusal({"node": own}, error))
            continue
        for end in ends:
            if not end.get("publish") or not end.get("public"):
                continue
            if nodes is None or end.get("node") == own:
                keys.append({key: end.get(key) for key in ("uuid", "node", "public")})
            else:
                detail = "The host %s speaks for another node than its own: it may be compromised." % host
                rejected.append(refusal(end, detail))
    return keys, rejected


def refusal(key: Mapping[str, Any], detail: object) -> Rejected:
    """An entry of ``rejected``. The public half is left out: a refused one may hold anything."""
    return {"uuid": words(key.get("uuid"), 128), "node": words(key.get("node"), 128), "detail": str(detail)}


def ends_of(records: Iterable[Record]) -> dict[tuple[str, str], tuple[str, Public | None]]:
    """``{(uuid, node): (type, public half or None)}``."""
    return {
        (record["uuid"], end["node"]): (record["type"], end["public"])
        for record in records
        for end in record["ends"].values()
    }
