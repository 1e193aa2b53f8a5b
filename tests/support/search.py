# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds a secret in whatever form it got somewhere: as raw bytes, base64, hex, escaped, and in zipped modules."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import stat
import subprocess
import threading
import weakref
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# What Ansible wraps a module in, with its arguments or without: a zip file in base64.
_PAYLOAD = re.compile(rb"[A-Za-z0-9+/\n]{400,}={0,2}")
#: Bytes of a text from which on grep is quicker: it looks for all secrets at once, but has to be started.
LARGE = 1 << 16
#: Bytes that are searched at once.
BATCH = 1 << 24


def _base64_anywhere(data: bytes) -> Iterator[bytes]:
    """What base64 makes of ``data`` at each of its three places in a longer text, less what its neighbours change."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).rstrip(b"=")
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        yield text[first:last]


def forms(data: bytes) -> dict[str, bytes]:
    """The forms in which ``data`` may be somewhere; base64 without padding, so that it is found with it too."""
    found = {
        "raw": data,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "repr": repr(data)[2:-1].encode(),
    }
    for place, text in enumerate(_base64_anywhere(data)):
        found[f"base64 at {place}"] = text
        found[f"urlsafe base64 at {place}"] = text.translate(bytes.maketrans(b"+/", b"-_"))
        found[f"base64 at {place}, slashes escaped"] = text.replace(b"/", rb"\/")
        found[f"base64 at {place}, in JSON for HTML"] = text.replace(b"+", rb"\u002b").replace(b"/", rb"\u002f")
        found[f"base64 at {place}, quoted"] = quote(text, safe="").encode()
    for codec, errors in (("latin-1", "strict"), ("utf-8", "surrogateescape"), ("utf-8", "replace")):
        text = json.dumps(data.decode(codec, errors))[1:-1].encode()
        if text.count(rb"\ufffd") < 4:  # what is mostly replaced can't be told from other rubbish
            found[f"JSON, {codec}, {errors}"] = text
    found["numbers"] = ", ".join(map(str, data)).encode()
    found["numbers in JSON"] = ",".join(map(str, data)).encode()
    return found


def key_forms(text: bytes) -> dict[str, bytes]:
    """The forms of a WireGuard key, given as the base64 that its file holds: of the 32 bytes, and of that text."""
    raw = base64.b64decode(text, validate=True)
    assert len(raw) == 32
    return {**forms(raw), **{f"the text's {form}": data for form, data in forms(text.rstrip(b"=")).items()}}


def secret_forms(content: bytes) -> dict[str, bytes]:
    """The forms of what a file of secrets holds: a key in base64, a private key in PEM, or OpenVPN's static key."""
    if b"PRIVATE KEY" in content:
        return pem_forms(content)
    if b"OpenVPN Static key" in content:
        lines = re.findall(rb"^[0-9a-f]{32}$", content, re.MULTILINE)
        assert len(lines) == 16
        return {
            f"line {n}'s {form}": data
            for n, line in enumerate(lines)
            for form, data in forms(bytes.fromhex(line.decode())).items()
        }
    return key_forms(content.strip()[:44])


def pem_forms(content: bytes) -> dict[str, bytes]:
    """Of the private key in a text: its number, and the lines that hold nothing else."""
    block = re.search(rb"-----BEGIN PRIVATE KEY-----\n.*?\n-----END PRIVATE KEY-----\n", content, re.DOTALL)
    assert block
    key = serialization.load_pem_private_key(block[0], password=None)
    if isinstance(key, Ed25519PrivateKey):
        raw = key.private_bytes_raw()
    else:
        assert isinstance(key, EllipticCurvePrivateKey)
        raw = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    body = [line for line in block[0].splitlines() if b"-----" not in line]
    return {**forms(raw), **{f"PEM line {n}": line for n, line in enumerate(body) if n and len(line) >= 12}}


