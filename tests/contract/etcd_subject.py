"""The store that the contract suite speaks to, and what its tests have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from leaseha.core.events import Change
from leaseha.core.values import Committed, Compare, Head, KeyValue, Outcome, Put, Refused, Txn

EXPIRY_SLACK_S = 1.5
"""How late after its TTL etcd may collect a lease: it looks every 500 ms, the rest is a busy machine."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One delivery of a watch: all changes of one revision, or of several, in order."""

    head: Head
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Compacted:
    """The watch cannot start where it was asked to: everything before `revision` is gone."""

    revision: int


class Watching(ABC):
    """A running watch over all keys of the cluster."""

    @abstractmethod
    async def next(self) -> Batch | Compacted:
        """The next delivery. TimeoutError if none comes (fake: nothing is pending; real: within 5 s)."""

    @abstractmethod
    async def close(self) -> None:
        """End the watch."""


class Subject(ABC):
    """A store under test. Keys are relative to the cluster's prefix."""

    min_ttl_s: int = 1
    """The smallest TTL that this store grants: 1.5 x its election timeout, rounded up."""

    @abstractmethod
    async def txn(self, txn: Txn) -> Outcome: ...

    @abstractmethod
    async def read_all(self) -> tuple[Head, tuple[KeyValue, ...]]:
        """All keys, linearizably, in the order of their names."""

    @abstractmethod
    async def grant(self, ttl_s: int) -> int:
        """A new lease's id, never 0, never one that was given before."""

    @abstractmethod
    async def revoke(self, lease: int) -> None:
        """No error if the lease is unknown."""

    @abstractmethod
    async def keepalive(self, lease: int) -> int:
        """The TTL (s) that counts from now; 0 or less: no such lease."""

    @abstractmethod
    async def watch(self, from_revision: int) -> Watching:
        """Every change from this revision on, with the values before."""

    @abstractmethod
    async def compact(self, revision: int) -> None: ...

    @abstractmethod
    async def delete(self, key: str) -> None:
        """As by hand, without a compare."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let time pass; leases that are over by then are collected."""

    async def leader_change(self) -> None:
        """The leader steps down and another one is elected (for `LeaderChangeContract` only)."""
        raise NotImplementedError


async def put(subject: Subject, key: str, value: str = "v", lease: int = 0) -> int:
    """Write without a compare; the revision."""
    outcome = await subject.txn(Txn((), (Put(key, value, lease),), ()))
    assert isinstance(outcome, Committed), outcome
    return outcome.head.revision


async def keys(subject: Subject) -> dict[str, KeyValue]:
    _, found = await subject.read_all()
    return {kv.key: kv for kv in found}


async def revision(subject: Subject) -> int:
    head, _ = await subject.read_all()
    return head.revision


async def holds(subject: Subject, *compares: Compare) -> bool:
    """Whether all compares hold now; told by a transaction that writes nothing."""
    outcome = await subject.txn(Txn(compares, (), ()))
    assert isinstance(outcome, (Committed, Refused)), outcome
    return isinstance(outcome, Committed)


async def seen_until(watching: Watching, last: int) -> list[Batch]:
    """Deliveries up to and with the change at revision `last`."""
    batches: list[Batch] = []
    while not batches or batches[-1].changes[-1].revision < last:
        batch = await watching.next()
        assert isinstance(batch, Batch), batch
        assert batch.changes, "a delivery without changes"
        batches.append(batch)
    return batches


def flat(batches: Sequence[Batch]) -> list[Change]:
    return [change for batch in batches for change in batch.changes]
