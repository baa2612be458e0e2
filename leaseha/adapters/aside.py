"""Work that may hang for minutes (a name server, a program on a dead network disk), put aside.

What it does not promise: to end it. The thread stays until the call returns, and as a daemon it keeps neither
the event loop nor the end of the process waiting, which the threads of an executor would.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from leaseha import scheduling

_T = TypeVar("_T")


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
            failure = error
            deliver(lambda: done.set_exception(failure))
        else:
            deliver(lambda: done.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
