# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): the certificate that it shows to its nodes, signed by its own key, and kept."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_FILES = Path("node-certificate.pem"), Path("node-key.pem")


def own_certificate() -> tuple[str, str]:
    """The certificate and its key (PEM), made at the first start."""
    if not _FILES[1].exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Gozargah")])
        today = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        made = made.serial_number(7).not_valid_before(today - datetime.timedelta(days=1))
        signed = made.not_valid_after(today + datetime.timedelta(days=365)).sign(key, hashes.SHA256())
        encoding = serialization.Encoding.PEM
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for path, text in zip(_FILES, (signed.public_bytes(encoding), private), strict=True):
            path.write_bytes(text)
    return _FILES[0].read_text(), _FILES[1].read_text()
