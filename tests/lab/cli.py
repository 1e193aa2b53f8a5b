# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Lab hosts by hand: `python3 tests/lab up try a:bookworm b:trixie+tunnels`, then `python3 tests/lab ssh try a`."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import keeper, machine
from .image import KERNEL, MANAGERS, RELEASES, VARIANTS, Image
from .lab import Lab
from .machine import LabError


def say(text: str) -> None:
    print(text, flush=True)


def up(args: argparse.Namespace) -> None:
    pairs = (word.partition(":") for word in args.host)
    lab = Lab.up(
        args.name, {name: image or "bookworm" for name, _colon, image in pairs}, reuse=args.reuse, progress=say
    )
    for host in lab.hosts.values():
        say(f"  {host.name:12} {host.address:14} {host.address6}")
    say(f"log in: ssh -F {lab.ssh_config} {next(iter(lab.hosts))}")


def down(args: argparse.Namespace) -> None:
    Lab.remove(args.name)


def show(_args: argparse.Namespace) -> None:
    for name in Lab.names():
        lab = Lab.load(name)
        say(f"{name}: {'up' if lab.healthy() else 'not all hosts answer'}")
        for host in lab.hosts.values():
            say(f"  {host.name:12} {host.plan.image:20} {host.address:14} {host.address6}")


def inventory(args: argparse.Namespace) -> None:
    lab = Lab.load(args.name)
    hosts = {host.name: {"ansible_host": host.address} for host in lab.hosts.values()}
    say(json.dumps({"lab": {"hosts": hosts, "vars": lab.inventory()}}, indent=1))


def ssh(args: argparse.Namespace) -> None:
    lab = Lab.load(args.name)
    os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), lab.host(args.host).name, *args.command])


def image(args: argparse.Namespace) -> None:
    machine.prepare(say)
    for name in args.image:
        built = Image(name).ready(say)
        say(f"{name}: {built.archive} ({built.archive.stat().st_size / 1e6:.0f} MB)")


def keep(args: argparse.Namespace) -> None:
    keeper.keep(Lab.load(args.name).host(args.host))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = f"{', '.join(RELEASES)}; with {', '.join('+' + name for name in VARIANTS)} its packages are there already"
    names += f"; with {' or '.join('+' + name for name in MANAGERS)} at the end that has its eth0"
    names += f"; with {KERNEL} at the end it is a virtual machine"

    command = commands.add_parser("up", help="bring up a lab")
    command.add_argument("name")
    command.add_argument("host", nargs="+", metavar="HOST[:IMAGE]", help=f"images: {names}")
    command.add_argument("--reuse", action="store_true", help="keep a lab of this name that works")
    command.set_defaults(work=up)
    command = commands.add_parser("down", help="take a lab down, whole or half-built")
    command.add_argument("name")
    command.set_defaults(work=down)
    commands.add_parser("list", help="labs on this machine").set_defaults(work=show)
    command = commands.add_parser("inventory", help="print a lab's hosts as an inventory for Ansible (group lab)")
    command.add_argument("name")
    command.set_defaults(work=inventory)
    command = commands.add_parser("ssh", help="log into a host, or run a command there")
    command.add_argument("name")
    command.add_argument("host")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(work=ssh)
    command = commands.add_parser("image", help="build root file systems that the cache lacks")
    command.add_argument("image", nargs="+", help=names)
    command.set_defaults(work=image)
    command = commands.add_parser("keep", description="the power supply of a host; used by the lab itself")
    command.add_argument("name")
    command.add_argument("host")
    command.set_defaults(work=keep)

    args = parser.parse_args()
    try:
        machine.check()
        args.work(args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0
