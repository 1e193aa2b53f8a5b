# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one command in the operator's docker-compose.yml: put in, taken out to the byte, or refused."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import compose_file
from ansible_collections.marzban.tunnels.plugins.module_utils._installer.marked_block import BEGIN, END, EditError

PATH = "/opt/marzban/docker-compose.yml"
DIRECTORY = "/var/lib/marzban/tunnels"
PLAIN = """services:
  marzban:
    image: gozargah/marzban:v0.8.4
    restart: always
    env_file: .env
    network_mode: host
    volumes:
      - /var/lib/marzban:/var/lib/marzban
"""
WITH_DATABASE = """# هشدار: do not touch 🙂
version: "3"

x-logging: &logging
  driver: "json-file"   # an anchor that does not concern us

services:

  mariadb:   # the database
    image: 'mariadb:lts'
    logging: *logging
    command: --bind-address=127.0.0.1 --innodb_buffer_pool_size=32M
    environment:
      MYSQL_ROOT_PASSWORD: "r00t # p\\"ass"
      MYSQL_PASSWORD: 'hunter2: {a}'
    healthcheck: {test: ["CMD", "true"], interval: 10s}

  node:
    image: gozargah/marzban-node:latest
    entrypoint: /bin/true

  # image: gozargah/marzban:dev
  "panel":
    # what it needs
    depends_on:
      mariadb:
        condition: service_healthy
    labels:
      note: |
        image: none
          command: none

    image:   "docker.io/gozargah/marzban:latest"   # command: none
    env_file:
    - .env
    network_mode: host
    volumes: ["/var/lib/marzban:/var/lib/marzban", '/etc/ssl:/etc/ssl:ro']
volumes:
  other: {}
"""
FILES = {
    "plain": PLAIN,
    "no line's end": PLAIN.rstrip("\n"),
    "carriage returns": PLAIN.replace("\n", "\r\n"),
    "carriage returns, no line's end": PLAIN.replace("\n", "\r\n").rstrip("\r\n"),
    "the image last, no line's end": "services:\n  m:\n    restart: always\n    image: gozargah/marzban",
    "a database": WITH_DATABASE,
    "a database, carriage returns": WITH_DATABASE.replace("\n", "\r\n"),
    "a document's mark": "---\n" + PLAIN,
    "deep": PLAIN.replace("  ", "      "),
    "a list that is not indented": PLAIN.replace("      - ", "    - "),
    "trailing blanks": PLAIN.replace("\n", "   \n"),
    "quoted keys": PLAIN.replace("services:", '"services":')
    .replace("image:", "'image' :")
    .replace("marzban:\n", "'m':\n"),
}


def put(text):
    return compose_file.with_command(text, PATH, DIRECTORY)


def service_of(config):
    return next(value for value in config["services"].values() if re.search(r"gozargah/marzban(:|$)", value["image"]))


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_only_the_command_is_another_and_all_of_it_goes_again(text):
    changed = put(text)
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    assert service_of(after).pop("command") == compose_file.command(DIRECTORY)
    assert after == before
    added = [line for line in changed.split("\n") if line not in text.split("\n")]
    assert [line.strip() for line in added] == [BEGIN, added[1].strip(), END]
    assert added[1].strip().startswith('command: ["bash", "-c", "alembic upgrade head; ')
    assert ("\r\n" in changed) == ("\r\n" in text)
    assert changed.count("\r") == changed.count("\n") or "\r" not in changed
    assert compose_file.block(text, PATH) == ""
    assert compose_file.block(changed, PATH) in changed
    assert put(changed) == changed
    place = compose_file.place_of_command(changed, PATH)
    assert place is not None
    assert place.service == compose_file.find(text, PATH).service
    assert compose_file.place_of_command(text, PATH) is None
    assert compose_file.without_command(changed, PATH) == text


