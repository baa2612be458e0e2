"""The holder's end of the wire between nodes: blocking sockets, one request at a time on each, kept for the next.

What goes wrong with the *other node* is `PeerError`, so that an OSError always means the own disk. Every wait is
bounded, and shorter once `gone` says that the node is known to be dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leaseha.repository import peer_wire
from leaseha.repository.paths import Address
from leaseha.repository.peer_wire import Stamp
from leaseha.repository.tokens import NOTHING, Mark

CONNECT_S: Final = 1.0
STALL_S: Final = 2.0
"""How long a node may take no byte at all of what is sent, or give none of an answer that has begun."""
ANSWER_S: Final = 3.0
"""How long the answer may take after the last byte: a hash's rest, two fsyncs and a rename."""
_LOOK_MS: Final = 100
_KEEP_S: Final = 60.0
_KEEP: Final = 16
_PIECE: Final = 256 * 1024
_HEAD_MAX: Final = 16 * 1024
_ANSWER_MAX: Final = 64 * 1024 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: ?close\r\n", re.IGNORECASE)


class PeerError(Exception):
    """The other node did not do it, or is not known to have done it."""


class StalePeerError(PeerError):
    """The other node has seen a higher token: this one must not serve (G6)."""

    def __init__(self, why: str, highest: Mark) -> None:
        super().__init__(why)
        self.highest = highest


class WrongBytesError(PeerError):
    """The other node has hashed what we sent, and it is not what the name promises: our copy is spoilt."""


class StrangerError(PeerError):
    """The other process wants an introduction first: it has restarted, or a later round is known."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What came back, 2xx or 404."""

    status: int
    content: bytes
    length: int
    """Of the body; for HEAD what GET would give."""

    @property
    def json(self) -> dict[str, Any]:
        """Raises PeerError for anything but an object."""
        try:
            content = json.loads(self.content)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise PeerError("an answer that is no JSON object")
        return content


class PeerClient:
    """Requests to one store's peer port. Used by many threads."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        name: str = "",
        gone: Callable[[], bool] = lambda: False,
        stall_s: float = STALL_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        """`gone`: the node is known to be dead, so nothing is waited for. `name`: what its certificate must say."""
        self.host = host
        self.port = port
        self._tls = tls
        self._name = name or host
        self._gone = gone
        self.stall_s = stall_s
        self.answer_s = answer_s
        self._lock = threading.Lock()
        self._idle: list[tuple[socket.socket, float]] = []

    def ask(
        self,
        method: str,
        path: str | bytes,
        stamp: Stamp,
        body: bytes = b"",
        *,
        answer_s: float | None = None,
    ) -> PeerAnswer:
        """One request with a small body. Raises PeerError (StalePeerError, StrangerError)."""
        sending = self.begin(method, path, stamp, len(body))
        if body:
            sending.write(memoryview(body))
        return sending.finish(answer_s)

    def begin(self, method: str, path: str | bytes, stamp: Stamp, length: int | None) -> Sending:
        """A request whose body (`length` in bytes, None: not known) follows by `write`. Raises PeerError."""
        where = path.decode("ascii") if isinstance(path, bytes) else path
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = f"{method} {where} HTTP/1.1\r\nHost: {self.host}\r\n{framing}\r\n{stamp.lines()}\r\n"
        sending = Sending(self, self._take(), head_only=method == "HEAD", chunked=length is None)
        sending.send(head.encode("ascii"))
        return sending

    def put(self, address: Address, stamp: Stamp, length: int | None) -> Sending:
        """An upload that begins. Raises PeerError."""
        return self.begin("POST", object_path(address), stamp, length)

    def put_file(
        self,
        address: Address,
        stamp: Stamp,
        fd: int,
        size: int,
        pace: Callable[[int], None] = lambda _: None,
    ) -> PeerAnswer:
        """A whole object from an open file, from its beginning. Raises PeerError; OSError: the own disk.

        `pace` is called with the bytes of each piece before it goes.
        """
        sending = self.put(address, stamp, size)
        try:
            offset = 0
            while offset < size:
                piece = os.pread(fd, min(_PIECE, size - offset), offset)
                if not piece:
                    raise OSError(f"a file is shorter than it was: {offset} of {size} bytes")
                pace(len(piece))
                sending.write(memoryview(piece))
                offset += len(piece)
        except BaseException:
            sending.abort()
            raise
        return sending.finish()

    def fetch(self, address: Address, stamp: Stamp, sink: Callable[[memoryview], None]) -> bool:
        """A whole object, to `sink` as it comes; False: it is not there. Raises PeerError, and what `sink` raises."""
        return self.begin("GET", object_path(address), stamp, 0).stream(sink)

    def close(self) -> None:
        """Forget the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for sock, _ in idle:
            sock.close()

    # ---- connections

    def _take(self) -> socket.socket:
        while True:
            with self._lock:
                if not self._idle:
                    break
                sock, since = self._idle.pop()
            # Readable without a question asked: it has been closed at the other end.
            if time.monotonic() - since < _KEEP_S and not _readable(sock):
                return sock
            sock.close()
        if self._gone():
            raise PeerError("the node is dead")
        try:
            sock = socket.create_connection((self.host, self.port), timeout=CONNECT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._name)
            sock.settimeout(self.stall_s)
        except OSError as trouble:
            raise PeerError(f"no connection: {trouble}") from trouble
        return sock

    def keep(self, sock: socket.socket) -> None:
        """For the next request; closed instead when there are enough."""
        with self._lock:
            if len(self._idle) < _KEEP:
                self._idle.append((sock, time.monotonic()))
                return
        sock.close()

    def await_readable(self, sock: socket.socket, until: float) -> None:
        """Raises PeerError when nothing comes until then (of `time.monotonic`), or the node is gone."""
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return
        waiting = select.poll()
        waiting.register(sock, select.POLLIN)
        while not waiting.poll(_LOOK_MS):
            if self._gone():
                raise PeerError("the node died")
            if time.monotonic() >= until:
                raise PeerError("no answer in time")


