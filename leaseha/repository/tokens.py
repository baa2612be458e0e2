"""The highest token that a data directory has seen, kept in the directory itself: `.leaseha/token/`.

A stored token is a file whose *name* says it; the highest name counts and only lower ones are ever removed.
So no writer, however late it wakes, can lower what stands there, and no lock is needed that a frozen
process could keep. A higher epoch outranks every token of a lower one: `recover` raises it after etcd was
restored, when revisions begin anew.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaseha.repository.durable import fsync_folder

_FORM: Final = re.compile(r"([0-9]{10})-([0-9]{20})")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """One token; the order of the fields is the order of rank."""

    epoch: int
    token: int

    @property
    def name(self) -> str:
        """The file's name; sorts as marks do."""
        return f"{self.epoch:010d}-{self.token:020d}"


NOTHING: Final = Mark(0, 0)


class TokenTooOldError(Exception):
    """The directory has seen a higher token (G6). `mark` was offered, `highest` is known."""

    def __init__(self, mark: Mark, highest: Mark) -> None:
        super().__init__(
            f"token {mark.token} (epoch {mark.epoch}) is older than token {highest.token} "
            f"(epoch {highest.epoch}) that this data directory has seen"
        )
        self.mark = mark
        self.highest = highest


class TokenLedger:
    """The marks of one data directory. Several processes, also of several nodes, may use it at once."""

    def __init__(self, folder: Path) -> None:
        """`folder` is `.leaseha/token` of the data directory; made if absent, the data directory itself never is.

        Raises OSError.
        """
        self._folder = folder
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        # Also if they were there: whoever made them may have died before they were on the disk.
        fsync_folder(folder.parent)
        fsync_folder(folder.parent.parent)

    def highest(self) -> Mark:
        """The highest mark stored; `NOTHING` when none was. One directory read, of one or two entries.

        Raises FileNotFoundError when the folder is gone, as it is when the disk was unmounted.
        """
        found = (_FORM.fullmatch(name) for name in os.listdir(self._folder))  # noqa: PTH208 - in every request
        return max((Mark(int(match[1]), int(match[2])) for match in found if match), default=NOTHING)

    def store(self, mark: Mark) -> None:
        """`mark` is on the disk when this returns.

        Raises TokenTooOldError when a higher one is there already, OSError when the disk refuses.
        """
        highest = self.highest()
        if mark < highest:
            raise TokenTooOldError(mark, highest)
        if mark > highest:
            fd = os.open(self._folder / mark.name, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        # Also for an equal one: whoever stored it may have died before the directory was on the disk.
        fsync_folder(self._folder)
        now_highest = self.highest()
        if mark < now_highest:
            raise TokenTooOldError(mark, now_highest)
        self._forget_below(mark)

    def check(self, mark: Mark) -> None:
        """Raises TokenTooOldError when the directory has seen a higher mark than this one."""
        highest = self.highest()
        if mark < highest:
            raise TokenTooOldError(mark, highest)

    def _forget_below(self, mark: Mark) -> None:
        for entry in self._folder.iterdir():
            match = _FORM.fullmatch(entry.name)
            if match and Mark(int(match[1]), int(match[2])) < mark:
                entry.unlink(missing_ok=True)
