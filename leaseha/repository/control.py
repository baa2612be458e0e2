"""What the agent and its repository process say to each other: one JSON object a line, over a socket pair.

Agent to child: `serve` and `gate` (answered when it is so, or why not), `extend` (never answered, up to 50
a second), `stop` (answered when nothing can be acknowledged any more), `chore` (answered when it is begun; how far
it is, `status` says), `status`. Child to agent: `ready`
once, `answer` to a request, `closed` when it stopped serving by itself, `fault` when the disk refused.

Where copies are kept on other nodes, agent to child: `members` (never answered; before the first `serve` of a
tenure, and at every change); child to agent: `wants` (the stores that it would have in the in-sync set: nothing is
acknowledged without one that it wants gone before `members` no longer names it) and `stale` (another node has seen
a higher token; the gate is closed already).

The agent's end is `RepositoryProcess`: it never blocks the loop and never waits without a bound. The
child's end is in `process`. If either end of the pair closes, the child resets everything and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import RepositoryError
from leaseha.lines import Shape
from leaseha.repository.adopted import AdoptedChild, Child, Inherited
from leaseha.repository.door import DoorOptions
from leaseha.repository.members import Members
from leaseha.repository.tls import TlsFiles

__all__ = ["Answer", "Notice", "RepositoryError", "RepositoryProcess", "RepositoryStatus"]

START_S: Final = 15.0
"""How long a child may take to be ready; imports on a loaded machine are most of it."""
ANSWER_S: Final = 10.0
"""How long an answer may take, a slow disk's fsync included; then the child counts as hung."""
STOP_S: Final = 2.0
"""How long `stop` waits beyond its drain before it kills: a move to another node waits for this."""
_END_S: Final = 1.0
_LINE_MAX: Final = 64 * 1024
_BACKLOG_MAX: Final = 64 * 1024
"""Bytes not read by the child; past this it is hung, and further deadlines are not worth keeping for it."""

_USERS_AT_ONCE: Final = 64
"""Their values are some 100 bytes each, 300 at most; a line has 64 KiB at most."""

_PLAIN: Final = Shape()
_OPEN: Final = DoorOptions()

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises ValueError for anything but one JSON object."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all that is malformed
    return message


