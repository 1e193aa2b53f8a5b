# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Why a node can't be worked with: a code, and a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from marzban_tunnels.errors import shown

SERVICE = "marzban-node-front"
_ROLE = "run marzban.tunnels.node_api for this node"
CLOCK = 300  # seconds that a node's clock and ours may differ


@dataclass(frozen=True)
class Place:
    """Where a node is, for a sentence."""

    node: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{shown(self.node)} at {shown(self.address)} port {self.port}"


@dataclass(eq=False)
class Problem(Exception):
    """``code`` is one of the contract's (docs/development/node-service.md); ``detail`` a sentence for a person."""

    code: str
    detail: str
    passes: bool = False  # it may be over at any moment, without anybody doing something

    def __str__(self) -> str:
        return self.detail


#: A node's connection knows its place, and says with it what is wrong.
Say = Callable[[Place], Problem]


def refused(reason: str = "") -> Say:
    """Nothing can be reached there, or it is not the service."""
    if not reason:
        return lambda at: Problem(
            "refused",
            f"{at} refuses connections: is the service running there (systemctl status {SERVICE}), and its port open?",
        )
    return lambda at: Problem("refused", f"{at} can't be reached: {reason}; check the node's address and its network")


def no_tls(reason: str) -> Say:
    """Something listens there, and no TLS connection comes about."""
    return lambda at: Problem(
        "refused",
        f"{at} takes connections, and TLS fails ({reason}): does something else listen on this port? "
        f"On the node: systemctl status {SERVICE}",
    )


def closed() -> Say:
    """The connection was closed before the answer."""
    return lambda at: Problem(
        "refused", f"{at} closed the connection without an answer; on the node: journalctl -u {SERVICE}"
    )


def timed_out(seconds: float, connecting: bool) -> Say:
    """No answer in time."""
    if connecting:
        return lambda at: Problem(
            "timed_out",
            f"{at} did not answer within {seconds:g} s: is the node up, and does a firewall let this panel in "
            "(TCP to that port)?",
        )
    return lambda at: Problem(
        "timed_out",
        f"{at} took the connection, and did not answer a call within {seconds:g} s: is it overloaded? "
        f"On the node: journalctl -u {SERVICE} -u marzban-node-root",
    )


def certificate_changed(expected: str, seen: str) -> Say:
    """The certificate has another key. Nothing has been sent."""
    return lambda at: Problem(
        "certificate_changed",
        f"{at} shows another certificate than the one that was published: expected {expected}, seen {seen}. Nothing "
        f"was sent to it. If the node was made again, {_ROLE}; nothing is taken from a connection",
    )


def key_wrong(status: int) -> Say:
    """401 or 403."""
    return lambda at: Problem(
        "key_wrong",
        f"{at} does not take this panel's access key ({status}): it was revoked, or NODE_API_KEY is another one now; "
        f"{_ROLE}",
    )


def clock_wrong(seconds: float) -> Say:
    """The clocks differ."""
    ahead = "ahead of" if seconds > 0 else "behind"
    return lambda at: Problem(
        "clock_wrong",
        f"{at}: its clock is {abs(seconds):.0f} s {ahead} this panel's; set both right (timedatectl set-ntp true)",
    )


def version_older(reason: str) -> Say:
    """The service can't do what this panel wants."""
    return lambda at: Problem("version_older", f"{at}: its service is older than this panel ({reason}); {_ROLE}")


def version_newer(api: int) -> Say:
    """The service speaks a later version."""
    return lambda at: Problem(
        "version_newer",
        f"{at}: its service speaks version {api} of the node API, this panel version 1; update the panel",
    )


def busy() -> Say:
    """503."""
    return lambda at: Problem(
        "busy", f"{at} is busy with another change, a run for example; it is asked again within seconds"
    )


def older_database(have: int, ours: int, deleted: str | None = None) -> Say:
    """The node has seen more writes than this database knows. ``deleted``: our uuid of one that is deleted here."""
    body = '{"database": true}' if deleted is None else f'{{"database": true, "uuid": "{deleted}"}}'
    return lambda at: Problem(
        "older_database",
        f"{at} has seen write {have} of this panel, and this database knows only {ours}: it was restored from a "
        "backup, or is a copy of the panel that works with this node. Nothing is changed there. If this database is "
        f"the right one, confirm it: POST /api/tunnels/nodes/<node id>/confirm {body}",
    )


def another_copy() -> Say:
    """The node was written to by a manager that this database knows nothing of."""
    return lambda at: Problem(
        "older_database",
        f"{at}: another copy of this panel has written to it, or this database was restored from a backup. Nothing is "
        "changed there. Only you know which of the two panels is right: stop the other one, and confirm this database "
        'if it is the right one: POST /api/tunnels/nodes/<node id>/confirm {"database": true}',
    )


def bad_answer(reason: str) -> Say:
    """What came can't be read."""
    return lambda at: Problem(
        "bad_answer",
        f"{at} answered what this panel can't read ({reason}); on the node: journalctl -u {SERVICE} -u "
        f"marzban-node-root, and {_ROLE}",
    )


def failed(said: str) -> Say:
    """503 for another reason than work that goes on: it does not pass by itself."""
    return lambda at: Problem(
        "bad_answer",
        f"{at} can't say what it has ({shown(said, 300)}). On the node: systemctl status marzban-node-root, and "
        f"journalctl -u {SERVICE} -u marzban-node-root",
        passes=True,  # systemd starts it again
    )


def not_removed(said: str) -> Say:
    """One removal fails; the rest of the node's work goes on."""
    return lambda at: Problem(
        "bad_answer",
        f"{at} does not remove a tunnel that was deleted ({shown(said, 300)}); it is asked again. On the node: "
        "journalctl -u marzban-node-root",
    )
