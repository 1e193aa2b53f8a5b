# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The front: HTTPS for panels. It has no right to anything: the root half checks the key and does the work.

This is the process and its TLS; what is answered is in front_calls.py, what a client may cost in front_connections.py.
Nothing of the engine is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from typing import Any

from aiohttp.web import BaseRequest, StreamResponse

from . import front_calls
from .front_connections import Door

ROOT_HALF = "/run/marzban-node/root.sock"
BACKLOG = 64
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of TLS 1.3 are all good
log = logging.getLogger("marzban_node")


def main(arguments: list[str]) -> None:
    """Serves until it is told to stop; ``arguments`` are the port and, maybe, the root half's socket."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("aiohttp", "asyncio"):  # what strangers send is not for the log
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        port = int(arguments[0])
        context = tls(os.environ["CREDENTIALS_DIRECTORY"])
        listener = listening(port)
    except (LookupError, ValueError) as error:
        sys.exit("The front can't start: %r. Its unit gives it the port and CREDENTIALS_DIRECTORY." % error)
    except OSError as error:
        sys.exit("The front can't start: %s." % error)
    asyncio.run(serve(listener, context, arguments[1] if len(arguments) > 1 else ROOT_HALF))


def tls(folder: str) -> ssl.SSLContext:
    """Certificate and key of this node, and the certificates of panels that come with one of their own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key"))
    with open(os.path.join(folder, "clients.pem"), encoding="ascii") as stream:
        known = stream.read()
    if known.strip():
        context.load_verify_locations(cadata=known)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # each is trusted by itself
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def listening(port: int) -> socket.socket:
    """A socket for IPv6 and IPv4, or for IPv4 alone where the kernel has no IPv6. Raises OSError."""
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("", port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def serve(listener: socket.socket, context: ssl.SSLContext, root_half: str) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _told: None)  # about connections that ended in the middle of something
    calls = front_calls.Calls(root_half)

    async def answer(request: BaseRequest) -> StreamResponse:
        return await calls.answer(request)

    door = Door(answer, context)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    tasks: list[asyncio.Task[Any]] = [loop.create_task(door.let_in(listener)), loop.create_task(door.put_out_idle())]
    tell_systemd("READY=1")
    watch = int(os.environ.get("WATCHDOG_USEC") or 0) / 3e6 or None
    while not stopped.is_set() and not any(task.done() for task in tasks):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopped.wait(), watch or 10)
        tell_systemd("WATCHDOG=1")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    calls.end()
    await door.close()
    if not stopped.is_set():
        sys.exit("The front does not take connections any more, and ends; systemd starts it again.")


def tell_systemd(text: str) -> None:
    """sd_notify(3), where systemd has started this."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(text.encode("ascii"), "\0" + place[1:] if place.startswith("@") else place)
