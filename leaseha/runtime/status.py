"""The status endpoint: HTTP over a unix socket, and over loopback TCP where that is configured.

`/status` JSON, `/livez` (the pump advanced), `/readyz` (the session is proven), `/holder/LEASE` (a name, or 404).
None of these can change anything, and no answer waits for etcd. `POST /reload`, on the unix socket and for root or the
agent's own account alone, is answered when it is done, by the program that has replaced this one. `POST /repository`,
for the same, asks a repository's process for something (leaseha.runtime.chores).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

import h11

from leaseha.config.model import HostPort
from leaseha.errors import OperationalError
from leaseha.runtime.reply import Reply, kept, refusal

BODY_MAX: Final = 16 * 1024
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


_log = logging.getLogger("leaseha.agent")


class Reload(Protocol):
    """Begins a reload, and returns."""

    def __call__(self, reply: Reply, *, upgrade: bool, config: str) -> None:
        """`reply` is told how it went; `config` is the file that whoever asks means."""


Chore = Callable[[Reply, dict[str, Any]], None]
"""Takes what is asked of a repository's process, and returns; the reply is told how it went."""


class StatusServer:
    """Serves `answers` until closed."""

    def __init__(self, answers: Answers, reload: Reload | None = None, chore: Chore | None = None) -> None:
        self._answers = answers
        self._reload = reload
        self._chore = chore
        self._servers: list[asyncio.Server] = []
        self._open = 0

    async def listen(self, path: Path, tcp: HostPort | None, *, tcp_needed: bool) -> None:
        """On both. `tcp_needed` False: a port that is taken is logged, and lived without. Raises `OperationalError`."""
        await self.listen_unix(path)
        if tcp is None:
            return
        try:
            await self.listen_tcp(tcp.host, tcp.port)
        except OperationalError as error:
            if tcp_needed:
                raise
            _log.error("%s", error)  # what is held is not let go for it

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
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_MAX:
                    return
            else:
                break
        if request is None:
            return
        target = request.target.decode("ascii", "replace")
        if request.method == b"POST" and target in ("/reload", "/repository"):
            asking = self._reload_asked if target == "/reload" else self._chore_asked
            found = asking(writer.get_extra_info("socket"), body)
            if found is None:
                return
        else:
            found = self._answer(request.method, target)
        status, kind, body = found
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        parts = [h11.Response(status_code=status, headers=headers), h11.EndOfMessage()]
        if request.method != b"HEAD":
            parts.insert(1, h11.Data(data=body))
        for part in parts:
            writer.write(connection.send(part) or b"")
        await writer.drain()

    def _reload_asked(self, connection: socket.socket, body: bytes) -> tuple[int, str, bytes] | None:
        """None: it is answered later, on this connection."""
        if self._reload is None or connection.family != socket.AF_UNIX:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "this endpoint is read-only")
        if not _may_command(connection):
            return refusal("only root, and the account that the agent runs as, may reload it", 1)
        try:
            asked = json.loads(body)
            upgrade, config = bool(asked["upgrade"]), str(asked["config"])
        except (ValueError, KeyError, TypeError):
            return _text(HTTPStatus.BAD_REQUEST, 'a reload is asked for by {"upgrade": BOOL, "config": PATH}')
        self._reload(kept(connection), upgrade=upgrade, config=config)
        return None

    def _chore_asked(self, connection: socket.socket, body: bytes) -> tuple[int, str, bytes] | None:
        """None: it is answered later, on this connection."""
        if self._chore is None or connection.family != socket.AF_UNIX:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "this endpoint is read-only")
        if not _may_command(connection):
            return refusal("only root, and the account that the agent runs as, may ask for that", 1)
        try:
            asked = json.loads(body)
            asked["lease"], asked["do"]
        except (ValueError, KeyError, TypeError):
            return _text(HTTPStatus.BAD_REQUEST, 'a repository is asked by {"lease": NAME, "do": WHAT, ...}')
        self._chore(kept(connection), asked)
        return None

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


def _may_command(connection: socket.socket) -> bool:
    """Root, or the account that this runs as."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", peer)
    return uid in (0, os.geteuid())


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
