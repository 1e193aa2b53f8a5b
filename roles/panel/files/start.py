# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Marzban with the tunnels add-on; run in Marzban's folder, by its Python, in place of ``main.py``.

    python start.py            Marzban; with the add-on if that can be loaded, else alone, and the log says why
    python start.py records    prints the records as JSON: {"version", "revision", "tunnels"}
    python start.py remove     drops the add-on's tables: all that it has in Marzban's database
    python start.py downgrade REVISION
                               takes the tables back to what an older version of the add-on knows, and stops at that

Nothing is imported before it is needed, so that the panel serves whatever is wrong with the package beside this file.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))


def main(words: list[str]) -> int:
    """Runs what the head of this file says; answers the exit code."""
    # As `python main.py` has it: Marzban's modules come first. Ours is one name at the very end.
    # What the role has put into "libraries" is for what Marzban's Python lacks.
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if path != HERE), HERE, os.path.join(HERE, "libraries")]
    if words:
        from marzban_tunnels import mounted

        return mounted.command(words)
    try:
        from marzban_tunnels import mounted

        mounted.mount()
    except Exception:
        traceback.print_exc()
        print(
            "marzban_tunnels: could not be loaded (see above); Marzban starts without it", file=sys.stderr, flush=True
        )
    sys.argv = ["main.py"]
    runpy.run_path("main.py", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
