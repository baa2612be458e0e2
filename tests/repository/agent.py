"""An agent's end of a repository process, as tests use it."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from leaseha.core.values import NS_PER_S, Instant
from leaseha.repository.control import Notice, RepositoryProcess
from leaseha.repository.gate import now
from tests.repository.served import HOST, Client, free_port, name_of, post_head, read_all

TOP = Path(__file__).parents[2]
BODY = os.urandom(400_000)
NAME = name_of(BODY)
URL = f"/r/data/{NAME}"


def in_s(seconds: float) -> Instant:
    return now().plus(int(seconds * NS_PER_S))


class Agent:
    """An agent's end of one repository process, and a client of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notices: list[Notice] = []
        self.process = RepositoryProcess(root, self.notices.append)
        self.port = free_port()

    async def serve(self, token: int = 7, seconds: float = 300, **options: bool):
        return await self.process.serve([HOST], self.port, token, 0, in_s(seconds), **options)

    async def ask(self, method: str, path: str, body: bytes | None = None):
        def talk():
            with Client(self.port) as client:
                return client.ask(method, path, body)

        return await asyncio.to_thread(talk)

    def dial(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=20)

    async def begin_upload(self) -> socket.socket:
        """All of an upload but its last byte; the server is known to be in the middle of it."""
        before = await self.process.status()
        sock = self.dial()
        sock.sendall(post_head(URL, len(BODY)) + BODY[:-1])
        await self.until(lambda: self.temporaries() > 0, "the upload has begun")
        assert (await self.process.status()).busy == before.busy + 1
        return sock

    def temporaries(self) -> int:
        return len([entry.name for entry in (self.root / ".leaseha/tmp").iterdir()])

    async def until(self, fact: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s):
            while not fact():
                await asyncio.sleep(0.002)  # waits for a fact: the caller's

    def stored(self) -> bool:
        return (self.root / "r/data" / NAME[:2] / NAME).exists()

    def refuses_connections(self) -> bool:
        try:
            self.dial().close()
        except ConnectionRefusedError:
            return True
        return False


async def reset_or_closed(sock: socket.socket) -> bytes:
    """What came before the connection ended."""
    with sock:
        return await asyncio.to_thread(read_all, sock)
