"""Small values that everything else is made of: instants, transactions, their outcomes.

A transaction is data. The etcd adapter (and the simulator's fake etcd, which passes the same contract
suite) turns it into one etcd `Txn` request; keys are relative to the cluster's prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment by two clocks of one machine, in ns.

    A deadline has passed when *either* clock says so, a wait is over when *both* do: one of them may be
    slewed (chrony moves CLOCK_BOOTTIME by up to 8 %), and each side then errs towards safety.
    """

    boot_ns: int
    """CLOCK_BOOTTIME: goes on while the machine sleeps."""
    raw_ns: int
    """CLOCK_MONOTONIC_RAW: never slewed."""

    def plus(self, duration_ns: int) -> Instant:
        """The moment that is `duration_ns` later (earlier if negative) by both clocks."""
        return Instant(self.boot_ns + duration_ns, self.raw_ns + duration_ns)

    def deadline_passed(self, now: Instant) -> bool:
        """For a deadline: True as soon as either clock of `now` has reached it."""
        return now.boot_ns >= self.boot_ns or now.raw_ns >= self.raw_ns

    def wait_over(self, now: Instant) -> bool:
        """For the end of a wait: True only when both clocks of `now` have reached it."""
        return now.boot_ns >= self.boot_ns and now.raw_ns >= self.raw_ns

    def left_ns(self, now: Instant) -> int:
        """For a deadline: ns until the earlier of both clocks reaches it; negative when passed."""
        return min(self.boot_ns - now.boot_ns, self.raw_ns - now.raw_ns)

    def wait_left_ns(self, now: Instant) -> int:
        """For the end of a wait: ns until both clocks have reached it; negative or 0 when over."""
        return max(self.boot_ns - now.boot_ns, self.raw_ns - now.raw_ns)


_Record = TypeVar("_Record")


@cache
def _reader(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(one.name for one in fields(kind))
    return names, attrgetter(*names)


def changed(record: _Record, **changes: Any) -> _Record:
    """What `dataclasses.replace` does for a record of two fields or more, in half of the time: steps consist of it."""
    names, values = _reader(cast(Hashable, type(record)))
    return type(record)(**{**dict(zip(names, values(record), strict=True)), **changes})


def earliest(one: Instant, other: Instant) -> Instant:
    """The earlier of two deadlines, clock by clock."""
    return Instant(min(one.boot_ns, other.boot_ns), min(one.raw_ns, other.raw_ns))


class Target(StrEnum):
    """What a compare looks at: etcd's mod_revision, create_revision, or the lease a key hangs on."""

    MOD = "mod"
    CREATE = "create"
    LEASE = "lease"


@dataclass(frozen=True, slots=True)
class Compare:
    """`target(key) == value`. All compares are equality; an absent key has 0 for each target."""

    key: str
    target: Target
    value: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value` at `key`, attached to the etcd lease `lease` (0: to nothing)."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `key`; no error if it is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class Txn:
    """All of `compares` hold: do `puts` atomically; else read `reads` (linearizable)."""

    compares: tuple[Compare, ...]
    puts: tuple[Put | Delete, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What an etcd response says of the cluster that gave it (ResponseHeader)."""

    cluster_id: int
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as read or watched. `mod == 0`: the key is absent (and `value` is empty)."""

    key: str
    value: str
    mod: int
    create: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction was applied, at `head.revision`."""

    head: Head


@dataclass(frozen=True, slots=True)
class Refused:
    """Not applied: a compare failed. `reads` are the keys of `Txn.reads` at that moment, absent ones too."""

    head: Head
    reads: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class LeaseMissing:
    """Not applied: a put named an etcd lease that does not exist (any more). Checked by etcd before writing."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No proof either way: timeout, broken channel, no leader. It may be applied later still."""

    why: str


Outcome = Committed | Refused | LeaseMissing | Unknown
