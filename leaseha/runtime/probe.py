"""The first answer: does the lease's service answer on its VIP? Asked by the holder itself, right after announcing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

ATTEMPT_S: Final = 1.0
PAUSE_S: Final = 0.05
ATTEMPTS_MAX: Final = 60
_REQUEST: Final = b"HEAD /leaseha/config HTTP/1.1\r\nHost: leaseha\r\nConnection: close\r\n\r\n"


async def repository_answers(host: str, port: int, still: Callable[[], bool]) -> bool:
    """True once the repository on `host:port` answers an HTTP request with its gate open (not 503).

    Bounded: False after `ATTEMPTS_MAX` attempts, or as soon as `still()` says that nobody waits any more.
    """
    for _ in range(ATTEMPTS_MAX):
        if not still():
            return False
        if await answers_once(host, port):
            return True
        await asyncio.sleep(PAUSE_S)
    return False


async def answers_once(host: str, port: int) -> bool:
    """One HTTP request, within `ATTEMPT_S`: True if it is answered, and not by a 503."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ATTEMPT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_REQUEST)
            line = await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
    return line.startswith(b"HTTP/1.1 ") and not line.startswith(b"HTTP/1.1 503")
