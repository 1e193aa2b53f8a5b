# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One tunnel during one run on a node, what its answer says, and how its status is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Collection, Iterable, Mapping, Sequence

from .._errors import Error, FieldError, not_none
from .._model import symptoms, views
from .netdev import Plan

if TYPE_CHECKING:
    from .._model.shapes import FileDiff, Measured, Outcome, Public, State, View


PROVES = ("public_key", "fingerprint")  # the fields of a public half by which a peer proves who it is


class Tunnel:
    """One tunnel in this run. ``view`` is None when the panel's words can't be used, and ``error`` then says why."""

    def __init__(self, raw: object, template: dict[str, Any] | None = None) -> None:
        self.seen = views.seen(raw)
        self.uuid: str = self.seen["uuid"] or ""  # empty where the view has none: it is refused
        self.template = template  # {"text": …} or {"error": …}, what the controller made of its view
        self.checked: View | None = None
        self.state: State | None = None
        self.plan: Plan | None = None
        self.former: State | None = None  # the state of what the tunnel was before its type changed
        self.public: Public | None = None
        self.peer_public: Public | None = None
        self.error: str | None = None
        self.symptom: str | None = None  # of symptoms.SYMPTOMS: what is wrong, in one word
        self.note: str | None = None  # what it waits for while it is connecting
        self.waiting_for: str | None = None
        self.peer_key: dict[str, str] | None = None  # the peer shows another key than the one that is used
        self.measured: Measured | None = None
        self.lacks: list[str] = []  # what others have taken from it, for a person
        self.hangs: str | None = None  # the unit of its process, which runs and does not answer
        self.narrow: tuple[int, int | None] | None = None  # as ``ping.Pinged`` has it
        self.received: int | None = None  # bytes when it was looked at first, to see whether more come in
        self.refused = self.needs_peer = self.new = self.had_session = False
        self.lacks_key = False  # one has to be made
        self.held = False  # there is no file of the key in use: only what runs has it
        self.next_key: str | None = None  # the public key of the one that will take its place
        self.accepts: str | None = None  # the peer's next one, which is not in use yet
        self.exchanged = False  # both ends' halves were compared in this run, and key material was made or taken
        self.pending = False  # refused until its peer has a key that this end has: the peer has to learn of it
        self.status = "connecting"
        self.changes: list[str] = []
        self.diff: list[FileDiff] = []

    @property
    def view(self) -> View:
        """The checked view; only a tunnel that was refused at once has none."""
        return not_none(self.checked, "it would be refused")

    def refuse(self, error: Error) -> None:
        """This tunnel is left as it is, and the others go on."""
        self.refused = True
        self.fail(error)

    def fail(self, error: Error | str, symptom: str | None = None) -> None:
        """Something is wrong with this tunnel."""
        self.symptom = error.symptom if isinstance(error, Error) else symptom
        name = views.title(self.checked) if self.checked else self.seen["name"] or self.uuid or "?"
        where = " on %s" % self.seen["node"] if self.seen["node"] else ""
        self.status, self.error = "error", "tunnel %s%s: %s" % (name, where, error)

    @property
    def wanted(self) -> bool:
        """Whether it should run, as far as is known by now."""
        return self.checked is not None and not self.refused and self.checked["active"] and not self.waiting_for

    @property
    def last_interface(self) -> str | None:
        """The interface that the last run left on the host."""
        return self.state["interface"] if self.state else None

    def answer(self) -> Outcome:
        """Its part of the answer of tunnel_apply."""
        published = self.checked["local"]["public"] if self.checked else None
        # Nobody learns of the key of a tunnel that was refused: what runs here does not use it.
        withheld = self.refused and not self.pending
        public = None if withheld else self.public
        symptom = self.symptom if self.error else symptoms.CONNECTING if self.status == "connecting" else None
        answer: Outcome = dict(
            self.seen,
            status=self.status,
            error=self.error,
            symptom=symptom,
            refused=self.refused,
            waiting_for=self.waiting_for,
            note=self.note,
            public=public,
            publish=public is not None and public != published,
            needs_peer=self.needs_peer and not withheld,
            hand=self.needs_peer and not withheld,  # the former name, until 1.0
            new=self.new,
            had_session=self.had_session,
            changes=self.changes,
            measured=self.measured,
        )  # type: ignore[assignment]
        return answer


def accept(
    raws: Sequence[object],
    templates: Sequence[dict[str, Any] | None],
    panel: str,
    types: Collection[str],
    known: Collection[str],
) -> list[Tunnel]:
    """The Tunnels of the views of these types; those that can't be used are refused. ``raws`` holds anything.

    ``known``: the types that this version can set up at all. One of another type is refused: nobody else will do it.
    """
    tunnels: list[Tunnel] = []
    taken: dict[tuple[str, object], Tunnel] = {}
    for raw, template in zip(raws, templates):
        tunnel = Tunnel(raw, template)
        kind = tunnel.seen["type"]
        if kind in known and kind not in types:
            continue
        tunnels.append(tunnel)
        try:
            view = views.check(raw, panel)
            for key, value in views.claims(view):
                other = taken.setdefault((key, value), tunnel)
                if other is not tunnel:
                    raise FieldError(key, value, "The tunnel %s of this host has it too." % views.title(other.view))
            tunnel.checked = view
            if kind not in known and view["active"]:
                hint = "This version sets up %s: choose that, or deactivate the tunnel. What runs is left as it is."
                raise FieldError("type", kind, hint % " or ".join(known))
            tunnel.status = "connecting" if view["active"] else "inactive"
        except FieldError as error:
            tunnel.refuse(error)
    return tunnels


def find_peer(tunnel: Tunnel, trusted: Mapping[str, str] | None = None) -> None:
    """Finds the peer's public half: the view's, else the one last applied for the same node. Else the tunnel waits.

    ``trusted``: ``Terms.trusted_keys``. Another key than the one last applied, whatever the peer or the type was called
    then, is taken only if it is in there: who has the panel could else slip between two nodes.
    """
    peer = tunnel.view["peer"]
    former = tunnel.state or tunnel.former
    last = former["peer"] if former else None
    known = last["public"] if last and last["node"] == peer["node"] and tunnel.state else None
    tunnel.peer_public = peer["public"] or known
    if trusted is not None and last and last["public"] and peer["public"]:
        if all(last["public"].get(name) == peer["public"].get(name) for name in PROVES):
            tunnel.peer_public = last["public"]  # what else it shows is agreed on in runs
        elif peer["public"]["public_key"] != trusted.get(tunnel.uuid):
            tunnel.peer_public = known
            tunnel.peer_key = {"known": last["public"]["public_key"], "seen": peer["public"]["public_key"]}
    tunnel.waiting_for = None if tunnel.peer_public else peer["node"]


def give_up_interfaces(tunnels: Iterable[Tunnel]) -> dict[str, Tunnel]:
    """``{interface: its tunnel}``: of those that stop, and the old name of those that got a new one."""
    leaving = {}
    for tunnel in tunnels:
        name = tunnel.last_interface
        if not tunnel.refused and name and (name != tunnel.view["interface"] or not tunnel.view["active"]):
            leaving[name] = tunnel
    return leaving
