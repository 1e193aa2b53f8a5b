# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node service's files: what the controller sends, the settings, and the certificate that is made on the node."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
import re
from typing import Any

from .._errors import Error
from .._node import files, kept
from . import package

CODE = "/usr/local/lib/marzban-node"
MARZBAN = "/etc/marzban"
SETTINGS, STATE = os.path.dirname(kept.SETTINGS), kept.PLACE
RUN = "/run/marzban-node"
PENDING = os.path.join(SETTINGS, "pending.json")  # units that what is in place now does not run in yet
FOLDERS = os.path.join(SETTINGS, "folders.json")  # that were made for TUNNEL_CONFIG_DIR
UNITS = ("marzban-node-root.socket", "marzban-node-root.service", "marzban-node-front.service")
SOCKET, ROOT, FRONT = UNITS
_FRONT_ONLY = re.compile(r"front\.py\Z|marzban_node/front[a-z_]*\.py\Z")
_BLOCK = re.compile(r"^# (\S+)\n(.*?END CERTIFICATE-----\n)", re.MULTILINE | re.DOTALL)
SHARED = (
    "The node service of this host serves other panels as well (%s), and works with %s. There is one service for all "
    "of them: set these variables alike, or change it for all with -e node_api_all_panels=true, and run "
    "marzban.tunnels.node_api from each of them. Nothing was changed."
)
LACKS_CRYPTOGRAPHY = (
    "The Python of this run has no cryptography, with which the node's certificate is made: install "
    "python3-cryptography (the role node_api does), and set ansible_python_interpreter to /usr/bin/python3."
)


class Sent:
    """What the action plugin packed: ``code``, ``units`` and ``templates``, each {name: bytes}."""

    def __init__(self, archive: str | None, engine: str | None) -> None:
        self.code: package.Files = {}
        self.units: package.Files = {}
        self.templates: package.Files = {}
        for name, content in package.unpacked(archive or "").items():
            first, _slash, rest = name.partition("/")
            if {"", ".", ".."} & set(name.split("/")):
                raise Error("The controller sent a file of the name %r." % name)
            group = {"units": self.units, "templates": self.templates}.get(first)
            if group is None:
                self.code[name] = content
            else:
                group[rest] = content
        if "front.py" not in self.code or set(self.units) != set(UNITS) or not engine:
            raise Error("The controller did not send the service: call this as marzban.tunnels.node_service.")
        self.code["version"] = (engine + "\n").encode("ascii")

    def unit(self, name: str, port: int, config_dir: str) -> str:
        """The text of a unit. The root half may write where the folders of the tunnels are made."""
        text = self.units[name].decode("utf-8").replace("@port@", str(port))
        return text.replace("@config_dir@", quoted(os.path.dirname(config_dir)))


def quoted(path: str) -> str:
    """A path in a unit's list of paths (systemd.syntax(7)), which need not be there."""
    return '"-%s"' % path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def code() -> package.Files | None:
    """The service's code as it is on this host, or None."""
    return package.read(CODE) if os.path.isdir(CODE) else None


def put_code(wanted: package.Files) -> None:
    """Replaces the folder in two renames: what runs has loaded its files, and what starts finds all or the former."""
    try:
        package.settle(CODE)
        package.write_beside(CODE, wanted)
        package.swap(CODE)
        package.settle(CODE)
    except OSError as error:
        raise Error("%s can't be written: %s." % (CODE, error.strerror)) from None


def changed_halves(before: package.Files | None, after: package.Files) -> set[str]:
    """The units whose code differs."""
    known = before or {}
    names = [name for name in {*known, *after} if known.get(name) != after.get(name)]
    return {FRONT if _FRONT_ONLY.match(name) else ROOT for name in names} | (
        {ROOT, FRONT} if "marzban_node/__init__.py" in names else set()
    )


# Settings


def panel_file(panel: str) -> str:
    """Where it is written what lets a panel in."""
    return os.path.join(SETTINGS, "panels", panel + ".json")


