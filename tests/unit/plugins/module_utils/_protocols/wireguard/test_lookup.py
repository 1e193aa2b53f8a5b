# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units that look a peer's name up between runs. That they work is seen in test_taken_hosts.py."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import lookup

UNIT = "wg-quick@mz3.service"
KEYS = ["mb5V/IzwOexAa0/fEm8dcVFNH0u+ou4b2CrBLDEfdx0=", "XtNGCOeoA2ICQuQO3EcReAZr0zD1IsW5iTSUXCHIjVw="]


def conf(*endpoints):
    return {"peers": {key: {"endpoint": endpoint} for key, endpoint in zip(KEYS, endpoints, strict=False)}}


@pytest.mark.parametrize("endpoint", [None, ("203.0.113.9", 20003), ("2001:db8::9", 20003), ("a b;reboot", 20003)])
def test_only_a_name_is_looked_up(endpoint):
    assert lookup.texts("mz3", UNIT, conf(endpoint)) == {}


@pytest.mark.parametrize("age", [10, 170, 190, None])
def test_a_name_is_set_once_the_session_has_ended(tmp_path, age):
    """The command as systemd runs it, with a wg that writes down what it is told."""
    texts = lookup.texts("mz3", UNIT, conf(("b.example", 20003), ("203.0.113.9", 20004)))
    assert sorted(texts) == sorted(lookup.paths("mz3"))
    service = next(text for path, text in texts.items() if path.endswith(".service"))
    (command,) = re.findall(r"^ExecStart=-/bin/sh -c '(.*)'$", service, re.MULTILINE)
    seen = 0 if age is None else int(time.time()) - age
    wg = tmp_path / "wg"
    wg.write_text(
        f'#!/bin/sh\nif [ "$1" = show ]; then printf "{KEYS[0]}\\t{seen}\\n{KEYS[1]}\\t0\\n"; else echo "$@"; fi\n'
    )
    wg.chmod(0o755)
    plain = command.replace("$$", "$").replace("%%", "%")
    assert "$" not in command.replace("$$", "")
    assert "%" not in command.replace("%%", "")
    done = subprocess.run(
        ["/bin/sh", "-c", plain], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    wanted = f"set mz3 peer {KEYS[0]} endpoint b.example:20003\n"
    assert done.stdout == ("" if age in (10, 170) else wanted)


def test_what_is_added_to_the_unit():
    with_process = lookup.drop_in("mz3", None, userspace=True, looks_up=False) or ""
    assert "Type=forking" in with_process
    assert "Wants=" not in with_process
    both = lookup.drop_in("mz3", None, userspace=True, looks_up=True) or ""
    assert "Wants=marzban-wireguard-mz3.timer\n" in both
    assert lookup.drop_in("mz3", None, userspace=False, looks_up=False) is None
    # The kernel has got its module meanwhile, and a process still carries the packets.
    assert lookup.drop_in("mz3", both, userspace=False, looks_up=False) == with_process
