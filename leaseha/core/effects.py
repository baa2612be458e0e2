"""What the core asks for: ordered data, executed by the runtime, each answered by an event.

Effects of one lease are carried out one after the other in the order given; effects of different
leases, and transactions, do not wait for each other. Effects with a `serial` are answered by
`EffectDone(lease, effect=<class name>, serial)`. An executor that finds the `deadline` of an effect passed
when it is about to act does not act and answers `ok=False`.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaseha.core.values import Instant, Txn


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Grant an etcd lease of `ttl_s` and keep it alive at ttl/3: `SessionOpened` or `SessionFailed`."""

    request: int
    ttl_s: int


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Stop keeping the etcd lease alive and revoke it, best effort; nothing is reported back."""

    session: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Send this transaction once, to the member after the last one if `attempt` > 0: `TxnDone`.

    Never sent twice by the adapter: a further attempt is a new request with a new sequence number.
    `what` names it in logs ("T2 renew").
    """

    request: int
    txn: Txn
    attempt: int
    timeout_ns: int
    what: str


@dataclass(frozen=True, slots=True)
class ReadAll:
    """Read all keys of the cluster linearizably: `Snapshot` or `ReadFailed`.

    `restart_watch`: from then on everything after the snapshot's revision is watched, and nothing before it.
    """

    request: int
    restart_watch: bool


@dataclass(frozen=True, slots=True)
class StartResources:
    """Start, or let serve, what the holder runs for the lease: gate still closed."""

    lease: str
    serial: int
    token: int
    epoch: int
    deadline: Instant
    trace: str


@dataclass(frozen=True, slots=True)
class BindVip:
    """Put the VIPs on the interface, for as long as `deadline` is away, and check them."""

    lease: str
    serial: int
    deadline: Instant
    trace: str


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Let the repository accept writes under this token."""

    lease: str
    serial: int
    token: int
    epoch: int
    deadline: Instant
    trace: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the network; answered after the first burst, repeated in the background until the VIP goes."""

    lease: str
    serial: int
    deadline: Instant
    why: str
    trace: str


@dataclass(frozen=True, slots=True)
class Extend:
    """A renewal is proven: address lifetimes and the repository's deadline move to `deadline`. Not answered.

    `deadline` may also lie before the last one told (a shorter ttl was sent).
    """

    lease: str
    token: int
    deadline: Instant


@dataclass(frozen=True, slots=True)
class CloseGate:
    """Refuse new writes, finish requests in flight for `drain_ns` at most, then reset the rest.

    Done means: nothing can be acknowledged any more.
    """

    lease: str
    serial: int
    drain_ns: int
    trace: str
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class StopResources:
    """Stop what `StartResources` started."""

    lease: str
    serial: int
    trace: str
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class UnbindVip:
    """Take the VIPs off. `ok` means: read back and absent."""

    lease: str
    serial: int
    trace: str
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Transitioned:
    """A row of the table fired: one log line, one span event. Not answered."""

    lease: str
    row: str
    role_from: str
    role_to: str
    reason: str
    detail: str
    token: int
    trace: str
    at: Instant


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The lease's service answers here: the move is over. `history` is the JSON written to etcd. Not answered."""

    lease: str
    token: int
    trace: str
    history: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Warned:
    """Something an operator should know that is no transition. Not answered."""

    lease: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Give a `Tick` when either clock reaches this. Replaces the previous one. Not answered otherwise."""

    at: Instant


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything is released; the process may end. Not answered."""

    failure: str = ""
    """Why the node cannot run at all; empty after an orderly stop."""


Effect = (
    OpenSession
    | CloseSession
    | Commit
    | ReadAll
    | StartResources
    | BindVip
    | OpenGate
    | Announce
    | Extend
    | CloseGate
    | StopResources
    | UnbindVip
    | Transitioned
    | MoveEnded
    | Warned
    | WakeAt
    | Stopped
)
