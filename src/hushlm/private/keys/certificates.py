"""Keys and certificates of a private service: one authority, a server, any number of clients, and one-session pairs.

Long-term certificates identify the two machines on the control channel. The engine's own links get a fresh self-signed pair
per session and party, exchanged over that channel and trusted for that session alone: so a client of the same authority can
neither join nor imitate a party of somebody else's session, and a worker never holds the server's long-term key.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hushlm.private.engine import TlsFiles
from hushlm.private.keys.pem_files import builder, encode, key_usage, read_certificate, utc_now, write_pair

__all__ = [
    "AUTHORITY",
    "CLIENT",
    "SERVER",
    "SessionCertificate",
    "add_client",
    "check_issued",
    "check_private_key",
    "check_time",
    "client_context",
    "create_keys",
    "create_session_certificate",
    "load_keys",
    "renew",
    "server_context",
]

AUTHORITY, SERVER, CLIENT = "authority", "server", "client"
MAXIMUM_DAYS = 3650
SESSION_DAYS = 2
"""How long a session's certificate is valid: longer than any session should take."""


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
        path.write_bytes(encode(trusted))
        return TlsFiles(self.certificate, self.private_key, path)


def create_keys(folder: Path, hosts: Sequence[str], days: int = 365, now: datetime.datetime | None = None) -> None:
    """Write an authority, a server's and a client's certificate: `authority.pem`, `server.pem`, `client.pem`, each with its `.key`.

    A server needs authority.pem, server.pem and server.key; a client authority.pem, client.pem and client.key. Whoever has
    authority.key can let anybody in: keep it off both machines.

    Args:
        folder: missing, or empty but for hidden files.
        hosts: names and IP addresses under which clients will reach the server.
        days: how many days the certificates are valid.
        now: when that begins; the present by default.

    Raises:
        ValueError: one sentence, for an unusable host, days out of range, or a folder that holds keys or anything else.
    """
    names = [_general_name(host) for host in hosts]
    if not names:
        raise ValueError("Give at least one --host: the name or IP address under which clients will reach the server.")
    _check_days(days)
    if (folder / f"{AUTHORITY}.pem").exists() or (folder / f"{AUTHORITY}.key").exists():
        raise ValueError(f"{folder} holds keys already: choose another folder, or delete that one if no machine uses them any more.")
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    if others:
        raise ValueError(f"{folder} holds other files ({others[0]}), and keys are kept in a folder of their own: choose another folder.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    start = now or utc_now()
    key = ec.generate_private_key(ec.SECP256R1())
    usage = key_usage(signs_certificates=True)
    unsigned = builder("hushlm authority", "hushlm authority", key.public_key(), start, days)
    authority = (
        unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    write_pair(folder, AUTHORITY, authority, key)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    write_pair(folder, SERVER, *_issue(folder, hosts[0], x509.SubjectAlternativeName(names), purpose, start, days))
    write_pair(folder, CLIENT, *_issue(folder, CLIENT, None, _FOR_CLIENTS, start, days))


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
    _check_days(days)
    write_pair(folder, name, *_issue(folder, name, None, _FOR_CLIENTS, now or utc_now(), days))


def renew(folder: Path, name: str, days: int = 365, now: datetime.datetime | None = None) -> datetime.datetime:
    """Replace `NAME.pem` and `NAME.key` by a new key and certificate for the same party: same name, hosts and purpose.

    Nothing withdraws the old certificate: it stays good until its end. Servers and clients read their files when they start.

    Returns: the end of the old certificate.

    Raises:
        ValueError: one sentence, if the folder has no authority or no such certificate, or the days are out of range.
    """
    _check_days(days)
    if name == AUTHORITY:
        raise ValueError("An authority is not renewed: make new keys in another folder, and hand them to every machine.")
    old = read_certificate(folder / f"{name}.pem")
    check_issued(folder / f"{name}.pem", old, folder / f"{AUTHORITY}.pem", read_certificate(folder / f"{AUTHORITY}.pem"))
    [common_name] = old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    purpose = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    try:
        hosts = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        hosts = None
    issued = _issue(folder, str(common_name.value), hosts, purpose, now or utc_now(), days)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        certificate, key = write_pair(Path(fresh), name, *issued)
        # If this is cut in between, `load_keys` says that the two do not belong together.
        key.replace(folder / key.name)
        certificate.replace(folder / certificate.name)
    return old.not_valid_after_utc


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
            others = sorted(key.stem for key in folder.glob("*.key") if key.stem != AUTHORITY)
            if path == files.certificate and others:
                raise ValueError(f"There is no {path}: {folder} holds the keys of {', '.join(others)}; give that name (--client NAME).")
            raise ValueError(
                f"There is no {path}: whoever runs the server makes keys, with `hushlm keys create FOLDER --host HOST`; "
                "copy this party's files here."
            )
    certificate, authority = read_certificate(files.certificate), read_certificate(files.authority)
    now = utc_now()
    check_time(files.certificate, certificate, now)
    check_time(files.authority, authority, now)
    check_issued(files.certificate, certificate, files.authority, authority)
    check_private_key(files.private_key, files.certificate, certificate)
    return files


def check_time(path: Path, certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises ValueError: it has expired, or is not valid yet."""
    if now > certificate.not_valid_after_utc:
        raise ValueError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: make a new one with `hushlm keys renew`.")
    if now < certificate.not_valid_before_utc:
        raise ValueError(f"{path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check this machine's clock.")


def check_issued(path: Path, certificate: x509.Certificate, authority_path: Path, authority: x509.Certificate) -> None:
    """Raises ValueError: another authority has signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ValueError(f"{path} was not signed by {authority_path}: copy both from the same keys.") from error


def check_private_key(path: Path, certificate_path: Path, certificate: x509.Certificate) -> None:
    """Raises ValueError: others can read it, it is no private key, or another certificate's."""
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by other users: chmod 600 it, and make new keys if somebody may have read it.")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not an unencrypted private key in PEM.") from error
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{path} does not belong to {certificate_path}: copy both from the same keys.")


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
        now: when its validity begins; the present by default.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    unsigned = builder("hushlm session", "hushlm session", key.public_key(), now or utc_now(), SESSION_DAYS)
    certificate = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    paths = write_pair(folder, "session", certificate, key)
    return SessionCertificate(*paths, encode(certificate).decode())


def _with_identity(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.private_key)
    return context


_FOR_CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def _check_days(days: int) -> None:
    if not 1 <= days <= MAXIMUM_DAYS:
        raise ValueError(f"Certificates can be valid for 1 to {MAXIMUM_DAYS} days, not {days}.")


def _issue(
    folder: Path,
    common_name: str,
    hosts: x509.SubjectAlternativeName | None,
    purpose: x509.ExtendedKeyUsage,
    start: datetime.datetime,
    days: int,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new key, and a certificate for it from the folder's authority."""
    authority, path = read_certificate(folder / f"{AUTHORITY}.pem"), folder / f"{AUTHORITY}.key"
    if not path.is_file():
        raise ValueError(f"There is no {path}: only a folder with the authority's private key can make certificates.")
    signer = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    assert authority.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hushlm authority")])
    key = ec.generate_private_key(ec.SECP256R1())
    unsigned = (
        builder(common_name, "hushlm authority", key.public_key(), start, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(purpose, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts is not None:
        unsigned = unsigned.add_extension(hosts, critical=False)
    return unsigned.sign(signer, hashes.SHA256()), key


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
