"""The one timer of a node: a `Tick` when either clock reaches the moment that the core named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_S, Instant

LONGEST_S: Final = 0.5
"""The loop's own clock may be slewed and stops in suspend: look at ours at least this often."""


class Alarm:
    """Rings once for the moment that was set last. `ring` gets the instant read when it rang."""

    def __init__(
        self, ring: Callable[[Instant], None], rang: Callable[[Instant, Instant], None] = lambda *_: None
    ) -> None:
        """`rang` learns when it should have rung, and when it did."""
        self._ring = ring
        self._rang = rang
        self._at: Instant | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: Instant) -> None:
        """Ring at `at`, and not at any moment that was set before."""
        self._at = at
        self._arm()

    def stop(self) -> None:
        """Do not ring any more."""
        self._at = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._at is None:
            return
        left_s = max(0.0, self._at.left_ns(clock.now()) / NS_PER_S)
        self._handle = asyncio.get_running_loop().call_later(min(left_s, LONGEST_S), self._look)

    def _look(self) -> None:
        now = clock.now()
        if self._at is not None and self._at.deadline_passed(now):
            self._rang(self._at, now)
            self._at = None
            self._ring(now)
        else:
            self._arm()
