# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What actions on the controller take from variables."""

from __future__ import annotations

import datetime

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import plain


def test_an_object_of_ansibles_own_in_a_result_is_left_out():
    summary = type("ErrorSummary", (), {"__module__": "ansible._internal._errors"})()
    assert plain({"a": {"unreachable": True, "exception": summary}}) == {"a": {"unreachable": True, "exception": None}}


def test_another_object_is_refused():
    with pytest.raises(AnsibleActionFail, match="something that JSON can't: date is not a value of JSON"):
        plain({"since": datetime.date(2026, 11, 30)})
