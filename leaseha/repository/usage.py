"""How much each repository holds, when its last snapshot came, and what its quota still lets in.

Kept in memory: counted with each object that comes or goes, and counted anew from the directory in the background (at
the start, when the gate opens, each hour), slowly, so that clients do not feel it. Until the first count is done
the figures are too low, never too high: so a quota may let in too much for a while, and refuses nobody wrongly.

Not done: what the trash and unfinished uploads hold.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leaseha.repository.paths import Address, Kind, is_name

log = logging.getLogger(__name__)

Repo = tuple[str, ...]
ANEW_S: Final = 3600.0
MARGIN_BYTES: Final = 64 << 20
MARGIN_PART: Final = 20
"""One part in so many, beside `MARGIN_BYTES`: for what prune needs to write before it frees anything."""
_AT_ONCE: Final = 500
_REST_S: Final = 0.01
"""After so many files the count rests so long: a tenth of the processor, about."""
_KINDS: Final = frozenset(str(kind) for kind in Kind)


@dataclass(slots=True)
class Use:
    """One repository."""

    objects: Counter[str] = field(default_factory=Counter)
    """By kind."""
    sizes: Counter[str] = field(default_factory=Counter)
    """Bytes, by kind."""
    last_snapshot_s: float = 0.0
    """When the newest snapshot was written here, Unix time; 0: there is none."""

    @property
    def total_bytes(self) -> int:
        """Of all kinds."""
        return self.sizes.total()


class Usage:
    """Of all repositories below `root`. Used by many threads."""

    def __init__(self, root: Path, depth: int, rest: Callable[[], object] | None = None) -> None:
        self._root = root
        self._depth = depth
        self._rest = rest or (lambda: threading.Event().wait(_REST_S))
        self._lock = threading.Lock()
        self._uses: dict[Repo, Use] = {}
        self._coming: Counter[Repo] = Counter()
        """Bytes of uploads that are on their way."""
        self._done: Counter[tuple[Repo, str, str]] = Counter()
        self._done_bytes: Counter[tuple[Repo, str, str]] = Counter()
        self._wanted = threading.Event()
        self.counted = False
        """The directory was counted once."""

    # ---- counting

    def begin(self) -> None:
        """Count in the background, for as long as the process lives."""
        self._wanted.set()
        threading.Thread(target=self._keep, name="usage", daemon=True).start()

    def count_soon(self) -> None:
        """What is in the directory may have changed without us."""
        self._wanted.set()

    def _keep(self) -> None:
        while True:
            self._wanted.wait(ANEW_S)
            self._wanted.clear()
            try:
                self.count()
            except OSError as trouble:
                log.info("the directory cannot be counted: %s", trouble)

    def count(self) -> None:
        """The whole directory, anew. Raises OSError."""
        found: dict[Repo, Use] = {}
        self._walk(self._root, (), found)
        with self._lock:
            self._uses = found
        self.counted = True

    def _walk(self, folder: Path, repo: Repo, found: dict[Repo, Use]) -> None:
        use = Use()
        below: list[str] = []
        is_repo = False
        for entry in _scan(folder):
            if entry.name == Kind.CONFIG and entry.is_file(follow_symlinks=False):
                is_repo = True
                _add(use, Kind.CONFIG, entry)
            elif entry.name in _KINDS and entry.is_dir(follow_symlinks=False):
                is_repo = True
                self._objects(Path(entry.path), entry.name, use)
            elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
        if is_repo:
            found[repo] = use
        if len(repo) < self._depth:
            for name in below:
                self._walk(folder / name, (*repo, name), found)

    def _objects(self, folder: Path, kind: str, use: Use) -> None:
        seen = 0
        for entry in _scan(folder):
            if kind == Kind.DATA and len(entry.name) == 2:
                self._objects(Path(entry.path), kind, use)
            elif is_name(entry.name):
                _add(use, kind, entry)
                seen += 1
                if seen % _AT_ONCE == 0:
                    self._rest()
        if kind == Kind.DATA and seen:
            self._rest()

    # ---- what changes

    def written(self, address: Address, size: int, *, was: int | None) -> None:
        """An object is here now; `was`: its size before, None if it was not here."""
        with self._lock:
            use = self._uses.setdefault(address.repo, Use())
            kind = str(address.kind)
            use.objects[kind] += was is None
            use.sizes[kind] += size - (was or 0)
            if address.kind is Kind.SNAPSHOTS and was is None:
                use.last_snapshot_s = time.time()

    def removed(self, address: Address, size: int) -> None:
        """An object is here no more."""
        with self._lock:
            use = self._uses.get(address.repo)
            if use is not None:
                kind = str(address.kind)
                use.objects[kind] = max(0, use.objects[kind] - 1)
                use.sizes[kind] = max(0, use.sizes[kind] - size)

    def note(self, what: str, address: Address, size: int) -> None:
        """A client has read, written or deleted an object."""
        key = (address.repo, str(address.kind), what)
        with self._lock:
            self._done[key] += 1
            self._done_bytes[key] += size

    # ---- quotas

    def left(self, repo: Repo, kind: Kind | None, quota_bytes: int) -> int:
        """Bytes that still fit into one repository, uploads on their way taken off; may be below 0."""
        with self._lock:
            use = self._uses.get(repo)
            held = (use.total_bytes if use else 0) + self._coming[repo]
        return allowance(kind, quota_bytes) - held

    def left_below(self, name: str, kind: Kind | None, quota_bytes: int) -> int:
        """The same for all repositories whose first segment is `name`."""
        with self._lock:
            held = sum(use.total_bytes for repo, use in self._uses.items() if repo[:1] == (name,))
            held += sum(size for repo, size in self._coming.items() if repo[:1] == (name,))
        return allowance(kind, quota_bytes) - held

    @contextlib.contextmanager
    def expecting(self, repo: Repo, size: int) -> Iterator[None]:
        """So many bytes are on their way."""
        with self._lock:
            self._coming[repo] += size
        try:
            yield
        finally:
            with self._lock:
                self._coming[repo] -= size
                if self._coming[repo] <= 0:
                    del self._coming[repo]

    # ---- what it tells

    def uses(self) -> Mapping[Repo, Use]:
        """A copy."""
        with self._lock:
            return {
                repo: Use(Counter(use.objects), Counter(use.sizes), use.last_snapshot_s)
                for repo, use in self._uses.items()
            }

    def done(self) -> tuple[Mapping[tuple[Repo, str, str], int], Mapping[tuple[Repo, str, str], int]]:
        """How often, and how many bytes, by (repository, kind, what)."""
        with self._lock:
            return dict(self._done), dict(self._done_bytes)


def allowance(kind: Kind | None, quota_bytes: int) -> int:
    """What may be there at most, in bytes, after an object of this kind was added."""
    return quota_bytes if kind is Kind.DATA else quota_bytes + quota_bytes // MARGIN_PART + MARGIN_BYTES


def _add(use: Use, kind: str, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # deleted since
        return
    use.objects[kind] += 1
    use.sizes[kind] += status.st_size
    if kind == Kind.SNAPSHOTS:
        use.last_snapshot_s = max(use.last_snapshot_s, status.st_mtime)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
