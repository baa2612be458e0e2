"""The read-only status endpoint: HTTP over a unix socket, and over loopback TCP where that is configured.

`/status` JSON, `/livez` (the pump advanced), `/readyz` (the session is proven), `/holder/LEASE` (a name, or 404).
Nothing here can change anything, and no answer waits for etcd.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import h11

from leaseha.errors import OperationalError

STATUS_SOCKET: Final = "status.sock"
"""Its name in the runtime directory."""
HEAD_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the answers come from; each is called in the event loop and returns at once."""

    status: Callable[[], dict[str, Any]]
    alive: Callable[[], tuple[bool, str]]
    ready: Callable[[], tuple[bool, str]]
    holder: Callable[[str], str | None]
    """The holder of a lease; empty: none; None: there is no such lease."""


class StatusServer:
    """Serves `answers` until closed."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._servers: list[asyncio.Server] = []
        self._open = 0

    async def listen_unix(self, path: Path) -> None:
        """Listen on a unix socket, instead of whoever left one there. Raises `OperationalError`."""
        try:
            server = await asyncio.start_unix_server(self._serve, sock=_unix_socket(path))
        except OSError as error:
            raise OperationalError(f"the status socket {path} cannot be opened: {error.strerror}") from error
        self._servers.append(server)

    async def listen_tcp(self, host: str, port: int) -> None:
        """Listen on loopback. Raises `OperationalError`."""
        try:
            self._servers.append(await asyncio.start_server(self._serve, host, port))
        except OSError as error:
            message = f"status.listen = {host}:{port} cannot be listened on: {error.strerror}"
            raise OperationalError(message) from error

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    await self._exchange(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
        request: h11.Request | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage) or not isinstance(event, h11.Data):
                break
        if request is None:
            return
        status, kind, body = self._answer(request.method, request.target.decode("ascii", "replace"))
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        parts = [h11.Response(status_code=status, headers=headers), h11.EndOfMessage()]
        if request.method != b"HEAD":
            parts.insert(1, h11.Data(data=body))
        for part in parts:
            writer.write(connection.send(part) or b"")
        await writer.drain()

    def _answer(self, method: bytes, target: str) -> tuple[int, str, bytes]:
        path = target.partition("?")[0]
        if method not in (b"GET", b"HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "this endpoint is read-only")
        if path == "/status":
            body = json.dumps(self._answers.status(), indent=1).encode() + b"\n"
            return HTTPStatus.OK, "application/json", body
        if path in ("/livez", "/readyz"):
            well, why = (self._answers.alive if path == "/livez" else self._answers.ready)()
            return _text(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, why)
        if path.startswith("/holder/"):
            holder = self._answers.holder(path.removeprefix("/holder/"))
            if holder is None:
                return _text(HTTPStatus.NOT_FOUND, "no such lease")
            return _text(HTTPStatus.OK, holder) if holder else _text(HTTPStatus.NOT_FOUND, "no holder")
        return _text(HTTPStatus.NOT_FOUND, "ask for /status, /livez, /readyz or /holder/LEASE")


def _unix_socket(path: Path) -> socket.socket:
    """A bound socket, for its owner and group only. Whoever held the path before is gone: the agent has the lock."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
    except OSError:
        listener.close()
        raise
    return listener


def _text(status: HTTPStatus, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
