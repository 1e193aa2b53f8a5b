# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How every module of this collection runs. Those that speak to the panel add ``_panel_module``."""

from __future__ import annotations

from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ._errors import Error


def run(work: Callable[[AnsibleModule], dict[str, Any]], argument_spec: dict[str, Any], **more: Any) -> None:
    """Runs ``work(module)``, which returns the result; an Error of ours fails the module with its text.

    A ``diff`` in the result is left out unless the task asked for it. ``more``: further arguments of AnsibleModule.
    """
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True, **more)
    try:
        result = work(module)
    except Error as error:
        module.fail_json(msg=str(error))
    if not module._diff:
        result.pop("diff", None)
    module.exit_json(**result)
