"""Work that may hang for minutes (a name server, a program on a dead network disk), put aside.

What it does not promise: to end it. The thread stays until the call returns, and as a daemon it keeps neither
the event loop nor the end of the process waiting, which the threads of an executor would.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from leaseha import scheduling

_T = TypeVar("_T")
_Job = tuple[Callable[[], None], Callable[[OSError], None], str]


class _Starter:
    """Starts threads for the event loop, which would wait for each until it has had its first turn on a processor.

    Threads that the loop itself starts begin as ordinary ones (leaseha.scheduling): on a busy machine that turn may
    be long in coming. Those that this one starts are as urgent as it is.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, run: Callable[[], None], failed: Callable[[OSError], None], name: str) -> None:
        """From the event loop's thread; returns at once. `failed` is called if there can be no more threads."""
        self._jobs.put((run, failed, name))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="starter", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        scheduling.follow()
        while True:
            run, failed, name = self._jobs.get()
            try:
                threading.Thread(target=run, name=name, daemon=True).start()
            except RuntimeError as error:
                failed(OSError(str(error)))


_starter = _Starter()


def aside(work: Callable[[], _T], name: str) -> asyncio.Future[_T]:
    """Start `work` in a daemon thread; the future has its result or its `OSError`.

    Bounds are the caller's business: one thread lives for each call that has not returned.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def deliver(tell: Callable[[], None]) -> None:
        # The loop may have been closed long before the call came back.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if done.cancelled() else tell())

    def run() -> None:
        # It holds the interpreter now and then: as urgent as those who wait for it. What it starts is not.
        scheduling.follow(forks=True)
        try:
            result = work()
        except (OSError, ValueError) as error:
            failed(error)
        else:
            deliver(lambda: done.set_result(result))

    def failed(error: OSError | ValueError) -> None:
        deliver(lambda: done.set_exception(error))

    _starter.start(run, failed, name)
    return done
