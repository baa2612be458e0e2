"""A bounded queue with a daemon thread of its own: what may hang (a disk, a collector, a pipe) hangs there.

`offer` never waits and never raises: what finds no room is lost, counted, and said once a minute. `close`
waits no longer than it is told, also when the thread hangs for good. Not promised: that anything offered is
delivered; nothing that must arrive may go this way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from leaseha import scheduling
from leaseha.adapters import clock
from leaseha.core.values import NS_PER_S, Instant

T = TypeVar("T")
Deliver = Callable[[Sequence[T]], None]

COMPLAIN_EVERY_NS: Final = 60 * NS_PER_S
CAPACITY: Final = 2048
BATCH_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the items: those neither `delivered` nor `lost` are still waiting."""

    offered: int
    delivered: int
    lost: int


class Complaints:
    """Lets one sentence a minute through, from whatever thread, so that a fault does not flood the log."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._next: Instant | None = None

    def say(self, text: str) -> None:
        """Pass `text` on, unless something was said within the last minute."""
        now = clock.now()
        with self._lock:
            if self._next is not None and not self._next.wait_over(now):
                return
            self._next = now.plus(COMPLAIN_EVERY_NS)
        self._warn(text)


class Outbox(Generic[T]):
    """Hands items in batches to what `connect` returns; both run in the outbox's own thread.

    `connect(closing)` is called once, there, so that heavy imports delay nobody; `closing` is set when `close`
    was called, for whoever waits between attempts. An error that either raises loses the batch (or, of
    `connect`, all there is), is counted and goes to `complaints`; the thread goes on. `linger_s` is how long
    a batch waits for company.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[threading.Event], Deliver[T]],
        *,
        capacity: int = CAPACITY,
        batch_max: int = BATCH_MAX,
        linger_s: float = 0.0,
        complaints: Complaints | None = None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._capacity = capacity
        self._batch_max = batch_max
        self._linger_s = linger_s
        self._complaints = complaints
        self._changed = threading.Condition()
        self._waiting: deque[T] = deque()
        self._in_hand = 0
        self._offered = self._delivered = self._lost = 0
        self._dead = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"leaseha {name}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What became of the items so far."""
        with self._changed:
            return Counts(self._offered, self._delivered, self._lost)

    def offer(self, item: T) -> bool:
        """Queue an item; False if it was lost because there is no room or the outbox is closed."""
        with self._changed:
            self._offered += 1
            room = not self._dead and not self._closing.is_set() and len(self._waiting) < self._capacity
            if room:
                self._waiting.append(item)
                self._changed.notify()
            else:
                self._lost += 1
        if not room:
            self._complain("the queue is full" if not self._dead else "the queue is closed")
        return room

    def finish(self) -> None:
        """Take no more, and deliver what waits; returns at once."""
        with self._changed:
            self._closing.set()
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Deliver what waits, for `timeout_s` at most; True if nothing was ever lost. Safe to call again."""
        self.finish()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._give_up()
        return self.counts.lost == 0

    def _give_up(self) -> None:
        with self._changed:
            lost = len(self._waiting) + self._in_hand
            self._waiting.clear()
            self._in_hand = 0
            self._lost += lost
            self._dead = True
        if lost:
            self._complain("no time was left at the end")

    def _run(self) -> None:
        # It holds the interpreter now and then: a renewal would wait for it as long as it waits for its processor.
        scheduling.follow()
        try:
            deliver = self._connect(self._closing)
        except Exception as error:  # noqa: BLE001 - the last frame of a thread: counted and said, nobody above
            self._give_up()
            self._complain(_why(error))
            return
        while batch := self._take():
            try:
                deliver(batch)
            except Exception as error:  # noqa: BLE001 - as above; the next batch may fare better
                self._settle(lost=True)
                self._complain(_why(error))
                if self._closing.is_set():
                    self._give_up()
            else:
                self._settle(lost=False)

    def _take(self) -> list[T]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._batch_max or self._closing.is_set(), self._linger_s
            )
            batch = [self._waiting.popleft() for _ in range(min(self._batch_max, len(self._waiting)))]
            self._in_hand = len(batch)
            return batch

    def _settle(self, *, lost: bool) -> None:
        with self._changed:
            if lost:
                self._lost += self._in_hand
            else:
                self._delivered += self._in_hand
            self._in_hand = 0

    def _complain(self, why: str) -> None:
        if self._complaints is not None:
            self._complaints.say(f"{self._name}: {self.counts.lost} lost so far: {why}")


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
