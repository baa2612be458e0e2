"""What each row of the transition table does; returns what the log line adds to the row's reason."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import guards, insync, placement, sequence, taking, trace
from leaseha.core.effects import Warned
from leaseha.core.records import ClaimRecord, Hold, Kind
from leaseha.core.state import Draft, Move, Way, lease_spec
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant

BACKOFF_NS = 10 * NS_PER_S
"""After a failure to serve, a node leaves the lease to others for this long."""
STUCK_NS = 60 * NS_PER_S
"""After letting go came to nothing, a holder tries it again by itself only after this."""
RESUME = "resume"
"""No move: the claim is still ours after a fence, and is served again."""
TRIES_MAX = 3
"""How often a handover is sent before the holder gives up and serves again."""


def rest(draft: Draft, lease: str) -> str:
    """Nothing to do for this lease: forget the plans."""
    draft.republish = True
    draft.update(
        lease,
        way=Way.NONE,
        mine=False,
        cover=None,
        lost="",
        plan=(),
        expected={},
        failed="",
        target=0,
        tries=0,
        off_at=None,
        trouble="",
        drifted="",
        doubt="",
        regate=False,
        awaiting=0,
        told=None,
        wanted=None,  # of the next holdership nothing was said: others may have changed the set meanwhile (G2)
    )
    return ""


def _move_of(draft: Draft, lease: str, kind: str, reason: str) -> Move:
    """A move that begins at the claim as it is seen now."""
    seen = draft.view.claim(lease)
    record = seen.record
    holding = placement.holding_session(draft, lease)
    from_node = ""
    if record is not None:
        from_node = record.node if record.hold is Hold.HELD else record.from_node
    return Move(
        kind=kind,
        reason=reason,
        trace=(record.traceparent if record is not None and record.hold is Hold.FREE else "")
        or trace.of_move(draft.spec.cluster, lease, seen.mod, holding or draft.session.id),
        from_node=from_node,
    )


def claim(draft: Draft, lease: str) -> str:
    """Decide how to take; the writer sends it."""
    found = taking.possible(draft, lease)
    if found is None:
        return ""
    view = draft.view
    seen = view.claim(lease)
    off_since: Instant | None = None
    down_ms = -1
    kind = Kind.FAILOVER
    if found.way in (Way.T3, Way.T8) or found.way is Way.T4:
        off_since = view.session(found.old).at
    elif seen.record is not None and seen.record.hold is Hold.FREE:
        off_since, down_ms = seen.at, seen.record.down_ms
        kind = _kind_of_free(seen.record)
    reason = _why_taken(draft, lease, found)
    if accepted := insync.accepted_loss(draft, lease):
        reason = accepted
        draft.effects.append(Warned(lease, "taken with a loss that was accepted", accepted))
    move = _move_of(draft, lease, kind, reason)
    draft.update(lease, way=found.way, lost="", move=replace(move, off_since=off_since, down_ms=down_ms))
    return reason


def _kind_of_free(record: ClaimRecord) -> Kind:
    """A guard frees what its agent died with: nobody asked for that release."""
    if record.kind == Kind.FAILOVER:
        return Kind.FAILOVER
    return Kind.RELEASE if record.from_node else Kind.FIRST


def _why_taken(draft: Draft, lease: str, found: taking.Taking) -> str:
    seen = draft.view.claim(lease)
    if found.way in (Way.T3, Way.T4, Way.T8) and seen.record is not None:
        session = draft.view.session(found.old)
        quiet_ms = (draft.at.boot_ns - session.at.boot_ns) // NS_PER_MS
        state = "silent" if found.way is Way.T3 else "gone" if found.way is Way.T8 else "ended"
        return f"{seen.record.node} {state} for {quiet_ms} ms"
    if found.way is Way.T5 and seen.record is not None and seen.record.from_node:
        if seen.record.kind == Kind.FAILOVER:
            return seen.record.reason
        return f"released by {seen.record.from_node}: {seen.record.reason}"
    return {Way.T5: "first holder", Way.T6: "no claim", Way.T7: "lost claim, ttl_max waited"}.get(
        found.way, ""
    )


def accept(draft: Draft, lease: str) -> str:
    """Accept the claim that names this session (T10)."""
    seen = draft.view.claim(lease)
    record = seen.record
    if record is None:
        return ""
    state = draft.leases[lease]
    if seen.mod == state.token and state.move.trace:
        draft.update(lease, way=Way.T10, lost="", move=replace(state.move, kind=RESUME, reason="still ours"))
        return "still ours"
    move = Move(record.kind, record.reason, record.traceparent, record.from_node, seen.at, record.down_ms)
    draft.update(lease, way=Way.T10, lost="", move=move)
    return f"from {record.from_node}: {record.reason}" if record.from_node else ""


def prepare(draft: Draft, lease: str) -> str:
    """Bring everything up."""
    draft.update(lease, way=Way.NONE, trouble="", drifted="", doubt="")
    sequence.go_up(draft, lease)
    return f"token {draft.leases[lease].token}"


def prepare_again(draft: Draft, lease: str) -> str:
    """Serve again after a handover that came to nothing: no move, and no line of history in place of the last one."""
    move = replace(draft.leases[lease].move, kind=RESUME)
    draft.update(lease, target=0, tries=0, off_at=None, move=move)
    return prepare(draft, lease)


def prepare_stuck(draft: Draft, lease: str) -> str:
    """Serve again where nothing could be taken off, and let some time pass before letting go of it unasked."""
    failed = draft.leases[lease].failed
    draft.update(lease, stuck_until=draft.at.plus(STUCK_NS))
    return f"{failed} failed; {prepare_again(draft, lease)}"


def serve(draft: Draft, lease: str) -> str:
    """Up; the rest of a holder's life is renewals. An intent of ours has had its effect: the next need not wait."""
    draft.update(lease, better_since=None, asked_at=None, not_before=None)
    draft.republish = True
    return f"token {draft.leases[lease].token}"


