# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host with the node service keeps for its two callers, a run and the service: views, removals and settings.

Without the service nothing is kept: a run brings all that it needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any, Collection, Dict, Iterable, Iterator, Mapping, NamedTuple

from .._errors import Error, FieldError
from .._model import validators, views
from .files import read, remove, write

if TYPE_CHECKING:
    from .._model.shapes import NarrowPath, State, View

PLACE = "/var/lib/marzban-node"
SETTINGS = "/etc/marzban/node_service/settings.json"
PANELS = os.path.join(os.path.dirname(SETTINGS), "panels")  # a file for each that the service serves
DAY = 86400  # seconds that a removed uuid is remembered
MOST = 10_000  # removals that are remembered: the file is read and written whole, and a panel may be in wrong hands
ANOTHER = (
    "The node service of this host has %s, and this run has %s. Both have to work alike: run marzban.tunnels.node_api "
    "with the variables of this run first. Nothing was changed."
)


class Removal(NamedTuple):
    """When a tunnel was removed (seconds since 1970), and which version of its record was here, if it was here.

    ``id`` and ``panel``: its number, and who has removed it; None where that was not written. ``called``: the panel's
    own call has removed it, so that whatever a run has read is from before that, also a version that never came here.
    """

    at: float
    version: "int | None" = None
    id: "int | None" = None
    panel: "str | None" = None
    called: bool = False

    def may_be_of(self, panel: str) -> bool:
        """Whether it was this panel's, as far as that is known."""
        return self.panel in (None, panel)


Removals = Dict[str, Removal]  # by uuid


class KeptView(NamedTuple):
    """``revision``: the panel's text for what it wanted; None where a run has applied it."""

    view: View
    revision: str | None = None


class Terms(NamedTuple):
    """On what terms a caller works. ``accept_older``: also with records that are older than what is on the host.

    ``in_order``: the caller's records are newer than each removal of a tunnel that was not here, because the panel's
    calls come in their order; a run may have read its records before.
    ``revisions``: ``{uuid: the panel's text for what it wants}``; a run has none. ``trusted_keys``: None where the
    peers' public halves in the views are good; else ``{uuid: public key}`` of peers that may have another key than last
    time. What else has changed of a peer's half is then left for a run.
    ``paths``: ``{uuid: what was found of its path, or None where its MTU may be as before}``. ``renew``: uuids of
    tunnels whose session is to be made again.
    """

    accept_older: bool = False
    revisions: Dict[str, str] = {}
    trusted_keys: "Dict[str, str] | None" = None
    in_order: bool = False
    paths: "Dict[str, NarrowPath | None]" = {}
    renew: Collection[str] = ()


class Kept:
    """The folder of what is kept. ``here``: whether this host has the node service."""

    def __init__(self, place: str = PLACE) -> None:
        self.place = place
        self.here = os.path.isdir(place)
        self._views = os.path.join(place, "views")
        self._removed = os.path.join(place, "removed.json")

    # Views

    def views(self) -> dict[str, KeptView]:
        """``{uuid: KeptView}``. One that can't be read is left out: the panel, or a run, gives it again."""
        try:
            names = sorted(os.listdir(self._views))
        except OSError:
            return {}
        found = {name[:-5]: self.view(name[:-5]) for name in names if name.endswith(".json")}
        return {uuid: kept for uuid, kept in found.items() if kept}

    def view(self, uuid: str) -> KeptView | None:
        """That of one tunnel."""
        with contextlib.suppress(Error, ValueError, TypeError, KeyError):
            raw = json.loads(read(self._path(uuid)) or "")
            view = views.check(raw["view"], str(raw["view"]["panel"]))
            if view["uuid"] == uuid:
                return KeptView(view, raw.get("revision"))
        return None

    def version(self, uuid: str) -> int | None:
        """The version of the record that its view was made of, also where that is not applied (yet)."""
        kept = self.view(uuid)
        return kept.view["version"] if kept else None

    def keep(self, kept: Iterable[KeptView]) -> None:
        """Writes views; those that are there already are not written again. Raises Error."""
        if not self.here:
            return
        with self._turn():
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._views, 0o700)
            for view, revision in kept:
                text = json.dumps({"view": view, "revision": revision}, sort_keys=True, ensure_ascii=False) + "\n"
                path = self._path(view["uuid"])
                if read(path) != text:
                    write(path, text)

    def forget(self, panel: str, states: Mapping[str, State | None], called: bool = False, begun: bool = False) -> None:
        """Forgets the views of what a panel has removed, and remembers that it was. Raises Error.

        ``states``: ``{uuid: state}``, as far as it had one. What is another panel's is left as it is. ``called``: as in
        ``Removal``. ``begun``: the views from before were forgotten when this removal began, so that one with a
        revision is of a call that came later, and stays.
        """
        if not self.here or not states:
            return
        with self._turn():
            now, removals = time.time(), self.removals()
            for uuid, state in states.items():
                kept, before = self.view(uuid), removals.get(uuid, Removal(now))
                if not before.may_be_of(panel) or (kept and kept.view["panel"] != panel):
                    continue
                later = begun and kept is not None and kept.revision is not None
                known = [part for part in (state, kept.view if kept and not later else None) if part]
                version = max((part["version"] for part in known), default=None)
                version = max(filter(None, (version, before.version)), default=None)
                number = known[0]["id"] if known else before.id
                removals[uuid] = Removal(now, version, number, panel, called or before.called)
                if not later:
                    remove(self._path(uuid))
            self._write(removals)

    def removals(self) -> Removals:
        """What was removed within a day."""
        try:
            raw = json.loads(read(self._removed) or "{}")
            found = {validators.uuid(uuid): Removal(float(at), *more) for uuid, (at, *more) in raw.items()}
        except (Error, ValueError, TypeError, AttributeError):
            return {}
        return {uuid: removal for uuid, removal in found.items() if time.time() - removal.at < DAY}

    def take_back(self, uuids: Iterable[str]) -> None:
        """Forgets removals: these tunnels are wanted again. Raises Error."""
        wanted = set(uuids)
        if not wanted & set(self.removals()):
            return
        with self._turn():
            self._write({uuid: removal for uuid, removal in self.removals().items() if uuid not in wanted})

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """A run and the threads of the service write one after the other. Raises Error."""
        try:
            handle = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Error("%s can't be opened: %s." % (self.place, error.strerror)) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, removals: Removals) -> None:
        """Where there are too many, those of what was never here go first, and the oldest."""
        kept = sorted(removals.items(), key=lambda item: (item[1].version is not None, item[1].at))
        removals = dict(kept[-MOST:])
        write(self._removed, json.dumps(removals, sort_keys=True) + "\n")

    def _path(self, uuid: str) -> str:
        return os.path.join(self._views, validators.uuid(uuid) + ".json")


