# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing of a virtual machine is left behind. (That it is a host like the others is seen in test_kernel.)"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.integration.test_lab import REPOSITORY, traces
from tests.lab import Lab, machine

pytestmark = pytest.mark.lab
NAME = "test-vm-killed"


def test_what_a_killed_run_left_is_taken_down() -> None:
    half = (
        "import os, signal; from tests.lab import Lab; from tests.lab.vm import VM\n"
        "VM.wait = lambda vm: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Lab.up('{NAME}', {{'vm': 'forky+tunnels+kernel'}})"
    )
    killed = subprocess.run([sys.executable, "-c", half], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    lab = Lab.load(NAME)
    machine.until("machine that runs", lambda: lab.host("vm").leader, 30)
    assert [trace for trace in traces(NAME, lab.network.number) if trace.startswith("qemu-system-x86_64 ")]
    Lab.remove(NAME)
    assert traces(NAME, lab.network.number) == []
