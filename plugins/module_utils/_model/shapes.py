# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shapes of data, as TypedDicts. Pure.

docs/development/contract.md has them with their units. A unit test compares the fields; change both together.
``total=False``: a key may be left out; ``| None``: it may be null. Import them under TYPE_CHECKING: to make thirty
classes takes a node longer than to read all states of its tunnels.
"""

from __future__ import annotations

import sys
from typing import Any, Dict

if sys.version_info >= (3, 8):
    from typing import TypedDict
else:  # ansible-test imports this on Python 3.7, where nothing of ours runs

    class TypedDict(dict):
        """As a base class, ignores ``total``."""

        def __init_subclass__(cls, total=True):
            super().__init_subclass__()


# What an end may show, and what is measured there


class WireGuardPublic(TypedDict, total=False):
    """``public_key`` is always there."""

    public_key: str
    next_public_key: str
    accepts_public_key: str
    psk_fingerprint: str


class OpenVpnPublic(TypedDict, total=False):
    """``public_key`` and ``fingerprint`` are always there."""

    public_key: str
    next_public_key: str
    accepts_public_key: str
    fingerprint: str
    next_fingerprint: str
    accepts: str


class IpsecPublic(TypedDict, total=False):
    """``public_key`` is always there."""

    public_key: str
    next_public_key: str
    accepts_public_key: str


PUBLIC_SHAPES = {"wireguard": WireGuardPublic, "openvpn": OpenVpnPublic, "ipsec": IpsecPublic}
# Code that serves all types treats a public half as a dict of texts.
Public = Dict[str, str]


class Measured(TypedDict, total=False):
    """As negotiated and seen, not as configured."""

    handshake_age: int | None
    rx_bytes: int | None
    tx_bytes: int | None
    rtt_ms: float | None
    loss_percent: float | None
    cipher: str | None
    key_exchange: str | None
    post_quantum: bool | None
    data_path: str | None
    certificate_days: int | None
    mtu: int | None


# Records and views


class Side(TypedDict):
    """One end, as a view has it. It listens at ``port``; the other end dials ``endpoint``, ``endpoint_port``."""

    node: str
    role: str
    endpoint: str
    port: int
    endpoint_port: int
    addresses: list[str]
    routes: list[str]
    public: Public | None


class End(Side):
    """One end, as a record has it. ``age``: seconds since its last report."""

    node_id: int
    interface: str
    status: str | None
    error: str | None
    measured: Measured | None
    age: float | None


class Record(TypedDict):
    """A tunnel as the panel, or a hand-written list, has it, checked. ``ends`` has the keys source and target."""

    id: int
    uuid: str
    name: str | None
    type: str
    active: bool
    version: int
    status: str
    config: dict[str, Any]
    ends: dict[str, End]


class Broken(TypedDict):
    """What is known about a tunnel that can't be a record. ``nodes``: the names that are in order, at most two."""

    id: int | None
    uuid: str | None
    name: str | None
    nodes: list[str]
    error: str


class View(TypedDict):
    """A tunnel as one of its nodes sees it. ``dial``: this end dials; ``dialed``: the peer does."""

    panel: str
    id: int
    uuid: str
    name: str | None
    type: str
    active: bool
    version: int
    interface: str
    mtu: int | None
    keepalive: int
    dial: bool
    dialed: bool
    transport: str
    post_quantum: str
    routes: list[str]
    local: Side
    peer: Side


# What is on a node


class Peer(TypedDict):
    """The peer that a tunnel was last applied for."""

    node: str
    public: Public | None


class NarrowPath(TypedDict):
    """A path that takes smaller packets than its route says: ``mtu`` is what fits inside the tunnel, in bytes.

    ``before``: the MTU that did not pass. ``way``: the one that the route allowed then; null where that is not known
    yet.
    """

    mtu: int
    before: int
    way: int | None


class Applied(TypedDict, total=False):
    """What is ours on the interface. ``rules``: a digest of what nft lists."""

    addresses: list[str]
    routes: list[str]
    rules: str | None
    psk_fingerprint: str | None  # WireGuard: of the pre-shared key in use
    psk_since: int  # and when it was switched on, in seconds since 1970
    fingerprint: str | None  # OpenVPN: of the certificate in use
    conf: str  # IPsec: a digest of the connection that charon was given
    narrow: NarrowPath


class State(TypedDict):
    """A tunnel's state.json. ``interface`` is null while nothing of ours is on the host.

    ``node``: whose end this is; null where a version before 0.3.0 wrote it, until a view says it. ``public_key``
    is of this end, as the last run found or made it.
    """

    panel: str
    node: str | None
    id: int | None
    uuid: str
    name: str | None
    type: str
    version: int
    interface: str | None
    public_key: str | None
    peer: Peer | None
    applied: Applied


