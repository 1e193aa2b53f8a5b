# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Self-signed TLS certificates, each with its ECDSA P-256 key in one file, so that both are replaced at once.

``exchange`` in protocol.py decides when one is made or renewed; ``tls_keys`` deals with what was lost.

Nobody but the peer looks at one, and the peer knows it by its fingerprint: a name or an authority would say nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Any

from ..._node import files
from ..x25519 import HAS_CRYPTOGRAPHY, BrokenKey

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
except ImportError:  # what is missing is said before anything is made
    pass


FILE = "tls.pem"  # in use
NEXT = "next.pem"  # will be used once the peer lets it in
LIFE = 730  # days
RENEW = 180  # days before the end from which on there is a next one


class Certificate:
    """``fingerprint`` (64 hex digits) and ``end`` (UTC, without a zone)."""

    def __init__(self, fingerprint: str, end: datetime.datetime) -> None:
        self.fingerprint, self.end = fingerprint, end

    @property
    def days(self) -> int:
        """Whole days that are left; below 0 when it has ended."""
        return (self.end - _now()).days


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def make(folder: str, name: str = FILE, life: int = LIFE) -> Certificate:
    """Writes a new key and its certificate for ``life`` days into ``folder``; the Certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "marzban.tunnels")])
    start = _now().replace(microsecond=0)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - datetime.timedelta(days=1))  # the peer's clock may be slow
        .not_valid_after(start + datetime.timedelta(days=life))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = private + made.public_bytes(serialization.Encoding.PEM)
    files.write(os.path.join(folder, name), text.decode("ascii"))
    return _seen(made)


def load(folder: str, name: str = FILE) -> Certificate | None:
    """The Certificate in ``folder``, or None. Raises BrokenKey, which shows nothing of what was read."""
    path = os.path.join(folder, name)
    text = files.read(path)
    if text is None:
        return None
    try:
        found = x509.load_pem_x509_certificate(text.encode("ascii"))
        key = serialization.load_pem_private_key(text.encode("ascii"), None)
    except (ValueError, TypeError, UnicodeError):
        raise _broken(path, "it holds no key with its certificate") from None
    if _spki(found.public_key()) != _spki(key.public_key()):
        raise _broken(path, "its key is not that of its certificate")
    return _seen(found)


def usable(folder: str, name: str = FILE) -> Certificate | None:
    """The Certificate in ``folder``, or None where it is lost or broken (what runs may have it still).

    None too where ``cryptography`` is missing.
    """
    if not HAS_CRYPTOGRAPHY:
        return None
    with contextlib.suppress(BrokenKey):
        return load(folder, name)
    return None


def switch(folder: str) -> None:
    """From now on the next one is in use."""
    files.rename(os.path.join(folder, NEXT), os.path.join(folder, FILE))


def _spki(public: Any) -> bytes:
    der: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der


def _seen(certificate: x509.Certificate) -> Certificate:
    end = getattr(certificate, "not_valid_after_utc", None)  # cryptography 42 warns of the other one
    end = certificate.not_valid_after if end is None else end.replace(tzinfo=None)
    return Certificate(certificate.fingerprint(hashes.SHA256()).hex(), end)


def _broken(path: str, why: str) -> BrokenKey:
    return BrokenKey(
        "The TLS key in %s can't be used: %s. Put the right one back, or make new keys with tunnel_keys and "
        "regenerate: if_invalid (the other end then needs a run too)." % (path, why)
    )