def test_the_command_goes_on_as_the_image_does_and_falls_back():
    script = compose_file.command(DIRECTORY)[2]
    assert script.startswith("alembic upgrade head; if [ -f /var/lib/marzban/tunnels/start.py ]; ")
    assert script.endswith("else exec python main.py; fi")
    assert "$" not in script, "Compose would put something in its place"


@pytest.mark.parametrize(
    ("was", "later"),
    [
        ("gozargah/marzban:v0.8.4", "pasarguard/panel:latest"),
        ("    restart: always", "    restart: always\n    entrypoint: /bin/true"),
        ("image: gozargah", "image: &it gozargah"),
    ],
)
def test_whose_command_it_is_can_be_told_whatever_else_has_become_of_the_file(was: str, later: str) -> None:
    """To put it there, such a file is refused; to take it out it must not be."""
    changed = put(PLAIN).replace(was, later)
    with pytest.raises(EditError):
        put(changed)
    place = compose_file.place_of_command(changed, PATH)
    assert place is not None
    assert place.service == "marzban"
    assert compose_file.without_command(changed, PATH) == PLAIN.replace(was, later)


def test_an_older_command_of_ours_is_replaced():
    old = compose_file.with_command(PLAIN, PATH, "/var/lib/marzban/elsewhere")
    assert put(old) == put(PLAIN)


lines = st.sampled_from(
    ["# note", "", "  # image: gozargah/marzban", "x-a: 1", "networks:", "  a: {}", "    # deep", "version: '3'", "   "]
)
endings = st.sampled_from(["\n", "\r\n"])


@given(st.lists(lines, max_size=4), st.lists(lines, max_size=4), endings, st.booleans())
def test_what_the_operator_changes_in_between_stays(above, below, ending, last):
    text = ending.join([*above, *PLAIN.splitlines(), *below]) + (ending if last else "")
    theirs = [line + ending for line in ("# mine", "x-mine: true")]
    changed = put(text)
    assert compose_file.without_command(changed, PATH) == text
    mine = "".join(theirs) + changed.replace("restart: always", "restart: unless-stopped")
    assert compose_file.without_command(mine, PATH) == "".join(theirs) + text.replace(
        "restart: always", "restart: unless-stopped"
    )


@given(st.text(alphabet=st.sampled_from("services:\n marzbn/i&*{}[]\"'#|-go\t\r,~<!?"), max_size=80))
def test_no_text_is_edited_into_something_else(text):
    """Whatever the text: refused, or only the command changes."""
    text = PLAIN.replace("    restart: always\n", text)
    try:
        changed = put(text)
    except EditError:
        return
    assert compose_file.without_command(changed, PATH) == text
    try:
        before, after = yaml.safe_load(text), yaml.safe_load(changed)
    except yaml.YAMLError:
        return  # as Compose would refuse it, before or after
    place = compose_file.find(text, PATH)
    rest = copy.deepcopy(after)
    alone = rest["services"].get(place.service, {}).pop("command", None) and rest == before
    try:
        compose_file.check_change(before, after, place, PATH, DIRECTORY)
        accepted = True
    except EditError:
        accepted = False
    assert accepted == bool(alone)


def line(text, part):
    return next(n for n, item in enumerate(text.split("\n"), 1) if part in item)


