"""Several real repository processes on loopback, and one who plays their agents and etcd for them."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from leaseha.repository.control import Answer, Notice, Peering, RepositoryProcess
from leaseha.repository.door import DoorOptions
from leaseha.repository.members import Members, PeerAddress
from leaseha.repository.tls import TlsFiles
from tests.repository.agent import in_s
from tests.repository.served import HOST, Client, free_port, name_of

LEASE = "backups"


def pack(size: int = 400_000) -> tuple[str, bytes]:
    """A path and bytes that belong there."""
    body = os.urandom(size)
    return f"/r/data/{name_of(body)}", body


class Node:
    """One process with a directory of its own."""

    def __init__(self, cluster: "Cluster", name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.cluster = cluster
        self.alive = True
        root.mkdir(exist_ok=True)
        self.port = free_port()
        self.peer_port = free_port(cluster.peer_host)
        self.notices: list[Notice] = []
        self.process = self._process()

    def _process(self) -> RepositoryProcess:
        peering = Peering(
            LEASE, self.name, self.cluster.peer_host, self.peer_port, self.cluster.tls(self.name)
        )
        return RepositoryProcess(self.root, self._notice, peering=peering, door=self.cluster.door)

    def _notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        if notice.kind == "wants":
            self.cluster.wanted(self, notice)

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    async def die(self) -> None:
        """SIGKILL; gone when this returns."""
        ended = len([one for one in self.notices if one.kind == "ended"])
        self.process.kill()
        await self.until(
            lambda: len([one for one in self.notices if one.kind == "ended"]) > ended, "it ended"
        )

    async def restart(self) -> None:
        await self.process.close()
        self.process = self._process()
        await self.process.start()

    async def ask(self, method: str, path: str, body: bytes | None = None):
        return await asyncio.to_thread(self._talk, method, path, body)

    def _talk(self, method: str, path: str, body: bytes | None):
        with Client(self.port, timeout_s=60) as client:
            return client.ask(method, path, body)

    def asking(self, method: str, path: str, body: bytes | None = None) -> asyncio.Task:
        return asyncio.create_task(self.ask(method, path, body))

    def dial(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=30)

    def file(self, path: str) -> Path:
        parts = path.strip("/").split("/")
        if parts[-2:-1] == ["data"]:
            parts.insert(-1, parts[-1][:2])
        return self.root.joinpath(*parts)

    def has(self, path: str, body: bytes) -> bool:
        return self.file(path).exists() and self.file(path).read_bytes() == body

    def temporaries(self) -> int:
        return len(list((self.root / ".leaseha/tmp").iterdir()))

    async def replication(self) -> dict:
        return (await self.process.status()).replication

    async def until(self, fact: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s):
            while not fact():
                await asyncio.sleep(0.002)  # waits for a fact: the caller's


class Cluster:
    """The in-sync set as etcd has it, and the words that follow from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: dict[str, Node] = {}
        self.insync: set[str] = set()
        self.written: list[set[str]] = []
        """All that T13 has put, in order."""
        self.holder: Node | None = None
        self.peer_host = HOST
        self.tls: Callable[[str], TlsFiles | None] = lambda name: None
        self.obeys = True
        """False: T13 does not come through."""
        self.min_copies = 1
        self.door = DoorOptions()
        self.seen = 0
        self.last_wants = frozenset[str]()

    async def add(self, *names: str) -> list[Node]:
        added = [Node(self, name, self.root / name) for name in names]
        await asyncio.gather(*(node.process.start() for node in added))
        self.nodes |= {node.name: node for node in added}
        return added

    def wanted(self, node: Node, notice: Notice) -> None:
        self.last_wants, self.seen = notice.stores, notice.number
        if self.obeys and node is self.holder:
            self.obey()

    def obey(self) -> None:
        """T13, and the agent's word about it."""
        if self.last_wants:
            self.insync = set(self.last_wants)
            self.written.append(self.insync)
        self.tell()

    def tell(self) -> None:
        assert self.holder
        peers = tuple(
            PeerAddress(one.name, one.name, self.peer_host, one.peer_port, one.alive)
            for one in self.nodes.values()
        )
        self.holder.process.members(
            Members(self.holder.name, frozenset(self.insync), peers, self.min_copies, self.seen)
        )

    async def take(self, node: Node, token: int, seconds: float = 300) -> Answer:
        """What an agent does at a takeover."""
        self.holder = node
        self.last_wants = frozenset()
        self.tell()
        answer = await node.process.serve([HOST], node.port, token, 0, in_s(seconds), gate=False)
        return await node.process.open_gate(token, 0, in_s(seconds)) if answer.ok else answer

    async def pair(self, *names: str) -> list[Node]:
        """All of them in sync and knowing so; the first holds under token 7 and has caught the others up."""
        nodes = await self.add(*names)
        self.insync = {names[0]}
        assert (await self.take(nodes[0], 7)).ok
        await self.all_in_sync(*names)
        await self.confirmed(nodes[0])
        self.written.clear()
        self.last_wants = frozenset()
        return nodes

    async def all_in_sync(self, *names: str) -> None:
        assert self.holder
        await self.holder.until(lambda: self.insync == set(names), f"{names} are in sync")

    async def confirmed(self, holder: Node) -> None:
        """Every member has been told that nothing differs: an upload makes sure of it, twice."""
        for _ in range(2):
            path, body = pack(10)
            assert (await holder.ask("POST", path, body)).status == 200

    async def close(self) -> None:
        for node in self.nodes.values():
            if node.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    node.go_on()
            await node.process.close()