@dataclass(frozen=True, slots=True)
class Peering:
    """What a process needs to keep copies on other nodes, or to be one of them. `tls`: PEM files, or None."""

    lease: str
    store: str
    listen_host: str
    listen_port: int
    """It listens here from its start to its end, holder or not."""
    tls: TlsFiles | None = None

    def options(self) -> list[str]:
        """For the child's command line."""
        tls = ["--peer-tls", json.dumps(asdict(self.tls))] if self.tls else []
        listen = f"{self.listen_host}:{self.listen_port}"
        return ["--lease", self.lease, "--store", self.store, "--peer-listen", listen, *tls]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the child did with a request. `ok` False: nothing is served, and `why` is the sentence."""

    ok: bool
    why: str = ""
    highest_token: int = 0
    """The highest token that the data directory has seen."""
    cut: int = 0
    """For `stop`: requests that were reset because they did not finish in time."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the child, or its end, says by itself.

    kind: `closed` (it stopped serving: deadline, token; it is alive and can serve again), `fault` (the disk
    refused; yield), `ended` (the process is gone, and every connection with it), `wants` (T13 is to write `stores`),
    `stale` (another node has seen the token `highest`).
    """

    kind: str
    why: str
    stores: frozenset[str] = frozenset()
    number: int = 0
    """Of a `wants`; goes back in `Members.wants` once it is taken into account."""
    highest: int = 0
    token: int = 0
    """Under which a `wants` was said."""


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """A look inside; numbers count from the start of the process."""

    serving: bool
    gate_open: bool
    token: int
    epoch: int
    highest_token: int
    connections: int
    busy: int
    requests: int
    unready: int
    uploads: int
    deletes: int
    bytes_in: int
    bytes_out: int
    faults: int
    replication: Message = field(default_factory=dict)
    """Empty where there is one copy: else `members`, `copies`, `tail`, `peers` with one entry a store."""
    chores: Message = field(default_factory=dict)
    """By kind, how far each is, or what came of it (leaseha.repository.chores)."""
    upkeep: Message = field(default_factory=dict)
    """`scrub`; where copies are kept also `mending` and `compare` (leaseha.repository.upkeep)."""


class RepositoryProcess:
    """The agent's handle on the repository process of one lease. Used from one event loop.

    `start` warms it up; `serve` then only opens the listeners and the gate. Requests are answered one after
    the other. A process that ended can be started again.
    """

    def __init__(
        self,
        path: Path,
        notice: Callable[[Notice], None],
        *,
        depth: int = 2,
        door: DoorOptions = _OPEN,
        logs: Shape = _PLAIN,
        peering: Peering | None = None,
    ) -> None:
        """`path`: the data directory. `notice` is called from the loop and must not block or raise.

        `peering`: how it speaks with the same lease's processes of other nodes; None: one copy, here.

        `logs`: what the child's lines on its standard error look like, who it speaks for, and from which level on.
        """
        self._path = path
        self._notice = notice
        self._options = [
            "--depth",
            str(depth),
            "--log",
            json.dumps(asdict(logs)),
            "--door",
            door.told(),
        ]
        self.peering = peering
        """May be changed while it does not run: a replaced disk is another store."""
        self._process: Child | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watching: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._number = 0
        self._ready = False

    @property
    def running(self) -> bool:
        """The process is there and its channel is open."""
        return self._writer is not None

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process else 0

    async def start(self, timeout_s: float = START_S) -> Answer:
        """Warm: everything imported, leftovers of dead processes removed, no listener yet.

        Raises RepositoryError, with what the process said last, when it is not ready in time.
        """
        if self.running:
            raise RepositoryError("the repository process runs already")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # -P, and our own place first: never a package that lies in the working directory by chance.
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "leaseha.repository", "--control-fd", str(theirs.fileno())),
                    *("--parent", str(os.getpid()), "--path", str(self._path), *self._options),
                    *(self.peering.options() if self.peering else []),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, "PYTHONPATH": _python_path()},
                )
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_MAX)
        except OSError as trouble:
            ours.close()
            raise RepositoryError(f"cannot start the repository process: {trouble}") from trouble
        ready = self._expect(0)
        self._watching = asyncio.create_task(self._watch(reader, self._process), name="repository")
        answer = _answer(await self._wait(ready, timeout_s, "start"))
        if not answer.ok:
            await self.close()
            raise RepositoryError(answer.why)
        self._ready = True
        return answer

    def hand_over(self) -> Inherited:
        """Nothing more is said or heard here: the program that replaces this one goes on where this ends.

        Raises RepositoryError while an answer is awaited, or something is not sent yet.
        """
        writer, process = self._writer, self._process
        if writer is None or process is None or self._waiting or writer.transport.get_write_buffer_size():
            raise RepositoryError("the repository process is being spoken to")
        self._reading(on=False)
        return Inherited(process.pid, writer.get_extra_info("socket").fileno(), self._number)

    def go_on(self) -> None:
        """It was not handed over after all."""
        self._reading(on=True)

    def _reading(self, *, on: bool) -> None:
        transport: Any = self._writer.transport if self._writer is not None else None
        if transport is not None and transport.is_reading() is not on:
            transport.resume_reading() if on else transport.pause_reading()

    async def adopt(self, told: Inherited) -> None:
        """Go on with a process of the program before. Raises RepositoryError."""
        channel = socket.socket(fileno=told.fd)
        try:
            self._process = AdoptedChild(told.pid)
            reader, self._writer = await asyncio.open_connection(sock=channel, limit=_LINE_MAX)
        except OSError as trouble:
            channel.close()
            raise RepositoryError(f"the repository process (pid {told.pid}) is gone: {trouble}") from trouble
        self._number, self._ready = told.number, True
        self._watching = asyncio.create_task(self._watch(reader, self._process), name="repository")

    async def serve(
        self, vips: Sequence[str], port: int, token: int, epoch: int, deadline: Instant, *, gate: bool = True
    ) -> Answer:
        """Listen on each address (which may be bound later; a prefix length is ignored) until `deadline`.

        With `gate` requests are accepted at once, under `token`, which is durable before that. Without it
        everything is answered 503 until `open_gate`. Raises RepositoryError.
        """
        hosts = [vip.partition("/")[0] for vip in vips]
        word = _word(token, epoch, deadline)
        return await self._ask({"do": "serve", "vips": hosts, "port": port, "gate": gate, **word})

    async def open_gate(self, token: int, epoch: int, deadline: Instant) -> Answer:
        """After `serve(gate=False)`: accept requests under `token`. Raises RepositoryError."""
        return await self._ask({"do": "gate", **_word(token, epoch, deadline)})

    def members(self, members: Members) -> None:
        """Whose confirmation counts now. Also a standby may be told, but need not."""
        if self._writer:
            self._writer.write(encode({"do": "members", **members.message()}))

    def extend(self, token: int, deadline: Instant) -> None:
        """The deadline is this now, earlier or later. Ignored by the child if it is late, or of another token."""
        if self._writer and self._writer.transport.get_write_buffer_size() < _BACKLOG_MAX:
            self._writer.write(
                b'{"do":"extend","token":%d,"boot_ns":%d,"raw_ns":%d}\n'
                % (token, deadline.boot_ns, deadline.raw_ns)
            )

    async def stop(self, drain_s: float) -> Answer:
        """Accept nothing new, let requests in flight finish for `drain_s` at most, reset the rest.

        When this returns, or raises RepositoryError, nothing can be acknowledged any more: a child that
        does not answer is killed. The process stays warm. The deadline goes on counting meanwhile.
        """
        return await self._ask({"do": "stop", "drain_ns": int(drain_s * NS_PER_S)}, drain_s + STOP_S)

    async def change_door(self, door: DoorOptions) -> Answer:
        """Who may do what from now on; a certificate counts for the next connection. Raises RepositoryError."""
        return await self._ask({"do": "door", **asdict(door)})

    async def chore(self, what: str, arguments: Mapping[str, Any]) -> Answer:
        """Begin what an operator asks for; `ok` False: why not. Raises RepositoryError."""
        return await self._ask({"do": "chore", "what": what, "arguments": dict(arguments)})

    async def tell_users(self, users: Sequence[tuple[str, str]]) -> None:
        """All users there are, each a name and the value of its key. Returns when it is sent; never raises.

        In pieces, each sent when the one before is read: what keeps the service alive goes first.
        """
        pieces = [users[at : at + _USERS_AT_ONCE] for at in range(0, len(users), _USERS_AT_ONCE)] or [users]
        writer = self._writer
        for number, piece in enumerate(pieces):
            if writer is None or writer is not self._writer:
                return
            told = [{"name": name, "value": value} for name, value in piece]
            ends = {"first": number == 0, "last": number == len(pieces) - 1}
            writer.write(encode({"do": "users", "users": told, **ends}))
            writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits until all of it is sent
            with contextlib.suppress(OSError):
                await writer.drain()

    async def status(self) -> RepositoryStatus:
        """Raises RepositoryError."""
        message = await self._wait(*self._send({"do": "status"}), ANSWER_S, "status")
        names = RepositoryStatus.__dataclass_fields__
        return RepositoryStatus(**{name: message[name] for name in names if name in message})

    async def close(self) -> None:
        """End the process: reset everything, gone when this returns. Never raises; no `ended` notice."""
        self._hang_up()
        process, watching = self._process, self._watching
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
        if process.returncode is None:
            _kill(process)
            await process.wait()
        if watching is not None:
            await watching
        self._process = self._watching = None

    def kill(self) -> None:
        """SIGKILL, at once, without waiting; the `ended` notice follows."""
        if self._process is not None:
            _kill(self._process)

    # ---- the channel

    async def _ask(self, message: Message, timeout_s: float = ANSWER_S) -> Answer:
        return _answer(await self._wait(*self._send(message), timeout_s, message["do"]))

    def _send(self, message: Message) -> tuple[asyncio.Future[Message]]:
        if self._writer is None:
            raise RepositoryError("the repository process does not run")
        self._number += 1
        expected = self._expect(self._number)
        self._writer.write(encode({**message, "id": self._number}))
        return (expected,)

    def _expect(self, number: int) -> asyncio.Future[Message]:
        expected: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = expected
        return expected

    async def _wait(self, expected: asyncio.Future[Message], timeout_s: float, what: str) -> Message:
        try:
            return await asyncio.wait_for(expected, timeout_s)
        except TimeoutError:
            self.kill()
            raise RepositoryError(
                f"the repository process did not answer {what!r} in {timeout_s:g} s"
            ) from None

    async def _watch(self, reader: asyncio.StreamReader, process: Child) -> None:
        """Until the channel ends. The process is dead when `ended` is told: nothing of it serves any more."""
        why = "the repository process ended"
        try:
            while line := await reader.readline():
                self._hear(decode(line))
        except OSError:
            pass  # a reset is an end like another
        except (ValueError, KeyError) as broken:
            why = f"the repository process spoke nonsense: {broken!r}"
        told_to = self._writer is None or not self._ready
        self._hang_up()
        if process.returncode is None and not told_to:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
        if process.returncode is None:
            _kill(process)
        status = await process.wait()
        why = f"{why} (exit {status})" if status >= 0 else f"{why} (signal {-status})"
        for expected in self._waiting.values():
            if not expected.done():
                expected.set_exception(RepositoryError(why))
        self._waiting.clear()
        self._ready = False
        if not told_to:
            self._process = None
            self._notice(Notice("ended", why))

    def _hear(self, message: Message) -> None:
        match message["say"]:
            case "ready" | "answer":
                expected = self._waiting.pop(message["id"], None)
                if expected is not None and not expected.done():
                    expected.set_result(message)
            case "wants":
                stores = frozenset(message["stores"])
                number, token = message["number"], message["token"]
                self._notice(Notice("wants", message["why"], stores, number, token=token))
            case "stale":
                self._notice(Notice("stale", message["why"], highest=message["highest"]))
            case kind:
                self._notice(Notice(kind, message["why"]))

    def _hang_up(self) -> None:
        """The child hears EOF, and ends."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


def _python_path() -> str:
    here = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return f"{here}{os.pathsep}{inherited}" if inherited else here


def _word(token: int, epoch: int, deadline: Instant) -> Message:
    return {"token": token, "epoch": epoch, "boot_ns": deadline.boot_ns, "raw_ns": deadline.raw_ns}


def _answer(message: Message) -> Answer:
    return Answer(message["ok"], message.get("why", ""), message.get("highest", 0), message.get("cut", 0))


def _kill(process: Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
