"""A client that costs little: blocking sockets, bodies sent from memory by the kernel, every answer looked at.

It does what restic's transport does (POST with a length, GET, GET with a range, a listing), on a given number of
connections, each a thread; the time counts from the first request to the last answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leaseha.errors import LabError

HOST: Final = "127.0.0.1"
RANGE: Final = 64 * 1024
_PIECE: Final = 1 << 20
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Body:
    """An object: its name, and a file in memory that has its bytes."""

    name: str
    fd: int
    size: int


def make_bodies(count: int, size: int, seed: int) -> list[Body]:
    """Objects of `size` bytes, in memory, that differ from each other."""
    chance = random.Random(seed)
    base = bytearray(chance.randbytes(size))
    made = []
    for number in range(count):
        base[:32] = chance.randbytes(32)
        fd = os.memfd_create(f"body-{number}")
        os.write(fd, base)
        made.append(Body(hashlib.sha256(base).hexdigest(), fd, size))
    return made


class Connection:
    """One connection; requests one after the other."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection((HOST, port), _TIMEOUT_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel's timeouts, not Python's: those make the socket non-blocking, and sendfile then gives up.
        self._sock.settimeout(None)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(_TIMEOUT_S), 0))
        self._buffer = memoryview(bytearray(_PIECE))

    def close(self) -> None:
        """No more requests."""
        self._sock.close()

    def post(self, path: str, body: Body | None = None) -> None:
        """Raises LabError unless the answer is 200."""
        size = body.size if body else 0
        self._send("POST", path, f"Content-Length: {size}\r\nContent-Type: application/octet-stream\r\n")
        sent = 0
        while body and sent < size:
            sent += os.sendfile(self._sock.fileno(), body.fd, sent, size - sent)
        self._answer(200, None)

    def get(self, path: str, size: int, fields: str = "", status: int = 200) -> None:
        """Its bytes are counted. Raises LabError unless there are `size`."""
        self._send("GET", path, fields)
        self._answer(status, size)

    def content(self, path: str, fields: str = "") -> bytes:
        """All of it."""
        self._send("GET", path, fields)
        return self._answer(200, None)

    def _send(self, method: str, path: str, fields: str) -> None:
        self._sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n".encode())

    def _answer(self, status: int, size: int | None) -> bytes:
        """`size` None: the body is kept and returned; chunks are understood."""
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            piece = self._sock.recv(65536)
            if not piece:
                raise LabError("the server closed the connection")
            received += piece
        head, rest = received[: end + 4], received[end + 4 :]
        if int(head[9:12]) != status:
            raise LabError(f"answered {head[:60]!r}, {status} was expected")
        length = _LENGTH.search(head)
        if length is None:
            return self._chunks(rest)
        wanted = int(length[1])
        if size is None:
            return self._kept(rest, wanted)
        if wanted != size:
            raise LabError(f"{wanted} bytes, {size} were expected")
        left = wanted - len(rest)
        while left > 0:
            count = self._sock.recv_into(self._buffer, min(left, _PIECE))
            if not count:
                raise LabError("the body broke off")
            left -= count
        return b""

    def _kept(self, rest: bytes, wanted: int) -> bytes:
        parts, left = [rest], wanted - len(rest)
        while left > 0:
            piece = self._sock.recv(min(left, _PIECE))
            if not piece:
                raise LabError("the body broke off")
            parts.append(piece)
            left -= len(piece)
        return b"".join(parts)

    def _chunks(self, rest: bytes) -> bytes:
        with self._sock.makefile("rb") as file:
            data = rest + b""
            while not data.endswith(b"0\r\n\r\n"):
                piece = file.read1(_PIECE)
                if not piece:
                    raise LabError("the chunks broke off")
                data += piece
        parts: list[bytes] = []
        at = 0
        while True:
            end = data.index(b"\r\n", at)
            size = int(data[at:end], 16)
            if not size:
                return b"".join(parts)
            parts.append(data[end + 2 : end + 2 + size])
            at = end + 4 + size


def share(port: int, connections: int, work: Sequence[Callable[[Connection], None]]) -> float:
    """All of `work`, each connection taking the next: s from the first to the last. Raises LabError."""
    left = list(reversed(work))
    failures: list[str] = []
    lock = threading.Lock()

    def run(connection: Connection) -> None:
        while not failures:
            with lock:
                if not left:
                    return
                one = left.pop()
            try:
                one(connection)
            except (LabError, OSError, ValueError) as trouble:
                failures.append(str(trouble))

    opened = [Connection(port) for _ in range(connections)]
    threads = [threading.Thread(target=run, args=(one,)) for one in opened]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - began
    for one in opened:
        one.close()
    if failures:
        raise LabError(failures[0])
    return took_s


def listed(port: int, path: str) -> int:
    """How many objects a listing (version 2 of the protocol) names. Raises LabError."""
    connection = Connection(port)
    try:
        content = connection.content(path, "Accept: application/vnd.x.restic.rest.v2\r\n")
    finally:
        connection.close()
    rows = json.loads(content)
    if rows and not {"name", "size"} <= rows[0].keys():
        raise LabError("a listing without sizes")
    return len(rows)
