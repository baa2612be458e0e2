"""What is on the disk, and not in its cache alone: files, folders, and the entries of folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

KNOWN_MAX: Final = 20_000
"""How many folders are remembered; past that they are looked at anew."""


def fsync_folder(folder: Path) -> None:
    """The folder's entries are on the disk when this returns. Raises OSError."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    """The file's bytes are on the disk when this returns. Raises OSError."""
    _fsync(path, os.O_RDONLY)


class Folders:
    """The folders below `root`, which is there already. Used by several threads.

    That a folder is there does not say that it would be after a power failure: another thread may have made
    it a moment ago, or a process that died before its fsync. So each is fsynced in its parent once by each
    process, whoever made it; after that a look costs one stat. `sync` is `fsync_folder`.
    """

    def __init__(self, root: Path, sync: Callable[[Path], None] = fsync_folder) -> None:
        self._root = root
        self._sync = sync
        self._durable: set[str] = set()

    def make(self, folder: Path) -> None:
        """`folder` and what misses above it are there, each durable in its parent. Raises OSError."""
        if folder == self._root or (str(folder) in self._durable and folder.is_dir()):
            return
        self.make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        self.settle(folder.parent)

    def settle(self, folder: Path) -> None:
        """All folders that are in `folder` now are durable in it. Raises OSError."""
        with os.scandir(folder) as listing:
            there = [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
        self._sync(folder)
        if len(self._durable) > KNOWN_MAX:
            self._durable.clear()
        self._durable.update(there)

    def settle_absence(self, path: Path) -> None:
        """`path`, which is not there, will not be there after a power failure either. Raises OSError.

        Whoever removed it may have died before the folder was on the disk.
        """
        folder = path.parent
        while True:
            try:
                self._sync(folder)
            except (FileNotFoundError, NotADirectoryError):
                if folder == self._root:
                    raise
                folder = folder.parent
            else:
                return


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
