"""What the leases want written, the most urgent first, and what is sent next.

One own write is under way at a time. While the outcome of one is unknown only renewals are sent: one that
commits has killed whatever was unknown, one that is refused reads the own record and so learns what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaseha.core import (
    actions,
    chronicle,
    guards,
    insync,
    placement,
    records,
    session,
    taking,
    trace,
    transactions,
    writer,
)
from leaseha.core.effects import Commit, Warned
from leaseha.core.records import ClaimRecord, Hold, IntentRecord, Kind
from leaseha.core.session import Phase
from leaseha.core.state import Draft, Role, Way
from leaseha.core.transactions import Absent, Admitting, Letting, Taking
from leaseha.core.values import NS_PER_MS, Instant

TAKES = (Way.T3, Way.T4, Way.T5, Way.T6, Way.T7, Way.T8)


def write(draft: Draft) -> None:
    """Send at most one own write, if one is due or wanted and none is under way."""
    own = draft.session
    if len(own.pending) >= session.PENDING_MAX:
        draft.effects.append(Warned("", "session given up", f"{len(own.pending)} writes without answer"))
        writer.abandon(draft, "session")
        return
    due = writer.due_at(draft)
    is_due = due is not None and due.wait_over(draft.at)
    if own.phase is Phase.REGISTERING and is_due:
        writer.register(draft)
    elif own.phase is Phase.LIVE and own.pending:
        if is_due:
            writer.renew(draft)
    elif own.phase is Phase.LIVE:
        renewal_first = _sweep_due(draft) or (not _send_wanted(draft) and is_due)
        if renewal_first and not draft.node.closing:
            writer.renew(draft)


def _sweep_due(draft: Draft) -> bool:
    """The held claims must be compared in time, whatever else there is to write: only T2 and T10 do that for all.

    Where one renewal compares them all, a move goes first: the next renewal is soon enough.
    """
    held, swept, every_ns = len(writer.kept(draft)), draft.node.swept_at, draft.spec.renew_every_ns
    if not held or swept is None:
        return False
    return swept.plus(every_ns if held > draft.spec.slice_size else 2 * every_ns).wait_over(draft.at)


def _send_wanted(draft: Draft) -> bool:
    """Send the most urgent of what the leases want; False if there is nothing."""
    return draft.ready and (
        _let_go(draft)
        or _accept(draft)
        or _take(draft)
        or _change_insync(draft)
        or _answer(draft)
        or _ask(draft)
        or _close(draft)
    )


def _wanting(draft: Draft) -> list[str]:
    return draft.in_order(draft.node.wanting)


def _ready_to_let_go(draft: Draft, way: Way) -> list[str]:
    from_here = []
    for name in _wanting(draft):
        state = draft.leases[name]
        if state.role is Role.YIELDING and state.way is way and state.mine and guards.all_off(draft, name):
            from_here.append(name)
    return from_here[: draft.spec.batch_size]


def _let_go(draft: Draft) -> bool:
    names = _ready_to_let_go(draft, Way.T11)
    if names:
        items = [Letting(n, draft.leases[n].token, 0, _claim(draft, n, Hold.FREE)) for n in names]
        txn = transactions.t11_release(writer.own(draft), items)
        _mark_barrier(draft, names)
        writer.send(draft, "T11", txn, names, ())
        return True
    return any(_hand_over(draft, name) for name in _ready_to_let_go(draft, Way.T9))


def _hand_over(draft: Draft, name: str) -> bool:
    """T9, if the target may still take; else the holder serves again after its next renewal."""
    state = draft.leases[name]
    target = next((c for c in placement.others(draft, name) if c.session == state.target), None)
    if target is None or target.why_not() or state.tries >= actions.TRIES_MAX:
        draft.update(name, way=Way.NONE, barrier=draft.session.sequence)
        draft.set(renew_asked=True)
        return False
    claim = replace(_claim(draft, name, Hold.HELD), node=target.node, session=target.session)
    item = Letting(name, state.token, draft.view.insync(name).mod, claim)
    txn = transactions.t9_hand_over(writer.own(draft), item, target.session)
    _mark_barrier(draft, [name])
    writer.send(draft, "T9", txn, [name], ())
    return True


def _mark_barrier(draft: Draft, names: Sequence[str]) -> None:
    for name in names:
        draft.update(name, barrier=draft.session.sequence + 1, tries=draft.leases[name].tries + 1)


def _claim(draft: Draft, name: str, hold: Hold) -> ClaimRecord:
    """The claim that lets a lease go."""
    state = draft.leases[name]
    down_ms = (draft.at.boot_ns - state.off_at.boot_ns) // NS_PER_MS if state.off_at is not None else -1
    return ClaimRecord(
        hold,
        kind=state.move.kind,
        reason=state.move.reason,
        traceparent=state.move.trace,
        previous=state.token,
        from_node=draft.spec.node,
        epoch=state.epoch,
        down_ms=down_ms,
    )


def _accept(draft: Draft) -> bool:
    claiming = [n for n in _wanting(draft) if draft.leases[n].role is Role.CLAIMING]
    names = [n for n in claiming if draft.leases[n].way is Way.T10]
    handed = [(n, draft.view.claim(n).mod) for n in names if guards.handed_to_me(draft, n)]
    handed = handed[: draft.spec.batch_size]
    if not handed:
        return False
    for name, mod in handed:
        if mod != draft.leases[name].token:
            chronicle.note(draft, name, mod, answered=False)
    claims = [pair for pair in writer.claims_slice(draft) if pair[0] not in dict(handed)][
        : draft.spec.slice_size
    ]
    notes = list(draft.node.notes.values())[: writer.NOTES_MAX]
    txn = transactions.t10_accept(writer.own(draft), [*handed, *claims], notes)
    names = [name for name, _ in handed]
    writer.send(draft, "T10", txn, names, [*names, *(name for name, _ in claims)], [put.key for put in notes])
    return True


def _take(draft: Draft) -> bool:
    """The first lease that is being claimed, and all others that the same transaction can take."""
    for name in _wanting(draft):
        state = draft.leases[name]
        taken = state.role is Role.CLAIMING and state.way in TAKES
        if taken and (found := taking.possible(draft, name)) is not None:
            names = _alike(draft, found)
            if found.way is Way.T6:
                items = [_absent(draft, one) for one in names]
                writer.send(
                    draft, "T6", transactions.t6_write_absent_down(writer.own(draft), items), names, ()
                )
            else:
                _take_batch(draft, found, names)
            return True
    return False


def _alike(draft: Draft, first: taking.Taking) -> list[str]:
    """The leases that are to be taken in this very way now, as many as one transaction may touch."""
    names: list[str] = []
    for name in _wanting(draft):
        state = draft.leases[name]
        if len(names) == draft.spec.batch_size:
            break
        if state.role is Role.CLAIMING and state.way is first.way:
            found = taking.possible(draft, name)
            if found is not None and (found.way, found.old) == (first.way, first.old):
                names.append(name)
    return names


def _absent(draft: Draft, name: str) -> Absent:
    state, last = draft.leases[name], draft.view.claim(name).last
    epoch = max(state.epoch, state.seen_epoch, last.epoch if last is not None else 1)
    store, at_ms = placement.own_store(draft, name), draft.view.wall_ms_at(draft.at)
    return Absent(name, placement.is_new(draft, name), epoch, store, at_ms)


def _take_batch(draft: Draft, first: taking.Taking, names: Sequence[str]) -> None:
    own, view = writer.own(draft), draft.view
    unwritten = [put for name in names for put in chronicle.unwritten(draft, name)]
    items = [
        Taking(n, view.claim(n).mod, view.insync(n).mod, writer.held(draft, n, draft.session.id))
        for n in names
    ]
    old = view.session(first.old)
    last = old.record or old.last or records.SessionRecord(records.Life.DEAD, _claimed_by(draft, names[0]))
    match first.way:
        case Way.T3:
            txn = transactions.t3_take_silent(own, first.old, old.mod, last, items)
        case Way.T4:
            txn = transactions.t4_take_others(own, first.old, old.mod, items)
        case Way.T5:
            txn = transactions.t5_take_free(own, items)
        case Way.T7:
            txn = transactions.t7_take_lost(own, items)
        case _:
            txn = transactions.t8_take_gone(own, first.old, last, items)
    # In the same transaction, or a node that dies now would make the flap budget forget a failback (G8).
    writer.send(draft, first.way.value, replace(txn, puts=(*txn.puts, *unwritten)), names, names)


def _claimed_by(draft: Draft, name: str) -> str:
    record = draft.view.claim(name).record
    return record.node if record is not None else ""


def _change_insync(draft: Draft) -> bool:
    items = []
    for name in _wanting(draft):
        state = draft.leases[name]
        if insync.may_change(draft, name) and (stores := insync.wanted(draft, name)) is not None:
            nodes, at_ms = insync.nodes_of(draft, name, stores), draft.view.wall_ms_at(draft.at)
            mod = draft.view.insync(name).mod
            items.append(Admitting(name, state.token, mod, stores, nodes, at_ms))
    items = items[: draft.spec.batch_size]
    if items:
        names = [item.lease for item in items]
        writer.send(draft, "T13", transactions.t13_change_insync(writer.own(draft), items), names, names)
    return bool(items)


def _answer(draft: Draft) -> bool:
    """Say why an intent for this token is not obeyed."""
    for name in _wanting(draft):
        state = draft.leases[name]
        asked = guards.unanswered(draft, name) if state.role is Role.HOLDER else None
        if asked is None or asked.kind != Kind.SWITCHOVER:
            continue
        _, why = guards.switchover_target(draft, name, asked)
        if guards.in_vain(draft, name):
            why = "the handover came to nothing"
        if not why:
            continue  # it will be obeyed, once its target has shown that it lives
        mod = draft.view.intent(name).mod
        txn = transactions.answer_intent(writer.own(draft), name, mod, replace(asked, answer=why))
        writer.send(draft, "answer", txn, (), ())
        return True
    return False


def _ask(draft: Draft) -> bool:
    """A better node's intent, after its hold-down and within the flap budget."""
    for name in _wanting(draft):
        if ask_at(draft, name) is None or not ask_over(draft, name):
            continue
        mod = draft.view.claim(name).mod
        me = draft.spec.node
        wait_ms = draft.spec.lease_by_name[name].hold_down_ns // NS_PER_MS
        reason = f"{me} has the higher priority and was well for {wait_ms} ms"
        traceparent = trace.of_move(draft.spec.cluster, name, mod, placement.holding_session(draft, name))
        intent = IntentRecord(Kind.FAILBACK, me, mod, me, reason, traceparent)
        txn = transactions.ask_for_failback(writer.own(draft), name, mod, intent)
        draft.update(name, asked_at=draft.at)
        writer.send(draft, "ask", txn, (), ())
        return True
    return False


