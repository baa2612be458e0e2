"""The only loop: event in, `step`, effects out, in order.

Runs in one thread, the event loop's; whoever lives in another gives its events by `give_from_thread`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from leaseha.adapters import clock
from leaseha.core import machine
from leaseha.core.effects import Effect
from leaseha.core.events import Event
from leaseha.core.state import NodeState
from leaseha.core.values import Instant
from leaseha.errors import InvariantBroken, fault

QUEUE_MAX: Final = 10_000
"""More events than this waiting, and the node is beyond help: it stops holding."""


class Pump:
    """Holds the state of the node and feeds it events one by one.

    `execute` carries out one effect (it must return at once and report by `give`); `on_broken` is called once
    when the state contradicts itself, and nothing is stepped after that: the caller stops holding.
    """

    def __init__(
        self,
        state: NodeState,
        execute: Callable[[Effect], None],
        on_broken: Callable[[InvariantBroken], None],
        seen: Callable[[NodeState], None] = lambda _: None,
    ) -> None:
        """`seen` hears the state after each step, before anything of it is carried out; must be quick."""
        self.state = state
        self.advanced_at: Instant = clock.now()
        """When an event was last stepped through: liveness."""
        self._execute = execute
        self._on_broken = on_broken
        self._seen = seen
        self._queue: deque[Event] = deque()
        self._running = False
        self._broken = False
        self._frozen = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say which loop steps; before any event."""
        self._loop = loop

    def give(self, event: Event) -> None:
        """Step an event, or queue it behind those that are being stepped."""
        if self._broken:
            return
        self._queue.append(event)
        self._run()

    def _run(self) -> None:
        if self._running or self._resting:
            return
        self._running = True
        try:
            while self._queue and not self._resting:
                self._step(self._queue.popleft())
        finally:
            self._running = False

    def freeze(self) -> None:
        """Step nothing more: the state is handed over as it is. Events wait."""
        self._frozen = True

    def thaw(self) -> None:
        """It was not: go on with what has waited."""
        self._frozen = False
        self._run()

    def give_from_thread(self, event: Event) -> None:
        """The same from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.give, event)

    @property
    def _resting(self) -> bool:
        return self._broken or self._frozen

    def _step(self, event: Event) -> None:
        try:
            if len(self._queue) > QUEUE_MAX:
                raise InvariantBroken(f"{len(self._queue)} events are waiting")
            self.state, effects = machine.step(self.state, event)
            self.advanced_at = event.at
            self._seen(self.state)
            for effect in effects:
                self._execute(effect)
        except InvariantBroken as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, a node in an unknown state stops holding
            self._break(InvariantBroken(fault(error)))

    def _break(self, error: InvariantBroken) -> None:
        self._broken = True
        self._on_broken(error)
