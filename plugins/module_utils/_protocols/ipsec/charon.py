# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said to strongSwan's charon, and what it answers: by swanctl, over its files."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from ..._errors import Error, printable
from ..._node.host import Hangs, Host
from . import plan as planning
from . import swanctl

ML_KEM = (6, 0, 2)  # the first version that finds it in OpenSSL
SURE = 6.0  # seconds that it has at least before it is ended: all IPsec tunnels of the host depend on it
FEW = 8  # calls that may wait for their ends: each takes one of charon's 16 threads, which then answer nobody else
# Ends tunnels' associations and calls again, 16 at once: the node service may have 128 processes. The target gives the
# source a moment to be first.
RENEW = """
end_by=$1 call_by=$2 begun=0
shift 2
for end in "$@"; do
    name=${end#*:}
    (
        swanctl --terminate --ike "$name" $end_by
        case $end in
            source:*) swanctl --initiate --child "$name" $call_by ;;
            target:*) sleep 0.2; swanctl --initiate --child "$name" $call_by ;;
        esac
    ) >/dev/null 2>&1 &
    begun=$((begun + 1))
    [ $((begun % 16)) -ne 0 ] || wait
done
wait
"""


def etc(*names: str) -> str:
    """A path below the place of strongSwan's configuration, which is another one on the RedHat family."""
    top = "/etc/strongswan" if os.path.isdir("/etc/strongswan/swanctl") else "/etc"
    return os.path.join(top, *names)


def conf_path(interface: str) -> str:
    """Where swanctl finds the connection."""
    return etc("swanctl", "conf.d", "marzban-%s.conf" % interface)


def key_copy(interface: str) -> str:
    """Where swanctl finds the private key: it may read nothing elsewhere (AppArmor)."""
    return etc("swanctl", "private", "marzban-%s.pem" % interface)


def command(what: str) -> tuple[str, ...]:
    """What asks for something, in a form that can be parsed."""
    return ("swanctl", what, "--raw")


class Charon:
    """charon on this host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.hangs = False  # it runs and does not answer: then it is not asked again
        self._answers = False  # it has answered a moment ago, so that what takes long has much to say
        self._asked: dict[str, Any] = {}
        self._heard: dict[str, swanctl.Messages | None] = {}  # until it is used

    def ask(self, what: str, least: float = 0.0) -> swanctl.Messages | None:
        """What swanctl says, as dicts, or None where charon doesn't answer. ``least``: seconds that it has at least."""
        if what in self._heard:
            return self._heard.pop(what)
        if self.hangs or not self.host.has("swanctl"):
            return None
        try:
            said = self.host.ask(*command(what), share=max(1.0, least / self.host.patience))
        except Hangs:
            self.hangs = not self._answers
            said = None if self.hangs else self.host.query(*command(what))
        self._answers = said is not None
        return None if said is None else swanctl.parse_raw(said)

    def is_hung(self) -> bool:
        """Whether it runs and does not answer. An answer is used by what asks next."""
        self.hangs = False  # who has asked before may have waited for less
        self._heard["--stats"] = self.ask("--stats", SURE)
        return self.hangs

    def forget(self) -> None:
        """It is another process now."""
        self.hangs, self._heard = False, {}

    def version(self) -> tuple[int, ...]:
        """strongSwan's, as numbers; () where it isn't installed."""
        if "version" not in self._asked:
            text = None
            with contextlib.suppress(Hangs):  # it connects to charon even for this
                text = self.host.ask("swanctl", "--version")
            said = re.search(r"(\d+)\.(\d+)\.(\d+)", text or "")
            self._asked["version"] = tuple(int(number) for number in said.groups()) if said else ()
        version: tuple[int, ...] = self._asked["version"]
        return version

    def has_ml_kem(self) -> bool:
        """Whether it has the key exchange that holds against quantum computers."""
        if "ml-kem" not in self._asked:
            said = self.ask("--list-algs")
            if self.hangs:  # it is asked again when another process is there
                return self.version() >= ML_KEM
            self._asked["ml-kem"] = "ML_KEM_768" in said[-1].get("ke", {}) if said else self.version() >= ML_KEM
        known: bool = self._asked["ml-kem"]
        return known

    def give(self, plans: list[planning.Plan]) -> dict[str, Error]:
        """Gives charon what is new. Connections and keys that are as they were stay as they are, and so do others'."""
        try:
            said = self.load()
        except Error as error:
            return {plan.view["uuid"]: error for plan in plans}
        conns = swanctl.by_name(self.ask("--list-conns") or [])
        failed: dict[str, Error] = {}
        for plan in plans:
            wrong = [line for line in said.splitlines() if "failed" in line and _about(line, plan.interface)]
            if wrong or plan.interface not in conns:
                why = printable(" / ".join(wrong or said.splitlines()[-3:]))
                failed[plan.view["uuid"]] = Error("strongSwan did not take the connection: %s" % why)
        return failed

    def renew(self, plans: list[planning.Plan]) -> None:
        """Ends the associations of these tunnels, and calls their peers."""
        roles = ((plan.view["local"]["role"] if plan.view["dial"] else "wait", plan.interface) for plan in plans)
        words = ["%s:%s" % found for found in roles]
        how = ("--timeout 2", "--timeout 1") if len(words) <= FEW else ("--force", "--timeout -1")
        if words:
            self.host.try_run("sh", "-c", RENEW, "sh", *how, *words)

    def load(self) -> str:
        """Lets charon have what is in the files; what swanctl says about it. Raises Error on a broken file.

        Such a file would count as if all were empty, and take away all connections. So the one kind of thing
        that tunnels and most others don't have is loaded first.
        """
        said = self.host.run("sh", "-c", "swanctl --load-authorities 2>&1 || true")
        if "invalid config file" in said:
            wrong = [line for line in said.splitlines() if "error" in line or "invalid" in line]
            hint = "swanctl can't read its configuration, so nothing was loaded: %s. Correct the file below %s."
            raise Error(hint % (printable(" / ".join(wrong)), etc("swanctl")))
        # It ends with an error for whatever of the owner's can't be loaded, too.
        return self.host.run("sh", "-c", "swanctl --load-all --noprompt 2>&1 || true")


def _about(line: str, interface: str) -> bool:
    """Whether swanctl speaks of a tunnel of ours."""
    return "'%s'" % interface in line or "marzban-%s." % interface in line
