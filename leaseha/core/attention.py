"""Which leases a step looks at: with a thousand of them most events concern a few, or none.

A lease is looked at when its own state changed, when a key of its was seen to change, when the moment has come that
it named itself the last time (`alarm.of_lease`), or when something changed that every lease depends on. What may be
forgotten here is found by looking at all of them each time: `machine.step(..., everything=True)` must come to
the same, and the property tests check that it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from leaseha.core import deadline, guards, insync, placement
from leaseha.core import view as views
from leaseha.core.records import ClaimRecord, HistoryRecord, Life, NodeRecord, SessionRecord
from leaseha.core.session import deadline_of
from leaseha.core.state import Common, Draft, Role
from leaseha.core.values import Instant, earliest
from leaseha.core.view import Seen, View

AT_REST: Final = (Role.STANDBY, Role.STOPPED)


def common(draft: Draft) -> Common:
    """As it is now."""
    own, node = draft.session, draft.node
    until = deadline_of(own, draft.spec.drift_ppm)
    past = until is None or until.deadline_passed(draft.at)
    letting = guards.letting_go(draft)
    return Common(own.phase, own.id, own.steady_since, letting, node.claims_from, draft.ready, past)


def notice(draft: Draft) -> None:
    """Touch every lease if something changed that all depend on, and those whose writes were resolved."""
    now = common(draft)
    if now != draft.node.common:
        draft.set(common=now)
        if now.letting_go:
            draft.set(stop_told_by=draft.at)  # from now on, whatever else there is to tell
        draft.touch_all()
    pending = draft.session.pending
    if pending is not draft.noticed:
        for write in (*pending, *draft.noticed):
            draft.touch(*write.leases)
        draft.noticed = pending


def due(draft: Draft) -> None:
    """Touch the leases whose moment has come."""
    first = draft.node.due_first
    if first is None or not first.deadline_passed(draft.at):
        return
    for name, at in draft.node.due.items():
        if at.deadline_passed(draft.at):
            draft.touch(name)
    draft.set(due_first=None)  # found anew from all of them at the end of this step


def seen(draft: Draft, before: View, keys: Iterable[str]) -> None:
    """Touch what depends on keys that were just seen to change."""
    claims = False
    for key in keys:
        kind, table, place = views.place(key)
        if kind is SessionRecord:
            _session_seen(draft, before, place)
        elif kind is NodeRecord:
            draft.touch_all()
        elif kind is HistoryRecord:
            draft.touch(table)
        elif kind is not None:
            draft.touch(place)
            claims = claims or kind is ClaimRecord
    if claims:
        _find_holders(draft)


def everything_seen(draft: Draft) -> None:
    """All keys were read: look at every lease."""
    draft.touch_all()
    _find_holders(draft)


def _find_holders(draft: Draft) -> None:
    named = {placement.holding_session(draft, name) for name in draft.leases}
    draft.set(holders=frozenset(named - {0, draft.session.id}))


def _session_seen(draft: Draft, before: View, session: int) -> None:
    if session == draft.session.id:
        return
    if _renewed(draft, before.session(session), draft.view.session(session)):
        draft.touch(*draft.node.wanting)
    else:
        draft.touch_all()


def _renewed(draft: Draft, old: Seen[SessionRecord], new: Seen[SessionRecord]) -> bool:
    """True if nothing but time passed: a session that was not silent is renewed, under the same terms."""
    one, other = old.record, new.record
    if one is None or other is None or one.life is not Life.LIVE or other.life is not Life.LIVE:
        return False
    same = (one.node, one.store, one.incarnation, one.ttl_ns, one.margin_ns) == (
        other.node,
        other.store,
        other.incarnation,
        other.ttl_ns,
        other.margin_ns,
    )
    over = deadline.of_wait(old.at, one.ttl_ns, draft.spec.drift_ppm, one.margin_ns)
    return same and old.create == new.create and not over.wait_over(draft.at)


def wants(draft: Draft, lease: str) -> bool:
    """Whether something of it is, or may soon be, to be written (`wants`)."""
    state = draft.leases[lease]
    match state.role:
        case Role.CLAIMING | Role.YIELDING:
            return True
        case Role.STANDBY:
            return state.better_since is not None
        case Role.HOLDER if guards.unanswered(draft, lease) is not None:
            return True
        case _:
            return insync.may_change(draft, lease) and insync.wanted(draft, lease) is not None


def book_wants(draft: Draft) -> None:
    """Note, of the leases that were looked at, which want something written and which are neither here nor there."""
    wanting, active = set(draft.node.wanting), set(draft.node.active)
    for name in draft.touched:
        (wanting.add if wants(draft, name) else wanting.discard)(name)
        (active.discard if draft.leases[name].role in AT_REST else active.add)(name)
    if wanting != draft.node.wanting or active != draft.node.active:
        draft.set(wanting=frozenset(wanting), active=frozenset(active))


def book_due(draft: Draft, moments: dict[str, Instant | None]) -> None:
    """Note when each of the leases that were looked at is due next."""
    first, table = draft.node.due_first, draft.node.due
    if moments:
        table = {**table, **{name: moment for name, moment in moments.items() if moment is not None}}
        for name, moment in moments.items():
            if moment is None:
                table.pop(name, None)
            elif first is not None:
                first = earliest(first, moment)
    draft.set(due=table, due_first=first if first is not None else _first(table.values()))


def _first(moments: Iterable[Instant]) -> Instant | None:
    found: Instant | None = None
    for moment in moments:
        found = moment if found is None else earliest(found, moment)
    return found
