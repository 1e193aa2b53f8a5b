# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other texts of Marzban's: its .env, its unit, its log."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import (
    dotenv,
    install,
    marzban,
    package,
    probe,
    systemd_dropin,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._installer.marked_block import BEGIN, END, EditError
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.modules import panel_addon

PATH = "/opt/marzban/.env"
SETTINGS = {"TUNNEL_IPV4_POOL": "10.77.0.0/16", "TUNNEL_PORT_RANGE": "20000-21000"}
TEXT = """UVICORN_HOST = "0.0.0.0"
UVICORN_PORT = 8000   # the port
export DASHBOARD_PATH='/d#sh/'
# SUDO_USERNAME = "admin"
SUDO_PASSWORD = "pa\\"ss # word"
EMPTY=
ALMOST = a#b
# TUNNEL_IPV4_POOL=10.1.0.0/16
SQLALCHEMY_DATABASE_URL = "mysql+pymysql://marzban:hunter2%40@127.0.0.1/marzban"
"""


# .env


def test_it_is_read_as_marzban_reads_it():
    assert (
        dotenv.read(TEXT)
        == dotenv.read(TEXT.replace("\n", "\r\n"))
        == {
            "UVICORN_HOST": "0.0.0.0",
            "UVICORN_PORT": "8000",
            "DASHBOARD_PATH": "/d#sh/",
            "SUDO_PASSWORD": 'pa"ss # word',
            "EMPTY": "",
            "ALMOST": "a#b",
            "SQLALCHEMY_DATABASE_URL": "mysql+pymysql://marzban:hunter2%40@127.0.0.1/marzban",
        }
    )


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip(), TEXT.replace("\n", "\r\n"), "", "X=1", "\n\n"])
def test_settings_in_and_out_to_the_byte(text):
    changed = dotenv.with_settings(text, PATH, SETTINGS)
    assert changed is not None
    assert {**dotenv.read(text), **SETTINGS} == dotenv.read(changed)
    assert changed.endswith(text)
    assert changed.count("\r") == (changed.count("\n") if "\r" in text else 0)
    assert dotenv.with_settings(changed, PATH, SETTINGS) == changed
    other = dotenv.with_settings(changed, PATH, {"TUNNEL_IPV6_POOL": "fd00::/64"})
    assert dotenv.read(other) == {**dotenv.read(text), "TUNNEL_IPV6_POOL": "fd00::/64"}
    assert dotenv.without_settings(other, PATH) == text
    assert dotenv.with_settings(changed, PATH, {}) == text


@given(st.text(alphabet="A=# \n\r\"'\\é", max_size=30))
def test_any_text_comes_back(text):
    try:
        changed = dotenv.with_settings(text, PATH, SETTINGS)
    except EditError:
        assert re.search("\r(?!\n)", text)
        return
    assert changed is not None
    assert dotenv.without_settings(changed, PATH) == text
    assert dotenv.without_settings("B=1\n" + changed + "C=1", PATH) == "B=1\n" + text + "C=1"


def test_a_file_that_was_made_goes_with_the_settings():
    made = dotenv.with_settings(None, PATH, SETTINGS)
    assert made is not None
    assert dotenv.with_settings(made, PATH, SETTINGS) == made
    assert dotenv.without_settings(made, PATH) is None
    assert dotenv.without_settings(made + "MINE=1", PATH) == "MINE=1"
    assert dotenv.with_settings(None, PATH, {}) is None
    assert dotenv.without_settings("", PATH) == ""


@pytest.mark.parametrize("line", ["TUNNEL_IPV4_POOL=1", " export TUNNEL_IPV4_POOL = '1'", 'TUNNEL_IPV4_POOL="1"'])
def test_a_setting_by_hand(line):
    text = TEXT + line
    with pytest.raises(EditError, match=r"/opt/marzban/\.env, line 10: TUNNEL_IPV4_POOL is set by hand\. Take .+\."):
        dotenv.with_settings(text, PATH, SETTINGS)
    assert dotenv.read(dotenv.with_settings(text, PATH, {"TUNNEL_PORT_RANGE": "1-2"}))["TUNNEL_IPV4_POOL"] == "1"


