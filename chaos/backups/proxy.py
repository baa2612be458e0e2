"""A proxy on the client's own host that writes down every request and how it was answered.

    python -m chaos.backups.proxy --port 8100 --to 10.77.0.50:8000 --record FILE

One connection to the server for each of the client's, with the TCP keep-alive that restic's has; what ends on one
side is reset on the other. So the client meets every fault as it would without the proxy. Lines of JSON for each
request: when it begins, when it is sent, and all about it when it has ended; see `chaos.backups.record`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_PIECE: Final = 64 * 1024
_HEAD_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 64
_PATIENCE_S: Final = 300.0
_KEEPALIVE_S: Final = 30
"""Of restic's dialer; Go probes as often as it begins to."""
_CONNECT_S: Final = 30.0


class BrokenError(Exception):
    """One side is gone. `side`: `client` or `server`."""

    def __init__(self, side: str, why: str) -> None:
        super().__init__(f"{side}: {why}")
        self.side = side


class Record:
    """The file, shared by all threads; a line is there when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def write(self, **fields: Any) -> None:
        """One line."""
        with self._lock:
            self._file.write(json.dumps(fields) + "\n")


class Side:
    """One of the two sockets, with what was received and not used."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self._pending = b""
        self._other: Side | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        sock.settimeout(_PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, piece: bytes) -> None:
        """All of it. Raises BrokenError."""
        try:
            self.sock.sendall(piece)
        except OSError as trouble:
            raise BrokenError(self.name, f"{trouble}") from trouble

    def head(self) -> bytes:
        """Up to its empty line; nothing if the other side ended before it began. Raises BrokenError."""
        return self._until(b"\r\n\r\n")

    def line(self) -> bytes:
        """With its end. Raises BrokenError."""
        return self._until(b"\r\n")

    def some(self, most: int) -> bytes:
        """At least a byte. Raises BrokenError."""
        if not self._pending:
            self._more()
        piece, self._pending = self._pending[:most], self._pending[most:]
        return piece

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._pending:
            if len(self._pending) > _HEAD_MAX:
                raise BrokenError(self.name, "a head without an end")
            try:
                self._more()
            except BrokenError:
                if self._pending:
                    raise
                return b""
        head, _, self._pending = self._pending.partition(mark)
        return head + mark

    def watch(self, other: Side) -> None:
        """While this side is waited for, the other one's end ends the waiting."""
        self._other = other
        self._poll.register(other.sock, select.POLLRDHUP)

    def _more(self) -> None:
        ready = dict(self._poll.poll(_PATIENCE_S * 1000))
        if self._other is not None and self._other.sock.fileno() in ready:
            raise BrokenError(self._other.name, "ended")
        try:
            piece = self.sock.recv(_PIECE)
        except OSError as trouble:
            raise BrokenError(self.name, f"{trouble}") from trouble
        if not piece:
            raise BrokenError(self.name, "ended")
        self._pending += piece

    def reset(self) -> None:
        """RST, not FIN."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Relay:
    """One connection of the client, to its end."""

    def __init__(self, client: socket.socket, target: tuple[str, int], record: Record) -> None:
        self._client = Side("client", client)
        self._server: Side | None = None
        self._target = target
        self._record = record

    def run(self) -> None:
        """Request after request; never raises."""
        try:
            while self._one():
                pass
        except BrokenError:
            self._client.reset()
        finally:
            self._client.sock.close()
            if self._server is not None:
                self._server.reset()

    def _one(self) -> bool:
        head = self._client.head()
        if not head:
            return False
        method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
        known: dict[str, Any] = {"method": method, "path": path, "begun_ns": time.monotonic_ns()}
        known |= {"sha256": "", "bytes": 0, "sent_ns": 0, "status": 0, "error": ""}
        self._record.write(mark="begun", path=path, method=method)
        try:
            server = self._connected()
            server.send(head)
            self._upload(head, server, known)
            known["sent_ns"] = time.monotonic_ns()
            self._record.write(mark="sent", path=path, method=method)
            answer = server.head()
            if not answer:
                raise BrokenError("server", "ended before its answer")
            known["status"] = int(answer.split(b" ", 2)[1])
            # The status line tells what was done; if the rest of the answer is lost, the client tries again.
            return self._answer(method, head, answer, server)
        except BrokenError as broken:
            known["error"] = str(broken)
            raise
        finally:
            self._record.write(**known, ended_ns=time.monotonic_ns())

    def _connected(self) -> Side:
        if self._server is None:
            try:
                sock = socket.create_connection(self._target, timeout=_CONNECT_S)
            except OSError as trouble:
                raise BrokenError("server", f"{trouble}") from trouble
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
            self._server = Side("server", sock)
            self._server.watch(self._client)
            self._client.watch(self._server)
        return self._server

    def _upload(self, head: bytes, server: Side, known: dict[str, Any]) -> None:
        digest = hashlib.sha256()

        def take(piece: bytes) -> None:
            digest.update(piece)
            known["bytes"] += len(piece)

        _relay_body(head, self._client, server, take)
        known["sha256"] = digest.hexdigest()

    def _answer(self, method: str, head: bytes, answer: bytes, server: Side) -> bool:
        self._client.send(answer)
        if method != "HEAD":
            _relay_body(answer, server, self._client, len)
        return not any(_field(one, b"connection") == b"close" for one in (head, answer))


def _relay_body(head: bytes, source: Side, target: Side, take: Callable[[bytes], object]) -> None:
    """By the framing that `head` says. Raises BrokenError."""
    if _field(head, b"transfer-encoding") == b"chunked":
        while size := _chunk(source, target):
            _relay_bytes(size, source, target, take)
            target.send(source.line())
        target.send(source.line())
        return
    _relay_bytes(int(_field(head, b"content-length") or b"0"), source, target, take)


def _chunk(source: Side, target: Side) -> int:
    line = source.line()
    if not line:
        raise BrokenError(source.name, "ended in mid-body")
    target.send(line)
    return int(line.split(b";")[0], 16)


def _relay_bytes(left: int, source: Side, target: Side, take: Callable[[bytes], object]) -> None:
    while left:
        piece = source.some(min(left, _PIECE))
        take(piece)
        target.send(piece)
        left -= len(piece)


def _field(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return b""


class Proxy:
    """Accepts until `close`."""

    def __init__(self, target: tuple[str, int], record: Record, port: int = 0) -> None:
        self._target = target
        self._record = record
        self._listener = socket.create_server(("127.0.0.1", port))
        self._room = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Until `close`; blocks."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._room.acquire()
            threading.Thread(target=self._relay, args=(sock,), daemon=True).start()

    def close(self) -> None:
        """No new connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _relay(self, sock: socket.socket) -> None:
        try:
            Relay(sock, self._target, self._record).run()
        finally:
            self._room.release()


def main() -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, help="host:port")
    parser.add_argument("--record", type=Path, required=True)
    asked = parser.parse_args()
    host, _, port = asked.to.rpartition(":")
    proxy = Proxy((host, int(port)), Record(asked.record), asked.port)
    print(f"127.0.0.1:{proxy.port} -> {asked.to}", flush=True)
    proxy.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
