"""Spans in a file of JSON lines, bounded in size: what is there when no collector is.

Called by the outbox's thread alone. Not promised: that a line is on the disk when the machine loses power
(nothing is synced), nor that a torn line cannot be there after a crash; the next line starts afresh.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
KEEP_FILES: Final = 3
MODE: Final = 0o640


class LineFile:
    """Appends lines to `path`; a full file becomes `path.1`, that one `path.2`, up to `keep` old ones."""

    def __init__(self, path: Path, *, bytes_max: int = FILE_BYTES_MAX, keep: int = KEEP_FILES) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._keep = keep
        self._fd = -1
        self._size = 0

    def append(self, lines: Sequence[str]) -> None:
        """Write lines, opening and rotating as needed.

        Raises:
            OSError: they were not all written; the next call opens the file anew.

        """
        pending = bytearray()
        try:
            for line in lines:
                raw = line.encode("utf-8", "replace") + b"\n"
                self._open()
                filled = self._size + len(pending)
                if filled and filled + len(raw) > self._bytes_max:
                    self._write(pending)
                    pending.clear()
                    self._rotate()
                    self._open()
                pending += raw
            self._write(pending)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        if self._fd >= 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            # A crash or a full disk tore the last line: it must not swallow the next one.
            self._write(b"\n")

    def _write(self, raw: bytes | bytearray) -> None:
        left = memoryview(bytes(raw))
        while left:
            written = os.write(self._fd, left)
            self._size += written
            left = left[written:]

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 1, -1):
            younger = self._numbered(number - 1)
            if younger.exists():
                younger.replace(self._numbered(number))
        if self._keep:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
