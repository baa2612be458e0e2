"""A small certificate authority for one cluster, for those who have none: one folder, EC P-256 keys, PEM files.

`ca.crt` and `ca.key` are the authority; `NAME.crt` and `NAME.key` a node's (shown to the other nodes, both ways)
or a service's (shown to clients). `ca.crt` and the node's own two files belong on a node; `ca.key` belongs on none.

Not done: revocation. A key that was lost means a new authority; certificates are short-lived for that.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leaseha.errors import OperationalError, UsageError

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 397
"""Some clients take no server's certificate that is good for longer."""
_SKEW: Final = timedelta(hours=1)
"""Clocks of nodes may differ: a certificate is good a little before it was made."""
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62})")
_AUTHORITY: Final = "ca"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was written."""

    name: str
    certificate: Path
    key: Path
    names: tuple[str, ...]
    """DNS names and addresses that it is good for."""
    until: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a certificate is to say. `serves_clients`: shown to clients only, good for no node's connection."""

    name: str
    also: tuple[str, ...] = ()
    """Further DNS names and addresses."""
    days: int = CERTIFICATE_DAYS
    serves_clients: bool = False


def init(folder: Path, cluster: str, now: datetime, days: int = AUTHORITY_DAYS) -> Path:
    """Make the authority; returns its certificate's path. Raises OperationalError, above all if there is one."""
    certificate, key = _files(folder, _AUTHORITY)
    if certificate.exists() or key.exists():
        raise OperationalError(
            f"{folder} has an authority already: every certificate of it would be worthless"
        )
    secret = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"leaseha {cluster}".strip())
    made = (
        _begun(name, name, secret.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(secret, hashes.SHA256())
    )
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_key(key, secret)
        _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def issue(folder: Path, wanted: Wanted, now: datetime) -> Issued:
    """A new key and certificate, signed by the folder's authority. Raises UsageError, OperationalError."""
    if not _NAME.fullmatch(wanted.name) or wanted.name == _AUTHORITY:
        raise UsageError(f"{wanted.name!r}: not a name for a certificate")
    certificate, key = _files(folder, wanted.name)
    if key.exists():
        raise OperationalError(
            f"{key} is there already: `leaseha pki renew {wanted.name}` renews its certificate"
        )
    names = _alternatives((wanted.name, *wanted.also))
    secret = ec.generate_private_key(ec.SECP256R1())
    made = _signed(folder, wanted, names, secret.public_key(), now)
    with _told(folder):
        _write_key(key, secret)
    return _published(certificate, key, made)


def renew(folder: Path, name: str, now: datetime, days: int = CERTIFICATE_DAYS) -> Issued:
    """The same names and the same key, good for `days` from now: one file is replaced, at once.

    Raises OperationalError when there is none, or it is not of this folder's authority.
    """
    certificate, key = _files(folder, name)
    old = _read(certificate)
    if not key.exists():
        raise OperationalError(f"{key} is missing: issue {name} anew")
    _check_ours(folder, old, certificate)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    wanted = Wanted(name, days=days, serves_clients=ExtendedKeyUsageOID.CLIENT_AUTH not in uses)
    return _published(certificate, key, _signed(folder, wanted, names, old.public_key(), now))


def issued(folder: Path) -> tuple[Issued, ...]:
    """Every certificate in the folder but the authority's, by name. Raises OperationalError."""
    with _told(folder):
        found = sorted(path for path in folder.glob("*.crt") if path.stem != _AUTHORITY)
    return tuple(_described(path, path.with_suffix(".key"), _read(path)) for path in found)


def _signed(
    folder: Path,
    wanted: Wanted,
    names: x509.SubjectAlternativeName,
    public: object,
    now: datetime,
) -> x509.Certificate:
    authority_file, authority_key = _files(folder, _AUTHORITY)
    authority = _read(authority_file)
    with _told(authority_key):
        try:
            secret = serialization.load_pem_private_key(authority_key.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise OperationalError(f"{authority_key}: {error}") from error
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or not isinstance(
        public, ec.EllipticCurvePublicKey
    ):
        raise OperationalError(f"{folder}: not an authority that `leaseha pki init` made")
    if not 0 < wanted.days <= AUTHORITY_DAYS:
        raise UsageError(f"--days = {wanted.days}: must be within 1 and {AUTHORITY_DAYS}")
    until = now + timedelta(days=wanted.days)
    if until > authority.not_valid_after_utc:
        raise OperationalError(
            f"the authority ends on {authority.not_valid_after_utc:%Y-%m-%d}, before this certificate would"
        )
    uses = [ExtendedKeyUsageOID.SERVER_AUTH]
    if not wanted.serves_clients:
        uses.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return (
        _begun(_subject(wanted.name), authority.subject, public, now, wanted.days)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False
        )
        .sign(secret, hashes.SHA256())
    )


def _begun(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    made: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            made.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not _NAME.fullmatch(name):
                raise UsageError(f"{name!r}: neither an address nor a DNS name") from None
            made.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(made)


def _check_ours(folder: Path, certificate: x509.Certificate, path: Path) -> None:
    authority = _read(_files(folder, _AUTHORITY)[0])
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise OperationalError(f"{path} is not of the authority in {folder}: issue it anew") from error


def _published(certificate: Path, key: Path, made: x509.Certificate) -> Issued:
    with _told(certificate):
        _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return _described(certificate, key, made)


def _described(certificate: Path, key: Path, made: x509.Certificate) -> Issued:
    try:
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    texts = tuple(str(one.value) for one in names)
    return Issued(certificate.stem, certificate, key, texts, made.not_valid_after_utc)


def _read(path: Path) -> x509.Certificate:
    with _told(path):
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise OperationalError(f"{path}: not a certificate: {error}") from error


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.crt", folder / f"{name}.key"


def _write_key(path: Path, secret: ec.EllipticCurvePrivateKey) -> None:
    form = serialization.PrivateFormat.PKCS8
    _write(path, secret.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and readable by nobody else at any moment of it."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperationalError(f"{error.filename or path}: {error.strerror or error}") from error
