# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The bodies and answers of the calls under ``/api/tunnels/nodes``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from marzban_tunnels.schemas import Body, ChangedKey, PublicKey

NodeName = Annotated[str, Field(max_length=1024)]
PIN = r"^sha256:[A-Za-z0-9+/]{43}=$"


class AccessWanted(Body):
    """``POST /api/tunnels/nodes/access``."""

    nodes: Annotated[list[NodeName], Field(max_length=2000)]
    check: bool = Field(default=False, description="Store nothing; a node without a uuid gets one for this answer only")


class Service(Body):
    """How a node's service is reached. Port and pin are null where the node has none any more."""

    node: NodeName
    uuid: Annotated[str, Field(max_length=64)]
    port: Annotated[int, Field(ge=1, le=65535)] | None
    pin: Annotated[str, Field(pattern=PIN, max_length=51, description="Of the certificate's public key")] | None

    @model_validator(mode="after")
    def _both_or_none(self) -> Service:
        if (self.port is None) != (self.pin is None):
            raise ValueError("port and pin belong together: give both, or null for both")
        return self


class Services(Body):
    """``PUT /api/tunnels/nodes``."""

    nodes: Annotated[list[Service], Field(max_length=2000)]


class Confirmation(Body):
    """``POST /api/tunnels/nodes/{node_id}/confirm``: ``database``, or a tunnel and the fingerprint of the half that its
    end shows. Its ``public_key`` does too, where there is no certificate."""

    database: Literal[True] | None = None
    uuid: Annotated[str, Field(max_length=64, description="Of a deleted node; with database only")] | None = None
    tunnel_id: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    fingerprint: Annotated[str, Field(max_length=160, description="seen_fingerprint")] | None = None
    public_key: PublicKey | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Confirmation:
        about_a_half = (self.tunnel_id is not None, self.fingerprint is not None or self.public_key is not None)
        if any(about_a_half) != all(about_a_half) or bool(self.database) == any(about_a_half):
            raise ValueError('Has to be {"database": true}, or to have a tunnel_id and a fingerprint')
        if self.uuid is not None and not self.database:
            raise ValueError("uuid: it is for a deleted node, with database; leave it out")
        return self


class Manager(BaseModel):
    """Whether this panel sees to the nodes. ``elsewhere``: another process with this database does."""

    state: Literal["on", "off", "elsewhere"]
    detail: str | None = None


class TroubleOut(BaseModel):
    """Why a node can't be worked with."""

    code: str
    detail: str


class OrphanOut(BaseModel):
    """A tunnel on a node that the panel neither knows nor has deleted."""

    uuid: str
    id: int | None = None
    name: str | None = None
    type: str | None = None
    interface: str | None = None


class DeletionOut(BaseModel):
    """A tunnel that the node has to remove. The age is in seconds."""

    uuid: str
    tunnel_id: int
    name: str | None
    type: str
    age: int
    given_up: bool


class ChangedKeyOut(ChangedKey):
    """Of an end of this node."""

    tunnel_id: int
    name: str | None


class NodeService(BaseModel):
    """A node and its service. A deleted node is shown while something waits to be removed there."""

    node_id: int
    node: str | None
    deleted: bool
    uuid: str | None
    generation: int | None
    port: int | None
    pin: str | None
    state: Literal["none", "asking", "ok", "problem"]
    problem: TroubleOut | None
    contact_age: int | None = Field(description="Seconds since the node has answered")
    engine: str | None
    missing: list[str]
    recoveries: dict[str, int] = Field(description="How often it brought a tunnel back since it began, by kind")
    orphans: list[OrphanOut] = Field(description="The first 100")
    more_orphans: int = Field(description="How many there are besides these")
    deletions: list[DeletionOut]
    changed_keys: list[ChangedKeyOut]


class NodesOut(BaseModel):
    """``GET /api/tunnels/nodes``."""

    manager: Manager
    nodes: list[NodeService]


class AccessOut(BaseModel):
    """What is given to a node, so that it lets this panel in."""

    node: str
    node_id: int
    uuid: str
    generation: int
    hashes: list[str] = Field(description="SHA-256 of its access key, and of the next one; empty without NODE_API_KEY")
    certificate: str | None = Field(None, description="PEM: the panel shows this certificate instead of a key")
    metrics_hash: str | None = Field(None, description="SHA-256 of the key that reads the metrics of all nodes")


class NodeRejected(BaseModel):
    """A node that was not taken."""

    node: str
    detail: str


class AccessesOut(BaseModel):
    """``POST /api/tunnels/nodes/access``."""

    panel: str
    manager: Manager
    nodes: list[AccessOut]
    rejected: list[NodeRejected]


class ServicesOut(BaseModel):
    """``PUT /api/tunnels/nodes``. ``updated`` counts those that differ now."""

    updated: int
    rejected: list[NodeRejected]
