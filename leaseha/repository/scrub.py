"""Every object of this node's disk is read again and hashed, a little at a time: what has gone bad is found and told.

A bad object **stays under its name** until a good copy replaces it in one rename: part of it may still be readable, and
`restic repair packs` lives on that; one that is gone is worse. A second name for it is made in the quarantine, which
keeps it for whoever wants to know afterwards. Who heals it is `mend`: the holder asks its members for a good copy, and
a standby tells the holder, which sends one.

Where it is, is kept in `.leaseha/scrub`, so that a restart goes on there. Configs have no hash for a name and are not
looked at here; they are compared with the others'.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leaseha.repository.chores import Progress
from leaseha.repository.hashing import Pace, hash_of
from leaseha.repository.manifest import file_of, folder_of, folders, listing
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_wire import address_of, path_of
from leaseha.repository.store import OURS, DirectoryStore

log = logging.getLogger(__name__)

BAD_MOST: Final = 500
"""So many bad objects are known at once; the rest is found in the next pass. A disk with more is to be replaced."""
UNREADABLE: Final = frozenset({errno.EIO, errno.EUCLEAN, errno.ENODATA, errno.EILSEQ})
LOOK_S: Final = 0.5
_SAVE_S: Final = 5.0
_FAULT_S: Final = 60.0
"""How long it rests when the directory itself cannot be read."""

_Identity = tuple[int, int, int]


class _EndedError(Exception):
    """The process ends, or this is not to be scrubbed here now."""


@dataclass(slots=True)
class State:
    """What is kept on the disk."""

    began_s: float = 0.0
    """Of the pass that runs, or the last one; seconds of the wall clock. 0: there was none."""
    finished_s: float = 0.0
    cursor: str = ""
    """The object done last; "" between two passes."""
    bytes: int = 0
    objects: int = 0
    """Of this pass."""
    found: int = 0
    """Bad objects, ever."""
    healed: int = 0
    bad: list[str] = field(default_factory=list)


class Scrub:
    """Of one data directory. Its thread reads; others ask and report."""

    def __init__(
        self,
        store: DirectoryStore,
        active: Callable[[], bool],
        fault: Callable[[str], None] = lambda _: None,
        read: Callable[[Path, Callable[[int], None]], tuple[str, int]] = hash_of,
    ) -> None:
        """`active`: whether this node is to do it now. `fault` hears when the directory cannot be read.

        `read` is `hash_of`.
        """
        self._read = read
        self._store = store
        self._root = store.root
        self._active = active
        self._fault = fault
        self._file = store.root / OURS / "scrub"
        self.pace = Pace()
        self.every_s = 0.0
        self._lock = threading.Lock()
        self._state = _read_state(self._file)
        self._bad: dict[Address, _Identity] = {}
        self._saved_at = 0.0
        self.read_bytes = 0
        """Since the start."""
        self._ended = threading.Event()
        for address in [address_of(path) for path in self._state.bad]:
            if address is not None:
                self._know_bad(address, counted=True)

    def begin(self) -> None:
        """From now on, in a thread of its own."""
        threading.Thread(target=self._run, name="scrub", daemon=True).start()

    def end(self) -> None:
        """For the end of the process, and for tests."""
        self._ended.set()

    # ---- asked and told by others

    def bad(self) -> list[Address]:
        """What is spoilt here, and was not replaced since."""
        with self._lock:
            known = list(self._bad.items())
        return [address for address, was in known if self._identity(address) == was]

    def suspect(self, address: Address) -> bool:
        """Somebody doubts this object: True, and known from now on, if it is spoilt or cannot be read."""
        try:
            return self._look_at(address, lambda _: None)
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        """For `status` and metrics."""
        state = self._state
        bad = self.bad()
        return {
            "rate": self.pace.rate,
            "running": bool(state.cursor),
            "pass_bytes": state.bytes,
            "pass_objects": state.objects,
            "read_bytes": self.read_bytes,
            "bad": len(bad),
            "bad_objects": [path_of(one)[:200] for one in bad[:10]],
            "found": state.found,
            "healed": state.healed,
            "began_s": round(state.began_s),
            "finished_s": round(state.finished_s),
        }

    def chore(self, arguments: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        """All of it now, at `rate` bytes a second (0: as fast as it goes)."""
        pace = Pace(int(arguments.get("rate") or 0))
        result = {"ok": True, "objects": 0, "bytes": 0, "bad": 0}

        def paced(count: int) -> None:
            progress.check()
            pace.take(count, self._ended)

        progress.total = sum(len(listing(self._root, path)) for path in folders(self._root))
        for address, size in self._objects(""):
            progress.check()
            if self._look_at(address, paced):
                result["bad"] += 1
                progress.note(f"{path_of(address)}: spoilt or unreadable")
            result["objects"] += 1
            result["bytes"] += size
            progress.done += 1
        result["ok"] = not result["bad"]
        return result

    # ---- the thread

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._mind_healed()
            if not self.pace.rate or not self._active():
                continue
            if not self._state.cursor and time.time() < self._state.began_s + self.every_s:
                continue
            try:
                self._pass()
            except _EndedError:
                self._save()
            except OSError as trouble:
                log.error("scrub: %s", trouble)  # noqa: TRY400 - an operator's sentence
                if trouble.errno in UNREADABLE:
                    self._fault(f"scrub: {trouble}")
                self._ended.wait(_FAULT_S)

    def _pass(self) -> None:
        state = self._state
        if not state.cursor:
            state.began_s, state.bytes, state.objects = time.time(), 0, 0
        for address, size in self._objects(state.cursor):
            self._check()
            self._look_at(address, self._paced)
            state.cursor = path_of(address)
            state.bytes += size
            state.objects += 1
            self._mind_healed()
            if time.monotonic() - self._saved_at > _SAVE_S:
                self._save()
        state.cursor = ""
        state.finished_s = time.time()
        self._save()
        log.info("scrub: %d objects, %d bytes; %d are bad", state.objects, state.bytes, len(self._bad))

    def _check(self) -> None:
        if self._ended.is_set() or not self.pace.rate or not self._active():
            raise _EndedError

    def _paced(self, count: int) -> None:
        self._check()
        self.pace.take(count, self._ended)
        self.read_bytes += count

    def _objects(self, after: str) -> Iterator[tuple[Address, int]]:
        """In the order of their paths, those behind `after`."""
        for path in folders(self._root):
            where, _ = folder_of(path)
            base = path_of(Address(where.repo, where.kind))
            if after and path < _folder(after):
                continue
            for name, size in sorted(listing(self._root, path).items()):
                if not after or (path, base + name) > (_folder(after), after):
                    yield Address(where.repo, where.kind, name), size

    # ---- one object

    def _look_at(self, address: Address, paced: Callable[[int], None]) -> bool:
        """True: it is bad, and known to be. Raises what `paced` raises."""
        was: _Identity | None = None
        for _ in range(2):  # what was wrong in memory, and not on the disk, is right the second time
            was = self._identity(address)
            if was is None or self._is_good(address, paced):
                self._forget([(address, was)])
                return False
        if self._identity(address) != was:
            return False
        self._know_bad(address)
        return True

    def _is_good(self, address: Address, paced: Callable[[int], None]) -> bool:
        try:
            found, _ = self._read(file_of(self._root, address), paced)
        except (FileNotFoundError, NotADirectoryError):
            return True  # deleted since
        except OSError as trouble:
            if trouble.errno not in UNREADABLE:
                raise
            log.error("scrub: %s: %s", path_of(address), trouble)  # noqa: TRY400 - an operator's sentence
            return False
        return found == address.name or address.kind is Kind.CONFIG

    def _know_bad(self, address: Address, *, counted: bool = False) -> None:
        identity = self._identity(address)
        with self._lock:
            if identity is None or address in self._bad or len(self._bad) >= BAD_MOST:
                return
            self._bad[address] = identity
            self._state.found += not counted
        if counted:
            return
        log.error(
            "scrub: %s is spoilt on this disk; it is replaced as soon as a good copy is found",
            path_of(address),
        )
        with contextlib.suppress(OSError):
            self._store.quarantine.put(file_of(self._root, address), address, stays=True)
        self._save()

    def _mind_healed(self) -> None:
        """Those that another file has taken the place of; what is written is hashed before it gets its name."""
        with self._lock:
            known = list(self._bad.items())
        self._forget([(one, now) for one, was in known if (now := self._identity(one)) != was])

    def _forget(self, changed: list[tuple[Address, _Identity | None]]) -> None:
        """These are not bad any more; None: they are gone. Nothing for those that never were."""
        forgotten = False
        for address, now in changed:
            with self._lock:
                if self._bad.pop(address, None) is None:
                    continue
                self._state.healed += now is not None
            forgotten = True
            log.warning("scrub: %s is %s", path_of(address), "good again" if now else "gone")
        if forgotten:
            self._save()

    def _identity(self, address: Address) -> _Identity | None:
        try:
            status = file_of(self._root, address).lstat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _save(self) -> None:
        """Not fsynced: at worst a little is read again."""
        self._saved_at = time.monotonic()
        with self._lock:
            self._state.bad = [path_of(one) for one in self._bad]
            state = self._state
            told = {name: getattr(state, name) for name in State.__slots__}
            try:
                new = self._file.with_name("scrub.new")
                new.write_text(json.dumps(told), "utf-8")
                new.replace(self._file)
            except OSError as trouble:
                log.warning("scrub: where it is could not be kept: %s", trouble)


def _folder(path: str) -> str:
    """Of the manifest, in which an object is."""
    address = address_of(path)
    if address is None:
        return path
    base = path_of(Address(address.repo, address.kind))
    return base + address.name[:2] if address.kind is Kind.DATA else base


def _read_state(file: Path) -> State:
    try:
        told = json.loads(file.read_text("utf-8"))
        return State(**{name: type(getattr(State(), name))(told[name]) for name in State.__slots__})
    except (OSError, ValueError, KeyError, TypeError):
        return State()
