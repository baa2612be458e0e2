"""The one door: `step(state, event) -> (state, effects)`. Pure; the same in production, simulator and tests.

A step books the event's facts, lets the rows of the transition table fire until none does, sends at most one
own write, tells the executor of moved deadlines, and says when it wants to be woken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from leaseha.core import (
    actions,
    alarm,
    attention,
    events,
    facts,
    guards,
    orders,
    placement,
    sequence,
    session,
    sightings,
    transitions,
    upkeep,
    wants,
    writer,
)
from leaseha.core.effects import Effect, Extend, Stopped, Transitioned, Warned
from leaseha.core.events import Event
from leaseha.core.session import Phase, Session
from leaseha.core.spec import NodeSpec
from leaseha.core.state import Draft, LeaseState, NodeState, Role
from leaseha.errors import invariant

ROWS_MAX: Final = 8
"""A lease goes through at most this many rows in one step; more would be a loop in the table."""

Table = Mapping[Role, tuple[transitions.Row, ...]]

HEAR: Final[dict[type, Callable[[Draft, Any], None]]] = {
    events.Started: facts.started,
    events.SessionOpened: facts.session_opened,
    events.SessionFailed: facts.session_failed,
    events.SessionDoubted: facts.session_doubted,
    events.TxnDone: facts.txn_done,
    events.Snapshot: sightings.snapshot,
    events.ReadFailed: sightings.read_failed,
    events.Watched: sightings.watched,
    events.EffectDone: facts.effect_done,
    events.FirstAnswer: facts.first_answer,
    events.VipMissing: facts.vip_missing,
    events.Doubt: facts.doubt,
    events.ResourceFailed: facts.resource_failed,
    events.HealthChanged: facts.health_changed,
    events.BusyChanged: facts.busy_changed,
    events.CopiesReported: facts.copies_reported,
    events.StoreFound: facts.store_found,
    events.Retired: orders.retired,
    events.TtlChanged: orders.ttl_changed,
    events.StopAsked: orders.stop_asked,
    events.Tick: facts.tick,
}


def initial(spec: NodeSpec) -> NodeState:
    """A node that has heard nothing yet."""
    leases = {lease.name: LeaseState() for lease in spec.leases}
    return NodeState(spec, leases, Session(ttl_ns=spec.ttl_ns))


def step(state: NodeState, event: Event, *, everything: bool = False) -> tuple[NodeState, tuple[Effect, ...]]:
    """What follows from an event: the next state, and what is to be done, in order.

    `everything`: look at every lease, not only at those that `attention` finds; for tests, it comes to the same.
    Raises `InvariantBroken` if the state contradicts itself: the caller stops holding.
    """
    if state.stopped or sightings.known(state, event):
        return state, ()
    draft = Draft(state, event.at)
    draft.touch(*state.again)
    HEAR[type(event)](draft, event)
    _read_when_due(draft)
    attention.due(draft)
    if everything:
        draft.touch_all()
    for lease in draft.attended():
        upkeep.unblock(draft, lease)
    _ensure_session(draft)
    upkeep.tell_of_twin(draft)
    attention.notice(draft)
    for lease in draft.attended():
        upkeep.hold_down(draft, lease)
        upkeep.put_failback_off(draft, lease)
    for lease in draft.attended():
        settle(draft, lease)
    upkeep.collect(draft)
    if draft.republish:
        writer.publish(draft)
    if draft.touched:
        attention.book_wants(draft)
    wants.write(draft)
    attention.notice(draft)
    for lease in draft.attended():
        settle(draft, lease)
    _tell(draft, state)
    _end(draft)
    if draft.touched:
        attention.book_wants(draft)
    if draft.touched or draft.node.due_first is None:
        attention.book_due(draft, {lease: alarm.of_lease(draft, lease) for lease in draft.attended()})
    draft.set(again=frozenset(draft.moved))
    alarm.set_wake(draft)
    after = draft.done()
    check_invariants(after, draft.touched)
    return after, tuple(draft.effects)


def settle(draft: Draft, lease: str, table: Table = transitions.BY_ROLE) -> None:
    """Let rows fire for one lease until none does, then go on with its plan.

    Raises `InvariantBroken` if the table never comes to rest.
    """
    for _ in range(ROWS_MAX):
        state = draft.leases[lease]
        row = next((r for r in table[state.role] if r.when(draft, lease)), None)
        if row is None:
            _go_on(draft, lease)
            return
        _fire(draft, lease, row)
    invariant(
        False, f"{lease}: more than {ROWS_MAX} transitions in one step, last in {draft.leases[lease].role}"
    )


def _fire(draft: Draft, lease: str, row: transitions.Row) -> None:
    detail = row.do(draft, lease)
    state = draft.update(lease, role=row.to, since=draft.at)
    draft.moved.add(lease)
    if row.to is Role.STANDBY or row.to is Role.STOPPED:
        draft.republish = True
    draft.effects.append(
        Transitioned(
            lease, row.id, row.role, row.to, row.reason, detail, state.token, state.move.trace, draft.at
        )
    )


def _go_on(draft: Draft, lease: str) -> None:
    """Ask for the next effect of the plan; try a failed way down again when its time has come."""
    state = draft.leases[lease]
    again = state.retry_at is not None and state.retry_at.wait_over(draft.at) and not state.expected
    if state.role in (Role.YIELDING, Role.FENCED) and state.failed and again:
        draft.update(lease, vain=state.vain + 1)
        sequence.go_down(draft, lease, drain=state.role is Role.YIELDING)
    if state.role is Role.HOLDER:
        _keep_up(draft, lease)
    sequence.advance(draft, lease, guards.serve_until(draft, lease))


def _keep_up(draft: Draft, lease: str) -> None:
    """A holder announces again on a doubt, and does not stay with a failed announcement."""
    state = draft.leases[lease]
    if state.failed and state.retry_at is not None and state.retry_at.wait_over(draft.at):
        draft.update(lease, failed="", retry_at=None, doubt="announcing failed")
    if state.regate and sequence.finished(draft.leases[lease]):
        draft.update(lease, regate=False)
        sequence.go_up(draft, lease, only=("OpenGate",))
    actions.announce_again(draft, lease)


def _read_when_due(draft: Draft) -> None:
    """A silent watch is not a quiet cluster: look at everything now and then."""
    if not draft.node.reading and not draft.node.stopping and alarm.read_due(draft).wait_over(draft.at):
        facts.read_all(draft)


def _ensure_session(draft: Draft) -> None:
    """Open a session if there is none, and the name is not in use by another machine."""
    own, node = draft.session, draft.node
    if own.phase is not Phase.NONE or not draft.ready or node.stopping or node.stopped:
        return
    if node.retry_at is not None and not node.retry_at.wait_over(draft.at):
        return
    twin = placement.twin(draft)
    if twin is None:
        writer.open_session(draft, instead_of=own.id if own.proven is not None and writer.kept(draft) else 0)
    elif twin.store != draft.spec.store and twin.renewed:
        draft.set(stopped=True)
        draft.effects.append(
            Stopped(f"another machine runs as node {draft.spec.node!r}: give each node its own name")
        )
    else:
        draft.set(retry_at=draft.at.plus(writer.OPEN_RETRY_NS))


def _tell(draft: Draft, before: NodeState) -> None:
    """Tell the executor when the deadline of something that is up has moved."""
    same = draft.session.proven is before.session.proven and draft.session.pending is before.session.pending
    for lease in draft.attended() if same else draft.leases:
        state = draft.leases[lease]
        until = guards.serve_until(draft, lease) if state.up else None
        if until is None or (until, state.token) == (state.told, state.told_token):
            continue
        draft.update_quietly(lease, told=until, told_token=state.token)
        draft.effects.append(Extend(lease, state.token, until))


def _end(draft: Draft) -> None:
    """The last steps of a stop: nothing held, session closed or given up."""
    node = draft.node
    if not node.stopping or node.stopped:
        return
    if any(state.role is not Role.STOPPED for state in draft.leases.values()):
        _give_up(draft)
    elif draft.session.id == 0:
        facts.finish(draft)
    elif node.stop_by is None:
        draft.set(stop_by=draft.at.plus(facts.STOP_MAX_NS))
    elif node.stop_by.wait_over(draft.at) or draft.session.phase is not Phase.LIVE:
        draft.effects.append(Warned("", "session not closed", "etcd did not answer; it expires by itself"))
        facts.finish(draft)


def _give_up(draft: Draft) -> None:
    """What could not be let go in time stays claimed: its session is not closed in writing, it expires by itself."""
    off_by = draft.node.off_by
    if off_by is None or not off_by.wait_over(draft.at):
        return
    left = ", ".join(name for name, state in draft.leases.items() if state.role is not Role.STOPPED)
    draft.set(stopped=True)
    draft.effects.append(
        Stopped(f"not let go in time: {left}; the warnings before say what stood in the way")
    )


def check_invariants(state: NodeState, leases: Iterable[str]) -> None:
    """What must hold after every step, of the leases that it looked at. Raises `InvariantBroken`."""
    for name in leases:
        lease = state.leases[name]
        serving = lease.role in (Role.PREPARING, Role.HOLDER)
        invariant(not serving or lease.mine, f"{name}: {lease.role} without a proven claim")
        invariant(
            not serving or state.session.proven is not None, f"{name}: {lease.role} without a proven renewal"
        )
        quiet = lease.role in (Role.STANDBY, Role.CLAIMING, Role.STOPPED)
        invariant(not quiet or not lease.up, f"{name}: {lease.role} with {sorted(lease.up)} up")
    own = state.session
    invariant(len(own.pending) <= session.PENDING_MAX + 1, f"{len(own.pending)} writes without answer")