# What the modules of the node side answer


class FileDiff(TypedDict):
    """One file in a diff, or whatever reads like one."""

    before_header: str
    after_header: str
    before: str
    after: str


class Seen(TypedDict):
    """What of a view is in order, null where it isn't. ``node``, ``role``: of this end; ``peer``: the other node."""

    uuid: str | None
    id: int | None
    name: str | None
    version: int | None
    type: str | None
    interface: str | None
    node: str | None
    peer: str | None
    role: str | None


class Health(Seen):
    """One tunnel in an answer of tunnel_health. ``waiting_for``: the node whose public half is not known yet.

    ``note``: what else a tunnel that is connecting waits for. ``symptom``: one of ``symptoms.SYMPTOMS``.
    """

    status: str
    error: str | None
    symptom: str | None
    refused: bool
    waiting_for: str | None
    note: str | None
    measured: Measured | None


class Outcome(Health):
    """One tunnel in an answer of tunnel_apply."""

    public: Public | None
    publish: bool
    needs_peer: bool
    hand: bool  # the former name of needs_peer
    new: bool  # nothing of it was on this host
    had_session: bool  # with its peer, before something of it was changed
    changes: list[str]


class Known(TypedDict):
    """What a state tells about its tunnel."""

    id: int | None
    uuid: str
    node: str | None
    name: str | None
    type: str
    interface: str | None


class Removed(Known):
    """A tunnel that was taken off the host, or could not be."""

    error: str | None


class Foreign(TypedDict):
    """A folder that is another panel's, or whose state can't be read."""

    uuid: str
    panel: str | None
    interface: str | None


class Choice(TypedDict):
    """What to install, and what can't be. ``unavailable``: sentences."""

    packages: list[str]
    unavailable: list[str]
    package_manager: str | None


class Answer(TypedDict):
    """The answer of tunnel_apply."""

    changed: bool
    diff: list[FileDiff]
    warnings: list[str]  # Ansible shows them
    missing: list[str]
    packages: list[str]
    unavailable: list[str]
    package_manager: str | None
    tunnels: list[Outcome]
    removed: list[Removed]
    orphans: list[Known]
    foreign: list[Foreign]
    machine: str | None  # the same for two hosts that are one machine


class ViewsAnswer(TypedDict):
    """The answer of tunnel_views. ``confirmed_deleted``: uuids, by inventory host; ``gone`` is its old name."""

    panel: str
    views: dict[str, list[View]]
    confirmed_deleted: dict[str, list[str]]
    gone: dict[str, list[str]]
    broken: list[Broken]
    list_digest: str | None


class HealthAnswer(TypedDict):
    """The answer of tunnel_health."""

    changed: bool
    tunnels: list[Health]


class Part(TypedDict, total=False):
    """What a host has to do in the next round: which of these, is the step's."""

    remove: list[str]  # uuids, to apply
    paired: list[str]
    new_keys: list[str]
    packages: list[str]  # to install
    manager: str | None
    uuids: list[str]  # to wait for


class RoundAnswer(TypedDict):
    """The answer of tunnel_round; the last one has the report's beside these. ``views`` to ``failures`` by host."""

    step: str
    parts: dict[str, Part]
    panel: str | None
    panel_addresses: list[str]
    views: dict[str, list[View]]
    broken: list[Broken]
    list_digest: str | None
    nodes: dict[str, str]  # by inventory host
    answers: dict[str, dict[str, Any]]  # as the hosts gave them
    progress: dict[str, Any]  # ``rounds.Progress``
    unreached: list[str]
    failures: dict[str, list[str]]
    without_traffic: dict[str, list[str]]


class Lost(TypedDict):
    """Why a host is not in a run any more. ``unreachable`` is null where that is not known; ``words`` of Ansible."""

    unreachable: bool | None
    words: str | None


# What is sent to the panel, and what it refuses


class Report(TypedDict):
    """What the panel is told about an end."""

    uuid: str
    node: str
    version: int
    status: str
    error: str | None
    symptom: str | None
    measured: Measured | None


class Rejected(TypedDict):
    """A public half or a report that the panel refused."""

    uuid: str | None
    node: str | None
    detail: str


class Node(TypedDict):
    """A node of the panel. Null where the panel has no value, or one that can't be used."""

    id: int | None
    name: str
    address: str
    port: int | None
    api_port: int | None
    status: str | None
    usage_coefficient: float | None
    xray_version: str | None
    message: str | None


Raw = Dict[str, Any]  # an object on the wire, unchecked: what the panel answered, or what is sent to it
