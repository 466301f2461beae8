"""Keys and certificates of a private service: one authority, a server, any number of clients, and one-session pairs.

Long-term certificates identify the two machines on the control channel. The engine's own links get a fresh self-signed pair
per session and party, exchanged over that channel and trusted for that session alone: so a client of the same authority can
neither join nor imitate a party of somebody else's session, and a worker never holds the server's long-term key.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hushlm.private.engine import TlsFiles

__all__ = [
    "SessionCertificate",
    "add_client",
    "client_context",
    "create_keys",
    "create_session_certificate",
    "load_keys",
    "server_context",
    "write_private",
]

AUTHORITY, SERVER, CLIENT = "authority", "server", "client"
MAXIMUM_DAYS = 3650
SESSION_DAYS = 2
"""A session certificate outlives no session that is worth having."""
CLOCK_TOLERANCE = datetime.timedelta(hours=1)
"""Certificates are valid from this long ago, for peers whose clock is behind."""


@dataclass(frozen=True)
class SessionCertificate:
    """One party's pair for the engine's links of one session.

    Attributes:
        certificate: file, PEM; the peer trusts exactly this one.
        private_key: file, PEM, readable by its owner only.
        text: the certificate's PEM, to be sent to the peer.
    """

    certificate: Path
    private_key: Path
    text: str

    def tls_files(self, peer: str) -> TlsFiles:
        """For the engine's channel: this pair, and the peer's certificate as the only one to be trusted.

        Args:
            peer: PEM of the peer's session certificate.

        Raises:
            ValueError: if `peer` is not one certificate in PEM.
        """
        try:
            [trusted] = x509.load_pem_x509_certificates(peer.encode())
        except ValueError as error:
            raise ValueError("The peer's certificate for the engine's link is not one certificate in PEM.") from error
        path = self.certificate.with_name("peer.pem")
        path.write_bytes(_pem(trusted))
        return TlsFiles(self.certificate, self.private_key, path)


def create_keys(folder: Path, hosts: Sequence[str], days: int = 365, now: datetime.datetime | None = None) -> None:
    """Write an authority, a server's and a client's certificate: `authority.pem`, `server.pem`, `client.pem`, each with its `.key`.

    A server needs authority.pem, server.pem and server.key; a client authority.pem, client.pem and client.key. Whoever has
    authority.key can let anybody in: keep it off both machines.

    Args:
        folder: must not hold keys yet.
        hosts: names and IP addresses under which clients will reach the server.
        days: validity.
        now: start of validity; the present by default.

    Raises:
        ValueError: one sentence, for an unusable host, days out of range, or a folder with keys.
    """
    names = [_general_name(host) for host in hosts]
    if not names:
        raise ValueError("Give at least one --host: the name or IP address under which clients will reach the server.")
    if not 1 <= days <= MAXIMUM_DAYS:
        raise ValueError(f"Certificates can be valid for 1 to {MAXIMUM_DAYS} days, not {days}.")
    if (folder / f"{AUTHORITY}.pem").exists() or (folder / f"{AUTHORITY}.key").exists():
        raise ValueError(f"{folder} holds keys already: choose another folder, or delete that one if no machine uses them any more.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    start = now or _now()
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _key_usage(signs_certificates=True)
    builder = _builder("hushlm authority", "hushlm authority", key.public_key(), start, days)
    authority = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, AUTHORITY, authority, key)
    _issue(folder, SERVER, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, start, days)
    _issue(folder, CLIENT, CLIENT, [], ExtendedKeyUsageOID.CLIENT_AUTH, start, days)


def add_client(folder: Path, name: str, days: int = 365, now: datetime.datetime | None = None) -> None:
    """Write `NAME.pem` and `NAME.key` for one more client, signed by the authority of `folder`.

    Raises:
        ValueError: one sentence, if the folder has no authority, the name is unusable or taken, or the days are out of range.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or name in (AUTHORITY, SERVER):
        raise ValueError(
            f"A client's name may have ASCII letters, digits, - and _, and not be {AUTHORITY} or {SERVER}: {name!r} will not do."
        )
    if (folder / f"{name}.pem").exists():
        raise ValueError(f"{folder} has a certificate for {name} already: choose another name.")
    if not 1 <= days <= MAXIMUM_DAYS:
        raise ValueError(f"Certificates can be valid for 1 to {MAXIMUM_DAYS} days, not {days}.")
    _issue(folder, name, name, [], ExtendedKeyUsageOID.CLIENT_AUTH, now or _now(), days)


