"""A real repository process on loopback, for tests that only speak HTTP with it."""

import asyncio
import threading
from pathlib import Path
from typing import Self

from leaseha.repository.control import RepositoryProcess
from tests.repository.agent import in_s
from tests.repository.served import HOST, Client, Reply, free_port


class InBackground:
    """A process that serves `root`, and the loop that is its agent in a thread of its own. A context manager."""

    def __init__(self, root: Path, **options: bool) -> None:
        self.root = root
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._process = RepositoryProcess(root, lambda notice: None, **options)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(30)
        return self

    def __exit__(self, *unused: object) -> None:
        asyncio.run_coroutine_threadsafe(self._process.close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _begin(self) -> None:
        await self._process.start()
        assert (await self._process.serve([HOST], self.port, 7, 0, in_s(300))).ok

    def ask(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Reply:
        """One request on a connection of its own."""
        with Client(self.port) as client:
            return client.ask(method, path, body, **fields)

    def temporaries(self) -> list[str]:
        return [entry.name for entry in (self.root / ".leaseha/tmp").iterdir()]