def test_a_password_between_the_marks_is_neither_removed_nor_shown():
    made = dotenv.with_settings(TEXT, PATH, SETTINGS)
    assert made is not None
    text = made.replace(END, "PASSWORD=hunter2\n" + END)
    with pytest.raises(EditError, match="line 4: it is between the marks") as error:
        dotenv.with_settings(text, PATH, SETTINGS)
    assert "hunter2" not in str(error.value)
    with pytest.raises(EditError, match="line 11: the marks"):
        dotenv.without_settings(TEXT + "\n" + BEGIN, PATH)


@pytest.mark.parametrize(
    "settings",
    [
        {"TUNNEL_IPV4_POOL": "10.77.0.0/30"},
        {"TUNNEL_IPV4_POOL": "10.77.0.1/16"},
        {"TUNNEL_IPV4_POOL": "10.0.0.0/7"},
        {"TUNNEL_IPV4_POOL": "fd00::/64"},
        {"TUNNEL_IPV4_POOL": "10.77.0.0/16\nSUDO_PASSWORD=x"},
        {"TUNNEL_IPV6_POOL": "10.77.0.0/16"},
        {"TUNNEL_PORT_RANGE": "20000"},
        {"TUNNEL_PORT_RANGE": "0-1"},
        {"TUNNEL_PORT_RANGE": "2-1"},
        {"TUNNEL_PORT_RANGE": "1-65536"},
        {"TUNNEL_PORT_RANGE": "1-2\n"},
        {"SUDO_PASSWORD": "x"},
        {"tunnel_ipv4_pool": "10.77.0.0/16"},
    ],
)
def test_settings_that_are_none(settings):
    with pytest.raises(FieldError, match=f"{'settings' if 'TUNNEL' not in str(settings) else 'TUNNEL'}.*can't be used"):
        dotenv.checked(settings)


def test_settings_in_their_canonical_form():
    given_ = {"TUNNEL_PORT_RANGE": "02000-21000", "TUNNEL_IPV6_POOL": "FD00:0::/64", "TUNNEL_IPV4_POOL": "10.0.0.0/8"}
    assert list(dotenv.checked(given_).items()) == [
        ("TUNNEL_IPV4_POOL", "10.0.0.0/8"),
        ("TUNNEL_IPV6_POOL", "fd00::/64"),
        ("TUNNEL_PORT_RANGE", "2000-21000"),
    ]


# The unit

UNIT = """[Unit]
Description=ExecStart=no main.py
# ExecStart=/usr/bin/python3 /other/main.py
[Service]
ExecStart=/usr/bin/env python3 /opt/marzban/main.py
WorkingDirectory=/opt/marzban
"""


@pytest.mark.parametrize(
    ("texts", "command"),
    [
        ([UNIT], "/usr/bin/env python3 /d/start.py"),
        (
            [UNIT, "[Service]\nExecStart=\nExecStart = -/venv/bin/python -u main.py\n"],
            "-/venv/bin/python -u /d/start.py",
        ),
        ([UNIT.replace("python3 ", "python3 \\\n; main.py\n  ")], "/usr/bin/env python3    /d/start.py"),
        ([UNIT.replace("/opt/marzban/main.py", "main.py --x 'a b'")], "/usr/bin/env python3 /d/start.py --x 'a b'"),
    ],
)
def test_the_units_own_command_with_our_entry(texts, command):
    found = systemd_dropin.exec_start(texts, "m.service")
    changed = systemd_dropin.replaced(found, "m.service", "/d")
    assert changed == command
    assert systemd_dropin.text(changed).endswith(f"[Service]\nExecStart=\nExecStart={command}\n")
    assert systemd_dropin.python(found)[0] in ("/usr/bin/env", "/venv/bin/python")


@pytest.mark.parametrize(
    "texts", [[], ["[Service]\n"], [UNIT, "[Service]\nExecStart=x main.py"], [UNIT, "[Service]\nExecStart="]]
)
def test_a_unit_without_its_one_command(texts):
    with pytest.raises(Error, match=r"The unit m\.service has .+, and one is expected"):
        systemd_dropin.exec_start(texts, "m.service")


@pytest.mark.parametrize(
    "command", ["python -m marzban", "python /d/start.py", 'python "/my dir/main.py"', "a main.py main.py"]
)
def test_a_unit_that_runs_something_else(command):
    with pytest.raises(Error, match=r"one word of it is expected to be main\.py"):
        systemd_dropin.replaced(command, "m.service", "/d")


