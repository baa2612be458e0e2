"""What many leases ask of one slow thing, done in turns: what is alike goes together, and no lease is overtaken.

A thread does one thing at a time, and most of what it costs (reading all addresses, say) is the same for one lease as
for sixty. So what was asked meanwhile is collected. What waits is bounded by what may be asked: each lease asks one
thing at a time.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from leaseha.errors import LeasehaError

MOST: Final = 64
"""Leases in one turn: so long it takes until something more urgent gets to the thread (some 10 ms)."""

W = TypeVar("W")
A = TypeVar("A")
Together = Callable[[Mapping[str, W]], Mapping[str, A | LeasehaError]]
"""Does for many leases what each of them asked for; the answer of each, or why it failed."""
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(slots=True)
class _Asked:
    together: Callable[[Any], Any]
    lease: str
    what: Any
    answer: asyncio.Future[Any]


class Turns:
    """`run` carries out one function where it belongs and gives its result, or raises for all who asked."""

    def __init__(self, run: Run, most: int = MOST) -> None:
        self._run = run
        self._most = most
        self._queue: deque[_Asked] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, together: Together[W, A], lease: str, what: W) -> A:
        """Its turn comes after all that was asked for this lease before. Cancelled, it is done all the same.

        Raises what `together` answers, or `run` raises, for this lease.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(together, lease, what, loop.create_future())
        self._queue.append(asked)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        answer: A = await asked.answer
        return answer

    async def _work(self) -> None:
        while self._queue:
            turn = self._next()
            wanted = {one.lease: one.what for one in turn}
            together = turn[0].together
            try:
                answers = await self._run(functools.partial(together, wanted))
            except Exception as error:  # noqa: BLE001 - it is told to those who wait; unanswered they wait for ever
                answers = dict.fromkeys(wanted, error)
            for one in turn:
                _answer(one, answers[one.lease])

    def _next(self) -> list[_Asked]:
        """The first that waits, and all that is like it, but for leases that wait for something else before."""
        together, taken, left = self._queue[0].together, list[_Asked](), deque[_Asked]()
        seen: set[str] = set()
        for one in self._queue:
            alike = one.together == together and one.lease not in seen and len(taken) < self._most
            (taken if alike else left).append(one)
            seen.add(one.lease)
        self._queue = left
        return taken


def _answer(asked: _Asked, answer: Any) -> None:
    if asked.answer.done():
        return  # who asked has been cancelled
    if isinstance(answer, Exception):
        asked.answer.set_exception(answer)
    else:
        asked.answer.set_result(answer)
