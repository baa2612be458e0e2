"""What keeps the renewals of a busy machine in time: priority, memory that stays, a collector that does not stop us.

Nothing of it is required. What was granted is told by `status`, what a short ttl lacks by `check`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from typing import Any, Final

from leaseha import scheduling
from leaseha.adapters import clock
from leaseha.core.state import NodeState
from leaseha.core.values import Instant
from leaseha.runtime.executor import Observer, Timekeeper
from leaseha.runtime.pace import Pace, Paced

LOOK_EVERY_S: Final = 1.0
"""How often threads are looked for that libraries have started."""
SETTLED_S: Final = 10.0
"""What is loaded beside the start (the exporter of traces) is there by then: frozen, too."""
TAKER_FIRST_S: Final = 0.1
"""What is left to end waits for so long for whoever takes over, who may share the machine or etcd's disk with us."""
COLLECT_AT: Final = (5_000, 20, 20)
"""New objects before the youngest are looked at, such looks before the middle ones, and such before all."""

_log = logging.getLogger("leaseha.agent")


class Urgency:
    """Of the agent's process and its event loop. `wanted`: the configuration's `node.realtime`."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._pace = Pace()
        self._unlocked = "not asked for"
        self._given_up = ""
        self._began: Instant | None = None

    def begin(self) -> None:
        """Ask for everything; from the main thread, once everything is loaded and before anything is held."""
        # Whoever computes for so long without a pause is told so in this thread, whichever it was. To be loaded in
        # place of the program before may have taken longer.
        signal.sigtimedwait({signal.SIGXCPU}, 0)
        signal.signal(signal.SIGXCPU, lambda *_: self._give_up())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU})
        if self._wanted:
            scheduling.raise_process()
            self._unlocked = scheduling.lock_memory()
        elif scheduling.is_realtime(0):
            scheduling.lower_process()  # this program goes on in the process of one that wanted it
        settle(self._timed)
        asyncio.get_running_loop().call_later(SETTLED_S, gc.freeze)
        self._keep()
        _log.info("%s", self.sentence())

    async def end(self) -> None:
        """Nothing is held any more, and the process ends."""
        scheduling.lower_process()
        await asyncio.sleep(TAKER_FIRST_S)

    def watching(self, observer: Observer, state: Callable[[], NodeState]) -> tuple[Observer, Timekeeper]:
        """Who is told of everything, and says who was late at a deadline; and who notes how late things were."""
        self._pace.state = state
        return Paced(observer, self._pace, lambda text: _log.warning("%s", text)), self._pace

    def _keep(self) -> None:
        """Threads that come later get it, too; for as long as the loop runs."""
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._keep)
        scheduling.sweep()

    def told(self, guard: dict[str, Any]) -> dict[str, Any]:
        """For `status`; `guard`: what the guard says of itself."""
        return {
            "priority": scheduling.rank(),
            "memory_locked": not self._unlocked,
            "guard": guard or None,
            "note": self._given_up or self._missing(),
            "worst": self._pace.told(clock.now()),
        }

    def sentence(self) -> str:
        """What is in force."""
        missing = self._missing()
        memory = "memory locked" if not self._unlocked else "memory not locked"
        return f"priority {scheduling.rank()}, {memory}{f' ({missing})' if missing else ''}"

    def _missing(self) -> str:
        if not self._wanted:
            return "node.realtime is off"
        return "; ".join(why for why in (_why_not(), self._unlocked) if why)

    def _give_up(self) -> None:
        """It computes without end, or the machine is far too slow: others must get their turn."""
        scheduling.lower_process()
        self._given_up = f"given up: computed for {scheduling.RUN_S} s without a pause"
        _log.error("real-time priority is %s; it comes back with a restart", self._given_up)

    def _timed(self, phase: str, _: dict[str, int]) -> None:
        at = clock.now()
        if phase == "start":
            self._began = at
        elif self._began is not None:
            self._pace.pause_ns.note(at.boot_ns - self._began.boot_ns, at)


def _why_not() -> str:
    if scheduling.rank() == scheduling.REAL_TIME:
        return ""
    return (
        scheduling.why_not_realtime()
        or "the kernel refuses real-time priority (a group without a share of it?)"
    )


def settle(timed: Callable[[str, dict[str, int]], None] | None = None) -> None:
    """What was loaded is never looked at again by the collector, and what comes later seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
    if timed is not None:
        gc.callbacks.append(timed)


def lacking() -> list[str]:
    """What this account may not have of all that; for `check`."""
    return [why for why in (scheduling.why_not_realtime(), scheduling.why_not_locked()) if why]
