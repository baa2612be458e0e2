"""The effects of one lease, carried out one after the other; an urgent one pushes the rest aside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from leaseha.core.effects import (
    Announce,
    BindVip,
    CloseGate,
    OpenGate,
    StartResources,
    StopResources,
    UnbindVip,
)
from leaseha.errors import LeasehaError, fault

LaneEffect = StartResources | BindVip | OpenGate | Announce | CloseGate | StopResources | UnbindVip


def is_urgent(effect: LaneEffect) -> bool:
    """True for the way down at a deadline: it waits for nothing."""
    return isinstance(effect, CloseGate | StopResources | UnbindVip) and effect.urgent


class Lane:
    """`act` carries out one effect and raises `LeasehaError` or `OSError` if it was not, or not provably, done.

    `report(effect, ok, detail)` is called exactly once for each effect that was put in.
    """

    def __init__(
        self,
        act: Callable[[LaneEffect], Awaitable[None]],
        report: Callable[[LaneEffect, bool, str], None],
    ) -> None:
        self._act = act
        self._report = report
        self._queue: deque[LaneEffect] = deque()
        self._current: LaneEffect | None = None
        self._doing: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None

    def put(self, effect: LaneEffect) -> None:
        """Queue an effect; an urgent one first ends everything that is not urgent."""
        if is_urgent(effect):
            given_up = [queued for queued in self._queue if not is_urgent(queued)]
            self._queue = deque(queued for queued in self._queue if is_urgent(queued))
            if self._doing is not None and self._current is not None and not is_urgent(self._current):
                self._doing.cancel()
            for queued in given_up:
                self._report(queued, False, "abandoned: the lease was lost")
        self._queue.append(effect)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._queue:
            effect = self._current = self._queue.popleft()
            self._doing = asyncio.get_running_loop().create_task(self._one(effect))
            ok, detail = True, ""
            try:
                await asyncio.wait({self._doing})
                self._doing.result()
            except asyncio.CancelledError:
                ok, detail = False, "abandoned: the lease was lost"
            except (LeasehaError, OSError) as error:
                ok, detail = False, str(error)
            except Exception as error:  # noqa: BLE001 - an effect that is never reported stops its lease for ever
                ok, detail = False, fault(error)
            self._current = self._doing = None
            self._report(effect, ok, detail)

    async def _one(self, effect: LaneEffect) -> None:
        await self._act(effect)
