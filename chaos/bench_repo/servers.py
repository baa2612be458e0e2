"""The servers that are compared, each as it is shipped, on loopback and a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from chaos.bench_repo.client import HOST
from leaseha import __version__
from leaseha.core.values import NS_PER_S
from leaseha.errors import LabError
from leaseha.lines import Shape
from leaseha.repository.control import Notice, Peering, RepositoryProcess
from leaseha.repository.door import DoorOptions
from leaseha.repository.gate import now
from leaseha.repository.members import Members, PeerAddress

T = TypeVar("T")

ONE_COPY: Final = "leaseha, one copy"
WITH_STANDBY: Final = "leaseha, with a standby"
REST_SERVER: Final = "rest-server"
RCLONE: Final = "rclone"
UP_S: Final = 20.0
QUIET: Final = Shape(level="warning")
"""Without a line for each upload, as rest-server and rclone are without being asked."""
_ANSWER_S: Final = 60.0
_TENURE_S: Final = 3600


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@dataclass(slots=True)
class Running:
    """A server that answers."""

    port: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the others are; empty: left out."""

    rest_server: str = ""
    rclone: str = ""

    def versions(self) -> dict[str, str]:
        """What each says of itself."""
        found = {ONE_COPY: __version__, WITH_STANDBY: __version__}
        for name, program in ((REST_SERVER, self.rest_server), (RCLONE, self.rclone)):
            if program:
                asked = [program, "--version"] if name == REST_SERVER else [program, "version"]
                done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
                found[name] = (done.stdout or done.stderr).splitlines()[0]
        return found

    def systems(self) -> list[str]:
        """Those that can be measured."""
        theirs = [
            name for name, program in ((REST_SERVER, self.rest_server), (RCLONE, self.rclone)) if program
        ]
        return [*theirs, ONE_COPY, WITH_STANDBY]


@contextlib.contextmanager
def served(system: str, programs: Programs, root: Path, other: Path | None = None) -> Iterator[Running]:
    """The system on `root` (the standby's directory is `other`). Raises LabError."""
    if system in {ONE_COPY, WITH_STANDBY}:
        with Ours(root, other or root.with_name(root.name + "-standby"), system == WITH_STANDBY) as ours:
            yield ours.running
        return
    port = free_port()
    command = {
        REST_SERVER: [programs.rest_server, "--no-auth", "--path", str(root), "--listen", f"{HOST}:{port}"],
        RCLONE: [programs.rclone, "serve", "restic", "--addr", f"{HOST}:{port}", str(root)],
    }[system]
    with root.with_name(root.name + ".log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_answer(port, process)
        yield Running(port, (process.pid,))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + UP_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise LabError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        threading.Event().wait(0.05)  # between two tries to connect
    raise LabError(f"{process.args!r} does not listen")


@dataclass(slots=True)
class Timed:
    """How long what an agent waits for took, in s."""

    start_s: float = 0.0
    take_s: float = 0.0


@dataclass(slots=True)
class Ours:
    """One or two real repository processes; their agents' and etcd's part (T13) is played here. A context manager."""

    root: Path
    other: Path
    replicate: bool
    door: DoorOptions = field(default_factory=DoorOptions)
    timed: Timed = field(default_factory=Timed)
    in_sync: frozenset[str] = frozenset({"a", "b"})
    running: Running = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _thread: threading.Thread = field(init=False)
    _processes: list[RepositoryProcess] = field(init=False)
    _peers: tuple[PeerAddress, ...] = ()
    _token: int = 7

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self.call(self._begin())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def call(self, doing: Coroutine[Any, Any, T]) -> T:
        """In the loop, waited for."""
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(_ANSWER_S)

    async def _begin(self) -> None:
        port, peer_ports = free_port(), (free_port(), free_port())
        self._processes = []
        roots = (self.root, self.other) if self.replicate else (self.root,)
        if self.replicate:
            self._peers = tuple(
                PeerAddress(store, store, HOST, at) for store, at in zip("ab", peer_ports, strict=True)
            )
        for store, root, at in zip("ab", roots, peer_ports, strict=False):
            root.mkdir(exist_ok=True)
            peering = Peering("bench", store, HOST, at) if self.replicate else None
            self._processes.append(
                RepositoryProcess(root, self._heard, logs=QUIET, peering=peering, door=self.door)
            )
        began = time.monotonic()
        await asyncio.gather(*(one.start() for one in self._processes))
        self.timed.start_s = time.monotonic() - began
        self.running = Running(port, tuple(one.pid for one in self._processes))
        await self.take()

    async def take(self) -> None:
        """What an agent does at a takeover, under the next token; with a standby until it is in the set."""
        holder = self._processes[0]
        self._token += 1
        self._tell(0)
        began = time.monotonic()
        deadline = now().plus(_TENURE_S * NS_PER_S)
        answer = await holder.serve([HOST], self.running.port, self._token, 0, deadline, gate=False)
        if answer.ok:
            answer = await holder.open_gate(self._token, 0, deadline)
        self.timed.take_s = time.monotonic() - began
        if not answer.ok:
            raise LabError(answer.why)
        async with asyncio.timeout(_ANSWER_S):
            while self.replicate and (await holder.status()).replication["copies"] < 2:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.05)

    async def upkeep_status(self) -> dict[str, Any]:
        """What the holder's process does by itself."""
        return (await self._processes[0].status()).upkeep

    def _heard(self, notice: Notice) -> None:
        if notice.kind == "wants":
            self.in_sync = notice.stores
            self._tell(notice.number)

    def _tell(self, number: int) -> None:
        if self.replicate:
            self._processes[0].members(Members("a", self.in_sync, self._peers, 1, number))

    async def _end(self) -> None:
        await asyncio.gather(*(one.close() for one in self._processes))


def find(rest_server: str, rclone: str) -> Programs:
    """The programs by path or name; one that is not there is left out."""
    return Programs(shutil.which(rest_server) or "", shutil.which(rclone) or "")
