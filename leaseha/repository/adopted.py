"""A repository process that an agent goes on with after it was replaced in place: still its child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Protocol


class Child(Protocol):
    """What the agent's end needs of the process; asyncio's own has it."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def returncode(self) -> int | None:
        """None while it lives; negative for a signal."""

    async def wait(self) -> int:
        """Until it ended."""

    def kill(self) -> None:
        """SIGKILL. Raises ProcessLookupError."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """A process from before: its number, our end of its channel, and the number of the last request."""

    pid: int
    fd: int
    number: int


class AdoptedChild:
    """A child that another program of this very process has started."""

    def __init__(self, pid: int) -> None:
        """Raises OSError if there is no such child."""
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = 0
        with contextlib.suppress(ChildProcessError):
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set_result(self.returncode)

    async def wait(self) -> int:
        """Its exit status."""
        status: int = await asyncio.shield(self._ended)
        return status

    def kill(self) -> None:
        """SIGKILL. Raises ProcessLookupError if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
