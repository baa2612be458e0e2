"""One exchange on a client's connection: read the body in pieces, give one answer.

Everything here blocks and runs in a worker thread. Whatever goes wrong with the *client* is
`ClientGoneError`, so that an OSError always means the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from leaseha.repository.connection import ClientGoneError, Connection, linger
from leaseha.repository.http import Request, head_of_answer

__all__ = ["BadBodyError", "Body", "ClientGoneError", "Connection", "Exchange", "linger"]

SMALL: Final = 128 * 1024
"""Up to this size an answer is read and sent in one piece, above it by sendfile."""
PIECE: Final = 256 * 1024
DRAIN_BYTES: Final = 256 * 1024 * 1024
DRAIN_S: Final = 60.0
_LINE_MAX: Final = 256
_TRAILERS_MAX: Final = 32


class BadBodyError(Exception):
    """The chunks are not well formed; the connection cannot be used further."""


class Body:
    """What the client sends after the head, with the framing taken off."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._chunked = request.chunked
        self._left = request.length
        """Bytes left of the body, or of the current chunk."""
        self.ended = not request.chunked and request.length == 0
        self.received = 0

    def read_into(self, view: memoryview) -> int:
        """The next bytes; 0 at the end. Raises ClientGoneError, BadBodyError."""
        if self._chunked and self._left == 0 and not self.ended:
            self._next_chunk()
        if self.ended:
            return 0
        count = self._connection.receive_into(view[: self._left])
        self.received += count
        self._left -= count
        if self._left == 0:
            if self._chunked:
                self._expect_line(b"")
            else:
                self.ended = True
        return count

    def drain(self) -> bool:
        """Read and forget, within bounds. False: the client has more than we care to wait for."""
        if self.ended:
            return True
        until = time.monotonic() + DRAIN_S
        view = memoryview(bytearray(64 * 1024))
        drained = 0
        while drained < DRAIN_BYTES and time.monotonic() < until:
            count = self.read_into(view)
            if count == 0:
                return True
            drained += count
        return self.ended

    def _next_chunk(self) -> None:
        line = self._line()
        # Extensions are legal and nobody sends them; sizes past 15 digits are no sizes.
        if not 1 <= len(line) <= 15 or line.strip(b"0123456789abcdefABCDEF"):
            raise BadBodyError("not a chunk size")
        self._left = int(line, 16)
        if self._left:
            return
        for _ in range(_TRAILERS_MAX):
            if not self._line():
                self.ended = True
                return
        raise BadBodyError("too many trailers")

    def _expect_line(self, expected: bytes) -> None:
        if self._line() != expected:
            raise BadBodyError("a chunk does not end where its size says")

    def _line(self) -> bytes:
        pending = self._connection.pending
        while (end := pending.find(b"\n", 0, _LINE_MAX)) < 0:
            if len(pending) >= _LINE_MAX:
                raise BadBodyError("a chunk's line is too long")
            self._connection.receive_some()
        line = bytes(pending[: end + 1])
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise BadBodyError("a line must end in CR LF")
        del pending[: end + 1]
        return line[:-2]


class Exchange:
    """One request and its one answer. `allowed` is asked immediately before any byte of an answer."""

    def __init__(self, connection: Connection, request: Request, *, closing: Callable[[], bool]) -> None:
        self.connection = connection
        self.request = request
        self.body = Body(connection, request)
        self.status = 0
        """Of the answer given; 0: none yet."""
        self.sent = 0
        """Bytes of the answer's body."""
        self.keep_alive = request.keep_alive
        self.patient = True
        """A refusal waits for the rest of the body, so that the client sees it. Not for who has shown no password."""
        self.user = ""
        """Who asks, once that is proven."""
        self.note = ""
        """For the log line: why it was refused."""
        self.allowed: Callable[[], None] = lambda: None
        self._closing = closing
        self._invited = False

    def ready_for_body(self) -> None:
        """A client that waits for leave to send its body gets it. Raises ClientGoneError."""
        if self._awaits_leave():
            self._invited = True
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer(self, status: int, body: bytes = b"", *fields: tuple[str, str]) -> None:
        """The body of the request is drained first, so that the client sees the answer and no reset.

        Raises ClientGoneError, BadBodyError, and what `allowed` raises.
        """
        self._finish_body()
        head = self._head(status, len(body), fields)
        self.connection.send(head if self.request.method == "HEAD" else head + body)
        self._answered(status, 0 if self.request.method == "HEAD" else len(body))

    def answer_head(self, status: int, length: int, *fields: tuple[str, str]) -> None:
        """The head alone, as HEAD wants it: `length` is what a GET would give."""
        self._finish_body()
        self.connection.send(self._head(status, length, fields))
        self._answered(status, 0)

    def answer_file(self, status: int, fd: int, offset: int, count: int, *fields: tuple[str, str]) -> None:
        """`count` bytes of `fd` from `offset`. Raises OSError before the first byte, or ClientGoneError."""
        self._finish_body()
        if count <= SMALL:
            piece = os.pread(fd, count, offset)
            if len(piece) != count:
                raise OSError(f"a file is shorter than it was: {len(piece)} of {count} bytes")
            self.connection.send(self._head(status, count, fields) + piece)
        else:
            self.connection.send(self._head(status, count, fields), more=True)
            if self.connection.sends_files:
                self._send_file(fd, offset, count)
            else:
                self._send_pieces(fd, offset, count)
        self._answered(status, count)

    def _finish_body(self) -> None:
        # A client that still waits for leave is refused without its body.
        if self._awaits_leave() or not (self.body.ended or (self.patient and self.body.drain())):
            self.keep_alive = False

    def _awaits_leave(self) -> bool:
        return (
            self.request.expects_continue
            and not self._invited
            and not self.body.ended
            and not self.connection.pending
        )

    def _head(self, status: int, length: int, fields: tuple[tuple[str, str], ...]) -> bytes:
        if self._closing():
            self.keep_alive = False
        head = head_of_answer(status, length, fields, close=not self.keep_alive)
        self.allowed()
        return head

    def _send_file(self, fd: int, offset: int, count: int) -> None:
        out = self.connection.sock.fileno()
        end = offset + count
        while offset < end:
            try:
                sent = os.sendfile(out, fd, offset, end - offset)
            except OSError as trouble:
                # The head is out: whether client or disk, this answer cannot be finished or taken back.
                raise ClientGoneError(f"in mid-answer: {trouble}") from trouble
            if sent == 0:
                raise ClientGoneError("in mid-answer: a file is shorter than it was")
            offset += sent

    def _send_pieces(self, fd: int, offset: int, count: int) -> None:
        """What `_send_file` does, for a connection that must encrypt."""
        end = offset + count
        while offset < end:
            try:
                piece = os.pread(fd, min(PIECE, end - offset), offset)
            except OSError as trouble:
                raise ClientGoneError(f"in mid-answer: {trouble}") from trouble
            if not piece:
                raise ClientGoneError("in mid-answer: a file is shorter than it was")
            self.connection.send(piece)
            offset += len(piece)

    def _answered(self, status: int, sent: int) -> None:
        self.status = status
        self.sent = sent
        if not self.body.ended:
            self.keep_alive = False
