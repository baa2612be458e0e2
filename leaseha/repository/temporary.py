"""Temporary files of uploads in flight: `.leaseha/tmp/`, on the same file system as the objects.

Several processes, in the demo of several nodes, may use one directory. So a temporary is held by a lock
(`flock`) for as long as its process works on it; the kernel lets go of it when the process dies, however it
dies. Who starts removes those that nobody holds. The name says, for people, whose it was: token, boot,
process, number.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
from pathlib import Path
from typing import Final

from leaseha.repository import kernel
from leaseha.repository.tokens import Mark

log = logging.getLogger(__name__)

_TRIES: Final = 8
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
_MAX_RESERVED: Final = 256 * 1024 * 1024
"""Bytes that a mere promise of a body may take from the disk."""


class Temporary:
    """One file that is being written. Used by one thread."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._size = 0
        self._reserved = 0

    @property
    def fd(self) -> int:
        """To read what was written."""
        return self._fd

    def reserve(self, size: int) -> None:
        """Take the space now. Raises OSError (ENOSPC) at once instead of in mid-body."""
        kernel.reserve(self._fd, size)
        self._reserved = size

    def write(self, piece: memoryview) -> None:
        """Append all of `piece`. Raises OSError."""
        while piece:
            written = os.write(self._fd, piece)
            self._size += written
            piece = piece[written:]

    def seal(self) -> None:
        """The bytes are on the disk when this returns. Raises OSError, after which nothing is known of them."""
        if self._reserved > self._size:
            os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)

    def close(self, *, remove: bool) -> None:
        """Ends the use, and the lock; never raises. The second call does nothing."""
        if self._fd < 0:
            return
        try:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
        except OSError as trouble:
            log.warning("temporary file %s: %s", self.path.name, trouble)
        finally:
            self._fd = -1


class Temporaries:
    """The folder of them."""

    def __init__(self, folder: Path) -> None:
        """`folder` is `.leaseha/tmp` of the data directory, which is never made here. Raises OSError."""
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._numbers = itertools.count(1)

    def make(self, mark: Mark, size: int | None) -> Temporary:
        """A new, locked, empty file with room for `size` bytes. Raises OSError."""
        for _ in range(_TRIES):
            name = f"{mark.name}.{_BOOT}.{os.getpid()}.{next(self._numbers)}"
            path = self._folder / name
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:  # another process namespace has the same number
                continue
            temporary = Temporary(path, fd)
            # Between creation and lock a starting process may have found it unheld and removed it: then anew.
            if not _lock(fd) or os.fstat(fd).st_nlink == 0:
                temporary.close(remove=True)
                continue
            try:
                if size:
                    temporary.reserve(min(size, _MAX_RESERVED))
            except OSError:
                temporary.close(remove=True)
                raise
            return temporary
        raise OSError(errno.EBUSY, "no temporary file could be made and locked", str(self._folder))

    def remove_stale(self) -> int:
        """Remove what no living process holds. Returns how many. Raises OSError."""
        return sum(_remove_if_unheld(entry) for entry in self._folder.iterdir())


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_unheld(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or nothing of ours
        return False
    try:
        if not _lock(fd):
            return False
        path.unlink(missing_ok=True)
        return True
    except OSError as trouble:  # a file system without locks: what cannot be judged stays
        log.warning("leftover %s stays: %s", path.name, trouble)
        return False
    finally:
        os.close(fd)
