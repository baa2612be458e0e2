"""When the core wants to be woken: the earliest moment at which time alone makes something due."""

from __future__ import annotations

from leaseha.core import guards, placement, session, taking, wants, writer
from leaseha.core.effects import WakeAt
from leaseha.core.session import Phase
from leaseha.core.state import Draft, LeaseState, Role
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant

LEAST_NS = 1 * NS_PER_MS
"""Never ask to be woken sooner than this: a row that does not fire must not become a busy loop."""
IDLE_NS = 60 * NS_PER_S
UP = (Role.PREPARING, Role.HOLDER, Role.YIELDING)


def set_wake(draft: Draft) -> None:
    """Ask for a tick at the earliest moment of all that are due."""
    if draft.node.stopped:
        return
    left_ns = min(_left(draft))
    wake = draft.at.plus(max(left_ns, LEAST_NS))
    if wake != draft.node.wake:
        draft.set(wake=wake)
        draft.effects.append(WakeAt(wake))


def read_due(draft: Draft) -> Instant:
    """When the next linearizable read is due: soon after a failed one, else once in a `ttl_max`."""
    node = draft.node
    if node.read_at is None:
        return draft.at
    return node.read_at.plus(draft.spec.ttl_max_ns if draft.ready else writer.OPEN_RETRY_NS)


def _left(draft: Draft) -> list[int]:
    """ns until each thing that is due by time, waits and deadlines alike."""
    at, node = draft.at, draft.node
    waits = [None if node.reading or node.stopping else read_due(draft), writer.due_at(draft)]
    told_by = node.stop_told_by if not node.common.letting_go else None
    waits += [node.stop_by, node.off_by, told_by, writer.alert_at(draft)]
    if draft.session.phase is Phase.NONE and draft.ready:
        waits.append(node.retry_at)
    left = [wait.wait_left_ns(at) for wait in waits if wait is not None] or [IDLE_NS]
    deadlines = [node.due_first]
    if node.active and not node.common.past:
        deadlines.append(session.deadline_of(draft.session, draft.spec.drift_ppm))
    return left + [until.left_ns(at) for until in deadlines if until is not None]


def of_lease(draft: Draft, name: str) -> Instant | None:
    """When time alone makes something due for a lease; None: nothing will, as things stand.

    The session's deadline is not among it: that is one for all of them.
    """
    left = _of_lease(draft, name, draft.leases[name])
    return draft.at.plus(min(left)) if left else None


def _of_lease(draft: Draft, name: str, state: LeaseState) -> list[int]:
    at = draft.at
    left = []
    if state.role in UP and state.mine and state.cover is not None:
        left.append(state.cover.left_ns(at))
    if state.failed and state.retry_at is not None:
        left.append(state.retry_at.wait_left_ns(at))
    waits = [state.not_before]
    if state.role is Role.STANDBY:
        found = taking.possible(draft, name)
        waits += [found.at if found else None, wants.ask_at(draft, name)]
        left += _failing_peers(draft)
    elif state.role is Role.HOLDER:
        waits.append(state.stuck_until)
        if guards.unanswered(draft, name) is not None:
            # Whether it is obeyed hangs on who is silent, on budgets and on pauses: look again and again.
            left.append(draft.spec.renew_every_ns)
    left += [w.wait_left_ns(at) for w in waits if w is not None and not w.wait_over(at)]
    return left


def _failing_peers(draft: Draft) -> list[int]:
    """A node that goes silent changes the ranks: look again when its wait is over."""
    left = []
    for other, _ in draft.view.live_sessions():
        over = placement.silent_from(draft, other)
        if other != draft.session.id and over is not None and not over.wait_over(draft.at):
            left.append(over.wait_left_ns(draft.at))
    return left
