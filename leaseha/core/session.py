"""The own session: which of the writes ever sent may be the current record, and how long that lets us serve.

The barrier rule (design 4): every write compares the last known `mod` of the own record and puts that record anew.
So among all the writes that are still `pending` at most one was or will be applied; one that is proven
committed makes the others harmless; and any read of the own record settles which it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from leaseha.core import deadline, records
from leaseha.core.deadline import Written
from leaseha.core.records import Life, SessionRecord
from leaseha.core.values import Head, Instant, KeyValue, Txn, changed

PENDING_MAX = 128
"""More unresolved writes than this, and the session is given up: etcd was away for far longer than it elects."""


class Phase(StrEnum):
    """Where the own session stands."""

    NONE = "none"
    OPENING = "opening"
    """`OpenSession` was asked for."""
    REGISTERING = "registering"
    """T1 (or T14) was sent, or is about to be."""
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class OwnWrite:
    """One transaction that was sent, with what its commit would mean."""

    request: int
    sequence: int
    sent_at: Instant
    ttl_ns: int
    what: str
    """`T2`, `T3`, ..."""
    txn: Txn
    leases: tuple[str, ...]
    """The leases that this write takes, hands over, releases, accepts or asks for."""
    covers: tuple[str, ...]
    """The leases whose claims it compares or writes as own: they may be served under it."""
    head: Head
    """The newest that was known of etcd when this was sent: its answer can not be older."""
    notes: tuple[str, ...] = ()
    """Keys of the notes that ride along."""
    answered: bool = False
    """True: the outcome was *unknown*; False: still waiting."""

    def written(self) -> Written:
        """As deadline arithmetic sees it."""
        return Written(self.sent_at, self.ttl_ns)


@dataclass(frozen=True, slots=True)
class Session:
    """The own session's state. `id` 0: there is none."""

    phase: Phase = Phase.NONE
    id: int = 0
    opening: int = 0
    """The request number of `OpenSession` under way."""
    old: int = 0
    """The session that T14 is about to replace; 0: none."""
    mod: int = 0
    sequence: int = 0
    ttl_ns: int = 0
    """The ttl that the next write carries."""
    proven: Written | None = None
    pending: tuple[OwnWrite, ...] = ()
    sent_at: Instant | None = None
    """When the last write was sent."""
    committed_at: Instant | None = None
    """When the last commit was heard of."""
    steady_since: Instant | None = None
    """Since when commits have been coming without a long gap."""
    attempt: int = 0
    """Attempts since the last commit: the next one goes to another member."""


def deadline_of(session: Session, drift_ppm: int) -> Instant | None:
    """Until when anything may be served under this session; None: not at all."""
    if session.proven is None:
        return None
    return deadline.of_session(session.proven, (write.written() for write in session.pending), drift_ppm)


def sent(session: Session, write: OwnWrite) -> Session:
    """A write is on its way."""
    return changed(
        session,
        sequence=write.sequence,
        pending=(*session.pending, write),
        sent_at=write.sent_at,
        attempt=session.attempt + 1,
    )


def unknown(session: Session, request: int) -> Session:
    """No proof either way: the write stays among those that may be the current record."""
    pending = tuple(changed(w, answered=True) if w.request == request else w for w in session.pending)
    return changed(session, pending=pending)


def without(session: Session, request: int) -> Session:
    """The write was refused for certain: it is not and will never be the current record."""
    return changed(session, pending=tuple(w for w in session.pending if w.request != request))


def committed(
    session: Session, write: OwnWrite, mod: int, at: Instant, regular_ns: int, answered_ns: int
) -> Session:
    """The write is the current record, at `mod`; the others compared an older one and are dead for ever.

    Commits that come after a gap of more than `regular_ns`, or of which one was under way for more than `answered_ns`,
    are a new beginning: etcd was away, for others too.
    """
    before = session.committed_at
    gap = before is None or before.plus(regular_ns).wait_over(at)
    gap = gap or any(sent.sent_at.plus(answered_ns).wait_over(at) for sent in session.pending)
    return changed(
        session,
        phase=Phase.LIVE,
        old=0,
        mod=mod,
        proven=write.written(),
        pending=(),
        committed_at=at,
        steady_since=at if gap else session.steady_since,
        attempt=0,
    )


class Found(StrEnum):
    """What a look at the own record says."""

    SAME = "same"
    """Still at the `mod` that we know."""
    OURS = "ours"
    """One of the pending writes is the current record."""
    GONE = "gone"
    """Absent: expired, revoked or deleted."""
    LOST = "lost"
    """Declared dead, closed, or written by another process: not ours any more."""
    OLDER = "older"
    """Our own, but older than what was proven: etcd went back in time."""


def look(session: Session, incarnation: str, kv: KeyValue) -> tuple[Found, OwnWrite | None]:
    """Judge the own record as read (or watched) at a moment not before the last proven write."""
    if kv.mod == 0:
        return Found.GONE, None
    if kv.mod == session.mod:
        return Found.SAME, None
    record = records.decode(SessionRecord, kv.value)
    if record is None or record.life is not Life.LIVE:
        return Found.LOST, None
    for write in session.pending:
        if record.nonce() == (incarnation, write.sequence):
            return Found.OURS, write
    ours = record.incarnation == incarnation and record.sequence <= session.sequence
    return (Found.OLDER if ours else Found.LOST), None


def waiting(session: Session) -> OwnWrite | None:
    """The newest write that has no answer yet."""
    return next((write for write in reversed(session.pending) if not write.answered), None)


def covered(writes: Iterable[OwnWrite], lease: str) -> bool:
    """True if one of the writes concerns this lease."""
    return any(lease in write.leases for write in writes)
