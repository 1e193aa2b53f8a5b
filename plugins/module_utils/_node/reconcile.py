# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes one host match its views: all tunnels, all protocols, one call.

The order: check every view, look once, plan every tunnel, and only then change something. A crash anywhere is repaired
by the next run, because each run compares what is wanted with what it finds, and because a folder of ours names an
interface before anything of that name is made, and until everything of that name is gone.

A **protocol** is one folder with a subclass of ``_protocols.base.Protocol``, listed in ``_protocols.registry``.
"""

from __future__ import annotations

import ipaddress

from .._errors import Error, FieldError
from .._model import validators, views
from .._protocols.registry import PROTOCOLS
from . import net, packages
from .files import close_to_others, open_to_others, read
from .measure import measure
from .route_conflicts import Guard
from .state import STATE, state_text
from .tunnel import accept, find_peer


class Apply:
    """One run on one host."""

    def __init__(self, host, folders, panel, types, probe=True, options=None):
        """``options``: ``{type: keyword arguments of its protocol}``."""
        self.host, self.folders, self.panel, self.types, self.probe = host, folders, panel, types, probe
        given = options or {}
        self.protocols = {k: PROTOCOLS[k](host, folders, **given.get(k, {})) for k in types if k in PROTOCOLS}
        self.states, self.removed, self.diff = {}, [], []
        self.lacks = []  # (Packages, [capabilities that the host lacks]) of the protocols that have tunnels here

    def run(self, raws, templates, remove=(), remove_all=False, handed=None, together=()):
        """The answer of tunnel_apply. ``templates`` are ``{"text"}`` or ``{"error"}``, one for each of ``raws``.

        ``handed``: ``{uuid: what the other end of that tunnel sealed for this one}``. ``together``: the uuids of
        tunnels whose other end is applied in the same round.
        """
        for protocol in self.protocols.values():
            protocol.together = set(together)
        remove = [validators.uuid(uuid, "remove[%d]" % index) for index, uuid in enumerate(remove)]
        before = self.folders.states()
        if not self.host.check:
            lock = self.folders.lock()  # noqa: F841 - held until the process ends
            self.folders.sweep()
        self.states = self.folders.states()
        mine = {uuid: state for uuid, state in self.states.items() if self._is_mine(state)}
        tunnels = accept(raws, templates, self.panel, self.types, list(PROTOCOLS))
        named = {views.seen(raw)["uuid"] for raw in raws}  # of whatever type
        self._take_states(tunnels, before)
        for uuid in remove:
            if uuid in named:
                raise FieldError("remove", uuid, "It stands in views too, so it exists: remove one of them.")
        going = mine if remove_all else {uuid: mine[uuid] for uuid in remove if uuid in mine}

        work = [(p, [one for one in tunnels if one.seen["type"] == p.name]) for p in self.protocols.values()]
        for protocol, its in work:
            self._preflight(protocol, its)
        self._retire(tunnels)
        done = [(p, its, self._one_protocol(p, its, going, handed or {})) for p, its in work]
        measure(self.host, done, self.probe)
        for protocol, its, _live in done:
            for tunnel in its:
                if tunnel.public and tunnel.state:
                    tunnel.public = protocol.acknowledge(tunnel.public, tunnel.state)
        if not self.host.check:
            self.folders.drop_root()  # where nothing of ours stands, not even an empty folder
        return {
            "changed": bool(self.removed or any(one.changes for one in tunnels)),
            "diff": self.diff + [part for one in tunnels for part in one.diff],
            **self._missing(),
            "tunnels": [one.answer() for one in tunnels],
            "removed": self.removed,
            "orphans": [_known(s) for u, s in mine.items() if u not in named and u not in going],
            "foreign": [
                {"uuid": uuid, "panel": (state or {}).get("panel"), "interface": (state or {}).get("interface")}
                for uuid, state in self.states.items()
                if state is None or state["panel"] != self.panel
            ],
        }

    def sealed(self, uuids):
        """``{uuid: what this end has sealed for its peer}``, for the tunnels that have something."""
        found = {}
        for uuid, state in self.folders.states().items():
            if uuid in uuids and self._is_mine(state):
                text = self.protocols[state["type"]].sealed(uuid)
                if text:
                    found[uuid] = text
        return found

    def _missing(self):
        """What the host lacks, and which packages bring it; the package manager is found out only where it matters."""
        names = list(dict.fromkeys(name for _packages, lacks in self.lacks for name in lacks))
        found = packages.choose((read(packages.OS_RELEASE) or "") if names else "", self.lacks)
        return dict(found, missing=names)

    def _is_mine(self, state):
        return state is not None and state["panel"] == self.panel and state["type"] in self.types

    def _take_states(self, tunnels, before):
        """The states of the tunnels; ``before`` are those from before this run waited for its turn."""
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                if _overtaken(tunnel, before.get(tunnel.uuid), self.states.get(tunnel.uuid)):
                    raise Error("Another run has just changed it here, and read a newer record: run again.")
                former = self.states.get(tunnel.uuid)
                if former and self._is_mine(former) and former["type"] != tunnel.view["type"]:
                    tunnel.former = former
                else:
                    tunnel.state = self.folders.own(tunnel.uuid, self.panel, tunnel.view["type"])
                if tunnel.view["active"] and "text" not in (tunnel.template or {}):
                    raise Error((tunnel.template or {}).get("error") or "Its template was not rendered.")
            except Error as error:
                tunnel.refuse(error)

    def _retire(self, tunnels):
        """Takes down what a tunnel was before its type changed, once it is known that the new type can run here."""
        for tunnel in tunnels:
            former = tunnel.former
            if former is None or tunnel.refused:
                continue
            try:
                if not self.host.check:
                    places = {former["interface"]: tunnel.uuid} if former["interface"] else {}
                    for error in self.protocols[former["type"]].release(places).values():
                        raise error
                    self.folders.drop(tunnel.uuid)
            except Error as error:
                tunnel.refuse(error)
                continue
            del self.states[tunnel.uuid]
            tunnel.changes.append("%s taken down" % former["type"])
            self.diff.append(self._farewell(former))

    def _farewell(self, state):
        return file_diff(self.folders.path(state["uuid"], STATE), state_text(_shown_state(state)), None)

    # One protocol

    def _one_protocol(self, protocol, tunnels, going, handed):
        going = {uuid: state for uuid, state in going.items() if state["type"] == protocol.name}
        self._keys(protocol, tunnels)
        for tunnel in tunnels:
            if not tunnel.refused and tunnel.view["active"]:
                find_peer(tunnel)
        self._exchange(protocol, [one for one in tunnels if one.wanted], handed)
        names = {one.view["interface"] for one in tunnels if one.view}
        names |= {state["interface"] for state in self._of(protocol).values() if state["interface"]}
        live = protocol.look(sorted(names)) if tunnels or going else None
        leaving = self._leaving(tunnels)
        self._plan(protocol, tunnels, live, leaving, going)
        self._refuse_what_is_not_free(tunnels, leaving)
        self._release(protocol, tunnels, leaving, going)
        plans = [one for one in tunnels if one.plan and not one.refused and one.changes]
        if plans and not self.host.check:
            self._do(protocol, plans)
            live = protocol.look(sorted(names))
        for tunnel in tunnels:
            if tunnel.wanted and tunnel.plan:
                self._remember(protocol, tunnel, protocol.applied(tunnel.view, live))
        return live

    def _of(self, protocol):
        return {u: s for u, s in self.states.items() if self._is_mine(s) and s["type"] == protocol.name}

    def _preflight(self, protocol, tunnels):
        wanted = [one for one in tunnels if not one.refused and one.view["active"]]  # what stops, stops in any case
        for tunnel in wanted:
            try:
                protocol.check(tunnel.view)
            except FieldError as error:
                tunnel.refuse(error)
        wanted = [one for one in wanted if not one.refused]
        lacks = protocol.missing() if wanted else []
        self.lacks.append((protocol.packages, lacks))
        if lacks and not self.host.check:
            for tunnel in wanted:
                hint = "This host lacks %s: install it (the role marzban.tunnels.%s does)."
                tunnel.refuse(hint % (", ".join(lacks), protocol.role or protocol.name))

    def _keys(self, protocol, tunnels):
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                there, tunnel.public = (False, None) if tunnel.former else protocol.load_key(tunnel.uuid)
                if not there and tunnel.view["active"]:
                    self._make_key(protocol, tunnel)
                elif there and open_to_others(protocol.key_path(tunnel.uuid)):
                    tunnel.changes.append("private key closed to others")
                    if not self.host.check:
                        close_to_others(protocol.key_path(tunnel.uuid))
            except Error as error:
                if tunnel.view["active"]:  # one that stops needs no key
                    tunnel.refuse(error)

    def _make_key(self, protocol, tunnel):
        tunnel.changes.append("key made")
        after = "a new key\n"
        if not self.host.check:
            if tunnel.state is None:
                self._save(tunnel, new_state(tunnel.view))
            tunnel.public = protocol.make_key(tunnel.uuid)
            after = protocol.fingerprint(tunnel.public) + "\n"
        tunnel.diff.append(file_diff(protocol.key_path(tunnel.uuid), None, after))

    def _exchange(self, protocol, tunnels, handed):
        for tunnel in tunnels:
            try:
                given = handed.get(tunnel.uuid)
                done = protocol.exchange(tunnel.view, tunnel.public, tunnel.peer_public, tunnel.state, given)
                tunnel.public, tunnel.hand = done.public, done.hand
                tunnel.changes += done.changes
            except Error as error:
                tunnel.refuse(error)

    def _leaving(self, tunnels):
        """The interfaces that our tunnels give up: those that stop, and the old name of those that got a new one."""
        leaving = {}
        for tunnel in tunnels:
            name = (tunnel.state or {}).get("interface")
            if not tunnel.refused and name and (name != tunnel.view["interface"] or not tunnel.view["active"]):
                leaving[name] = tunnel
        return leaving

    def _plan(self, protocol, tunnels, live, leaving, going):
        wanted = [one for one in tunnels if one.wanted]
        if not wanted:
            return
        routes = net.look_routes(self.host)
        resolved = net.resolve({one.view["peer"]["endpoint"] for one in wanted})
        guard = self._guard(wanted, routes, resolved)
        free = set(leaving) | {state["interface"] for state in going.values()}
        free |= {one.former["interface"] for one in tunnels if one.former and not one.refused}
        owners = {
            s["interface"]: u for u, s in self.states.items() if s and s["interface"] and s["interface"] not in free
        }
        for tunnel in wanted:
            view, name = tunnel.view, tunnel.view["interface"]
            try:
                owner = owners.get(name)
                stands = protocol.stands(live, name) if owner is None and name not in free else None
                if owner not in (None, tunnel.uuid):
                    raise FieldError(
                        "interface", name, "Another tunnel has it on this host: %s." % self.folders.path(owner)
                    )
                if stands:
                    hint = "%s is here and was not made by marzban.tunnels: choose another interface, or remove it."
                    raise FieldError("interface", name, (hint % stands))
                guard.check(view, views.title(view), {name, (tunnel.state or {}).get("interface")} | free)
                tunnel.plan = protocol.plan(
                    view,
                    tunnel.template["text"],
                    tunnel.public,
                    tunnel.peer_public,
                    tunnel.state,
                    live,
                    routes,
                    resolved,
                )
            except Error as error:
                tunnel.refuse(error)
                continue
            guard.take(view, views.title(view))
            if leaving.get((tunnel.state or {}).get("interface")) is tunnel:
                tunnel.changes.append("interface %s instead of %s" % (name, tunnel.state["interface"]))
            tunnel.changes += tunnel.plan.changes
            tunnel.diff += [file_diff(*one) for one in tunnel.plan.files]

    def _guard(self, wanted, routes, resolved):
        """The guard of this host, which doesn't mind what ``wanted`` tunnels have and are about to give up."""
        given_up = set()
        for tunnel in wanted:
            state = tunnel.state or {"interface": None, "applied": {}}
            keeps = {*tunnel.view["routes"], *tunnel.view["local"]["addresses"]}
            gone = {*(state["applied"].get("routes") or []), *(state["applied"].get("addresses") or [])} - keeps
            gone |= {str(ipaddress.ip_interface(one).network) for one in gone}
            given_up |= {(one, state["interface"]) for one in gone}
        addresses = [(a, name) for name, link in net.look_links(self.host).items() for a in link["addresses"]]
        endpoints = {
            address: views.title(one.view)
            for one in wanted
            for address in resolved.get(one.view["peer"]["endpoint"]) or []
        }
        return Guard(
            net.controllers(self.host),
            endpoints,
            [one for one in routes if one[:2] not in given_up],
            [one for one in addresses if one not in given_up],
        )

    def _refuse_what_is_not_free(self, tunnels, leaving):
        """An interface that its tunnel was to give up, and doesn't, is nobody else's."""
        again = True
        while again:
            again = False
            for tunnel in tunnels:
                holder = leaving.get(tunnel.view["interface"]) if tunnel.plan and not tunnel.refused else None
                if holder not in (None, tunnel) and holder.refused:
                    tunnel.refuse(
                        FieldError("interface", tunnel.view["interface"], "Another tunnel keeps it: %s." % holder.error)
                    )
                    again = True

    def _release(self, protocol, tunnels, leaving, going):
        """Takes down what stops, what moves to another interface, and what is removed."""
        places = {name: one.uuid for name, one in leaving.items() if not one.refused}
        places.update((state["interface"], uuid) for uuid, state in going.items() if state["interface"])
        failed = {} if self.host.check else protocol.release(places)
        for name, tunnel in leaving.items():
            if name in failed:
                tunnel.refuse(failed[name])
            elif not tunnel.refused:
                if not tunnel.wanted:
                    tunnel.changes.append("stopped")
                self._remember_nothing(tunnel)
        self._refuse_what_is_not_free(tunnels, leaving)
        for tunnel in tunnels:
            if tunnel.plan and not tunnel.refused and tunnel.view["interface"] in failed:
                tunnel.refuse(failed[tunnel.view["interface"]])
        for uuid, state in going.items():
            entry = dict(_known(state), error=None)
            try:
                if state["interface"] in failed:
                    raise failed[state["interface"]]
                if not self.host.check:
                    self.folders.drop(uuid)
            except Error as error:
                entry["error"] = str(error)
            self.removed.append(entry)
            self.diff.append(self._farewell(state))

    def _do(self, protocol, tunnels):
        ready = []
        for tunnel in tunnels:
            try:  # from here on the interface is ours
                state = tunnel.state or new_state(tunnel.view)
                self._save(tunnel, dict(state, interface=tunnel.view["interface"]))
                ready.append(tunnel)
            except Error as error:
                tunnel.refuse(error)
        failed = protocol.do([one.plan for one in ready])
        for tunnel in ready:
            if tunnel.uuid in failed:
                tunnel.refuse(failed[tunnel.uuid])

    # State

    def _save(self, tunnel, state):
        if state != tunnel.state:
            if not self.host.check:
                self.folders.write_state(state)
            tunnel.state = state

    def _remember(self, protocol, tunnel, applied):
        """Writes down what was applied, when it isn't written yet."""
        before = self.states.get(tunnel.uuid)
        state = new_state(tunnel.view)
        state["interface"] = tunnel.view["interface"]
        state["peer"] = {"node": tunnel.view["peer"]["node"], "public": tunnel.peer_public}
        state["applied"] = applied
        try:
            self._save(tunnel, state)
        except Error as error:
            tunnel.refuse(error)
        if _shown_state(before) != _shown_state(state):
            path = self.folders.path(tunnel.uuid, STATE)
            tunnel.diff.append(
                file_diff(path, before and state_text(_shown_state(before)), state_text(_shown_state(state)))
            )
            if not tunnel.changes:
                tunnel.changes.append("state written")

    def _remember_nothing(self, tunnel):
        """Nothing on this host bears the tunnel's interface any more; the key and the peer's half stay."""
        try:
            self._save(tunnel, dict(tunnel.state, version=tunnel.view["version"], interface=None, applied={}))
        except Error as error:
            tunnel.refuse(error)


def new_state(view):
    """The state of a tunnel of which nothing stands on the host yet."""
    state = {key: view[key] for key in ("panel", "id", "uuid", "name", "type", "version")}
    return dict(state, interface=None, peer=None, applied={})


def _overtaken(tunnel, before, now):
    """Whether another run applied a newer record, or removed the tunnel, while this one waited for its turn."""
    if now is None:
        return before is not None
    return now != before and (now.get("version") or 0) > tunnel.view["version"]


def _known(state):
    return {key: state.get(key) for key in ("id", "uuid", "name", "type", "interface")}


def _shown_state(state):
    """The state as a diff shows it: without the version, and without what tells whether the rules are as loaded."""
    if state is None:
        return None
    state = {key: value for key, value in state.items() if key != "version"}
    return dict(state, applied={key: value for key, value in state["applied"].items() if key != "rules"})


def file_diff(path, before, after):
    """One part of a diff: a file that was ``before`` and is ``after`` (None: no such file)."""
    return {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}
