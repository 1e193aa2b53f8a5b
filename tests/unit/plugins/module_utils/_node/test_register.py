# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The register of what was changed on the whole host for tunnels."""

from __future__ import annotations

import json

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._node import networkd, register
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from ansible_collections.marzban.tunnels.plugins.module_utils._node.whole_host import WholeHost

A, B, C = (f"1b4e28ba-2fa1-41d2-883f-00000000000{digit}" for digit in "abc")
PATH = "/etc/some.d/x.conf"
ON = {PATH: "on\n"}


def nothing(_path):
    return None


def there(_path):
    return True


def test_who_needs_what_is_written_down_and_read_again():
    made = register.with_needs({}, {B: ON, A: ON, C: {}}, nothing, nothing)
    assert made == {PATH: register.Entry(None, "on\n", [A, B], folder=True)}
    assert register.parse(register.text_of(made)) == made
    assert json.loads(register.text_of(made)) == {
        PATH: {"before": None, "after": "on\n", "tunnels": [A, B], "folder": True}
    }


def test_the_first_tunnel_finds_the_former_text_and_the_others_keep_it():
    first = register.with_needs({}, {A: ON}, lambda _path: "off\n", there)
    both = register.with_needs(first, {B: ON}, lambda _path: "on\n", there)
    assert both == {PATH: register.Entry("off\n", "on\n", [A, B])}


def test_what_is_there_without_an_entry_is_ours_from_a_register_that_was_lost():
    assert register.with_needs({}, {A: ON}, lambda _path: "on\n", there) == {PATH: register.Entry(None, "on\n", [A])}


def test_a_tunnel_that_is_not_in_the_run_keeps_what_it_needs():
    both = register.with_needs({}, {A: ON, B: ON}, nothing, there)
    left = register.with_needs(both, {A: {}}, nothing, there)
    assert left[PATH].tunnels == [B]
    assert register.unneeded(left) == []
    assert register.unneeded(register.without_others(left, [A, C])) == [PATH]


@pytest.mark.parametrize(("now", "others"), [("on\n", False), ("off\n", False), ("mine\n", True), (None, True)])
def test_what_somebody_else_changed_is_theirs(now, others):
    assert register.changed_by_others(register.Entry("off\n", "on\n", []), now) is others


def test_nothing_to_remember_needs_no_file():
    assert register.text_of({}) is None
    assert register.parse(None) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"x": {}}',
        json.dumps({"../x": {"before": None, "after": "", "tunnels": []}}),
        json.dumps({PATH: {"before": 1, "after": "", "tunnels": []}}),
        json.dumps({PATH: {"before": None, "after": "", "tunnels": ["no uuid"]}}),
        json.dumps({PATH: {"before": None, "tunnels": []}}),
    ],
)
def test_a_damaged_register_is_refused(text):
    with pytest.raises(Error, match="damaged"):
        register.parse(text)


# On a host


@pytest.fixture
def place(tmp_path):
    """A host's folder, and a run's view of it: ``run()`` loads the register, as each run does."""

    class Place:
        setting = tmp_path / "etc" / "x.conf"
        file = tmp_path / "tunnels" / register.FILE

        def run(self, check=False):
            made = WholeHost(Host(check), Folders(str(tmp_path / "tunnels")))
            made.load()
            return made

        def applied(self, *uuids):
            self.run().need({uuid: {str(self.setting): "on\n"} for uuid in uuids})
            self.setting.write_text("on\n")

    (tmp_path / "etc").mkdir()
    (tmp_path / "tunnels").mkdir()
    return Place()


@pytest.mark.parametrize("others", [False, True])
def test_a_folder_that_was_made_goes_unless_it_has_something_else(place, others):
    folder = place.setting.parent
    folder.rmdir()
    place.run().need({A: {str(place.setting): "on\n"}})
    folder.mkdir()
    place.setting.write_text("on\n")
    if others:
        (folder / "mine.conf").touch()
    place.run().settle([])
    assert folder.exists() is others
    assert not place.setting.exists()


@pytest.mark.parametrize("before", [None, "off\n"])
def test_the_last_tunnel_puts_back_what_was_there(place, before):
    if before:
        place.setting.write_text(before)
    place.applied(A, B)
    run = place.run()
    run.settle([B])
    assert place.setting.read_text() == "on\n"
    assert json.loads(place.file.read_text())[str(place.setting)]["tunnels"] == [B]
    would = place.run(check=True)
    would.settle([])
    assert [(part["before"], part["after"]) for part in would.diff] == [("on\n", before or "")]
    assert place.setting.read_text() == "on\n"
    run = place.run()
    run.settle([])
    assert run.warnings == []
    assert (place.setting.read_text() if place.setting.exists() else None) == before
    assert not place.file.exists()


def test_what_somebody_else_changed_is_left_and_said(place):
    place.applied(A)
    place.setting.write_text("theirs\n")
    run = place.run()
    run.settle([])
    assert place.setting.read_text() == "theirs\n"
    assert run.warnings == [
        f"{place.setting} was changed by somebody else, and is left as it is. No tunnel needs it any more."
    ]
    assert not place.file.exists()


def test_a_damaged_register_stops_no_run(place):
    place.file.write_text("{")
    run = place.run()
    assert len(run.warnings) == 1
    run.need({A: {str(place.setting): "on\n"}})
    assert place.run().warnings == []


def test_networkd_is_told_only_where_it_runs():
    active, dead = ({"units": {networkd.UNIT: {"active": word}}} for word in ("active", "inactive"))
    assert networkd.needed(active, None) == {networkd.DROP_IN: networkd.TEXT}
    assert networkd.needed(dead, None) == networkd.needed({"units": {}}, None) == {}
    assert networkd.needed(dead, networkd.TEXT) == {networkd.DROP_IN: networkd.TEXT}
    assert networkd.needed(dead, "theirs") == {}
