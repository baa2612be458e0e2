"""Where objects are kept, behind a small interface; and the one that keeps them in a directory.

The directory is restic's own layout (`config`, `data/xx/`, `index/`, `keys/`, `locks/`, `snapshots/`, one
folder a repository), so that `restic -r DIR` works on it, plus `.leaseha/` for what is ours. An upload is a
temporary file on the same file system, hashed while it is written, fsynced, renamed to its name, and the
directory fsynced; a failed one removes its own temporary and nothing else.

Not promised: anything about the disk after a failed fsync. It is never tried again; the caller hears OSError.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from leaseha.repository.aside import FULL, QUARANTINE, QUARANTINE_DAYS, TRASH, TRASH_DAYS, Aside
from leaseha.repository.durable import Folders, fsync_file, fsync_folder
from leaseha.repository.paths import Address, Kind, is_name
from leaseha.repository.temporary import Temporaries, Temporary
from leaseha.repository.tokens import Mark

log = logging.getLogger(__name__)

OURS: Final = ".leaseha"
_ROOM: Final = 64 * 1024 * 1024
"""Bytes by which a full disk is to have more room than is needed at once."""
_HASH_PIECE: Final = 256 * 1024


def _always() -> None:
    """Nothing stands against it."""


class ConflictError(Exception):
    """There is one already, and it is different. Only a config can be: other names are hashes."""


class WrongHashError(Exception):
    """The bytes are not those that the name promises."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a listing."""

    name: str
    size: int


class StoredObject:
    """An object that is open for reading. Use as a context manager."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        os.close(self.fd)


class Upload(Protocol):
    """An object on its way in. `publish` or `abort` ends it; `abort` after `publish` does nothing."""

    def write(self, piece: memoryview) -> None:
        """The next piece. Raises OSError."""

    def verify(self) -> None:
        """All pieces are here. Raises WrongHashError."""

    def seal(self) -> tuple[int, int]:
        """All pieces are on the disk, under no name yet: (descriptor to read them from, bytes). Raises OSError."""

    def clash(self) -> None:
        """Raises ConflictError if `publish` would now, OSError."""

    def publish(self, allowed: Callable[[], None] = _always, *, replace: bool = False) -> None:
        """Durable under its name when this returns. `allowed` is called last before that and may raise.

        `replace`: also a config that is there and different. Raises ConflictError, OSError, and what `allowed`
        raises; nothing is changed then.
        """

    def abort(self) -> None:
        """Leave no trace; never raises."""


class Store(Protocol):
    """What the routes need. A method that finds nothing raises FileNotFoundError; disk trouble is OSError."""

    def create(self, repo: tuple[str, ...]) -> None:
        """Make a repository's folders; no error if they are there."""

    def entries(self, address: Address) -> Iterator[Entry]:
        """All objects of a kind, in no order; none if the repository does not exist."""

    def open(self, address: Address) -> StoredObject:
        """One object, for reading."""

    def begin(self, address: Address, mark: Mark, size: int | None) -> Upload:
        """A new upload; `size` in bytes if it is known."""

    def delete(self, address: Address) -> None:
        """Gone durably when this returns, also when it was not there."""


