"""The first answer: does the lease's service answer on its VIP? Asked by the holder itself, right after announcing."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable
from typing import Final

ATTEMPT_S: Final = 1.0
PAUSE_S: Final = 0.05
ATTEMPTS_MAX: Final = 60
_REQUEST: Final = b"HEAD /health HTTP/1.1\r\nHost: leaseha\r\nConnection: close\r\n\r\n"


@functools.cache
def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def repository_answers(host: str, port: int, still: Callable[[], bool], *, tls: bool = False) -> bool:
    """True once the repository on `host:port` answers an HTTP request with its gate open (not 503).

    Bounded: False after `ATTEMPTS_MAX` attempts, or as soon as `still()` says that nobody waits any more.
    """
    for _ in range(ATTEMPTS_MAX):
        if not still():
            return False
        if await answers_once(host, port, tls=tls):
            return True
        await asyncio.sleep(PAUSE_S)
    return False


async def answers_once(host: str, port: int, *, tls: bool = False) -> bool:
    """One HTTP request, within `ATTEMPT_S`: True if it is answered, and not by a 503.

    `tls`: over TLS, whatever certificate is shown: this asks whether it answers, not who it is.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ATTEMPT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=_anybody() if tls else None)
            writer.write(_REQUEST)
            line = await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
    return line.startswith(b"HTTP/1.1 ") and not line.startswith(b"HTTP/1.1 503")
