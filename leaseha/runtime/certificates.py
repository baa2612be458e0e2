"""What is wrong with the certificates that clients and other nodes will see: for `leaseha check`, before they do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from leaseha.config import Config
from leaseha.repository.tls import TlsFiles, server_context

SOON: Final = timedelta(days=21)


def examine(config: Config, wall_ms: int) -> list[tuple[bool, str]]:
    """(whether nothing works with it, what is wrong) for each certificate of each lease's repository."""
    now = datetime.fromtimestamp(wall_ms / 1e3, UTC)
    found: list[tuple[bool, str]] = []
    for lease in config.leases:
        if lease.repository is None:
            continue
        at, door, copies = f"lease.{lease.name}.repository", lease.repository.door, lease.repository.copies
        if door.cert is not None and door.key is not None:
            files = TlsFiles(str(door.cert), str(door.key))
            found += _of(f"{at}.cert", files, now, {str(vip.ip) for vip in lease.vips}, "")
        if copies is not None and copies.cert is not None and copies.key is not None:
            files = TlsFiles(str(copies.cert), str(copies.key), str(copies.ca or ""))
            found += _of(f"{at}.peer_cert", files, now, set(), config.node.name)
    return found


def _of(key: str, files: TlsFiles, now: datetime, addresses: set[str], node: str) -> list[tuple[bool, str]]:
    """`addresses`: what clients may call it by; `node`: what other nodes call it by."""
    at = f"{key} = {files.certificate}"
    try:
        server_context(files)
    except OSError as error:
        return [(True, f"{at}: cannot be served with its key: {error}")]
    from cryptography import x509  # only where there is one to look at

    certificate = x509.load_pem_x509_certificates(Path(files.certificate).read_bytes())[0]
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    found: list[tuple[bool, str]] = []
    if not begins <= now < ends:
        found.append((True, f"{at}: is good from {begins} to {ends}: nobody takes it now"))
    elif ends - now < SOON:
        more = "`leaseha pki renew`, or your authority, gives it more time"
        found.append((False, f"{at}: ends on {ends:%Y-%m-%d}; {more}"))
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [*found, (True, f"{at}: names neither an address nor a host, and nobody takes it")]
    hosts = set(names.get_values_for_type(x509.DNSName))
    if node and node not in hosts:
        found.append((True, f"{at}: does not name {node}, by which the other nodes know this one"))
    missing = addresses - {str(one) for one in names.get_values_for_type(x509.IPAddress)}
    if missing and not hosts:
        missed = ", ".join(sorted(missing))
        found.append((False, f"{at}: does not name {missed}, so clients cannot speak to it by address"))
    return found
