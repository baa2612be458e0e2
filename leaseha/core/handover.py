"""From one process of a node to the next, in place: session, claims and deadlines go on, nothing moves (design 4.4).

The old process hands over between two steps, when no write of its own is without an answer: so nothing that it ever
sent can still be executed, and the record at `mod` is the last word of its incarnation. The new one goes on under
an incarnation of its own. It gains no time by that: deadlines are those that the old one had proven, until a write
of its own that compared the claim is committed; its first write is a renewal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from leaseha.core import guards, machine
from leaseha.core.deadline import Written
from leaseha.core.session import Phase, Session
from leaseha.core.spec import NodeSpec
from leaseha.core.state import Draft, LeaseState, Move, NodeState, Role
from leaseha.core.values import Head, Instant
from leaseha.errors import invariant


@dataclass(frozen=True, slots=True)
class Carried:
    """One lease, held or not."""

    lease: str
    held: bool
    since: Instant
    token: int
    epoch: int
    cover: Instant | None
    up: tuple[str, ...]
    reason: str
    trace: str
    from_node: str
    tried: int
    seen_epoch: int
    blocked: str
    not_before: Instant | None
    store: str = ""
    wanted: tuple[str, ...] | None = None
    """Held: the in-sync set that its replication wants."""
    heard: int = 0


@dataclass(frozen=True, slots=True)
class Handover:
    """What the next process is told. `session` 0: there is none to go on with, and nothing is held."""

    session: int
    mod: int
    sequence: int
    proven: Written | None
    head: Head
    claims_from: Instant | None
    leases: tuple[Carried, ...]

    def held(self) -> tuple[Carried, ...]:
        """The leases that are served."""
        return tuple(one for one in self.leases if one.held)


def not_calm(state: NodeState) -> str:
    """Why session and leases cannot be handed over between this step and the next; empty if they can."""
    own = state.session
    if state.stopping or state.stopped:
        return "the node is stopping"
    if own.phase is not Phase.LIVE:
        return "its session is not proven"
    for name, lease in state.leases.items():
        if lease.role not in (Role.STANDBY, Role.HOLDER) or lease.mine != (lease.role is Role.HOLDER):
            return f"{name} is {lease.role.value}"
        if lease.expected or lease.plan or lease.awaiting:
            return f"{name} is being brought up or down"
    if own.pending or state.notes:
        return "etcd has not answered its last write"
    return ""


def nothing_held(state: NodeState) -> bool:
    """Nothing is, or may be, up here: the next process may begin without a session, as after a crash."""
    idle = (Role.STANDBY, Role.CLAIMING)
    return not state.stopping and all(
        lease.role in idle and not lease.mine and not lease.up for lease in state.leases.values()
    )


def standing_by(state: NodeState, lease: str) -> bool:
    """Nothing of it is here, nor being taken."""
    known = state.leases[lease]
    return known.role is Role.STANDBY and not known.mine


def deadlines(state: NodeState, at: Instant) -> dict[str, Instant]:
    """Until when each held lease may be served."""
    draft = Draft(state, at)
    found = {name: guards.serve_until(draft, name) for name in state.leases}
    return {name: until for name, until in found.items() if until is not None}


def left_ns(state: NodeState, at: Instant) -> int | None:
    """ns to the earliest of them; None if nothing is held."""
    return min((until.left_ns(at) for until in deadlines(state, at).values()), default=None)


def take(state: NodeState) -> Handover:
    """The session with everything held; or, where that is not `not_calm`, what is known without it.

    Raises `InvariantBroken` if something is held that cannot be handed over.
    """
    own, calm = state.session, not not_calm(state)
    invariant(calm or nothing_held(state), f"handed over although {not_calm(state)}")
    return Handover(
        session=own.id if calm else 0,
        mod=own.mod if calm else 0,
        sequence=own.sequence,
        proven=own.proven if calm else None,
        head=state.head,
        claims_from=state.claims_from,
        leases=tuple(_carried(name, lease) for name, lease in state.leases.items()),
    )


def _carried(name: str, lease: LeaseState) -> Carried:
    return Carried(
        lease=name,
        held=lease.mine,
        since=lease.since,
        token=lease.token,
        epoch=lease.epoch,
        cover=lease.cover if lease.mine else None,
        up=tuple(sorted(lease.up)),
        reason=lease.move.reason,
        trace=lease.move.trace,
        from_node=lease.move.from_node,
        tried=lease.tried,
        seen_epoch=lease.seen_epoch,
        blocked=lease.blocked,
        not_before=lease.not_before,
        store=lease.store,
        wanted=tuple(sorted(lease.wanted)) if lease.mine and lease.wanted is not None else None,
        heard=lease.heard,
    )


def adopted(
    spec: NodeSpec,
    told: Handover,
    at: Instant,
    *,
    drifted: Mapping[str, str] | None = None,
    regate: Collection[str] = (),
) -> NodeState:
    """The state with which the next process begins; `Started` is its first event.

    `drifted`: held leases some of whose VIPs are not bound yet, and why; `regate`: those whose gate is to be opened
    anew. Raises `InvariantBroken` for a held lease that `spec` does not have.
    """
    state = replace(machine.initial(spec), head=told.head, claims_from=told.claims_from)
    leases = dict(state.leases)
    for one in told.leases:
        if one.lease in leases:
            leases[one.lease] = _adopted(one, told.session)
        invariant(one.lease in leases or not one.held, f"{one.lease} is held, and not configured")
    for name, why in (drifted or {}).items():
        leases[name] = replace(leases[name], drifted=why)
    for name in regate:
        leases[name] = replace(leases[name], regate=True, up=leases[name].up | {"resources", "gate"})
    session = replace(state.session, sequence=told.sequence)
    if told.session:
        session = Session(
            phase=Phase.LIVE,
            id=told.session,
            mod=told.mod,
            sequence=told.sequence,
            ttl_ns=spec.ttl_ns,
            proven=told.proven,
            committed_at=at,
            steady_since=at,
        )
    return replace(state, leases=leases, session=session)


def _adopted(one: Carried, session: int) -> LeaseState:
    known = LeaseState(
        since=one.since,
        token=one.token,
        epoch=one.epoch,
        tried=one.tried,
        seen_epoch=one.seen_epoch,
        blocked=one.blocked,
        not_before=one.not_before,
        store=one.store,
        heard=one.heard,
        move=Move(reason=one.reason, trace=one.trace, from_node=one.from_node),
    )
    if not one.held:
        return known
    up = frozenset(one.up)
    wanted = frozenset(one.wanted) if one.wanted is not None else None
    return replace(known, role=Role.HOLDER, mine=True, under=session, cover=one.cover, up=up, wanted=wanted)


def proven(state: NodeState, told: Handover) -> bool:
    """The new process has renewed by itself, and compared every claim that it still holds."""
    own = state.session
    if told.session == 0 or own.id != told.session:
        return own.phase is Phase.LIVE
    return own.mod != told.mod and all(
        lease.covered_by > told.sequence for lease in state.leases.values() if lease.mine
    )
