"""What the measuring processes write down: 16 bytes a record, appended in order, one time base.

All instants are CLOCK_MONOTONIC in ns. A recording may be read while it is being written.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

_FORMAT: Final = struct.Struct("<BBHIq")
_FLUSH_NS: Final = 50_000_000
SO_TIMESTAMPNS: Final = 35
UNKNOWN: Final = 255
"""`who` of an answer from none of the known hosts."""


class Kind(IntEnum):
    """What happened."""

    READY = 0
    """The process measures; all that happened before is noted before."""
    SENT = 1
    """A probe or request left; `number` is its sequence."""
    ANSWER = 2
    """`who` answered; `number` is the probe's sequence, 0 where there is none."""
    ANNOUNCED = 3
    """`who` sent a gratuitous ARP or an unsolicited neighbour advertisement."""
    BOUND = 4
    """`who` has the address from now on."""
    UNBOUND = 5
    """`who` has it no more."""
    LOST = 6
    """The kernel dropped notes for `who`; what is true is read anew."""


_KINDS: Final = tuple(Kind)


class Record(NamedTuple):
    """One note. `subject` tells several addresses of one recording apart, by their place in the list."""

    kind: Kind
    who: int
    subject: int
    number: int
    t_ns: int


def pack(record: Record) -> bytes:
    """The 16 bytes of a record."""
    return _FORMAT.pack(record.kind, record.who, record.subject, record.number, record.t_ns)


def unpack(data: bytes) -> list[Record]:
    """Whole records only; a torn last one is left out."""
    whole = len(data) - len(data) % _FORMAT.size
    return [
        Record(_KINDS[kind], who, subject, number, t_ns)
        for kind, who, subject, number, t_ns in _FORMAT.iter_unpack(data[:whole])
    ]


class Recorder:
    """Appends to a file, at most 50 ms late. For the loop of one process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._buffer = bytearray()
        self._flushed_ns = 0

    def note(self, kind: Kind, who: int, subject: int, number: int, t_ns: int) -> None:
        """Keep one record."""
        self._buffer += _FORMAT.pack(kind, who, subject, number & 0xFFFFFFFF, t_ns)

    def flush(self, now_ns: int, *, force: bool = False) -> None:
        """Write what is kept, if it is time to."""
        if self._buffer and (force or now_ns - self._flushed_ns >= _FLUSH_NS):
            os.write(self._fd, self._buffer)
            self._buffer.clear()
            self._flushed_ns = now_ns


class Reader:
    """Reads a recording as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._records: list[Record] = []

    def records(self) -> Sequence[Record]:
        """All so far."""
        try:
            with self._path.open("rb") as source:
                source.seek(self._offset)
                data = source.read()
        except FileNotFoundError:
            return self._records
        found = unpack(data)
        self._offset += len(found) * _FORMAT.size
        self._records += found
        return self._records


def kernel_stamp_ns(ancillary: Iterable[tuple[int, int, bytes]]) -> int:
    """When the kernel received a packet (SO_TIMESTAMPNS), as CLOCK_MONOTONIC; now, if it does not say.

    The kernel stamps by CLOCK_REALTIME. Both clocks are read here, so that only a step of the wall clock
    between the packet and this call would count.
    """
    now_ns = time.monotonic_ns()
    for _, kind, data in ancillary:
        if kind == SO_TIMESTAMPNS and len(data) >= 16:
            seconds, nanoseconds = struct.unpack_from("=qq", data)
            age_ns = time.time_ns() - (seconds * 1_000_000_000 + nanoseconds)
            return now_ns - age_ns if 0 <= age_ns < 10_000_000_000 else now_ns
    return now_ns
