"""A client's connection: bytes in, bytes out, with or without TLS.

Everything here that may wait runs in a worker's thread; whatever goes wrong with the *client* is `ClientGoneError`,
so that an OSError always means the disk. What the watcher's thread calls (`collect`) never waits.

With TLS the kernel's readiness is not the whole truth: bytes that were decrypted and not asked for yet lie within
the TLS object, where no poll sees them. So they are moved into `pending` (`absorb`) before anybody waits.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from typing import Any, Final

LINGER_BYTES: Final = 1024 * 1024
LINGER_S: Final = 2.0
_RECORD: Final = 16 * 1024
_WANTS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ClientGoneError(Exception):
    """The client ended, broke or stalled the connection, or it was reset by us: there is nobody to answer."""


class Connection:
    """One accepted socket. Used by one thread at a time.

    Without TLS it is a blocking socket whose waits are bounded by the kernel. With TLS `shaking` is true until the
    handshake is done, which goes step by step whenever the client has sent something, so that no thread waits
    for a slow one.
    """

    __slots__ = (
        "_patience_s",
        "_tls",
        "parked",
        "peer",
        "pending",
        "poll",
        "served",
        "shaking",
        "since_ns",
        "sock",
    )

    def __init__(
        self, sock: socket.socket, peer: str, body_timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """Takes `sock` over; with `tls`, as its server's end. Raises OSError when the client has gone already."""
        self._patience_s = body_timeout_s
        self._tls: ssl.SSLSocket | None = None
        if tls is not None:
            sock.setblocking(False)
            self._tls = tls.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            sock = self._tls
        else:
            limit = struct.pack("ll", int(body_timeout_s), 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock = sock
        self.shaking = self._tls is not None
        self.peer = peer
        self.pending = bytearray()
        """Received and not yet used."""
        self.parked = True
        self.since_ns = time.monotonic_ns()
        """When it was parked, or when the first byte of its next head came."""
        self.served = 0
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)

    # ---- never waits

    def collect(self, room: int) -> bool:
        """What is there into `pending`, `room` bytes or a little more. False: it is at its end, or broken."""
        if self._tls is None:
            return self._collect_plain(room)
        self._tls.settimeout(0)
        while room > 0:
            try:
                piece = self._tls.recv(min(room, _RECORD))
            except _WANTS:
                return True
            except (OSError, ValueError):
                return False
            if not piece:
                return False
            self.pending += piece
            room -= len(piece)
        return True

    def _collect_plain(self, room: int) -> bool:
        try:
            piece = self.sock.recv(room, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.pending += piece
        return bool(piece)

    def absorb(self) -> None:
        """Decrypted bytes that nobody has asked for yet, into `pending`: one TLS record's at most."""
        if self._tls is not None and (count := self._tls.pending()):
            with contextlib.suppress(OSError, ValueError):
                self.pending += self._tls.recv(count)

    def shake(self) -> bool:
        """One step of the handshake. False: it failed. `shaking` says whether there are more. For a worker."""
        if self._tls is None or not self.shaking:
            return True
        self._tls.settimeout(0)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return True
        except (OSError, ValueError):
            return False  # also what is no TLS at all, and what would need us to wait before we may write
        self.shaking = False
        self.absorb()
        return True

    def certificate(self) -> frozenset[str]:
        """The names (DNS, common name) of the client's verified certificate; none without one."""
        told: Any = self._tls.getpeercert() if self._tls is not None and not self.shaking else None
        if not told:
            return frozenset()
        names = {value for kind, value in told.get("subjectAltName", ()) if kind == "DNS"}
        common = {value for part in told.get("subject", ()) for kind, value in part if kind == "commonName"}
        return frozenset(names | common)

    # ---- may wait, bounded

    def receive_into(self, view: memoryview) -> int:
        """At least one byte; waits until `view` is full, the client pauses too long, or it is over.

        Raises ClientGoneError when nothing came in the time allowed, or nothing can come.
        """
        if self.pending:
            count = min(len(view), len(self.pending))
            view[:count] = self.pending[:count]
            del self.pending[:count]
            return count
        try:
            if self._tls is not None:
                count = self._fill(self._tls, view)
            else:
                # MSG_WAITALL: one call for many packets. The socket's timeout returns what has come so far.
                count = self.sock.recv_into(view, 0, socket.MSG_WAITALL)
        except (OSError, ValueError) as trouble:
            raise ClientGoneError(f"while receiving: {trouble}") from trouble
        if count == 0:
            raise ClientGoneError("the client closed the connection in mid-body")
        return count

    def _fill(self, tls: ssl.SSLSocket, view: memoryview) -> int:
        """One record after the other: a call gives no more than one."""
        tls.settimeout(self._patience_s)
        filled = 0
        while filled < len(view):
            try:
                count = tls.recv_into(view[filled:])
            except TimeoutError:
                if filled:
                    return filled
                raise
            if count == 0:
                return filled
            filled += count
        return filled

    def receive_some(self) -> None:
        """More into `pending`, whatever is there. Raises ClientGoneError."""
        try:
            if self._tls is not None:
                self._tls.settimeout(self._patience_s)
            piece = self.sock.recv(4096)
        except (OSError, ValueError) as trouble:
            raise ClientGoneError(f"while receiving: {trouble}") from trouble
        if not piece:
            raise ClientGoneError("the client closed the connection in mid-body")
        self.pending += piece
        self.absorb()

    def more_comes(self, within_ms: int) -> bool:
        """Whether there is something to receive, or will be within that time."""
        return (self._tls is not None and self._tls.pending() > 0) or bool(self.poll.poll(within_ms))

    def send(self, piece: bytes | memoryview, *, more: bool = False) -> None:
        """All of it; `more`: another piece follows at once. Raises ClientGoneError."""
        try:
            if self._tls is not None:
                self._tls.settimeout(self._patience_s)
                self._tls.sendall(piece)
            else:
                self.sock.sendall(piece, socket.MSG_MORE if more else 0)
        except (OSError, ValueError) as trouble:
            raise ClientGoneError(f"while sending: {trouble}") from trouble

    @property
    def sends_files(self) -> bool:
        """The kernel can send a file by itself. It cannot encrypt it."""
        return self._tls is None

    def say_goodbye(self) -> None:
        """Tell a TLS client that nothing was cut off (close_notify). Never waits, never raises."""
        if self._tls is not None and not self.shaking:
            with contextlib.suppress(OSError, ValueError):
                self._tls.settimeout(0)
                self._tls.unwrap()


def linger(connection: Connection) -> None:
    """After an answer to a request that was not read to its end: give the client the time to read it."""
    connection.say_goodbye()
    sock = connection.sock
    try:
        # Past the TLS object, whose own shutdown forgets that it was one: what comes is thrown away unread.
        socket.socket.shutdown(sock, socket.SHUT_WR)
        until = time.monotonic() + LINGER_S
        left = LINGER_BYTES
        while left > 0 and (wait_s := until - time.monotonic()) > 0:
            if not connection.poll.poll(wait_s * 1000):
                return
            piece = socket.socket.recv(sock, 64 * 1024)
            if not piece:
                return
            left -= len(piece)
    except OSError:
        return  # it has gone, which is what we wait for
