# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Marzban's ``docker-compose.yml``: the one ``command:`` that the add-on puts there. Pure.

The text is edited by lines, because a YAML library would rewrite all of it. What the lines are taken for is checked
against what Compose itself makes of the file before and after (``check_base``, ``check_change``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._errors import Error, not_none, shown
from . import marked_block
from .marked_block import EditError

IMAGE = "gozargah/marzban"
ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104  # what a server listens at, and nobody connects to
_NAME = r"(?:[A-Za-z0-9._-]+|\"[A-Za-z0-9._-]+\"|'[A-Za-z0-9._-]+')"
_OF_MARZBAN = re.compile(r"(?:[^\s\"'{},]*/)?gozargah/marzban(?=$|[:@\"'\s,}])")
_IMAGE_LINE = re.compile(r"(?P<indent> *)[\"']?image[\"']?\s*:\s+[\"']?" + _OF_MARZBAN.pattern)
_IMAGE_ANYWHERE = re.compile(r"(?:^|[\s{,\"'])image[\"']?\s*:\s*(?:[&!]\S+\s+)*[\"']?" + _OF_MARZBAN.pattern)
_KEY = re.compile(r"(?P<indent> *)(?P<name>" + _NAME + r")\s*:\s*(?:#.*)?$")
_OWN = re.compile(r" +command: \[")


class Place(NamedTuple):
    """Where the line with the image is. ``line`` counts from 0, ``indent`` is in spaces."""

    service: str
    line: int
    indent: int


def command(directory: str) -> list[str]:
    """What the service runs: as Marzban's image does, but by the add-on's entry where that is there."""
    start = "%s/start.py" % directory
    script = "alembic upgrade head; if [ -f %s ]; then exec python %s; else exec python main.py; fi" % (start, start)
    return ["bash", "-c", script]


def block(text: str | None, path: str) -> str:
    """The lines that the add-on has put into the file."""
    return marked_block.block(text or "", path, _OWN)


def without_command(text: str, path: str) -> str:
    """The text without our lines. Raises EditError."""
    return marked_block.without(text, path, _OWN)


def with_command(text: str, path: str, directory: str) -> str:
    """The text with our lines. Raises EditError."""
    rest = without_command(text, path)
    place = find(rest, path)
    line = "command: " + json.dumps(command(directory))
    return marked_block.put(marked_block.lines_of(rest), place.line, [line], " " * place.indent)


def place_of_command(text: str, path: str) -> Place | None:
    """The Place of our lines, whatever else is in the file: to take them out, only the service's name is needed.
    None without any, or where they are below no name. Raises EditError."""
    ours = block(text, path)
    if not ours:
        return None
    before = text.partition(ours)[0]
    codes = [_code(line) for line in marked_block.lines_of(before + ours)]
    number = len(marked_block.lines_of(before)) + 1  # of the command's line, after the mark
    above = _parent(codes, number)
    key = None if above is None else _KEY.match(codes[above])
    return Place(key["name"].strip("\"'"), number, _indent(codes[number])) if key else None


def _code(line: str) -> str:
    """A line without its comment and its end."""
    return re.sub(r"(^|\s)#.*", "", line.rstrip("\r\n"))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def find(text: str, path: str) -> Place:
    """The Place of Marzban's service in a file without our lines. Raises EditError on what can't be edited safely."""
    marked_block.no_text(path, text)
    codes = [_code(line) for line in marked_block.lines_of(text)]
    for number, code in enumerate(codes, 1):
        if re.match(r" *\t\s*\S", code):
            raise EditError(path, number, "it is indented by a tab.", "YAML wants spaces: correct it, and run again.")
        if number > 1 and re.match(r"(---|\.\.\.)(\s|$)", code) and any(code.strip() for code in codes[: number - 1]):
            raise EditError(path, number, "a second document begins.", "Leave one in the file, and run again.")
    found = [n for n, code in enumerate(codes) if _IMAGE_ANYWHERE.search(code)]
    if not found:
        seen = "no service with Marzban's image (%s) in the file." % IMAGE
        hint = "Give the file of Marzban's own installation as compose_file (panel_compose_file in the role)."
        raise EditError(path, 1, seen, hint)
    places = [_place(codes, n, path) for n in found]
    if len(places) > 1:
        seen = "a second service with Marzban's image; the first is %s." % shown(places[0].service)
        raise EditError(path, found[1] + 1, seen, "The add-on can serve one: give it a file of its own.")
    _check_keys(codes, places[0], path)
    return places[0]


def _parent(codes: list[str], number: int) -> int | None:
    """The place of the line that the one at ``number`` is below, or None at the top."""
    indent = _indent(codes[number])
    return next((n for n in range(number - 1, -1, -1) if codes[n].strip() and _indent(codes[n]) < indent), None)


def _place(codes: list[str], number: int, path: str) -> Place:
    seen = "Marzban's image is given in a way that is not edited here (flow style, an anchor, a tag, or elsewhere)."
    hint = 'Write the service in plain lines, as Marzban\'s own file has it ("services:", "  NAME:", "    image: …").'
    above = _parent(codes, number)
    top = None if above is None else _parent(codes, above)
    if above is not None and top is not None and re.match(r"[\"']?services[\"']?\s*:\s*$", codes[top]):
        line, key = _IMAGE_LINE.match(codes[number]), _KEY.match(codes[above])
        if line and key:
            return Place(key["name"].strip("\"'"), number, len(line["indent"]))
    raise EditError(path, number + 1, seen, hint)


def _check_keys(codes: list[str], place: Place, path: str) -> None:
    """Refuses a service that says itself what it runs."""
    first = not_none(_parent(codes, place.line), "_place has found the service's name there") + 1
    end = next((n for n in range(first, len(codes)) if codes[n].strip() and _indent(codes[n]) < place.indent), None)
    for number in range(first, len(codes) if end is None else end):
        key = re.match(r" *[\"']?(command|entrypoint|<<|extends)[\"']?\s*:", codes[number])
        if key and _indent(codes[number]) == place.indent:
            seen = "the service %s has its own %s." % (shown(place.service), key[1])
            hint = "The add-on needs the command for itself: take it out if you can do without, and run again."
            if key[1] in ("<<", "extends"):
                hint = "What it brings in can't be seen here, such as a command: write its lines out, and run again."
            raise EditError(path, number + 1, seen, hint)


# What Compose makes of the file: `docker compose config --format json`


def service_of(config: dict[str, Any], place: Place, path: str) -> dict[str, Any]:
    """The service in what Compose read. Raises EditError."""
    services: dict[str, dict[str, Any]] = config.get("services") or {}
    ours = [name for name, service in services.items() if _OF_MARZBAN.match(str(service.get("image")))]
    if ours != [place.service]:
        names = ", ".join(map(shown, ours)) or "no service that is switched on"
        seen = "Compose finds Marzban's image in %s." % names
        raise EditError(path, place.line + 1, seen, "It has to be %s alone." % shown(place.service))
    return services[place.service]


def check_base(config: dict[str, Any], place: Place, path: str, directory: str) -> None:
    """Refuses a service that has a command from elsewhere, or can't see the add-on. Raises EditError."""
    service = service_of(config, place, path)
    for key in ("command", "entrypoint"):
        if service.get(key) is not None:
            seen = "the service %s gets its %s from elsewhere." % (shown(place.service), key)
            raise EditError(path, place.line + 1, seen, "Leave it out there, and run again.")
    mounts = {mount.get("target"): mount for mount in service.get("volumes") or [] if mount.get("type") == "bind"}
    above = [mount for mount in mounts if mount and (directory + "/").startswith(mount.rstrip("/") + "/")]
    nearest = mounts[max(above, key=len)] if above else None
    if nearest is None or nearest.get("source", "").rstrip("/") != nearest["target"].rstrip("/"):
        seen = "the service %s does not have the host's %s at the same place." % (shown(place.service), directory)
        hint = "Mount it as Marzban's own file does (volumes: /var/lib/marzban:/var/lib/marzban), and run again."
        raise EditError(path, place.line + 1, seen, hint)


def check_change(before: dict[str, Any], after: dict[str, Any], place: Place, path: str, directory: str) -> None:
    """Raises EditError unless nothing but the one command is another."""
    changed = json.loads(json.dumps(after))
    service = (changed.get("services") or {}).get(place.service) or {}
    if service.pop("command", None) == command(directory):
        rest = json.loads(json.dumps(before))
        rest["services"][place.service].pop("command", None)
        if rest == changed:
            return
    seen = "a command put there would change more than the service %s's command." % shown(place.service)
    raise EditError(path, place.line + 1, seen, "Write the file in plain lines, as Marzban's own is, and run again.")


# Where the panel is asked


def _same_port(port: int) -> tuple[str, int]:
    return "127.0.0.1", port


def address(
    environment: Mapping[str, str], mapped: Callable[[int], tuple[str, int]] = _same_port
) -> tuple[str, str | None]:
    """``(url, path of a Unix socket or None)`` out of Marzban's settings; ``mapped`` a port's place on this host."""
    secured = environment.get("UVICORN_SSL_CERTFILE") and environment.get("UVICORN_SSL_KEYFILE")
    scheme = "https" if secured else "http"
    if environment.get("UVICORN_UDS"):
        return scheme + "://localhost", environment["UVICORN_UDS"]
    text = environment.get("UVICORN_PORT") or "8000"
    if not re.match(r"[0-9]{1,5}\Z", text):
        raise Error("UVICORN_PORT: %s is not a port. Correct Marzban's .env." % shown(text))
    host, port = mapped(int(text))
    # Without a certificate Marzban listens on loopback, whatever is set.
    wanted = (environment.get("UVICORN_HOST") or "") if secured else ""
    if host == "127.0.0.1" and wanted not in ANY_ADDRESS:
        host = "[%s]" % wanted if ":" in wanted else wanted
    return "%s://%s:%d" % (scheme, host, port), None


def mapping(service: dict[str, Any]) -> Callable[[int], tuple[str, int]]:
    """For ``address``: where a port of the service is on the host."""

    def mapped(port: int) -> tuple[str, int]:
        for opened in service.get("ports") or []:
            if opened.get("target") == port and str(opened.get("published", "")).isdigit():
                host = opened.get("host_ip") or ""
                return "127.0.0.1" if host in ANY_ADDRESS else host, int(opened["published"])
        return "127.0.0.1", port

    return mapped


def socket_on_host(path: str, service: dict[str, Any]) -> str:
    """The path on this host of a Unix socket in the container."""
    for mount in service.get("volumes") or []:
        target = (mount.get("target") or "").rstrip("/")
        if mount.get("type") == "bind" and path.startswith(target + "/"):
            return os.path.join(mount["source"], path[len(target) + 1 :])
    return path