REFUSED = {
    "a command of its own": (PLAIN + "    command: python main.py\n", "command: python", "has its own command"),
    "an entrypoint": (PLAIN + "    'entrypoint': [a]\n", "entrypoint", "has its own entrypoint"),
    "merged": (PLAIN + "    <<: *x\n", "<<", "has its own <<"),
    "extended": (PLAIN + "    extends: {service: a}\n", "extends", "has its own extends"),
    "two": (PLAIN + "  two:\n    image: gozargah/marzban:dev\n", "marzban:dev", "a second service"),
    "none": (
        PLAIN.replace("gozargah/marzban:", "gozargah/marzban-node:"),
        "services:",
        "no service with Marzban's image",
    ),
    "flow": ("services:\n  m: {image: gozargah/marzban, restart: always}\n", "image", "not edited here"),
    "flow, all": ('services: {"m": {"image": "gozargah/marzban"}}\n', "image", "not edited here"),
    "an anchor": (PLAIN.replace("  marzban:\n", "  marzban: &m\n"), "image", "not edited here"),
    "an anchored image": (PLAIN.replace("image: ", "image: &i "), "image", "not edited here"),
    "a tag": (PLAIN.replace("  marzban:\n", "  marzban: !!map\n"), "image", "not edited here"),
    "not among services": (PLAIN.replace("services:", "x-services:"), "image", "not edited here"),
    "a tab": (PLAIN.replace("    env_file", "\tenv_file"), "env_file", "indented by a tab"),
    "two documents": (PLAIN + "---\nservices: {}\n", "---", "a second document"),
    "a lone carriage return": (PLAIN.replace("always\n", "always\r    image: x\n"), "always", r"the character '\r'"),
    "a line separator": (PLAIN.replace("always", "always\u2028"), "always", r"the character '\u2028'"),
    "a byte order mark": ("\ufeff" + PLAIN, "services", r"the character '\ufeff'"),
    "one mark": (PLAIN.replace("    env_file", f"    {END}\n    env_file"), END, "the marks of marzban.tunnels"),
    "marks twice": (put(PLAIN) + f"    {BEGIN}\n    {END}\n", "", "the marks of marzban.tunnels"),
}


@pytest.mark.parametrize(("text", "where", "seen"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_edited_says_where_and_what_to_do(text, where, seen):
    with pytest.raises(EditError, match=re.escape(seen)) as error:
        put(text)
    number = re.match(rf"{PATH}, line (\d+): .+\. \S.*\.$", str(error.value))
    assert number, str(error.value)
    assert where in text.split("\n")[int(number[1]) - 1]
    if where and where in PLAIN + text:
        assert int(number[1]) == line(text, where)


@pytest.mark.parametrize("line", ["    <<: *x\n", "    extends: {service: a}\n"])
def test_what_is_merged_in_is_not_told_to_be_a_command(line):
    with pytest.raises(EditError, match="What it brings in can't be seen here") as error:
        put(PLAIN + line)
    assert "command for itself" not in str(error.value)


def test_a_line_of_the_operators_between_the_marks_is_not_removed():
    text = put(PLAIN).replace(f"    {END}", f"    environment: {{PASSWORD: hunter2}}\n    {END}")
    with pytest.raises(EditError, match="line 5: it is between the marks") as error:
        compose_file.without_command(text, PATH)
    assert "hunter2" not in str(error.value)


# What Compose makes of it

MOUNT = {"type": "bind", "source": "/var/lib/marzban", "target": "/var/lib/marzban"}
CONFIG: dict = {
    "services": {
        "marzban": {"image": "gozargah/marzban:latest", "command": None, "entrypoint": None, "volumes": [MOUNT]},
        "db": {"image": "mariadb", "command": ["x"], "environment": {"MYSQL_PASSWORD": "hunter2"}},
    }
}
PLACE = compose_file.find(PLAIN, PATH)


def config(**changes):
    answer = copy.deepcopy(CONFIG)
    answer["services"]["marzban"].update(changes)
    return answer


def test_the_base_is_accepted():
    compose_file.check_base(config(), PLACE, PATH, DIRECTORY)
    compose_file.check_base(
        config(volumes=[{**MOUNT, "source": "/var/lib/", "target": "/var/lib"}]), PLACE, PATH, DIRECTORY
    )


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"command": ["python"]}, "gets its command from elsewhere"),
        ({"entrypoint": ["python"]}, "gets its entrypoint from elsewhere"),
        ({"volumes": []}, "does not have the host's /var/lib/marzban/tunnels at the same place"),
        ({"volumes": None}, "at the same place"),
        ({"volumes": [{**MOUNT, "source": "/srv"}]}, "at the same place"),
        ({"volumes": [{**MOUNT, "type": "volume"}]}, "at the same place"),
        ({"volumes": [{**MOUNT, "target": "/var/lib/marz", "source": "/var/lib/marz"}]}, "at the same place"),
        ({"volumes": [MOUNT, {**MOUNT, "target": DIRECTORY, "source": "/srv"}]}, "at the same place"),
        ({"image": "other"}, "Compose finds Marzban's image in no service"),
    ],
)
def test_a_base_that_can_not_serve(changes, seen):
    with pytest.raises(EditError, match=re.escape(seen)) as error:
        compose_file.check_base(config(**changes), PLACE, PATH, DIRECTORY)
    assert str(error.value).startswith(f"{PATH}, line 3: ")


