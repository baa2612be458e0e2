"""What the proxy has written down, and what follows from it: what must be there, and for how long the client waited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

_MUTATING: Final = ("POST", "DELETE")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the client's host saw it; instants are CLOCK_MONOTONIC, ns."""

    method: str
    path: str
    begun_ns: int
    sent_ns: int
    """Its last byte was given to the kernel; 0: never."""
    ended_ns: int
    status: int
    """Of the answer; 0: none came."""
    error: str
    sha256: str
    bytes: int

    @property
    def acknowledged(self) -> bool:
        """The server said yes."""
        return self.status == 200

    @property
    def undecided(self) -> bool:
        """It may have been done: no answer told."""
        return self.status == 0


def read(path: Path) -> list[Request]:
    """All that have ended, in the order of their ends."""
    known = {one.name for one in fields(Request)}
    return [Request(**{key: row[key] for key in known}) for row in _rows(path) if "mark" not in row]


def flying(path: Path, *, sent: bool = False) -> int:
    """Uploads of objects that have begun and not ended; or have been sent whole, and have no answer yet."""
    count = 0
    for row in _rows(path):
        if row["method"] == "POST" and "?" not in row["path"]:
            if row.get("mark") == ("sent" if sent else "begun"):
                count += 1
            elif "mark" not in row and (row["sent_ns"] or not sent):
                count -= 1
    return count


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be half there
    return [json.loads(line) for line in lines]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answers promise."""

    objects: dict[str, str]
    """SHA-256 by path: acknowledged, and no deletion came after."""
    deleted: frozenset[str]
    """Paths whose deletion was acknowledged, and nothing was stored there after."""
    undecided: frozenset[str]
    """Paths that nothing is promised of: a later deletion or upload got no answer."""


def expected(requests: Iterable[Request]) -> Expected:
    """By the last answered one of each path; one that overlaps it and could have undone it makes it undecided."""
    by_path: dict[str, list[Request]] = {}
    for one in requests:
        if one.method in _MUTATING and not one.path.endswith("/") and "?" not in one.path:
            by_path.setdefault(one.path, []).append(one)
    objects, deleted, undecided = {}, set(), set()
    for path, all_of_it in by_path.items():
        answered = [one for one in all_of_it if one.acknowledged]
        if not answered:
            continue
        last = max(answered, key=lambda one: one.ended_ns)
        rivals = [one for one in all_of_it if one.method != last.method and one.ended_ns > last.begun_ns]
        if any(one.acknowledged or one.undecided for one in rivals):
            undecided.add(path)
        elif last.method == "POST":
            objects[path] = last.sha256
        else:
            deleted.add(path)
    return Expected(objects, frozenset(deleted), frozenset(undecided))


@dataclass(frozen=True, slots=True)
class Audit:
    """A directory compared with what was promised."""

    promised: int
    promised_bytes: int
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    undeleted: tuple[str, ...] = ()
    """There, though its deletion was acknowledged."""
    undecided: int = 0

    @property
    def clean(self) -> bool:
        """Every promise was kept."""
        return not (self.missing or self.different or self.undeleted)


def audit(promise: Expected, directory: Path) -> Audit:
    """Reads every promised object whole."""
    missing, different, size = [], [], 0
    for path, digest in sorted(promise.objects.items()):
        place = directory / _place(path)
        try:
            content = place.read_bytes()
        except OSError:
            missing.append(path)
            continue
        size += len(content)
        if hashlib.sha256(content).hexdigest() != digest:
            different.append(path)
    undeleted = [path for path in sorted(promise.deleted) if (directory / _place(path)).exists()]
    return Audit(
        len(promise.objects),
        size,
        tuple(missing),
        tuple(different),
        tuple(undeleted),
        len(promise.undecided),
    )


def _place(path: str) -> str:
    """Where restic's layout has it."""
    folder, _, name = path.strip("/").rpartition("/")
    return f"{folder}/{name[:2]}/{name}" if folder.endswith("/data") else f"{folder}/{name}"


@dataclass(frozen=True, slots=True)
class Pause:
    """How the client lived through a fault; ms."""

    in_flight: int
    """Uploads that were on their way when the fault came, and got no answer."""
    waiting: int
    """Those of them that were sent whole, and waited for their answer alone."""
    noticed_ms: float
    """From the fault until the last of these was broken off, and the client could begin again; 0: there was none."""
    served_ms: float
    """From the fault until the first request that began after it was answered with success."""
    pause_ms: float
    """The longest time without a successful upload around the fault, the time that an upload takes included."""
    refused: int = 0
    """Answers 503 after the fault."""
    slowest: tuple[str, ...] = field(default=())


def pause(requests: Sequence[Request], fault_ns: int) -> Pause:
    """Of all requests to the end of the backup."""
    flying = [
        one
        for one in requests
        if one.method == "POST" and one.begun_ns <= fault_ns < one.ended_ns and not one.acknowledged
    ]
    waiting = [one for one in flying if one.sent_ns and one.sent_ns <= fault_ns]
    after = [one.ended_ns for one in requests if one.begun_ns > fault_ns and one.acknowledged]
    stored = sorted(
        one.ended_ns for one in requests if one.method == "POST" and one.acknowledged and one.bytes
    )
    gaps = [later - earlier for earlier, later in pairwise(stored) if later > fault_ns]
    return Pause(
        in_flight=len(flying),
        waiting=len(waiting),
        noticed_ms=max((one.ended_ns - fault_ns for one in flying), default=0) / 1e6,
        served_ms=(min(after) - fault_ns) / 1e6 if after else 0.0,
        pause_ms=max(gaps, default=0) / 1e6,
        refused=sum(one.status == 503 for one in requests if one.ended_ns > fault_ns),
        slowest=tuple(sorted({one.error for one in flying if one.error})),
    )