def of_what_was_here(removals: Removals) -> Removals:
    """As they count for the panel's own calls, which come in their order: by the versions that were here only."""
    return {uuid: gone._replace(called=False) for uuid, gone in removals.items() if gone.version is not None}


def settings(path: str = SETTINGS) -> dict[str, Any] | None:
    """What the role has stored for both callers; None where there is no node service. Raises Error."""
    text = read(path)
    if text is None:
        return None
    try:
        return validators.mapping(json.loads(text), path)
    except ValueError:
        raise Error("%s can't be read: run marzban.tunnels.node_api, which writes it again." % path) from None


def check_alike(stored: Mapping[str, Any] | None, given: Mapping[str, Any]) -> None:
    """Raises Error where a run would not do as the service does. ``given``: of the run, what it knows.

    ``templates`` are compared by their digests, of the types that both of them handle.
    """
    if stored is None:
        return
    for name, mine in given.items():
        theirs = stored.get(name)
        if isinstance(mine, Mapping):
            known = theirs if isinstance(theirs, Mapping) else {}
            kinds = [kind for kind in sorted(mine) if mine[kind] != known.get(kind, mine[kind])]
            if kinds:
                raise Error(ANOTHER % ("another template for %s" % kinds[0], "one of its own"))
        elif mine is not None and mine != theirs:
            if name == "engine":
                raise Error(ANOTHER % ("version %s of the engine" % theirs, mine))
            raise Error(ANOTHER % ("%s: %s" % (name, theirs), "%s: %s" % (name, mine)))


def check_no_manager(panel: str, folder: str = PANELS) -> None:
    """Raises Error where a panel's manager would make again what a run takes off while the records stay."""
    if os.path.lexists(os.path.join(folder, panel + ".json")):
        raise Error(
            "This host has the node service, by which the panel would have its tunnels made again. Delete or "
            "deactivate them on the panel; or remove the service first: run marzban.tunnels.node_api with "
            "-e node_api_state=absent. Nothing was changed."
        )


def check_not_older(view: View, versions: Iterable[int | None], removals: Removals) -> None:
    """Refuses what a newer record has replaced here, or what was removed. Raises Older.

    ``versions``: those of its record that are known here.
    """
    applied = max((version for version in versions if version is not None), default=None)
    if applied is not None and applied > view["version"]:
        hint = "Version %d of its record was applied here, and this is version %d: it was read before, or the panel's "
        hint += "database was restored. Run again, or, after a restore, with -e tunnels_accept_older=true."
        raise Older(view["version"], hint % (applied, view["version"]), applied)
    removal = removals.get(view["uuid"])
    if removal and (removal.called or removal.version is None or removal.version >= view["version"]):
        hint = "It was removed here %d min ago, and this record was read before, or the panel's database was restored. "
        hint += "Run again, or, after a restore, with -e tunnels_accept_older=true."
        raise Older(view["version"], hint % ((time.time() - removal.at) // 60), None)


class Older(FieldError):
    """A record that is older than what this host has. ``applied``: the version here, or None where it was removed."""

    def __init__(self, version: int, hint: str, applied: int | None) -> None:
        super().__init__("version", version, hint)
        self.applied = applied