def ask_at(draft: Draft, name: str) -> Instant | None:
    """When this node may ask for a lease that it should have; None: it should not."""
    state = draft.leases[name]
    if state.role is not Role.STANDBY or state.better_since is None:
        return None
    at = placement.hold_down_end(draft, name, state.better_since)
    for other in (placement.budget_free_at(draft, name), _asked_lately(draft, name)):
        if other is not None:
            at = Instant(max(at.boot_ns, other.boot_ns), max(at.raw_ns, other.raw_ns))
    return at


def ask_over(draft: Draft, name: str) -> bool:
    """The moment to ask has come."""
    at = ask_at(draft, name)
    return at is not None and at.wait_over(draft.at)


def _asked_lately(draft: Draft, name: str) -> Instant | None:
    asked = draft.leases[name].asked_at
    return asked.plus(placement.ASK_AGAIN_NS) if asked is not None else None


def _close(draft: Draft) -> bool:
    """T12, once everything is let go."""
    if not draft.node.stopping or any(s.role is not Role.STOPPED for s in draft.leases.values()):
        return False
    own = draft.session
    if draft.node.closing:
        return False
    record = writer.own_record(draft)
    txn = transactions.t12_close(own.id, own.mod, record)
    request = draft.next_request()
    draft.set(closing=request)
    draft.effects.append(Commit(request, txn, own.attempt, writer.ATTEMPT_NS, "T12"))
    return True