def test_a_second_service_by_an_alias_is_seen():
    two = config()
    two["services"]["copy"] = {"image": "gozargah/marzban"}
    with pytest.raises(EditError, match="Compose finds Marzban's image in 'marzban', 'copy'"):
        compose_file.check_base(two, PLACE, PATH, DIRECTORY)


def test_a_change_of_more_than_the_command():
    good = config(command=compose_file.command(DIRECTORY))
    compose_file.check_change(config(), good, PLACE, PATH, DIRECTORY)
    other = copy.deepcopy(good)
    other["services"]["db"]["command"] = None
    for bad in (other, config(), config(command=["x"]), {**good, "name": "x"}, {}):
        with pytest.raises(EditError, match="would change more") as error:
            compose_file.check_change(config(), bad, PLACE, PATH, DIRECTORY)
        assert "hunter2" not in str(error.value)


# Where the panel is asked

TLS = {"UVICORN_SSL_CERTFILE": "/c", "UVICORN_SSL_KEYFILE": "/k"}


@pytest.mark.parametrize(
    ("environment", "url", "socket"),
    [
        ({}, "http://127.0.0.1:8000", None),
        ({"UVICORN_HOST": "203.0.113.1", "UVICORN_PORT": "8443"}, "http://127.0.0.1:8443", None),
        ({**TLS, "UVICORN_HOST": "0.0.0.0"}, "https://127.0.0.1:8000", None),
        ({**TLS, "UVICORN_HOST": "203.0.113.1"}, "https://203.0.113.1:8000", None),
        ({**TLS, "UVICORN_HOST": "fd00::1"}, "https://[fd00::1]:8000", None),
        ({"UVICORN_SSL_CERTFILE": "/c"}, "http://127.0.0.1:8000", None),
        ({"UVICORN_UDS": "/run/m.sock"}, "http://localhost", "/run/m.sock"),
        ({**TLS, "UVICORN_UDS": "/run/m.sock"}, "https://localhost", "/run/m.sock"),
        ({"UVICORN_UDS": ""}, "http://127.0.0.1:8000", None),
    ],
)
def test_where_it_is_asked(environment, url, socket):
    assert compose_file.address(environment) == (url, socket)


def test_where_it_is_asked_through_a_published_port():
    ports = [{"target": 9000, "published": "1"}, {"target": 8000, "published": "8080", "host_ip": "203.0.113.7"}]
    assert compose_file.address(TLS, compose_file.mapping({"ports": ports})) == ("https://203.0.113.7:8080", None)
    assert compose_file.address({"UVICORN_PORT": "9000"}, compose_file.mapping({"ports": ports})) == (
        "http://127.0.0.1:1",
        None,
    )
    assert compose_file.socket_on_host("/data/m.sock", {"volumes": [{**MOUNT, "target": "/data"}]}) == (
        "/var/lib/marzban/m.sock"
    )


def test_a_port_that_is_none():
    with pytest.raises(Error, match="UVICORN_PORT: 'x' is not a port"):
        compose_file.address({"UVICORN_PORT": "x"})
