"""What lies in a folder of keys: whose certificates, until when, and what is wrong with them."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hushlm.private.keys.certificates import AUTHORITY, check_issued, check_private_key, check_time
from hushlm.private.keys.pem_files import read_certificate, utc_now

__all__ = ["KeyEntry", "report_keys"]


@dataclass(frozen=True)
class KeyEntry:
    """One certificate.

    Attributes:
        file: name of the file, without .pem.
        role: "authority", "server" or "client".
        name: the name that it certifies; a server counts a client's use by it.
        hosts: names and addresses of a server; empty for the others.
        valid_until: the last moment at which it is valid.
        days_left: whole days until then; negative once it has expired.
        fingerprint: sha256 hex of the certificate.
        private_key: whether the key lies beside it.
        problem: the sentence of what is wrong, or None.
    """

    file: str
    role: str
    name: str
    hosts: tuple[str, ...]
    valid_until: datetime.datetime
    days_left: int
    fingerprint: str
    private_key: bool
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "hosts": list(self.hosts), "valid_until": self.valid_until.isoformat()}


def report_keys(folder: Path, now: datetime.datetime | None = None) -> list[KeyEntry]:
    """Every certificate of a folder, the authority's first.

    Args:
        now: the present by default.

    Raises:
        ValueError: if the folder has no authority's certificate, or a file that is none.
    """
    authority = read_certificate(folder / f"{AUTHORITY}.pem")
    paths = sorted(folder.glob("*.pem"), key=lambda path: (path.stem != AUTHORITY, path.stem))
    return [_entry(path, read_certificate(path), authority, now or utc_now()) for path in paths]


def _entry(path: Path, certificate: x509.Certificate, authority: x509.Certificate, now: datetime.datetime) -> KeyEntry:
    left = certificate.not_valid_after_utc - now
    return KeyEntry(
        file=path.stem,
        role=_role(certificate),
        name=", ".join(str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
        hosts=_hosts(certificate),
        valid_until=certificate.not_valid_after_utc,
        days_left=left.days,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        private_key=path.with_suffix(".key").is_file(),
        problem=_problem(path, certificate, authority, now),
    )


def _problem(path: Path, certificate: x509.Certificate, authority: x509.Certificate, now: datetime.datetime) -> str | None:
    key = path.with_suffix(".key")
    try:
        check_time(path, certificate, now)
        check_issued(path, certificate, path.with_name(f"{AUTHORITY}.pem"), authority)
        if key.is_file():
            check_private_key(key, path, certificate)
    except ValueError as error:
        return str(error)
    return None


def _role(certificate: x509.Certificate) -> str:
    try:
        uses = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return AUTHORITY
    return "server" if ExtendedKeyUsageOID.SERVER_AUTH in uses else "client"


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)
