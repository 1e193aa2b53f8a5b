# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for the docker command, for hosts that can't run containers: of "docker compose" what the role panel and
Marzban's own script call. A service's "container" is a process of this host in /code, with the environment that the
file says and with what the image would run: IMAGE, or what is in image.json. Whatever is called is written down in
/var/log/docker-stand-in.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.append("/usr/local/lib/docker-stand-in")  # PyYAML, which hosts don't have
import yaml

STATE = Path("/run/docker-stand-in")
IMAGE = ["bash", "-c", "alembic upgrade head; python main.py"]
OTHER_IMAGE = Path("/usr/local/lib/docker-stand-in/image.json")
BIN = "/usr/local/lib/docker-stand-in/bin"  # the image's programs


def env_file(path):
    answer = {}
    for line in path.read_text().splitlines():
        found = re.match(r"""\s*([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^#]*))""", line)
        if found:
            answer[found[1]] = next(text for text in found.groups()[1:] if text is not None).strip()
    return answer


def as_list(value):
    return [] if value is None else [value] if isinstance(value, str) else value


def read(file, directory):
    """The file as Compose writes it out."""
    config = yaml.safe_load(sys.stdin if file == "-" else Path(file).read_text())
    for service in config["services"].values():
        environment = {}
        for item in as_list(service.pop("env_file", None)):
            environment.update(env_file(directory / item))
        given = service.get("environment") or {}
        environment.update(given if isinstance(given, dict) else dict(item.partition("=")[::2] for item in given))
        service["environment"] = {name: str(value).replace("$", "$$") for name, value in environment.items()}
        for key in ("command", "entrypoint"):
            value = service.get(key)
            service[key] = shlex.split(value) if isinstance(value, str) else value
        parts = [item.split(":") for item in service.get("volumes") or []]
        service["volumes"] = [{"type": "bind", "source": part[0], "target": part[1]} for part in parts]
    return config


def environment_of(service):
    values = {name: value.replace("$$", "$") for name, value in service["environment"].items()}
    return {"PATH": f"{BIN}:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **values}


def pid_of(name):
    """The process of a service that runs, or None."""
    try:
        pid = int((STATE / f"{name}.pid").read_text())
        return None if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" else pid
    except (OSError, ValueError):
        return None


def down(name):
    pid = pid_of(name)
    if pid:
        os.killpg(pid, signal.SIGTERM)
        while pid_of(name):
            time.sleep(0.01)
    for path in STATE.glob(f"{name}.*"):
        path.unlink()


def up(name, service, again):
    wanted = json.dumps(service)
    kept = STATE / f"{name}.json"
    if pid_of(name) and not again and kept.read_text() == wanted:
        return
    down(name)
    kept.write_text(wanted)
    if "gozargah/marzban" not in service["image"]:
        command = ["sleep", "infinity"]
    else:
        image = json.loads(OTHER_IMAGE.read_text()) if OTHER_IMAGE.exists() else IMAGE
        command = [*(service["entrypoint"] or []), *(service["command"] or image)]
    with (STATE / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd="/code",
            env=environment_of(service),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / f"{name}.pid").write_text(str(process.pid))


def main(words):
    with open("/var/log/docker-stand-in", "a", encoding="utf-8") as log:
        log.write(shlex.join(words) + "\n")
    STATE.mkdir(exist_ok=True)
    assert words[:1] == ["compose"], "only docker compose is known here"
    words = words[1:]
    given = {}
    while words[0].startswith("-"):
        flag = words.pop(0)
        given[flag] = words.pop(0)
    assert given.pop("-p") == "marzban"
    file = given.pop("-f")
    directory = Path(given.pop("--project-directory", None) or Path(file).parent)
    assert not given, given
    verb, flags = words.pop(0), set()
    valued = {"--tail": "", "--format": "", "--entrypoint": ""}
    while words and words[0].startswith("-"):
        flag = words.pop(0)
        if flag in valued:
            valued[flag] = words.pop(0)
        else:
            flags.add(flag)
    try:
        config = read(file, directory)
    except Exception as error:
        print(f"the stand-in for docker can't read {file}: {error!r}", file=sys.stderr)
        return 1
    services = config["services"]
    if verb == "config":
        assert valued["--format"] == "json"
        print(json.dumps(config))
    elif verb == "pull":
        assert not flags
    elif verb == "down":
        for path in STATE.glob("*.json"):
            down(path.stem)
    elif verb == "up":
        assert flags <= {"-d", "--detach", "--no-deps", "--force-recreate", "--remove-orphans"}
        assert flags & {"-d", "--detach"}
        for name in words or services:
            up(name, services[name], "--force-recreate" in flags)
    elif verb == "logs":
        assert flags == {"--no-color", "--no-log-prefix"}
        print("\n".join((STATE / f"{words[0]}.log").read_text().splitlines()[-int(valued["--tail"]) :]))
    elif verb in ("exec", "run"):
        assert flags == ({"-T"} if verb == "exec" else {"-T", "--rm", "--no-deps"})
        name, *command = words
        command[:0] = [valued["--entrypoint"]] if valued["--entrypoint"] else []
        if verb == "exec" and not pid_of(name):
            print(f'service "{name}" is not running', file=sys.stderr)
            return 1
        return subprocess.run(command, cwd="/code", env=environment_of(services[name]), check=False).returncode
    else:
        raise AssertionError(f"unknown here: {verb}")
    return 0


sys.exit(main(sys.argv[1:]))
