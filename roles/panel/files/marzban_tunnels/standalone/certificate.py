# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A certificate for a panel that has none: a CA of its own, and one server certificate, which is renewed by that CA, so
that controllers go on to trust it."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA, CA_KEY, CERTIFICATE, KEY = "ca.pem", "ca-key.pem", "server.pem", "server-key.pem"
_DAYS = timedelta(days=825)  # the most that Apple's systems take of a server's certificate
_CA_DAYS = timedelta(days=3650)
_RENEW = timedelta(days=30)  # before the end
_CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "marzban_tunnels CA")])
Signer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def ensure(directory: Path, names: list[str]) -> Literal["kept", "renewed", "made"]:
    """Make ca.pem, ca-key.pem, server.pem and server-key.pem in ``directory`` for these host names and addresses.

    What is there is kept when it covers the names and is good for 30 days. Else the server's certificate and key are
    renewed by the CA that is there; where it is at its end, or its key is missing, all is made again. Run by root,
    the files are given to the directory's owner, because the panel reads them as its own user; but not the CA's key,
    which the panel does not need. Raises OSError.
    """
    wanted = [_general(name) for name in names]
    if _fits(directory, wanted):
        return "kept"
    _make(directory)
    signer = _signer(directory)
    renewed = signer is not None
    authority_key, authority = signer or _new_signer(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    server = (
        _builder(subject, key.public_key(), authority_key.public_key(), _DAYS, authority.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(directory / KEY, _private(key), 0o600)
    _write(directory / CERTIFICATE, server.public_bytes(serialization.Encoding.PEM), 0o644)
    return "renewed" if renewed else "made"


def _signer(directory: Path) -> Signer | None:
    """The CA that is there, if it can sign what lasts longer than until the next renewal."""
    try:
        authority = x509.load_pem_x509_certificate((directory / CA).read_bytes())
        key = serialization.load_pem_private_key((directory / CA_KEY).read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        return None
    return (key, authority) if authority.not_valid_after_utc - datetime.now(UTC) > 2 * _RENEW else None


def _new_signer(directory: Path) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        _builder(_CA_NAME, key.public_key(), key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory / CA_KEY, _private(key), 0o600, for_panel=False)
    _write(directory / CA, authority.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, authority


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _fits(directory: Path, wanted: list[x509.GeneralName]) -> bool:
    try:
        found = x509.load_pem_x509_certificate((directory / CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((directory / KEY).read_bytes(), None)
        authority = x509.load_pem_x509_certificate((directory / CA).read_bytes())
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    except Exception:  # verify_directly_issued_by: InvalidSignature
        return False
    return (
        key.public_key() == found.public_key()
        and set(wanted) <= set(names)
        and found.not_valid_after_utc - datetime.now(UTC) > _RENEW
    )


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    lasts: timedelta,
    until: datetime | None = None,
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(minutes=5)
    end = start + lasts
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_CA_NAME)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(end, until) if until else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(**on: bool) -> x509.KeyUsage:
    flags = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{flag: on.get(flag, False) for flag in flags})


def _make(directory: Path) -> None:
    """The directory, with those above it; new ones belong to the owner of what they are in."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        above = path.parent.stat()
        _give(path, above.st_uid, above.st_gid)


def _give(path: Path, user: int, group: int) -> None:
    if os.geteuid() == 0:  # nobody else can
        os.chown(path, user, group)


def _write(path: Path, data: bytes, mode: int, for_panel: bool = True) -> None:
    """Replace a file. One ``for_panel`` is given to the owner of the former file, unless that was root, who may have
    made it by mistake, or else to the directory's; a group that could read the former one still can."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(data)
    if for_panel:
        former = path.stat() if path.exists() else None
        owner = former if former and (former.st_uid or former.st_gid) else path.parent.stat()
        _give(fresh, owner.st_uid, owner.st_gid)
        if former:
            fresh.chmod(mode | former.st_mode & stat.S_IRGRP)
    fresh.replace(path)
