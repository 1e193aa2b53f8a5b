# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The certificate of the embedded panel: made, renewed, and readable by the user that the panel runs as."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from marzban_tunnels.standalone import certificate, cli

NAMES = ["127.0.0.1", "panel.example.org", "::1"]
FILES = ["ca-key.pem", "ca.pem", "server-key.pem", "server.pem"]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def read(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / name).read_bytes())


def owners(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_uid for path in directory.iterdir()}


@contextmanager
def nobody() -> Iterator[None]:
    """This process as a user who owns nothing."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_it_is_kept_while_it_serves(tmp_path: Path) -> None:
    assert certificate.ensure(tmp_path, NAMES) == "made"
    assert certificate.ensure(tmp_path, NAMES[:2]) == "kept"
    covered = read(tmp_path, "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert covered.get_values_for_type(x509.DNSName) == ["panel.example.org"]
    assert [str(address) for address in covered.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name in FILES:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == (0o600 if "key" in name else 0o644)


def test_controllers_go_on_to_trust_a_renewed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate.ensure(tmp_path, NAMES)
    trusted = read(tmp_path, "ca.pem")
    assert certificate.ensure(tmp_path, [*NAMES, "other.example.org"]) == "renewed"
    monkeypatch.setattr(certificate, "_DAYS", timedelta(days=20))
    assert certificate.ensure(tmp_path, ["third.example.org"]) == "renewed"
    monkeypatch.undo()
    assert certificate.ensure(tmp_path, ["third.example.org"]) == "renewed", "in its last 30 days"
    renewed = read(tmp_path, "server.pem")
    renewed.verify_directly_issued_by(trusted)
    assert renewed.not_valid_after_utc - datetime.now(UTC) > timedelta(days=800)
    assert certificate.ensure(tmp_path, ["third.example.org"]) == "kept"


def test_no_certificate_outlives_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_CA_DAYS", timedelta(days=100))
    certificate.ensure(tmp_path, NAMES)
    trusted = read(tmp_path, "ca.pem")
    assert read(tmp_path, "server.pem").not_valid_after_utc == trusted.not_valid_after_utc
    monkeypatch.setattr(certificate, "_CA_DAYS", timedelta(days=50))
    (tmp_path / "ca.pem").unlink()
    assert certificate.ensure(tmp_path, NAMES) == "made"
    assert certificate.ensure(tmp_path, [*NAMES, "other.example.org"]) == "made", "the authority is near its end"


@pytest.mark.parametrize("lost", ["ca.pem", "ca-key.pem"])
def test_an_authority_that_cannot_sign_is_replaced(tmp_path: Path, lost: str) -> None:
    """ca-key.pem is missing where version 0.2.0 has made the certificate."""
    certificate.ensure(tmp_path, NAMES)
    (tmp_path / lost).unlink()
    assert certificate.ensure(tmp_path, [*NAMES, "other.example.org"]) == "made"
    read(tmp_path, "server.pem").verify_directly_issued_by(read(tmp_path, "ca.pem"))
    (tmp_path / "ca.pem").write_bytes((tmp_path / "server.pem").read_bytes())
    assert certificate.ensure(tmp_path, NAMES) == "made", "ca.pem is another certificate"


@as_root
def test_the_panels_user_can_read_what_root_makes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.chown(tmp_path, NOBODY, NOBODY)
    folder = tmp_path / "made" / "tls"
    ours = {"ca.pem": NOBODY, "server.pem": NOBODY, "server-key.pem": NOBODY, "ca-key.pem": 0}
    certificate.ensure(folder, NAMES)
    assert (folder.stat().st_uid, folder.parent.stat().st_uid) == (NOBODY, NOBODY)
    assert owners(folder) == ours
    os.chown(folder / "server-key.pem", 0, 0)  # as the renewal of 0.2.0 left it
    certificate.ensure(folder, [*NAMES, "other.example.org"])
    assert owners(folder) == ours


@as_root
def test_what_the_operator_has_arranged_stays(tmp_path: Path) -> None:
    certificate.ensure(tmp_path, NAMES)
    os.chown(tmp_path / "server-key.pem", 0, 7)
    (tmp_path / "server-key.pem").chmod(0o640)
    certificate.ensure(tmp_path, [*NAMES, "other.example.org"])
    found = (tmp_path / "server-key.pem").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 7, 0o640)


@as_root
def test_a_panel_that_cannot_read_its_key_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate.ensure(tmp_path, NAMES)
    for path in (tmp_path, *(path for path in tmp_path.parents if path.name.startswith(("pytest-", "popen-")))):
        path.chmod(0o755)
    files = ["--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server-key.pem")]
    # What it imports may be for root alone: imported here, by a call that goes no further.
    assert cli.main(["serve", "--database", "x.db", "--tls-cert", "missing", "--tls-key", "missing"]) == 1
    capsys.readouterr()
    with nobody():
        assert cli.main(["serve", "--database", "x.db", *files]) == 1
    key = tmp_path / "server-key.pem"
    assert capsys.readouterr().err == (
        f"marzban_tunnels: --tls-key: the user nobody may not read {key}: chown nobody: {key}\n"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"server-key.pem": "ca-key.pem"}, "KEY_VALUES_MISMATCH"),
        ({"server.pem": "missing.pem"}, "--tls-cert: {0}/missing.pem: No such file or directory"),
        ({"server.pem": "empty.pem"}, "--tls-cert {0}/empty.pem and --tls-key {0}/server-key.pem: "),
    ],
)
def test_a_panel_with_wrong_files_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, str], message: str
) -> None:
    certificate.ensure(tmp_path, NAMES)
    (tmp_path / "empty.pem").touch()
    names = [wrong.get(name, name) for name in ("server.pem", "server-key.pem")]
    files = ["--tls-cert", str(tmp_path / names[0]), "--tls-key", str(tmp_path / names[1])]
    assert cli.main(["serve", "--database", str(tmp_path / "x.db"), *files]) == 1
    error = capsys.readouterr().err
    assert message.format(tmp_path) in error
    assert error.count("\n") == 1
