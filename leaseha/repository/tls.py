"""TLS contexts for the repository: of its server, and of the nodes among themselves.

TLS 1.2 at least, and only `http/1.1` in ALPN: with HTTP/2 restic puts all uploads on one connection, which is
several times slower. Certificates are read again when their files change, so that one that was renewed needs no
restart; one that cannot be read leaves the old one in force.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LOOK_EVERY_NS: Final = 10_000_000_000
"""How often the files are looked at, at most."""
_ALPN: Final = ["http/1.1"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `authority` "": the other end needs no certificate (a server), or is not spoken to (never both)."""

    certificate: str
    key: str
    authority: str = ""

    def paths(self) -> tuple[Path, ...]:
        """Those that are named."""
        return tuple(Path(one) for one in (self.certificate, self.key, self.authority) if one)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For the accepting end; with an authority, every client must show a certificate of it (mTLS).

    Raises OSError (ssl.SSLError is one) when a file is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _narrow(context)
    # A client could otherwise make the server compute, again and again, on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(context, files)
    if files.authority:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For the connecting end of two nodes: shows its certificate, and takes only one of the authority.

    The name in it must be the one that the caller gives to `wrap_socket` as `server_hostname`. Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _narrow(context)
    _load(context, files)
    return context


def _narrow(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_ALPN)


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    if files.authority:
        context.load_verify_locations(files.authority)


def _no_password() -> str:
    """A key that is encrypted must fail, not ask on a terminal that a service has not got."""
    raise ssl.SSLError("the key is encrypted: a service has nobody to ask for its password")


class Renewed:
    """The server's context, made anew when a file has changed. Cheap to ask; asked by one thread or many."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises OSError when there is no usable certificate to begin with."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = server_context(files)
        self._looked_ns = time.monotonic_ns()

    def __call__(self) -> ssl.SSLContext:
        """What a new connection is to use."""
        with self._lock:
            if time.monotonic_ns() - self._looked_ns >= LOOK_EVERY_NS:
                self.refresh()
            return self._context

    def refresh(self) -> None:
        """Look at the files now. Never raises."""
        self._looked_ns = time.monotonic_ns()
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._context = server_context(self._files)
        except OSError as trouble:
            told = f"{self._files.certificate}: {trouble}"
            log.error("the old certificate stays in force: %s", told)  # noqa: TRY400 - an operator's sentence
        else:
            log.info("certificate %s read anew", self._files.certificate)

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        seen = []
        for path in self._files.paths():
            with contextlib.suppress(OSError):
                status = path.stat()
                seen.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(seen)
