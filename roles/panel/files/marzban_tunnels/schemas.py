# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The bodies and answers of the tunnels API. Answers are documentation: the service builds plain dicts, so that a row
that someone else wrote into the database is shown as it is, and never breaks a list."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from marzban_tunnels import checks, live
from marzban_tunnels.live import STALE_BY_SERVICE, SYMPTOMS

TunnelType = Literal["wireguard", "openvpn", "ipsec"]
Status = Literal["active", "inactive", "error", "connecting"]
Symptom = Annotated[
    str, Field(json_schema_extra={"enum": list(SYMPTOMS)}, description="What is wrong: an anchor of docs/trouble.md")
]
Name = Annotated[str, AfterValidator(checks.name), Field(json_schema_extra={"minLength": 1, "maxLength": 128})]
NodeId = Annotated[int, Field(ge=1, le=2**31 - 1, description="A node's id on this panel")]
Config = Annotated[
    str, Field(description="A JSON object in a string of at most 64 KiB; see docs/development/contract.md")
]
PublicKey = Annotated[str, AfterValidator(checks.public_key)]
Fingerprint = Annotated[str, AfterValidator(checks.fingerprint), Field(description="A SHA-256: 64 hex digits")]
Algorithm = Annotated[str, AfterValidator(checks.algorithm)]
Moment = Annotated[str, Field(description="UTC, without a zone", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?$")]
Counter = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Body(BaseModel):
    """A request's body: nothing is converted, and an unknown field is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TunnelCreate(Body):
    """``POST /api/tunnels``."""

    source_node_id: NodeId
    target_node_id: NodeId
    tunnel_type: TunnelType
    name: Name | None = None
    config: Config = "{}"
    is_active: bool = True


# In one request. A client waits a few seconds for an answer (the collection: 10, unless it is told otherwise), and
# these many take less on a slow panel too; and with each config as large as it may be they fit into a body.
CREATES = 100


class Creates(Body):
    """``POST /api/tunnels/bulk``. Each item is checked for itself, so that one that isn't valid stops no other."""

    tunnels: Annotated[
        list[Any],
        Field(max_length=CREATES, json_schema_extra={"items": {"$ref": "#/components/schemas/TunnelCreate"}}),
    ]


_LEFT_OUT: Any = None  # as a default; null in a body is refused


class TunnelUpdate(Body):
    """``PUT /api/tunnels/{id}``: what is left out stays. A null name takes the name away."""

    source_node_id: NodeId = _LEFT_OUT
    target_node_id: NodeId = _LEFT_OUT
    tunnel_type: TunnelType = _LEFT_OUT
    name: Name | None = None
    config: Config = _LEFT_OUT
    is_active: bool = _LEFT_OUT


class Public(Body):
    """An end's public half; ``reports`` knows which type has what. Nothing private is taken, so it can't be stored."""

    public_key: PublicKey
    next_public_key: PublicKey | None = None
    accepts_public_key: PublicKey | None = None
    psk_fingerprint: Fingerprint | None = None
    fingerprint: Fingerprint | None = None
    next_fingerprint: Fingerprint | None = None
    accepts: Fingerprint | None = None


class EndKey(Body):
    """One end's public half."""

    uuid: Annotated[str, Field(max_length=64)]
    node: Annotated[str, Field(max_length=1024)]
    public: Public


class Keys(Body):
    """``POST /api/tunnels/keys``."""

    keys: Annotated[list[EndKey], Field(max_length=20000)]


class Measured(Body):
    """What a run found at one end, as negotiated. Ages in seconds, round trip in milliseconds.

    An unknown measurement is ignored: a run may know more of them than this panel, and its report is still good.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    handshake_age: Counter | None = None
    rx_bytes: Counter | None = None
    tx_bytes: Counter | None = None
    rtt_ms: Annotated[float, Field(ge=0, lt=2**63, allow_inf_nan=False)] | None = None
    loss_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    cipher: Algorithm | None = None
    key_exchange: Algorithm | None = None
    post_quantum: bool | None = None
    data_path: Literal["kernel", "userspace"] | None = None
    certificate_days: Annotated[int, Field(ge=-36500, le=36500, description="Below 0: it has ended")] | None = None
    mtu: Annotated[int, Field(ge=1, le=65535, description="Bytes of the largest packet that passed")] | None = None


class Report(Body):
    """One end's status. A longer error is cut at 1000 characters."""

    uuid: Annotated[str, Field(max_length=64)]
    node: Annotated[str, Field(max_length=1024)]
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    status: Status
    error: Annotated[str, AfterValidator(lambda text: checks.one_line(text, 1000))] | None = None
    symptom: Annotated[str, Field(max_length=64), AfterValidator(live.symptom)] | None = None
    measured: Measured | None = None


class Reports(Body):
    """``POST /api/tunnels/status``."""

    reports: Annotated[list[Report], Field(max_length=20000)]


class ChangedKey(BaseModel):
    """A public half of an end that nobody has accepted, beside the known one. The keys are the same where only the
    certificate is another one."""

    known: str | None = Field(description="Public key")
    seen: str = Field(description="Public key")
    known_fingerprint: str | None = Field(description="Of the key, and of the certificate where there is one")
    seen_fingerprint: str = Field(description="To be confirmed")


class EndOut(BaseModel):
    """One end of a tunnel."""

    role: str
    node: str
    node_id: int
    endpoint: str
    endpoint_port: int = Field(description="Where the other end dials: the port, unless a NAT has another one for it")
    port: int
    addresses: list[str]
    interface: str
    routes: list[str]
    public: dict[str, str] | None
    status: str | None
    error: str | None
    symptom: Symptom | None
    measured: Measured | None
    age: int | None = Field(description="Seconds since it was reported")
    stale_after: int = Field(
        description="Seconds after which a report is stale: "
        f"{STALE_BY_SERVICE} for a node service's, else twice the usual time between two"
    )
    stale: bool
    by: Literal["service", "run"] | None = Field(description="Who has reported it")
    changed_key: ChangedKey | None = Field(description="Its node shows another half than the known one")


class TunnelOut(BaseModel):
    """A tunnel."""

    id: int
    uuid: str
    version: int
    source_node_id: int
    target_node_id: int
    source_node_name: str
    target_node_name: str
    tunnel_type: str
    name: str | None
    config: str
    is_active: bool
    status: Status
    since: Moment | None = Field(description="When its status became this one; null where that is not known")
    stale: bool = Field(description="Nothing newer is known of either end")
    created_at: Moment
    updated_at: Moment
    ends: list[EndOut]


class EndStatus(BaseModel):
    """One end in a tunnel's status."""

    role: str
    node: str
    status: str | None
    error: str | None
    symptom: Symptom | None
    measured: Measured | None
    age: int | None
    stale: bool
    by: Literal["service", "run"] | None


class StatusOut(BaseModel):
    """``GET /api/tunnels/{id}/status``. ``age`` is that of the newest report, in seconds."""

    tunnel_id: int
    status: Status
    is_active: bool
    last_updated: Moment
    stale: bool
    age: int | None
    ends: list[EndStatus]


class StatusChange(BaseModel):
    """A tunnel's status became this one."""

    at: Moment
    status: Status
    error: str | None = Field(description="Of an end; at most 200 characters")


class SumsOut(BaseModel):
    """Sums of periods, the oldest first. A period in which nothing was known has no row."""

    seconds: int = Field(description="How long a period is")
    columns: list[str] = Field(description="What is in a row, in this order")
    rows: list[list[int | float | None]]


class HistoryOut(BaseModel):
    """``GET /api/tunnels/{id}/history``."""

    tunnel_id: int
    uuid: str
    status: Status
    since: Moment | None
    changes: list[StatusChange] = Field(description="The last 200, the oldest first")
    day: SumsOut
    month: SumsOut


class Rejected(BaseModel):
    """An item of a bulk call that was not taken."""

    uuid: str
    node: str
    detail: str


class BulkOut(BaseModel):
    """``updated`` counts the ends that differ now from what they were before the call."""

    updated: int
    rejected: list[Rejected]


class NotCreated(BaseModel):
    """A tunnel of a bulk call that was not created: what a call of its own would have answered."""

    index: int = Field(description="Its place in the request, from 0")
    status: int
    detail: str | dict[str, str]


class CreatedOut(BaseModel):
    """``tunnels`` has a place for each of the request: the new tunnel, or null where it is in ``rejected``."""

    created: int
    tunnels: list[TunnelOut | None]
    rejected: list[NotCreated]


class Message(BaseModel):
    """A sentence."""

    message: str


class Code(BaseModel):
    """What a sentence was made of: ``text`` with its ``{names}``, and what is put in for them. ``code`` names it, for a
    translation. A value may be a sentence again, in the same shape."""

    code: str
    text: str
    values: dict[str, Any]


class Problem(BaseModel):
    """An error. ``codes`` is left out where nothing is known; its key is the field that the sentence begins with, or
    empty."""

    detail: str
    codes: dict[str, Code] | None = None


class FieldProblems(BaseModel):
    """A 422: sentences by dotted field."""

    detail: dict[str, str]
    codes: dict[str, Code] | None = None