def panels() -> list[str]:
    """The ids of the panels that the service serves."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(name[:-5] for name in os.listdir(os.path.join(SETTINGS, "panels")) if name.endswith(".json"))
    return []


def pending() -> set[str]:
    """The units that a run did not start again, because it was cut off or one failed."""
    try:
        known = json.loads(files.read(PENDING) or "[]")
    except ValueError:
        return set(UNITS)
    return set(UNITS) & {str(name) for name in known} if isinstance(known, list) else set(UNITS)


def text_of(value: Any) -> str:
    """JSON as it is written to a file."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def check_shared(panel: str, wanted: dict[str, Any], all_panels: bool) -> None:
    """Raises Error where a panel would change what others have chosen that use this service: there is one for all.

    The engine is not chosen, and its own templates come with it.
    """
    others = [known for known in panels() if known != panel]
    if not others or all_panels:
        return
    try:
        stored = kept.settings(os.path.join(SETTINGS, "settings.json")) or {}
    except Error:  # what can't be read is written again
        return
    for name in ("port", "config_dir", "types", "post_quantum", "ipsec_data_path", "templates"):
        if name not in stored or (name == "templates" and stored.get("engine") != wanted["engine"]):
            continue
        theirs, ours = (sorted(raw) if name == "types" else raw for raw in (stored[name], wanted[name]))
        if theirs == ours:
            continue
        differ = "other templates" if name == "templates" else "%s: %s, and this run has %s" % (name, theirs, ours)
        raise Error(SHARED % (", ".join(others), differ))


def clients(panel: str, certificate: str | None) -> str:
    """The certificates of all panels (PEM, with the panel's id above), with this panel's as given."""
    known = dict(_BLOCK.findall(files.read(os.path.join(SETTINGS, "clients.pem")) or ""))
    known.pop(panel, None)
    if certificate:
        known[panel] = certificate
    return "".join("# %s\n%s" % item for item in sorted(known.items()))


def client_certificate(pem: str) -> tuple[str, str]:
    """``(PEM as OpenSSL writes it, SHA-256 of it in DER)`` of a panel's certificate. Raises Error."""
    x509, serialization = _cryptography()[:2]
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError:
        raise Error("certificate: it is not a certificate in PEM. Give it as node_access answered it.") from None
    der = certificate.public_bytes(serialization.Encoding.DER)
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"), hashlib.sha256(der).hexdigest()


# The node's own certificate


def pin() -> str | None:
    """The pin of the certificate here; None without one, or where it is damaged or not of the key."""
    texts = [files.read(os.path.join(SETTINGS, name)) for name in ("tls.crt", "tls.key")]
    if None in texts:
        return None
    x509, serialization = _cryptography()[:2]
    try:
        certificate, key = (str(text).encode("utf-8") for text in texts)
        public = x509.load_pem_x509_certificate(certificate).public_key()
        if _spki(serialization.load_pem_private_key(key, None).public_key()) != _spki(public):
            return None
    except (ValueError, TypeError):
        return None
    return "sha256:" + base64.b64encode(hashlib.sha256(_spki(public)).digest()).decode("ascii")


def make_certificate() -> None:
    """Makes key and certificate. The panel pins the key, and its dates mean nothing."""
    x509, serialization, hashes, ec = _cryptography()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "marzban-node")])
    begin = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin.replace(year=2120))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("marzban-node")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.write(os.path.join(SETTINGS, "tls.key"), secret.decode("ascii"))
    files.write(os.path.join(SETTINGS, "tls.crt"), certificate.public_bytes(encoding).decode("ascii"))


def _spki(public: Any) -> bytes:
    serialization = _cryptography()[1]
    found: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _cryptography() -> tuple[Any, Any, Any, Any]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise Error(LACKS_CRYPTOGRAPHY) from None
    return x509, serialization, hashes, ec
