# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The engine, as this service calls it: what a run does with a node, by the choices that the role has stored."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records, render, types, views
from ansible_collections.marzban.tunnels.plugins.module_utils._node import health, kept, measure, net, ping
from ansible_collections.marzban.tunnels.plugins.module_utils._node.files import read
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import Kept, KeptView, Terms
from ansible_collections.marzban.tunnels.plugins.module_utils._node.ping import is_address
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry
from marzban_node.panels import Panel

if TYPE_CHECKING:  # thirty classes, which nothing needs at run time
    from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Answer, NarrowPath, View

LOOK = 1.0  # seconds that a process has to answer in a look, so that one that hangs does not delay it much
SURE = 2.0  # and where it is ended if it does not


@dataclass(frozen=True)
class Settings:
    """What the role has stored. ``folder``: where it is."""

    folder: str
    engine: str
    config_dir: str
    post_quantum: str
    ipsec_data_path: str
    types: tuple[str, ...]

    @classmethod
    def load(cls, path: str = kept.SETTINGS) -> Settings:
        """Raises Error where there are none, or they can't be used."""
        raw = kept.settings(path)
        if raw is None:
            raise Error(f"{path} is missing: run marzban.tunnels.node_api, which writes it.")
        try:
            return cls(
                *(os.path.dirname(path), str(raw["engine"]), str(raw["config_dir"]), str(raw["post_quantum"])),
                ipsec_data_path=str(raw["ipsec_data_path"]),
                types=tuple(str(kind) for kind in raw["types"]),
            )
        except (KeyError, TypeError):
            raise Error(f"{path} is incomplete: run marzban.tunnels.node_api, which writes it again.") from None

    def template(self, kind: str) -> str:
        """The text of a type's template. Raises Error."""
        path = os.path.join(self.folder, "templates", kind + ".conf.j2")
        text = read(path)
        if text is None:
            raise Error(f"{path} is missing: run marzban.tunnels.node_api, which writes it again.")
        return text


@dataclass
class Applied:
    """What became of one call of the engine. ``tunnels``: as it left them."""

    answer: Answer
    tunnels: list[Tunnel] = field(default_factory=list)


class Engine:
    """The engine on this host."""

    def __init__(self, settings: Settings, kept_here: Kept) -> None:
        self.settings, self.kept = settings, kept_here
        self.folders = Folders(settings.config_dir)

    def view(self, tunnel: object, node: str, panel: str) -> View:
        """The view of ``node`` on a tunnel as the panel's API answers it. Raises Error."""
        record = records.parse(tunnel)
        return views.check(views.view(record, node, panel, self.settings.post_quantum), panel)

    def apply(
        self,
        panel: Panel,
        wanted: Sequence[KeptView],
        remove: Collection[str] = (),
        trusted: Mapping[str, str] | None = None,
        probe: bool = False,
        paths: Mapping[str, NarrowPath | None] | None = None,
        renew: Collection[str] = (),
    ) -> Applied:
        """Makes this host match these views, and removes those tunnels. Others of the panel are left as they are.

        ``trusted``: ``{uuid: public key}`` of peers that may have another key than before. ``paths`` and ``renew`` as
        ``Terms`` has them. Raises Error.
        """
        made = [dict(view) for view, _revision in wanted]
        revisions = {view["uuid"]: revision for view, revision in wanted if revision is not None}
        apply = Apply(
            *(Host(patience=SURE), self.folders, panel.id, types.TYPES, probe),
            options={"ipsec": {"data_path": self.settings.ipsec_data_path}},
            panel_addresses=panel.addresses,
            terms=Terms(
                *(False, revisions, dict(trusted or {})), in_order=True, paths=dict(paths or {}), renew=set(renew)
            ),
            kept=self.kept,
        )
        answer = apply.run(made, [self._rendered(view) for view, _revision in wanted], list(remove))
        return Applied(answer, apply.tunnels)

    def check(self, panel: str, wanted: Sequence[View]) -> list[Tunnel]:
        """How these tunnels are now. Changes nothing."""
        raws, repaired = [dict(view) for view in wanted], self.settings.types
        return health.check(Host(patience=LOOK), self.folders, panel, types.TYPES, raws, repaired=repaired)

    def ways(self, wanted: Iterable[View]) -> dict[str, str]:
        """``{uuid: by which route this host speaks to the peer}``, of peers with an address."""
        peers = {view["uuid"]: view["peer"]["endpoint"] for view in wanted}
        found = net.ways(Host(), (address for address in peers.values() if is_address(address)))
        return {uuid: found[address] for uuid, address in peers.items() if address in found}

    def widened(self, tried: Sequence[tuple[View, int]], patience: float) -> set[str]:
        """The uuids of those whose path takes packets of that size by now: their interfaces take them from here on.

        The others do so for ``patience`` seconds, in which no smaller packet is lost. Raises Error.
        """
        host, before, sizes = Host(), {}, {}
        targets: dict[Hashable, tuple[str, str]] = {}
        taken: set[Hashable] = set()
        with self.folders.locked():
            for view, size in tried:
                found = read(f"/sys/class/net/{view['interface']}/mtu")
                if found:
                    protocol = registry.protocol(view["type"])(host, self.folders)
                    targets[view["uuid"]] = protocol.ping_from(view), measure.inside(view)
                    before[view["uuid"]], sizes[view["uuid"]] = (view["interface"], found.strip()), size
            try:
                for uuid, (name, _mtu) in before.items():
                    host.try_run("ip", "link", "set", "dev", name, "mtu", str(sizes[uuid]))
                taken = ping.takes(targets, sizes, patience)
            finally:
                for uuid, (name, mtu) in before.items():
                    if uuid not in taken:
                        host.try_run("ip", "link", "set", "dev", name, "mtu", mtu)
        return {str(uuid) for uuid in taken}

    def _rendered(self, view: View) -> dict[str, Any]:
        try:
            return {"text": render.render(view, self.settings.template(view["type"]))}
        except Error as error:
            return {"error": str(error)}