def fence(draft: Draft, lease: str) -> str:
    """Cut everything at once: the VIP first."""
    state = draft.leases[lease]
    detail = state.lost
    if state.lost == "taken" and (record := draft.view.claim(lease).record) is not None:
        detail = f"claim is {record.hold.value} {record.node}".strip()
    traceparent = trace.of_move(draft.spec.cluster, lease, state.token, state.under)
    draft.update(lease, way=Way.NONE, mine=False, move=Move(Kind.FAILOVER, "", traceparent))
    draft.republish = True
    sequence.go_down(draft, lease, drain=False)
    return detail


def _down(draft: Draft, lease: str, way: Way, kind: str, why: str, target: int, given: str = "") -> None:
    state = draft.leases[lease]
    traceparent = given or trace.of_move(draft.spec.cluster, lease, state.token, state.under)
    move = Move(kind, why, traceparent, draft.spec.node, draft.at)
    draft.update(lease, way=way, target=target, tries=0, vain=0, off_at=None, move=move)
    draft.republish = True
    sequence.go_down(draft, lease, drain=True)


def release(draft: Draft, lease: str) -> str:
    """Orderly down, then *free* (T11)."""
    state = draft.leases[lease]
    why = "stop" if draft.node.stopping else state.retired or state.ineligible
    best = None if draft.node.stopping else placement.best_other(draft, lease)
    if best is not None:
        # To someone, and not into nothing: by the time all is off it may be ineligible too, and then we stay.
        _down(draft, lease, Way.T9, Kind.RELEASE, why, best.session)
    else:
        _down(draft, lease, Way.T11, Kind.RELEASE, why, 0)
    return why


def give_up(draft: Draft, lease: str) -> str:
    """Release what cannot be served here, and leave it to others for a while."""
    state = draft.leases[lease]
    why = state.trouble or f"{state.failed} failed"
    draft.update(lease, not_before=draft.at.plus(BACKOFF_NS))
    _down(draft, lease, Way.T11, Kind.RELEASE, why, 0)
    return why


def hand_over(draft: Draft, lease: str) -> str:
    """Orderly down, then the claim is written over to the target (T9)."""
    asked = guards.intent(draft, lease)
    if asked is None:
        return ""
    if asked.kind == Kind.SWITCHOVER:
        target, _ = guards.switchover_target(draft, lease, asked)
    else:
        named = placement.named(draft, lease, asked.target)
        target = named.session if named is not None else 0
    draft.update(lease, tried=draft.view.intent(lease).mod)
    _down(draft, lease, Way.T9, asked.kind, asked.reason or f"asked by {asked.by}", target, asked.traceparent)
    return f"to {_node_of(draft, target)}, asked by {asked.by}"


def _node_of(draft: Draft, session: int) -> str:
    record = draft.view.session(session).record
    return record.node if record is not None else "?"


def bring_up_again(draft: Draft, lease: str) -> str:
    """Start the resource again where it is."""
    why = draft.leases[lease].trouble
    draft.update(lease, trouble="")
    sequence.go_up(draft, lease)
    return why


def bind_again(draft: Draft, lease: str) -> str:
    """Put the VIP back and announce it."""
    why = draft.leases[lease].drifted
    draft.update(lease, drifted="")
    sequence.go_up(draft, lease, only=sequence.UP_BARE)
    return why


def announce_again(draft: Draft, lease: str) -> None:
    """A doubt (link up, heal): say once more who has the VIP. No transition."""
    if draft.leases[lease].doubt and sequence.finished(draft.leases[lease]):
        draft.update(lease, doubt="")
        sequence.go_up(draft, lease, only=("Announce",))


def data_blocked(draft: Draft, lease: str) -> str:
    """After a restored etcd: why a lease with data is not to be claimed before `recover`."""
    return (
        "etcd went back in time: see docs/operations.md, `etcd went back in time`"
        if lease_spec(draft.spec, lease).data
        else ""
    )
