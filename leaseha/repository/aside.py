"""What is out of sight but kept: dated folders `.leaseha/trash/` and `.leaseha/quarantine/`, filled, listed, emptied.

`DAY/REPO../KIND/NAME`, the day in UTC; the same name once more on one day is `NAME.1` and so on. An object comes there
by a rename, which is durable there before it counts as gone from its place. Whole days are emptied, in the background;
of the trash the oldest also when the disk is full.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from leaseha.repository.durable import Folders, fsync_folder
from leaseha.repository.paths import DEPTH, Address, Kind, is_name

log = logging.getLogger(__name__)

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
TRASH: Final = "trash"
QUARANTINE: Final = "quarantine"
TRASH_DAYS: Final = 7
QUARANTINE_DAYS: Final = 30
FIRST_S: Final = 60.0
"""How long after its start a process first empties what is old."""
EVERY_S: Final = 3600.0
ROOM_S: Final = 1.5
"""How long an upload that finds the disk full waits for room."""
_AT_ONCE: Final = 200
_REST_S: Final = 0.05
_TRIES: Final = 3
_NAMES: Final = 1000
_KINDS: Final = frozenset(str(kind) for kind in Kind)


def _utc_today() -> date:
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class Kept:
    """One object that was put aside."""

    day: str
    address: Address
    path: Path
    size: int


class Aside:
    """One kind of it. Used by many threads, and in the demo by several processes at once."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        keep_days: int,
        sync: Callable[[Path], None] = fsync_folder,
        today: Callable[[], date] = _utc_today,
    ) -> None:
        """`folder` is within `root`, on the same file system; made when something comes."""
        self.folder = folder
        self.keep_days = keep_days
        """Whole days that it is kept; 0: nothing is, not even what is there."""
        self.objects = self.bytes = 0
        """What is held: as counted by `count`, and since then."""
        self.purged = 0
        """Objects removed for good since the start."""
        self._sync = sync
        self._today = today
        self._folders = Folders(root, sync)
        self._lock = threading.Lock()
        self._emptying = threading.Lock()
        self._pins = self._changes = 0

    # ---- filling

    def put(self, path: Path, address: Address, *, stays: bool = False) -> bool:
        """Move the object that is at `path`; it is durable here when this returns. False: no file is there.

        `stays`: it gets a second name here, and keeps the one that it has.

        That it is gone from its old place is for the caller to make durable. Raises OSError; nothing has moved then.
        """
        for _ in range(_TRIES):
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            if not stat.S_ISREG(status.st_mode):
                return False
            folder = self.folder.joinpath(self._today().isoformat(), *address.repo, address.kind or "")
            with self._lock, contextlib.suppress(FileNotFoundError):
                # Gone: the object, or the folder, which another process has emptied. The next round tells.
                self._folders.make(folder)
                target = _free(folder, address.name or Kind.CONFIG)
                target.hardlink_to(path) if stays else path.rename(target)
                self.objects += 1
                self.bytes += status.st_size
                self._changes += 1
                break
        else:
            raise OSError(errno.EBUSY, "the folder is emptied all the time", str(self.folder))
        self._sync(folder)
        return True

    # ---- looking

    def entries(self, *, newest_first: bool = False) -> Iterator[Kept]:
        """All of it, by day; within a day in no order. What is gone meanwhile is passed over."""
        for day in self.days(newest_first=newest_first):
            yield from _walk(self.folder / day, (), day)

    def days(self, *, newest_first: bool = False) -> list[str]:
        """Those that have a folder."""
        return sorted((name for name in _names(self.folder) if _is_day(name)), reverse=newest_first)

    def count(self, rest: Callable[[], object] = lambda: None) -> None:
        """What is held, anew. Raises OSError."""
        for left in reversed(
            range(_TRIES)
        ):  # where it never rests, what comes meanwhile may be wrong at last
            before, objects, held = self._changes, 0, 0
            for kept in self.entries():
                objects += 1
                held += kept.size
                if objects % _AT_ONCE == 0:
                    rest()
            with self._lock:
                if self._changes == before or not left:
                    self.objects, self.bytes = objects, held
                    return

    # ---- emptying

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Nothing is emptied meanwhile: it is being brought back."""
        with self._emptying:
            self._pins += 1
        try:
            yield
        finally:
            with self._emptying:
                self._pins -= 1

    def forget(self, kept: Kept) -> None:
        """It is back in its place. Raises OSError."""
        self._remove(kept)

    def purge(self, rest: Callable[[], object] = lambda: None) -> int:
        """Remove for good the days that are old; how many objects. Raises OSError."""
        kept_since = self._today() - timedelta(days=self.keep_days)
        oldest = kept_since.isoformat() if self.keep_days else "9999"
        removed = 0
        for day in self.days():
            if day >= oldest:
                break
            for kept in _walk(self.folder / day, (), day):
                with self._emptying:
                    if self._pins:
                        return removed
                    gone = self._remove(kept)
                    removed += gone
                    self.purged += gone
                if removed % _AT_ONCE == 0:
                    rest()
            self._remove_folders(self.folder / day)
        return removed

    def make_room(self, wanted: int) -> bool:
        """The oldest first, until so many bytes are free again, or for `ROOM_S`. False: nothing could be removed."""
        freed = removed = 0
        until = time.monotonic() + ROOM_S
        with self._emptying:
            if self._pins:
                return False
            with contextlib.suppress(OSError):
                for kept in self.entries():
                    removed += self._remove(kept)
                    freed += kept.size
                    if freed >= wanted or time.monotonic() > until:
                        break
            self.purged += removed
        if removed:
            log.warning("the disk is full: %d objects of the %s are gone for good", removed, self.folder.name)
        return bool(removed)

    def _remove(self, kept: Kept) -> int:
        try:
            kept.path.unlink()
        except FileNotFoundError:
            return 0
        with self._lock:
            self.objects = max(0, self.objects - 1)
            self.bytes = max(0, self.bytes - kept.size)
            self._changes += 1
        return 1

    def _remove_folders(self, folder: Path) -> None:
        """Those that are empty, from below."""
        for path, _, _ in list(os.walk(folder, topdown=False)):
            with self._lock, contextlib.suppress(OSError):  # something is in it
                Path(path).rmdir()


class Keeper:
    """Empties what is old, in the background, for as long as a process lives."""

    def __init__(self, *asides: Aside, first_s: float = FIRST_S) -> None:
        self._asides = asides
        self._first_s = first_s
        self._ended = threading.Event()

    def begin(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def end(self) -> None:
        """For tests."""
        self._ended.set()

    def _keep(self) -> None:
        wait_s = self._first_s
        while True:
            for aside in self._asides:
                try:
                    removed = aside.purge(self._rest) if wait_s == EVERY_S else 0
                    if removed:
                        log.info("%d objects of the %s were old: removed", removed, aside.folder.name)
                    aside.count(self._rest)
                except OSError as trouble:
                    log.warning("%s: %s", aside.folder.name, trouble)
            if self._ended.wait(wait_s):
                return
            wait_s = EVERY_S

    def _rest(self) -> None:
        self._ended.wait(_REST_S)


def _free(folder: Path, name: str) -> Path:
    """A path that nothing is at; in the end the last is replaced."""
    for number in itertools.count():
        path = folder / (f"{name}.{number}" if number else name)
        if number == _NAMES or not path.exists():
            return path
    raise AssertionError  # pragma: no cover


def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as listed:
            return [entry.name for entry in listed]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _walk(folder: Path, repo: tuple[str, ...], day: str) -> Iterator[Kept]:
    for name in sorted(_names(folder)):
        if name in _KINDS:
            yield from _objects(folder / name, Address(repo, Kind(name)), day)
        elif len(repo) < DEPTH:
            yield from _walk(folder / name, (*repo, name), day)


def _objects(folder: Path, of: Address, day: str) -> Iterator[Kept]:
    for file in _names(folder):
        name = file.partition(".")[0]
        if name != Kind.CONFIG if of.kind is Kind.CONFIG else not is_name(name):
            continue
        path = folder / file
        try:
            size = path.lstat().st_size
        except FileNotFoundError:
            continue
        yield Kept(day, Address(of.repo, of.kind, "" if of.kind is Kind.CONFIG else name), path, size)