class DirectoryStore:
    """Objects as files under `root`. `sync` is what makes a folder's entries durable: `fsync_folder`."""

    def __init__(self, root: Path, sync: Callable[[Path], None] = fsync_folder) -> None:
        self.root = root
        self._root_text = str(root)
        self._folders = Folders(root, sync)
        self.trash = Aside(root, root / OURS / TRASH, TRASH_DAYS, sync)
        self.quarantine = Aside(root, root / OURS / QUARANTINE, QUARANTINE_DAYS, sync)
        self.temporaries = Temporaries(root / OURS / "tmp")

    def create(self, repo: tuple[str, ...]) -> None:
        """The folders that restic's own local layout has."""
        base = self.root.joinpath(*repo)
        self._folders.make(base)
        for kind in Kind:
            if kind is not Kind.CONFIG:
                (base / kind).mkdir(mode=0o700, exist_ok=True)
        data = base / Kind.DATA
        for number in range(256):
            (data / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        self._folders.settle(base)
        self._folders.settle(data)

    def entries(self, address: Address) -> Iterator[Entry]:
        """Files whose name is a hash, in the folder where they belong; whatever else lies there is not ours."""
        folder = self._folder(address)
        if address.kind is not Kind.DATA:
            yield from _hashed_files(folder, "")
            return
        for part in _scan(folder):
            if len(part.name) == 2 and part.is_dir():
                yield from _hashed_files(Path(part.path), part.name)

    def open(self, address: Address) -> StoredObject:
        """Raises FileNotFoundError; IsADirectoryError for what is no file."""
        fd = os.open(self._text(address), os.O_RDONLY | os.O_NOFOLLOW)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, "not a file", address.label)
        return StoredObject(fd, status.st_size)

    def begin(self, address: Address, mark: Mark, size: int | None) -> Upload:
        """Space for `size` bytes is reserved, so that a full disk is told before the body has come.

        On a full disk the oldest of the trash goes for it.
        """
        path = self._path(address)
        try:
            temporary = self.temporaries.make(mark, size)
        except OSError as full:
            if full.errno not in FULL or not self._make_room(size or 0):
                raise
            temporary = self.temporaries.make(mark, size)
        return _FileUpload(temporary, path, address, self._folders, self._make_room)

    def _make_room(self, size: int) -> bool:
        return self.trash.make_room(size + _ROOM)

    def delete(self, address: Address) -> None:
        """Into the trash; a lock is gone for good, as is everything where nothing is kept."""
        path = self._path(address)
        if address.kind is Kind.LOCKS or not self.trash.keep_days or not self._to_trash(path, address):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
        self._folders.settle_absence(path)

    def _to_trash(self, path: Path, address: Address) -> bool:
        try:
            return self.trash.put(path, address)
        except OSError as full:
            if full.errno not in FULL:
                raise
            # Deleting must be possible on a full disk: it is how clients make room.
            log.warning("the disk is full: %s is deleted for good", address.label)
            return False

    def put_aside(self, address: Address) -> bool:
        """Into the quarantine; gone durably when this returns. False: it was not there. Raises OSError."""
        path = self._path(address)
        try:
            moved = self.quarantine.put(path, address)
        except OSError as full:
            if full.errno not in FULL or not self._make_room(0):
                raise
            moved = self.quarantine.put(path, address)
        self._folders.settle_absence(path)
        return moved

    def _folder(self, address: Address) -> Path:
        if address.kind is None:
            raise ValueError("a repository is no object")
        return self.root.joinpath(*address.repo, address.kind)

    def _path(self, address: Address) -> Path:
        return Path(self._text(address))

    def _text(self, address: Address) -> str:
        """The same without a Path, which takes a seventh of the time of a small range."""
        if address.kind is None:
            raise ValueError("a repository is no object")
        folder = "/".join((self._root_text, *address.repo, address.kind))
        if address.kind is Kind.CONFIG:
            return folder
        if not is_name(address.name):
            raise ValueError(f"not the name of an object: {address.name!r}")
        part = f"/{address.name[:2]}" if address.kind is Kind.DATA else ""
        return f"{folder}{part}/{address.name}"


class _FileUpload:
    """A temporary file that becomes `path`."""

    def __init__(
        self,
        temporary: Temporary,
        path: Path,
        address: Address,
        folders: Folders,
        make_room: Callable[[int], bool],
    ) -> None:
        self._temporary = temporary
        self._make_room = make_room
        self._path = path
        self._address = address
        self._folders = folders
        self._hash = hashlib.sha256()
        self._size = 0
        self._sealed = False
        self._done = False

    def write(self, piece: memoryview) -> None:
        self._hash.update(piece)
        try:
            self._temporary.write(piece)
        except OSError as full:
            if full.errno in FULL:
                self._make_room(len(piece))  # for the client's next attempt
            raise
        self._size += len(piece)

    def verify(self) -> None:
        digest = self._hash.hexdigest()
        if self._address.kind is not Kind.CONFIG and digest != self._address.name:
            raise WrongHashError(f"the bytes have the SHA-256 {digest}")

    def seal(self) -> tuple[int, int]:
        """Also the folder that it will be in is there then, so that little is left to `publish`."""
        if not self._sealed:
            self._folders.make(self._path.parent)
            self._temporary.seal()
            self._sealed = True
        return self._temporary.fd, self._size

    def clash(self) -> None:
        if self._address.kind is Kind.CONFIG and self._path.exists() and not self._same_config():
            raise ConflictError("there is another config already")

    def publish(self, allowed: Callable[[], None] = _always, *, replace: bool = False) -> None:
        """An object that is there already is replaced by these verified bytes.

        They are the same, unless the disk has spoilt the old ones: then this heals them. A config has no hash
        for a name, so it is linked, which never replaces; the same bytes again are no conflict.
        """
        self.seal()
        allowed()
        if self._address.kind is Kind.CONFIG and not replace:
            self._link_config()
        else:
            self._temporary.path.rename(self._path)
            self._done = True
        fsync_folder(self._path.parent)
        self.abort()

    def abort(self) -> None:
        """Removes the temporary unless it has become the object; the other upload of this name is not ours."""
        self._temporary.close(remove=not self._done)
        self._done = True

    def _link_config(self) -> None:
        try:
            self._path.hardlink_to(self._temporary.path)
        except FileExistsError as exists:
            if not self._same_config():
                raise ConflictError("there is another config already") from exists
            # Whoever wrote it may have died before it was on the disk; what we acknowledge must be.
            fsync_file(self._path)

    def _same_config(self) -> bool:
        return _file_hash(self._path) == self._hash.digest()


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder; none when it does not exist."""
    try:
        listing = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with listing:
        yield from listing


def _hashed_files(folder: Path, prefix: str) -> Iterator[Entry]:
    for entry in _scan(folder):
        if is_name(entry.name) and entry.name.startswith(prefix) and entry.is_file(follow_symlinks=False):
            try:
                yield Entry(entry.name, entry.stat(follow_symlinks=False).st_size)
            except FileNotFoundError:  # deleted since
                continue
