# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""TLS to a node: what counts is the public key of its certificate. Dates and names don't matter."""

from __future__ import annotations

import base64
import hashlib
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def pin_of(certificate: bytes) -> str:
    """``sha256:<base64>`` of the SubjectPublicKeyInfo of a certificate in DER. Raises ValueError."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # cryptography has many for what a stranger sends
        raise ValueError(f"its certificate can't be read: {type(error).__name__}") from None
    return "sha256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode()


def context(certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """A client's context that checks no chain: the pin is compared after the handshake, before anything is sent.
    ``certificate`` is a client certificate and its key, as PEM texts."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        with tempfile.TemporaryDirectory(prefix="marzban-tunnels-") as folder:  # 0700; ssl reads files only
            path = Path(folder, "client.pem")
            path.touch(0o600)
            path.write_text("\n".join(certificate))
            made.load_cert_chain(path)
    return made
