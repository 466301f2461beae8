"""A certificate and its private key: made with the `cryptography` package, in two files of PEM."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["builder", "encode", "key_usage", "read_certificate", "utc_now", "write_pair", "write_private"]

CLOCK_TOLERANCE = datetime.timedelta(hours=1)
"""Certificates are valid from this long ago, for peers whose clock is behind."""


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only this user can read, from its first byte on.

    Raises:
        FileExistsError: if it is there already.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey, start: datetime.datetime, days: int) -> x509.CertificateBuilder:
    """A certificate to be: common names of its owner and its signer, the owner's key, and its validity."""
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


def key_usage(signs_certificates: bool) -> x509.KeyUsage:
    """What a key may be used for: to sign certificates (an authority's), or to prove who its owner is."""
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


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a file.

    Raises:
        ValueError: if the file is missing, or holds no certificate.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: make keys with `hushlm keys create FOLDER --host HOST`.")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a certificate in PEM.") from error


def write_pair(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
    """Write `NAME.pem` and `NAME.key`, which must not be there yet. Returns: both paths."""
    private = folder / f"{name}.key"
    form = serialization.PrivateFormat.PKCS8
    write_private(private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public = folder / f"{name}.pem"
    public.write_bytes(encode(certificate))
    return public, private


def encode(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