def load_keys(folder: Path, name: str) -> TlsFiles:
    """The files of one party, looked at before a connection is tried, because TLS's own messages say little.

    Args:
        folder: from `create_keys`, or the three files of this party.
        name: "server", "client", or the client's own name.

    Raises:
        ValueError: one sentence: missing, unreadable, expired, not from this authority, not matching, or a key that others can read.
    """
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / f"{AUTHORITY}.pem")
    for path in (files.certificate, files.private_key, files.authority):
        if not path.is_file():
            raise ValueError(
                f"There is no {path}: make keys with `hushlm keys create FOLDER --host HOST` and copy this party's files here."
            )
    if files.private_key.stat().st_mode & 0o077:
        raise ValueError(f"{files.private_key} can be read by other users: chmod 600 it, and make new keys if somebody may have read it.")
    certificate, authority = _read_certificate(files.certificate), _read_certificate(files.authority)
    now = _now()
    for path, found in ((files.certificate, certificate), (files.authority, authority)):
        if now > found.not_valid_after_utc:
            raise ValueError(f"{path} expired on {found.not_valid_after_utc:%Y-%m-%d}: make new keys with `hushlm keys`.")
        if now < found.not_valid_before_utc:
            raise ValueError(f"{path} is not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check this machine's clock.")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ValueError(f"{files.certificate} was not signed by {files.authority}: copy both from the same keys.") from error
    try:
        key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{files.private_key} is not an unencrypted private key in PEM.") from error
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{files.private_key} does not belong to {files.certificate}: copy both from the same keys.")
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or later; a client without a certificate of the authority, for clients, is refused."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.authority))
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_identity(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or later; trusts only the authority's servers, and only under the names in their certificates."""
    return _with_identity(ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.authority)), files)


def create_session_certificate(folder: Path, now: datetime.datetime | None = None) -> SessionCertificate:
    """A fresh pair for one session, in files because the engine reads files.

    Args:
        folder: private to this user, removed after the session.
        now: start of validity; the present by default.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("hushlm session", "hushlm session", key.public_key(), now or _now(), SESSION_DAYS)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    paths = _write_pair(folder, "session", certificate, key)
    return SessionCertificate(*paths, _pem(certificate).decode())


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only this user can read, from its first byte on.

    Raises:
        FileExistsError: if it is there already.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _with_identity(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.private_key)
    return context


def _issue(
    folder: Path,
    file: str,
    common_name: str,
    hosts: list[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    start: datetime.datetime,
    days: int,
) -> None:
    authority, path = _read_certificate(folder / f"{AUTHORITY}.pem"), folder / f"{AUTHORITY}.key"
    if not path.is_file():
        raise ValueError(f"There is no {path}: only a folder with the authority's private key can make certificates.")
    signer = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(common_name, "hushlm authority", key.public_key(), start, days)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    assert authority.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hushlm authority")])
    _write_pair(folder, file, builder.sign(signer, hashes.SHA256()), key)


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey, start: datetime.datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_TOLERANCE)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        if not host or len(host) > 64 or not all(label and label.replace("-", "").isalnum() for label in host.split(".")):
            raise ValueError(host)
        return x509.DNSName(host)
    except ValueError as error:
        raise ValueError(f"{host!r} is neither a host name nor an IP address: give it without a port.") from error


def _read_certificate(path: Path) -> x509.Certificate:
    if not path.is_file():
        raise ValueError(f"There is no {path}: make keys with `hushlm keys create FOLDER --host HOST`.")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a certificate in PEM.") from error


def _write_pair(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
    private = folder / f"{name}.key"
    form = serialization.PrivateFormat.PKCS8
    write_private(private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public = folder / f"{name}.pem"
    public.write_bytes(_pem(certificate))
    return public, private


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