# The version and the log


def test_the_version():
    assert marzban.version_in('import x\n__version__ = "0.8.4"\n') == "0.8.4"
    assert marzban.version_in("__version__ = '1.0.0-beta.1'") == "1.0.0-beta.1"
    for text in (None, "", '# __version__ = "0.8.4"', '__version__ = "<b>"', "__version__ = version()"):
        assert marzban.version_in(text) is None


def test_no_secret_gets_out_of_a_log():
    secrets = probe.secrets_of({**dotenv.read(TEXT), "MYSQL_ROOT_PASSWORD": "r00tpass", "SHORT_TOKEN": "abc"})
    assert {'pa"ss # word', "hunter2%40", "hunter2@", "r00tpass"} < secrets
    log = (
        "INFO: starting\n\x1b[31mERROR\x1b[0m: cannot connect to mysql+pymysql://marzban:hunter2%40@127.0.0.1/marzban\n"
        "password hunter2@ or r00tpass\nerror at redis://u:other@h/1\u202e\n"
        'INFO: 127.0.0.1:1 - "GET /api/tunnels HTTP/1.1" 404 Not Found\n'
    )
    said = probe.last_words(log, secrets)
    assert said == "ERROR: cannot connect to ******** / error at redis://********@h/1\\u202e"
    assert probe.last_words("password hunter2@ or r00tpass", secrets) == "password ******** or ********"
    assert probe.last_words(None, secrets) == ""


# The files


def test_the_files_are_packed_the_same_each_time():
    files = {"start.py": b"x", "marzban_tunnels/__init__.py": b"", "marzban_tunnels/a/b.js": bytes(range(256)) * 9}
    packed = package.pack(files)
    assert package.pack(dict(reversed(files.items()))) == packed
    assert package.unpack(packed) == files
    assert package.digest(files) != package.digest({**files, "start.py": b"y"})


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"marzban_tunnels/a": b""},
        *(
            {"start.py": b"", name: b""}
            for name in ("../x", "/x", "marzban_tunnels/../../x", "other", "marzban_tunnels//x")
        ),
    ],
)
def test_what_is_not_an_add_on_is_not_unpacked(files):
    with pytest.raises(Error, match=r"call this as marzban\.tunnels\.panel_addon"):
        package.unpack(package.pack(files))


@pytest.mark.parametrize("text", ["", "x", "é", "AAAA", "H4sIAAAAAAAC"])
def test_rubbish_is_not_unpacked(text):
    with pytest.raises(Error, match=r"call this as marzban\.tunnels\.panel_addon"):
        package.unpack(text)


def test_what_only_moves_or_warns_is_not_told_as_the_end_of_a_log():
    log = (
        "\x1b[2K\x1b[1A\x1b[?25l Container marzban  Started\n"
        "/code/x.py:3: UserWarning: pkg_resources is deprecated as an API.\n  import pkg_resources\nlast line\n"
    )
    assert probe.last_words(log, set()) == "Container marzban Started / last line"
    assert probe.last_words("/code/x.py:3: DeprecationWarning: error handling is old\n  import x", set()) == ""


@pytest.mark.parametrize(
    ("option", "value", "seen"),
    [
        ("service", "marzbann", "There is no unit marzbann.service."),
        ("compose_file", "/opt/marzbann/docker-compose.yml", "/opt/marzbann/docker-compose.yml isn't there."),
    ],
)
def test_a_place_that_was_named_is_the_one_that_is_meant(tmp_path, option, value, seen):
    """Marzban's own checkout has a docker-compose.yml as well."""
    options = {name: item.get("default") for name, item in yaml.safe_load(panel_addon.DOCUMENTATION)["options"].items()}
    folder = package.Folder(str(tmp_path / "tunnels"), package.Made(str(tmp_path / "folders.json")))
    with pytest.raises(Error, match=re.escape(seen)):
        marzban.find(Host(True), folder, {**options, option: value})


def test_what_the_module_answers_is_documented():
    options = {name: item.get("default") for name, item in yaml.safe_load(panel_addon.DOCUMENTATION)["options"].items()}
    run = install.Run({**options, "archive": package.pack({"start.py": b""})}, True)
    assert {*run.answer, "installation"} - {"diff"} == set(yaml.safe_load(panel_addon.RETURN))