class Searcher:
    """``secrets`` is ``{what it is: {form: bytes}}``."""

    def __init__(self, secrets: dict[str, dict[str, bytes]]) -> None:
        self._needles: dict[bytes, str] = {}
        for what, shapes in secrets.items():
            for form, data in shapes.items():
                assert len(data) >= 12, f"{what}, {form}: too short to mean anything"
                self._needles.setdefault(data, f"{what} ({form})")
        self._odd = [data for data in self._needles if b"\n" in data or b"\0" in data]  # can't be a line of grep's
        lines = sorted(self._needles.keys() - set(self._odd))
        # Not a file, which would be found.
        self._lines = os.memfd_create("needles")
        weakref.finalize(self, os.close, self._lines)
        with os.fdopen(os.dup(self._lines), "wb") as out:
            out.write(b"".join(line + b"\n" for line in lines))

    def find(self, blob: bytes | str) -> set[str]:
        """Which secrets are in ``blob``, and in what form."""
        if isinstance(blob, str):
            blob = blob.encode("utf-8", "surrogateescape")
        found = self._plain(blob)
        for inner in _unpacked(blob):
            found |= {f"{what}, packed" for what in self._plain(inner)}
        return found

    def _plain(self, blob: bytes) -> set[str]:
        """The same, without looking into what is packed."""
        if len(blob) >= LARGE and not self._holds_any(blob):
            return set()
        return {what for data, what in self._needles.items() if data in blob}

    def _holds_any(self, blob: bytes) -> bool:
        """Whether any secret is in it: a tenth of the time that the search for one after the other takes."""
        return bool(self._grep(blob, "--max-count=1")) or any(data in blob for data in self._odd)

    def _grep(self, blob: bytes, *options: str) -> bytes:
        command = ["grep", "--text", "--fixed-strings", f"--file=/proc/self/fd/{self._lines}", *options]
        env = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
        done = subprocess.run(command, input=blob, env=env, pass_fds=[self._lines], check=False, capture_output=True)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def find_in(self, *folders: Path, since: float = 0, leave_out: Iterable[Path] = ()) -> dict[Path, set[str]]:
        """The plain files below ``folders`` that hold a secret, in their name or their content.

        Those last changed before ``since`` are left out, and what is below ``leave_out``.
        """
        return self.find_in_files(files(folders, since, leave_out))

    def find_in_files(self, paths: Iterable[Path]) -> dict[Path, set[str]]:
        """The same of these files."""
        found = {}
        for batch in _batches(paths):
            for path in self._suspects(batch):
                name, content, *_unpacked = batch[path]
                there = self.find(name) | self.find(content)
                if there:
                    found[path] = there
        return found

    def _suspects(self, batch: dict[Path, list[bytes]]) -> set[Path]:
        """The files of a batch that hold any secret. One search goes through all of them; a search of each file for one
        secret after the other takes a hundred times as long."""
        owners = [path for path, blobs in batch.items() for _blob in blobs]
        blobs = [blob for blobs in batch.values() for blob in blobs]
        ends = list(accumulate(len(blob) + 1 for blob in blobs))
        return {owners[bisect_right(ends, place)] for place in self._places(b"\n".join(blobs))}

    def _places(self, text: bytes) -> Iterator[int]:
        """Where in the text a secret begins; of those that overlap, the first one at least."""
        for line in self._grep(text, "--only-matching", "--byte-offset").splitlines():
            yield int(line.partition(b":")[0])
        for data in self._odd:
            place = text.find(data)
            while place >= 0:
                yield place
                place = text.find(data, place + 1)


def _batches(paths: Iterable[Path]) -> Iterator[dict[Path, list[bytes]]]:
    """Of each file its name, its content, and what is packed in it; as many files at once as one search is worth."""
    batch: dict[Path, list[bytes]] = {}
    size = 0
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            continue  # gone in the meantime
        batch[path] = [os.fsencode(path), content, *_unpacked(content)]
        size += sum(map(len, batch[path]))
        if size > BATCH:
            yield batch
            batch, size = {}, 0
    yield batch


def files(folders: Iterable[Path], since: float = 0, leave_out: Iterable[Path] = ()) -> Iterator[Path]:
    """Plain files below ``folders``; no link is followed."""
    skipped = {str(path) for path in leave_out}
    for top in folders:
        for folder, names, plain in os.walk(top):
            names[:] = [name for name in names if os.path.join(folder, name) not in skipped]
            for name in plain:
                path = Path(folder, name)
                try:
                    seen = path.lstat()
                except OSError:
                    continue
                if (
                    stat.S_ISREG(seen.st_mode)
                    and max(seen.st_mtime, seen.st_ctime) >= since
                    and str(path) not in skipped
                ):
                    yield path


def _unpacked(blob: bytes) -> Iterator[bytes]:
    """What is compressed in ``blob``: a gzip or zip file, or modules that Ansible has wrapped."""
    if blob[:2] == b"\x1f\x8b":
        try:
            yield gzip.decompress(blob)
        except (OSError, EOFError, zlib.error):
            return
    for zipped in ([blob] if blob[:2] == b"PK" else []) + [
        base64.b64decode(text) for text in _PAYLOAD.findall(blob) if text.startswith(b"UEsD") and len(text) % 4 == 0
    ]:
        try:
            with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
                for name in archive.namelist():
                    yield archive.read(name)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError):
            continue


class Processes:
    """Collects what all processes of this machine, those in the hosts too, show: their words and environment."""

    #: A process is read so many times, from its first moment on: by then it runs what it was started for.
    READ = 10

    def __init__(self, interval: float = 0.1) -> None:
        self.words: set[bytes] = set()
        self.hosts_environments: set[bytes] = set()  # of processes in a host
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        self._here = os.readlink("/proc/self/ns/pid")

    def _collect(self) -> None:
        read: dict[str, int] = {}
        while not self._end.wait(self._interval):
            there = filter(str.isdigit, os.listdir("/proc"))
            read = {number: read.get(number, 0) + 1 for number in there}
            for number in (number for number, times in read.items() if times <= self.READ):
                try:
                    self.words.add(Path("/proc", number, "cmdline").read_bytes())
                    if os.readlink(f"/proc/{number}/ns/pid") != self._here:
                        self.hosts_environments.add(Path("/proc", number, "environ").read_bytes())
                except OSError:
                    continue  # it has ended

    def __enter__(self) -> Processes:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
