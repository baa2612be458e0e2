"""A file system whose fsync fails as long as a file exists: python -m tests.e2e.fsync_disk BACKING MOUNTPOINT TRIGGER.

Everything else is passed on to BACKING. So a disk that loses writes looks to a program: all goes well until it asks.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import mfusepy as fuse


class FsyncDisk(fuse.Operations):
    """Paths are those below the mount point, with a slash first."""

    use_ns = True

    def __init__(self, backing: Path, trigger: Path) -> None:
        self._root = backing
        self._trigger = trigger

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _sync(self, fh: int) -> int:
        if self._trigger.exists():
            raise fuse.FuseOSError(errno.EIO)
        os.fsync(fh)
        return 0

    def access(self, path: str, amode: int) -> int:
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._at(path).chmod(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def flush(self, path: str, fh: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return self._sync(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        return self._sync(fh)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._at(path))
        kept = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks")
        times = {f"st_{one}time": getattr(found, f"st_{one}time_ns") for one in "acm"}
        return {name: getattr(found, name) for name in kept} | times

    def link(self, target: str, source: str) -> int:
        os.link(self._at(source), self._at(target))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._at(path).mkdir(mode)
        return 0

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_EXCL)

    def opendir(self, path: str) -> int:
        return os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(one.name for one in self._at(path).iterdir())]

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def releasedir(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._at(old).rename(self._at(new))
        return 0

    def rmdir(self, path: str) -> int:
        self._at(path).rmdir()
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {name: getattr(found, name) for name in (*names, "f_namemax")}

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    def unlink(self, path: str) -> int:
        self._at(path).unlink()
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._at(path), ns=times)
        return 0

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)


if __name__ == "__main__":
    backing, mountpoint, trigger = (Path(one) for one in sys.argv[1:4])
    fuse.FUSE(FsyncDisk(backing, trigger), os.fspath(mountpoint), foreground=True, big_writes=True)