class Sending:
    """One request on its way. `finish` or `abort` ends it; used by one thread. After a PeerError it is at its end."""

    def __init__(self, client: PeerClient, sock: socket.socket, *, head_only: bool, chunked: bool) -> None:
        self._client = client
        self._sock = sock
        self._head_only = head_only
        self._chunked = chunked
        self.ended = False

    def write(self, piece: memoryview) -> None:
        """The next bytes of the body. Raises PeerError."""
        if self._chunked:
            self.send(b"%x\r\n" % len(piece))
            self.send(piece)
            self.send(b"\r\n")
        else:
            self.send(piece)

    def send(self, piece: bytes | memoryview) -> None:
        """Raw bytes. Raises PeerError, when the node takes none of them in time too."""
        try:
            self._sock.sendall(piece)
        except OSError as trouble:
            self.abort()
            raise PeerError(f"in mid-request: {trouble}") from trouble

    def finish(self, answer_s: float | None = None) -> PeerAnswer:
        """The body is complete; its answer. Raises PeerError (StalePeerError, StrangerError)."""
        if self._chunked:
            self.send(b"0\r\n\r\n")
        try:
            answer, keep = self._read(time.monotonic() + (answer_s or self._client.answer_s))
        except (OSError, PeerError) as trouble:
            self.abort()
            raise (
                trouble if isinstance(trouble, PeerError) else PeerError(f"no answer: {trouble}")
            ) from trouble
        self.ended = True
        if keep:
            self._client.keep(self._sock)
        else:
            self._sock.close()
        return _judge(answer)

    def abort(self) -> None:
        """Half a body: the other end drops its temporary. Never raises; nothing when it has ended."""
        if not self.ended:
            self.ended = True
            with contextlib.suppress(OSError):
                self._sock.close()

    def stream(self, sink: Callable[[memoryview], None]) -> bool:
        """The body of the answer goes to `sink`; False: 404. Raises as `finish`, and what `sink` raises."""
        received = bytearray()
        try:
            status, left = self._begin_stream(received)
            while status == 200 and left:
                if not received:
                    self._receive_more(received)
                piece = bytes(received[:left])
                received.clear()
                left -= len(piece)
                sink(memoryview(piece))
        finally:
            self.abort()
        if status not in {200, 404}:
            raise PeerError(f"answered {status}")
        return status == 200

    def _begin_stream(self, received: bytearray) -> tuple[int, int]:
        try:
            status, size, _ = self._read_head(received, time.monotonic() + self._client.answer_s)
        except OSError as trouble:
            raise PeerError(f"no answer: {trouble}") from trouble
        return status, size

    def _receive_more(self, received: bytearray) -> None:
        try:
            self._receive(received, time.monotonic() + self._client.answer_s)
        except OSError as trouble:
            raise PeerError(f"in mid-answer: {trouble}") from trouble

    def _read(self, until: float) -> tuple[PeerAnswer, bool]:
        received = bytearray()
        status, size, closes = self._read_head(received, until)
        wanted = 0 if self._head_only else size
        if wanted > _ANSWER_MAX:
            raise PeerError("an answer that is too large")
        while len(received) < wanted:
            self._receive(received, until)
        return PeerAnswer(status, bytes(received), size), len(received) == wanted and not closes

    def _read_head(self, received: bytearray, until: float) -> tuple[int, int, bool]:
        """Status, length of the body, whether the connection ends with it; what came of the body stays."""
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > _HEAD_MAX:
                raise PeerError("an answer without an end")
            self._receive(received, until)
        head = bytes(received[: end + 4])
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit() or length is None:
            raise PeerError("not an answer")
        del received[: end + 4]
        return int(head[9:12]), int(length[1]), _CLOSES.search(head) is not None

    def _receive(self, into: bytearray, until: float) -> None:
        self._client.await_readable(self._sock, until)
        piece = self._sock.recv(_PIECE)
        if not piece:
            raise PeerError("it closed the connection")
        into += piece


def _readable(sock: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))


def object_path(address: Address) -> str:
    """Where an object stands among nodes."""
    return peer_wire.OBJECTS.decode() + peer_wire.path_of(address)


def _judge(answer: PeerAnswer) -> PeerAnswer:
    if answer.status == 404 or 200 <= answer.status < 300:
        return answer
    try:
        content = json.loads(answer.content)
    except ValueError:
        content = None
    why = f"{answer.status}"
    highest = None
    if isinstance(content, dict):
        why = f"{answer.status}: {content.get('why', '')}"
        highest = peer_wire.read_mark(str(content.get("highest", "")))
    if answer.status == 409:
        raise StalePeerError(why, highest or NOTHING)
    if answer.status == 400:
        raise WrongBytesError(why)
    if answer.status == 428:
        raise StrangerError(why)
    raise PeerError(why)
