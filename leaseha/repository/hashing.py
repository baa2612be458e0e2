"""Reading a file from the disk, not from its cache, at a set pace, and its SHA-256."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

PIECE: Final = 256 * 1024
_SAVED_S: Final = 1.0


class Pace:
    """So many bytes a second, at most; 0: no bound. Used by several threads, which share it."""

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        """May be changed at any time."""
        self._lock = threading.Lock()
        self._until = 0.0
        self._never = threading.Event()

    def take(self, count: int, ended: threading.Event | None = None) -> None:
        """Returns when `count` more bytes may go; at once when `ended`."""
        rate = self.rate
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            # What was not used is saved up for a second, so that a pause does not make it slower than asked for.
            self._until = max(self._until, now - _SAVED_S) + count / rate
            wait_s = self._until - now
        if wait_s > 0:
            (ended or self._never).wait(wait_s)


def hash_of(path: Path, paced: Callable[[int], None] = lambda _: None) -> tuple[str, int]:
    """SHA-256 in hex and size. `paced` is called with the bytes of each piece, and may wait or raise.

    The file's pages are dropped from the cache first, so that it is the disk that is read, and after it, so that
    what clients read stays there. Raises OSError, FileNotFoundError among others.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digest, size = hashlib.sha256(), 0
        while True:
            piece = os.pread(fd, PIECE, size)
            if not piece:
                return digest.hexdigest(), size
            digest.update(piece)
            os.posix_fadvise(fd, size, len(piece), os.POSIX_FADV_DONTNEED)
            size += len(piece)
            paced(len(piece))
    finally:
        os.close(fd)
