"""An etcd in memory and in virtual time: transactions, leases, watches with history, compaction, a restored snapshot.

It passes the same contract suite as the real one (tests/contract). `now` is the caller's: true time, ns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from leaseha.core.events import Change
from leaseha.core.values import (
    NS_PER_S,
    Committed,
    Compare,
    Delete,
    Head,
    KeyValue,
    LeaseMissing,
    Outcome,
    Put,
    Refused,
    Target,
    Txn,
)

LATE_NS: Final = NS_PER_S // 2
"""How late an expired lease may be noticed (etcd's lessor looks every 500 ms)."""


class Compacted(Exception):
    """The history asked for is gone: that before `revision`, as etcd says it."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted at {revision}")
        self.revision = revision


@dataclass(slots=True)
class Lease:
    """A TTL lease."""

    ttl_ns: int
    ends_ns: int
    late_ns: int


@dataclass(slots=True)
class Saved:
    """What a snapshot of the data directory holds."""

    revision: int
    term: int
    keys: dict[str, KeyValue]
    leases: dict[int, Lease]
    next_lease: int


@dataclass(slots=True)
class FakeEtcd:
    """One cluster. `late(limit)` draws how late an expiry is noticed."""

    late: Callable[[int], int] = lambda limit: limit // 2
    cluster_id: int = 77
    revision: int = 1
    term: int = 2
    compacted: int = 0
    keys: dict[str, KeyValue] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    log: list[tuple[int, tuple[Change, ...]]] = field(default_factory=list)
    """(revision, changes), oldest first, from `compacted` + 1 on."""
    next_lease: int = 1000
    on_change: Callable[[tuple[Change, ...]], None] = lambda _: None

    def head(self) -> Head:
        """The header of an answer of now."""
        return Head(self.cluster_id, self.revision, self.term)

    def txn(self, txn: Txn) -> Outcome:
        """Apply a transaction. Raises ValueError for a key that is put twice, as etcd refuses it."""
        names = [put.key for put in txn.puts]
        if len(names) != len(set(names)):
            raise ValueError("duplicate key given in txn request")
        if not all(self._holds(compare) for compare in txn.compares):
            reads = tuple(self.keys.get(key) or KeyValue(key, "", 0) for key in txn.reads)
            return Refused(self.head(), reads)
        if any(isinstance(put, Put) and put.lease and put.lease not in self.leases for put in txn.puts):
            return LeaseMissing()
        self.write(txn.puts)
        return Committed(self.head())

    def write(self, puts: tuple[Put | Delete, ...]) -> None:
        """Apply puts and deletes in one revision; deletes of absent keys alone make none."""
        if not any(isinstance(put, Put) or put.key in self.keys for put in puts):
            return
        self.revision += 1
        changes = tuple(change for put in puts if (change := self._apply(put)) is not None)
        self.log.append((self.revision, changes))
        self.on_change(changes)

    def _holds(self, compare: Compare) -> bool:
        kv = self.keys.get(compare.key)
        if kv is None:
            return compare.value == 0
        match compare.target:
            case Target.MOD:
                return kv.mod == compare.value
            case Target.CREATE:
                return kv.create == compare.value
            case _:
                return kv.lease == compare.value

    def _apply(self, put: Put | Delete) -> Change | None:
        before = self.keys.get(put.key)
        if isinstance(put, Delete):
            if before is None:
                return None
            del self.keys[put.key]
            return Change(self.revision, KeyValue(put.key, "", 0), before)
        create = before.create if before is not None else self.revision
        now = self.keys[put.key] = KeyValue(put.key, put.value, self.revision, create, put.lease)
        return Change(self.revision, now, before)

    def read_all(self) -> tuple[Head, tuple[KeyValue, ...]]:
        """Every key, by name."""
        return self.head(), tuple(self.keys[key] for key in sorted(self.keys))

    def since(self, revision: int) -> list[tuple[int, tuple[Change, ...]]]:
        """The changes from a revision on. Raises `Compacted`, at the compacted revision itself too.

        There the real etcd tells what is left of it, which need not be all: the stricter answer is the safe one.
        """
        if revision <= self.compacted:
            raise Compacted(self.compacted)
        if revision > self.revision:
            return []
        return [entry for entry in self.log[-(self.revision - revision + 1) :] if entry[0] >= revision]

    def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision`."""
        self.compacted = min(revision, self.revision)
        self.log = [entry for entry in self.log if entry[0] > self.compacted]

    def grant(self, ttl_s: int, now_ns: int) -> int:
        """A fresh lease."""
        self.next_lease += 1
        ttl_ns = ttl_s * NS_PER_S
        self.leases[self.next_lease] = Lease(ttl_ns, now_ns + ttl_ns, self.late(LATE_NS))
        return self.next_lease

    def keepalive(self, lease: int, now_ns: int) -> bool:
        """Count its TTL anew; False if there is no such lease."""
        found = self.leases.get(lease)
        if found is not None:
            found.ends_ns = now_ns + found.ttl_ns
        return found is not None

    def revoke(self, lease: int) -> None:
        """End a lease: all its keys go in one revision."""
        if self.leases.pop(lease, None) is not None:
            keys = [key for key in sorted(self.keys) if self.keys[key].lease == lease]
            self.write(tuple(Delete(key) for key in keys))

    def expire(self, now_ns: int) -> None:
        """End the leases whose time, and etcd's lateness, is over."""
        for lease, found in list(self.leases.items()):
            if now_ns >= found.ends_ns + found.late_ns:
                self.revoke(lease)

    def change_leader(self, now_ns: int) -> None:
        """A new leader: a higher term, and every lease gets its full TTL again."""
        self.term += 1
        for lease in self.leases.values():
            lease.ends_ns = now_ns + lease.ttl_ns

    def save(self) -> Saved:
        """A snapshot of now."""
        return Saved(self.revision, self.term, dict(self.keys), dict(self.leases), self.next_lease)

    def restore(self, saved: Saved, now_ns: int) -> None:
        """Go back to a snapshot, as an operator would after losing the cluster."""
        self.revision, self.term, self.keys = saved.revision, saved.term, dict(saved.keys)
        self.leases = {
            number: Lease(o.ttl_ns, now_ns + o.ttl_ns, o.late_ns) for number, o in saved.leases.items()
        }
        self.log, self.compacted = [], saved.revision
