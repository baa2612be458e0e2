"""The repository's process as a lease's resource: kept warm, started again when it died or its directory came back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import tenacity

from leaseha import __version__
from leaseha.config import DoorConfig
from leaseha.core.state import NodeState
from leaseha.core.values import Instant
from leaseha.errors import ResourceError
from leaseha.lines import Shape
from leaseha.repository.adopted import Inherited
from leaseha.repository.control import Answer, Notice, RepositoryError, RepositoryProcess, RepositoryStatus
from leaseha.runtime.copies import Copies
from leaseha.runtime.datadir import DataDirectory
from leaseha.runtime.handover import RepositoryTold
from leaseha.runtime.users import DoorTeller, options_of

PULSE_S: Final = 0.5
"""How often a serving process is asked for a sign of life."""
PAUSE_PULSES: Final = 4
"""So many pulses without a byte make a pause in what clients stream."""
LOOK_EVERY_S: Final = 2.0
"""How often the data directory is looked at while all is well."""
AGAIN_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long is waited after each vain try in turn, s; the last is repeated."""

OPEN_DOOR: Final = DoorConfig()
_log = logging.getLogger("leaseha.repository")


class WarmRepository:
    """`failed(why)` is called when it stopped serving without being asked: it died, or its disk refused.

    `busy(whether)` is called when clients begin to stream to or from it, and when they have paused for a while.
    """

    def __init__(
        self,
        lease: str,
        directory: DataDirectory,
        logs: Shape,
        failed: Callable[[str], None],
        busy: Callable[[bool], None],
        door: DoorConfig = OPEN_DOOR,
        copies: Copies | None = None,
    ) -> None:
        """`copies`: its data is kept on other nodes too."""
        self._lease = lease
        self._directory = directory
        self._logs = logs
        self._failed = failed
        self._tell_busy = busy
        self._busy = False
        self._serving = False
        self._version = __version__
        self._closing = False
        options = options_of(door)
        self._process = RepositoryProcess(directory.path, self._heard, logs=logs, door=options)
        self.door = DoorTeller(lease, options, self._process)
        self.copies = copies
        if copies is not None:
            copies.tell = self._process.members
        self._starting = asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._pulse: asyncio.Task[None] | None = None

    async def ensure_running(self) -> None:
        """Up and warm, on the directory that is meant. Raises `ResourceError`."""
        try:
            why = await self._directory.look()
        except TimeoutError as error:
            why = str(error)
        if why:
            raise ResourceError(why)
        await self._mind_store()
        await self._start()

    async def _mind_store(self) -> None:
        """Another data directory than the process has is another store: it begins anew."""
        if self.copies is None:
            return
        store = self._directory.store(self._logs.node)
        if self._process.running and not self._serving and store != self.copies.store:
            await self._process.close()
        self.copies.found(store)

    def begin(self) -> None:
        """The core has started."""
        if self.copies is not None:
            self.copies.begin()

    def look(self, state: NodeState) -> None:
        """After each step of the core, before anything of it is carried out."""
        if self.copies is not None:
            self.copies.look(state)

    def hand_over(self, port: int) -> RepositoryTold | None:
        """What the next program needs to go on with its process; None if there is none. Raises `RepositoryError`."""
        if not self._process.running:
            return None
        if self._pulse is not None:
            self._pulse.cancel()
        found = self._process.hand_over()
        path, version = str(self._directory.path), self._version
        copies = self.copies.told() if self.copies is not None else None
        return RepositoryTold(
            self._lease, found.fd, found.pid, found.number, path, port, self._serving, version, copies
        )

    def go_on(self) -> None:
        """The program was not replaced."""
        self._process.go_on()
        self._keep_feeling()

    async def adopt(self, told: RepositoryTold) -> bool:
        """Go on with the process of the program before; True if it serves. One that cannot be used is ended.

        A process of another version serves on, and is replaced when the lease is let go.
        """
        with contextlib.suppress(RepositoryError):
            await self._process.adopt(Inherited(told.pid, told.fd, told.number))
            if told.path == str(self._directory.path) and await self._same_copies(told.copies):
                self._version, self._serving = told.version, told.serving
                self._keep_feeling()
                if told.version == __version__:
                    self.door.tell_soon(options=True)
                return told.serving
            await self._process.close()
        return False

    async def _same_copies(self, told: Mapping[str, Any] | None) -> bool:
        """It keeps copies as this program would: what is acknowledged stands or falls with that."""
        if self.copies is None or told is None:
            return self.copies is None and told is None
        with contextlib.suppress(TimeoutError):
            if not await self._directory.look():
                self.copies.found(self._directory.store(self._logs.node))
        return self.copies.adopt(told)

    def _keep_feeling(self) -> None:
        if self._serving and (self._pulse is None or self._pulse.done() or self._pulse.cancelling()):
            self._pulse = asyncio.get_running_loop().create_task(self._feel_pulse())

    async def readiness(self) -> str:
        """Why it could not serve now, in a sentence; empty if it could. Makes it ready if that can be done."""
        try:
            await self.ensure_running()
        except ResourceError as error:
            return str(error)
        return ""

    async def keep_ready(self, ill: str, changed: Callable[[str], None]) -> None:
        """Until cancelled; `changed` hears each change of `readiness`, which was `ill` before."""
        tries = 0
        while True:
            await asyncio.sleep(AGAIN_S[min(tries, len(AGAIN_S) - 1)] if ill else LOOK_EVERY_S)
            why = await (self._still_there() if self._serving else self.readiness())
            tries = tries + 1 if why else 0
            if why != ill:
                ill = why
                changed(why)

    async def _still_there(self) -> str:
        """While it serves: another directory, or none, ends that; one that is only slow does not."""
        try:
            why = await self._directory.look()
        except TimeoutError:
            return ""
        if why and self._serving:
            self._serving = False
            self._failed(why)
        return why

    async def serve(self, vips: Sequence[str], port: int, token: int, epoch: int, deadline: Instant) -> None:
        """Listen on the VIPs and open the gate under this token. Raises `ResourceError`."""
        await self._start()
        self._serving = True  # it may say that it stopped in the same breath in which it says that it serves
        try:
            self._refused(await self._asked(self._process.serve(vips, port, token, epoch, deadline)))
        except BaseException:
            self._serving = False
            raise
        self._keep_feeling()

    def extend(self, token: int, deadline: Instant) -> None:
        """Move the deadline."""
        self._process.extend(token, deadline)

    async def chore(self, what: str, arguments: Mapping[str, Any]) -> Answer:
        """Begin what an operator asks for. Raises `RepositoryError`."""
        return await self._process.chore(what, arguments)

    async def inside(self) -> RepositoryStatus:
        """What its process says of itself. Raises `RepositoryError`."""
        return await self._process.status()

    async def stop(self, drain_s: float) -> None:
        """Close the gate; when this returns, or raises, nothing can be acknowledged any more."""
        self._let_be()
        if self._process.running:
            answer = await self._asked(self._process.stop(drain_s))
            if answer.cut:
                text = "%d requests were reset: they did not finish within the drain time"
                _log.warning(text, answer.cut, extra={"leaseha": {"lease": self._lease}})
            if self._version != __version__:
                await self._process.close()  # the next start is one of the program that runs now

    async def close(self) -> None:
        """End the process."""
        self._closing = True
        self._let_be()
        if self._restarting is not None:
            self._restarting.cancel()
        await self._process.close()

    def _let_be(self) -> None:
        """It is not expected to serve from now on."""
        self._serving = False
        self._note_copies({})
        self._note_busy(False)
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None

    def _note_busy(self, busy: bool) -> None:
        if busy != self._busy:
            self._busy = busy
            self._tell_busy(busy)

    async def _feel_pulse(self) -> None:
        """A process that hangs is as bad as a dead one: it is killed when it does not answer, and that is told."""
        with contextlib.suppress(RepositoryError):
            status, still = await self._process.status(), PAUSE_PULSES
            self._note_copies({**status.replication, "upkeep": status.upkeep})
            while self._serving:
                await asyncio.sleep(PULSE_S)
                before, status = status, await self._process.status()
                self._note_copies({**status.replication, "upkeep": status.upkeep})
                still = 0 if status.busy or status.bytes_in != before.bytes_in else still + 1
                self._note_busy(still < PAUSE_PULSES)

    def _note_copies(self, status: Mapping[str, Any]) -> None:
        if self.copies is not None:
            self.copies.status = status

    async def _asked(self, asking: Awaitable[Answer]) -> Answer:
        try:
            return await asking
        except RepositoryError as error:
            raise ResourceError(f"repository of lease {self._lease}: {error}") from error

    def _refused(self, answer: Answer) -> None:
        if not answer.ok:
            raise ResourceError(f"repository of lease {self._lease} ({self._directory.path}): {answer.why}")

    async def _start(self) -> None:
        async with self._starting:
            if not self._process.running:
                await self._start_again()

    async def _start_again(self) -> None:
        retries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ResourceError),
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_exponential(multiplier=0.2, max=2.0),
            reraise=True,
        )
        await retries(self._start_once)

    async def _start_once(self) -> None:
        self._version = __version__
        if self.copies is not None:
            self._process.peering = self.copies.peering()
        self._refused(await self._asked(self._process.start()))
        if self.copies is not None:
            self.copies.started()
        self.door.tell_soon()

    def _heard(self, notice: Notice) -> None:
        if notice.kind == "wants":
            if self.copies is not None:
                self.copies.heard(notice)
            return
        was_serving = self._serving
        if notice.kind in ("ended", "fault"):
            self._serving = False
            _log.error(
                "repository %s: %s", notice.kind, notice.why, extra={"leaseha": {"lease": self._lease}}
            )
        elif was_serving:
            _log.warning(
                "repository stopped serving: %s", notice.why, extra={"leaseha": {"lease": self._lease}}
            )
        if was_serving:
            # Also when it closed its gate by itself while this node holds on: nobody else would open it again.
            self._serving = False
            self._failed(notice.why)
        if notice.kind == "ended" and not self._closing and not was_serving:
            self._restarting = asyncio.get_running_loop().create_task(self._warm_up())

    async def _warm_up(self) -> None:
        try:
            await self._start()
        except ResourceError as error:
            _log.error("%s", error, extra={"leaseha": {"lease": self._lease}})
