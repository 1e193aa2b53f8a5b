# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run does about another one that had its turn first. The rest of a run is tried on real hosts, and what it does
about a machine that has two names in test_owner.py."""

from __future__ import annotations

import contextlib
import json
import shutil
import time

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._node import kept as kept_module
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import (
    DAY,
    Kept,
    KeptView,
    Terms,
    check_alike,
    check_no_manager,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state

PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
OTHER = "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"  # another panel


class Deaf(Host):
    """A host whose commands say nothing."""

    def prefetch(self, *commands):
        pass

    def _run(self, argv, stdin=None, timeout=30, secret=False, lenient=False):
        return ""


def view(version):
    end = {"endpoint": "203.0.113.1", "port": 20001, "routes": [], "public": None}
    return {
        "panel": PANEL,
        "id": 1,
        "uuid": UUID,
        "name": "de-fi",
        "type": "wireguard",
        "active": False,
        "version": version,
        "interface": "mz1",
        "mtu": None,
        "keepalive": 25,
        "dial": True,
        "transport": "udp",
        "post_quantum": "auto",
        "routes": [],
        "local": {**end, "node": "de-1", "role": "source", "addresses": ["10.201.0.2/31"]},
        "peer": {**end, "node": "fi-1", "role": "target", "addresses": ["10.201.0.3/31"]},
    }


def remove(folders):
    shutil.rmtree(folders.path(UUID))


def newer(folders):
    folders.write_state(new_state(view(7)))


def same(folders):
    folders.write_state(dict(new_state(view(4)), name="renamed"))


@pytest.mark.parametrize(
    ("earlier", "meanwhile", "accept_older", "why"),
    [
        (4, remove, False, "Another run has just removed it here"),
        (4, newer, False, "Version 7 of its record was applied here, and this is version 4"),
        (None, newer, False, "Version 7 of its record was applied here, and this is version 4"),
        (4, same, False, None),
        (7, lambda folders: None, False, "with -e tunnels_accept_older=true"),
        (7, lambda folders: None, True, None),  # a panel's backup was put back, and the operator says so
        (4, lambda folders: None, False, None),
    ],
)
def test_what_another_run_did_while_this_one_waited(tmp_path, monkeypatch, earlier, meanwhile, accept_older, why):
    folders = Folders(str(tmp_path / "tunnels"))
    if earlier is not None:
        folders.write_state(new_state(view(earlier)))

    @contextlib.contextmanager
    def locked(before_waiting):
        before_waiting()
        meanwhile(folders)
        yield

    monkeypatch.setattr(folders, "locked", locked)
    run = Apply(Deaf(), folders, PANEL, ["wireguard"], terms=Terms(accept_older))
    (tunnel,) = run.run([view(4)], [{"text": ""}])["tunnels"]
    assert tunnel["refused"] is (why is not None)
    assert (why or "") in (tunnel["error"] or "")


# What a host with the node service keeps


def test_a_view_is_kept_and_a_removal_is_remembered(tmp_path):
    (tmp_path / "kept").mkdir()
    kept, folders = Kept(str(tmp_path / "kept")), Folders(str(tmp_path / "tunnels"))
    folders.write_state(new_state(view(4)))

    def run(number, remove=(), **terms):
        views = [view(number)] if not remove else []
        apply = Apply(Deaf(), folders, PANEL, ["wireguard"], terms=Terms(**terms), kept=Kept(str(tmp_path / "kept")))
        return apply.run(views, [{"text": ""}] * len(views), remove=list(remove))

    run(4, revisions={UUID: "r"})
    assert [(found.view["version"], found.revision) for found in kept.views().values()] == [(4, "r")]
    run(5)
    assert kept.views()[UUID].revision is None, "a run has applied it, whatever the panel wanted"
    run(0, remove=[UUID])
    assert kept.views() == {}
    assert list(kept.removals()) == [UUID]
    (tunnel,) = run(5)["tunnels"]
    assert "It was removed here 0 min ago" in tunnel["error"]
    assert not run(5, accept_older=True)["tunnels"][0]["refused"]
    assert kept.removals() == {}
    run(0, remove=[UUID])
    assert not run(6)["tunnels"][0]["refused"], "its other end went to another node, and came back"
    assert kept.removals() == {}
    run(0, remove=[UUID], in_order=True)
    (tunnel,) = run(9)["tunnels"]
    assert "It was removed here 0 min ago" in tunnel["error"], "read before the panel deleted it, and never applied"
    assert not run(9, in_order=True)["tunnels"][0]["refused"], "the panel itself wants it again"
    assert not run(9)["tunnels"][0]["refused"]
    (tmp_path / "kept/removed.json").write_text(json.dumps({UUID: [time.time() - DAY, 5]}))
    assert kept.removals() == {}


def test_a_removal_leaves_what_was_wanted_after_it_had_begun(tmp_path):
    """The panel moved an end away and back, while a run held the host up."""
    (tmp_path / "kept").mkdir()
    kept, folders = Kept(str(tmp_path / "kept")), Folders(str(tmp_path / "tunnels"))

    def do(views, remove=(), panel=PANEL, in_order=True):
        apply = Apply(Deaf(), folders, panel, ["wireguard"], terms=Terms(in_order=in_order), kept=kept)
        return apply.run(views, [{"text": ""}] * len(views), remove=list(remove))

    kept.keep([KeptView(view(5), "r")])
    do([], [UUID])
    assert kept.views()[UUID].revision == "r"
    assert not do([view(5)])["tunnels"][0]["refused"]
    do([], [UUID])
    assert kept.views() == {}, "a run had made that one"
    kept.forget(OTHER, {UUID[:-1] + "9": None}, called=True)
    elsewhere = {**view(1), "uuid": UUID[:-1] + "9"}
    assert not do([elsewhere], in_order=False)["tunnels"][0]["refused"], "only another panel had it removed"


def test_only_so_many_removals_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_module, "MOST", 3)
    kept, uuids = Kept(str(tmp_path)), [UUID[:-1] + digit for digit in "01234"]
    known = {uuids[0]: [time.time() - 9, 4], uuids[1]: [time.time() - 8, None], uuids[2]: [time.time() - 7, 4]}
    (tmp_path / "removed.json").write_text(json.dumps(known))
    kept.forget(PANEL, {uuids[3]: None})
    assert list(kept.removals()) == [uuids[0], uuids[2], uuids[3]]
    kept.forget(PANEL, {uuids[4]: new_state(view(1))})
    assert list(kept.removals()) == [uuids[0], uuids[2], uuids[4]], "the others were never here"
    kept.forget(PANEL, {uuids[3]: new_state(view(1))})
    assert list(kept.removals()) == [uuids[2], uuids[3], uuids[4]]


@pytest.mark.parametrize("text", ["", "[]", '{"view": 3}', '{"view": {"panel": null}}', "x" * 9])
def test_what_is_kept_and_damaged_is_left_out(tmp_path, text):
    (tmp_path / "views").mkdir()
    (tmp_path / f"views/{UUID}.json").write_text(text)
    (tmp_path / "removed.json").write_text(text)
    assert Kept(str(tmp_path)).views() == {}
    assert Kept(str(tmp_path)).removals() == {}


def test_without_the_service_nothing_is_kept(tmp_path):
    kept = Kept(str(tmp_path / "none"))
    kept.keep([KeptView(view(1))])
    kept.forget(PANEL, {UUID: None})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"engine": "1"}, None),
        ({"engine": "2"}, "version 1 of the engine, and this run has 2"),
        ({"ipsec_data_path": "kernel"}, "ipsec_data_path: auto, and this run has ipsec_data_path: kernel"),
        ({"post_quantum": None}, None),
        ({"templates": {"wireguard": "a"}}, None),
        ({"templates": {"wireguard": "b"}}, "another template for wireguard"),
        ({"templates": {"ipsec": "b"}}, None),  # which the service does not handle
    ],
)
def test_a_run_works_as_the_service_does_or_not_at_all(given, why):
    stored = {"engine": "1", "ipsec_data_path": "auto", "post_quantum": "auto", "templates": {"wireguard": "a"}}
    check_alike(None, given)
    if why is None:
        check_alike(stored, given)
    else:
        with pytest.raises(Error, match=why):
            check_alike(stored, given)


def test_what_a_manager_would_make_again_is_not_taken_off(tmp_path):
    check_no_manager(PANEL, str(tmp_path))
    (tmp_path / f"{PANEL}.json").write_text("{}")
    with pytest.raises(Error, match="the panel would have its tunnels made again"):
        check_no_manager(PANEL, str(tmp_path))
