# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Bodies and answers for admins and nodes, as lenient as Marzban's: a client has to cope with what is in there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NodeStatus = Literal["connected", "connecting", "error", "disabled"]
# any number that the database can hold: the panel checks no port
AnyPort = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Coefficient = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Token(BaseModel):
    """A bearer token."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105


class AdminOut(BaseModel):
    """Who asks."""

    username: str
    is_sudo: bool
    telegram_id: int | None = None
    discord_webhook: str | None = None
    users_usage: int | None = None


class NodeCreate(BaseModel):
    """A new node. ``usage_coefficient`` is checked and then dropped, and there are no hosts to add, as on Marzban
    without inbounds."""

    name: str
    address: str
    port: AnyPort = 62050
    api_port: AnyPort = 62051
    usage_coefficient: Coefficient = 1.0
    add_as_new_host: bool = True


class NodeModify(BaseModel):
    """Changes of a node; null is the same as left out."""

    name: str | None = None
    address: str | None = None
    port: AnyPort | None = None
    api_port: AnyPort | None = None
    status: NodeStatus | None = None
    usage_coefficient: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class NodeOut(BaseModel):
    """A node."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    address: str
    port: int
    api_port: int
    usage_coefficient: float
    id: int
    xray_version: str | None
    status: NodeStatus
    message: str | None


class NodeUsage(BaseModel):
    """Bytes that Xray has carried for users; without an Xray behind this door always 0."""

    node_id: int | None
    node_name: str
    uplink: int = 0
    downlink: int = 0


class NodesUsage(BaseModel):
    """First the panel's own Xray, which has no id, then each node."""

    usages: list[NodeUsage]


class NodeSettings(BaseModel):
    """What a node needs to know of its panel."""

    min_node_version: str = "v0.2.0"
    certificate: str


class System(BaseModel):
    """Numbers about the panel; those about users are always 0 here."""

    version: str
    mem_total: int
    mem_used: int
    cpu_cores: int
    cpu_usage: float = 0.0
    total_user: int = 0
    online_users: int = 0
    users_active: int = 0
    users_on_hold: int = 0
    users_disabled: int = 0
    users_expired: int = 0
    users_limited: int = 0
    incoming_bandwidth: int = 0
    outgoing_bandwidth: int = 0
    incoming_bandwidth_speed: int = 0
    outgoing_bandwidth_speed: int = 0


class Detail(BaseModel):
    """A sentence, or an error."""

    detail: str


class FieldDetail(BaseModel):
    """A 422: messages by field."""

    detail: dict[str, str]
