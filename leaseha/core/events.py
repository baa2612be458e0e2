"""Facts that enter the core: each is something that happened, at a moment that was read afterwards.

`at` is read from the clock after the fact was received and never before: a wait counts from it. The
moment at which `step` is called with an event is also `sent_at` of every transaction that this step
asks for, because it lies before the sending.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaseha.core.values import Head, Instant, KeyValue, Outcome


@dataclass(frozen=True, slots=True)
class Started:
    """The process is up; its own leftovers (addresses, children) are removed."""

    at: Instant


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """etcd granted the lease asked for by `OpenSession(request)`; its id was never used before."""

    at: Instant
    request: int
    session: int


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """`OpenSession(request)` did not succeed (refused or unknown; an unused etcd lease just expires)."""

    at: Instant
    request: int
    why: str


@dataclass(frozen=True, slots=True)
class SessionDoubted:
    """etcd's keepalive says that the session's etcd lease is gone. It proves nothing: look."""

    at: Instant
    session: int


@dataclass(frozen=True, slots=True)
class TxnDone:
    """How `Commit(request)` ended. Comes exactly once for each request."""

    at: Instant
    request: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys of the cluster at `head.revision`, read linearizably.

    Comes as the answer to `ReadAll(request)`, or unasked with `request == 0` when the watch had to start
    anew because its revisions were compacted: history is broken there.
    """

    at: Instant
    request: int
    head: Head
    wall_ms: int
    keys: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """`ReadAll(request)` had no answer."""

    at: Instant
    request: int
    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """One key's change: `now.mod == 0` is a deletion, made at `revision`; `before` is what stood there, if known."""

    revision: int
    now: KeyValue
    before: KeyValue | None


@dataclass(frozen=True, slots=True)
class Watched:
    """Changes in order on an unbroken history: nothing lies between these and what was seen before.

    All changes of one revision come in one event.
    """

    at: Instant
    head: Head
    wall_ms: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class EffectDone:
    """An effect on a lease ended: `serial` is the effect's. `ok` False: not done, or not known to be done."""

    at: Instant
    lease: str
    effect: str
    serial: int
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The lease's service answered on its VIP for the first time since `Announce(serial)`; sent once for each."""

    at: Instant
    lease: str
    serial: int
    ok: bool = True
    """False: it did not answer within the executor's bound."""


@dataclass(frozen=True, slots=True)
class VipMissing:
    """A VIP that is held here is not on the interface any more: someone removed it."""

    at: Instant
    lease: str
    detail: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason to announce again: link up, a partition healed."""

    at: Instant
    lease: str
    why: str


@dataclass(frozen=True, slots=True)
class ResourceFailed:
    """A resource of the lease died or stopped answering, and restarting it did not help."""

    at: Instant
    lease: str
    detail: str


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The checks of a lease now say this. `penalty` (<= 0 as a rule) is added to the priority."""

    at: Instant
    lease: str
    penalty: int
    ineligible: str
    """Why this node should not hold the lease; empty if it may."""


@dataclass(frozen=True, slots=True)
class BusyChanged:
    """Clients began to write to the lease's resources, or ended: a failback waits for a pause."""

    at: Instant
    lease: str
    busy: bool


@dataclass(frozen=True, slots=True)
class CopiesReported:
    """Which stores the holder's replication wants admitted to the in-sync set of a lease with replicated data.

    They have every acknowledged object. It is forgotten when the lease is lost: the next holder says it anew.
    """

    at: Instant
    lease: str
    stores: frozenset[str]
    token: int
    """Under which it was said: what an earlier holdership has copied to counts no more."""
    number: int = 0
    """Grows from one to the next; the replication hears which one the core has taken into account."""


@dataclass(frozen=True, slots=True)
class StoreFound:
    """The data directory of a lease with replicated data was looked at: the uuid of what is there; empty: nothing."""

    at: Instant
    lease: str
    store: str


@dataclass(frozen=True, slots=True)
class Retired:
    """This node shall let go of the lease, and not take it again while `why` is not empty."""

    at: Instant
    lease: str
    why: str


@dataclass(frozen=True, slots=True)
class TtlChanged:
    """The configuration asks for another ttl (ns) from now on."""

    at: Instant
    ttl_ns: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Release everything and stop."""

    at: Instant


@dataclass(frozen=True, slots=True)
class Tick:
    """The time asked for by `WakeAt` has come (early ticks do no harm)."""

    at: Instant


Event = (
    Started
    | SessionOpened
    | SessionFailed
    | SessionDoubted
    | TxnDone
    | Snapshot
    | ReadFailed
    | Watched
    | EffectDone
    | FirstAnswer
    | VipMissing
    | Doubt
    | ResourceFailed
    | HealthChanged
    | BusyChanged
    | CopiesReported
    | StoreFound
    | Retired
    | TtlChanged
    | StopAsked
    | Tick
)
