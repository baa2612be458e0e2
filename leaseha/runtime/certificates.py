"""What is wrong with a certificate that clients will see: for `leaseha check`, before they see it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from leaseha.config import Config, LeaseConfig
from leaseha.repository.tls import TlsFiles, server_context

SOON: Final = timedelta(days=21)


def examine(config: Config, wall_ms: int) -> list[tuple[bool, str]]:
    """(whether nothing works with it, what is wrong) for each certificate of each lease's repository."""
    now = datetime.fromtimestamp(wall_ms / 1e3, UTC)
    return [found for lease in config.leases for found in _of(lease, now)]


def _of(lease: LeaseConfig, now: datetime) -> list[tuple[bool, str]]:
    door = lease.repository.door if lease.repository is not None else None
    if door is None or door.cert is None or door.key is None:
        return []
    at = f"lease.{lease.name}.repository.cert = {door.cert}"
    try:
        server_context(TlsFiles(str(door.cert), str(door.key)))
    except (OSError, ssl.SSLError) as error:
        return [(True, f"{at}: cannot be served with its key: {error}")]
    from cryptography import x509  # only where there is one to look at

    certificate = x509.load_pem_x509_certificates(door.cert.read_bytes())[0]
    ends = certificate.not_valid_after_utc
    found: list[tuple[bool, str]] = []
    if ends <= now or certificate.not_valid_before_utc > now:
        found.append(
            (True, f"{at}: is good from {certificate.not_valid_before_utc} to {ends}: no client takes it now")
        )
    elif ends - now < SOON:
        found.append(
            (
                False,
                f"{at}: ends on {ends:%Y-%m-%d}; `leaseha pki renew`, or your authority, gives it more time",
            )
        )
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [*found, (True, f"{at}: names neither an address nor a host, and no client takes it")]
    addresses = names.get_values_for_type(x509.IPAddress)
    missing = [str(vip.ip) for vip in lease.vips if ip_address(str(vip.ip)) not in addresses]
    if missing and not names.get_values_for_type(x509.DNSName):
        found.append(
            (False, f"{at}: does not name {', '.join(missing)}, so clients cannot speak to it by address")
        )
    return found
