"""Connections to a VIP that this node has given up are ended here: their processes see ECONNABORTED, and do not hang.

Beside the move and after it: nobody waits for this, and it begins a moment late so that it is in nobody's way. Only
where a fence is closed for the VIP (leaseha.connections says why), so without a kernel fence nothing is ended.

Should the VIP be back meanwhile, then what was found before it came back are old connections, and they may live.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from leaseha import connections
from leaseha.adapters.aside import aside
from leaseha.connections import Connection

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress

LATER_S: Final = 0.05
"""A planned move is over by then; leases that go down together are looked at together."""

_log = logging.getLogger("leaseha.agent")


def unsevered(why: str) -> str:
    """What it means to an operator."""
    return (
        f"the kernel cannot end old connections: {why}; after a move local processes wait for their time-outs"
    )


@dataclass(slots=True)
class _Off:
    vips: tuple[IPAddress, ...]
    still: Callable[[], bool]


class Severing:
    """Ends what is left of connections; of one agent, for all of its leases. Never raises."""

    def __init__(self, later_s: float = LATER_S) -> None:
        self._later_s = later_s
        self._off: dict[str, _Off] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._why_not = ""

    def off(self, lease: str, vips: Sequence[IPAddress], still: Callable[[], bool]) -> None:
        """These VIPs are unbound, their fence is closed; `still()`: so they are, and nobody is about to bind them."""
        if self._why_not:
            return
        self._off[lease] = _Off(tuple(vips), still)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._later_s, self._begin)

    async def settle(self, timeout_s: float) -> None:
        """Do now what waits, and wait for it, bounded: at the end of the process, before its fence is removed."""
        self._begin()
        for _ in range(2):  # one that was under way, and what came meanwhile
            if self._task is not None and not self._task.done():
                await asyncio.wait({self._task}, timeout=timeout_s)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None and not self._task.done():
            # One at a time: what waits goes next.
            self._task.add_done_callback(lambda _: self._begin())
            return
        if self._off:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        off, self._off = self._off, {}
        try:
            with connections.open_diag() as kernel:
                vips = {ip.packed for one in off.values() for ip in one.vips}
                found = await aside(lambda: connections.found(kernel, vips), "severing")
                # Looked at after the listing: what is in it was there while the VIP was not.
                back = {ip.packed for one in off.values() if not one.still() for ip in one.vips}
                found = [one for one in found if connections.local(one) not in back] if back else found
                ended = await aside(lambda: self._end(kernel, found), "severing") if found else 0
        except OSError as error:
            # Of use, and no more than that: the move is over.
            if error.errno == errno.EOPNOTSUPP:
                self._why_not = str(error.strerror)
                _log.warning("%s", unsevered(self._why_not))
            else:
                _log.warning("old connections were not ended: %s", error.strerror or error)
            return
        if ended:
            _log.info("%d old connections to what was given up were ended here", ended)

    @staticmethod
    def _end(kernel: socket.socket, found: Sequence[Connection]) -> int:
        return connections.end(kernel, found)
