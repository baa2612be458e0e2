"""The one writer of a node: which transaction is sent next, and with what.

One own write is under way at a time. While the outcome of one is unknown only renewals are sent: one that
commits has killed whatever was unknown, one that is refused reads the own record and so learns what it was.
A renewal without answer is not repeated: a new one with its own sequence number goes to another member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaseha.core import (
    actions,
    chronicle,
    deadline,
    guards,
    insync,
    placement,
    records,
    session,
    taking,
    trace,
    transactions,
)
from leaseha.core.effects import CloseSession, Commit, OpenSession, Warned
from leaseha.core.records import ClaimRecord, Hold, IntentRecord, Kind, NodeRecord
from leaseha.core.session import OwnWrite, Phase
from leaseha.core.state import Draft, Role, Way
from leaseha.core.transactions import Letting, Own, Taking
from leaseha.core.values import NS_PER_MS, Delete, Instant, Put, Txn

ATTEMPT_NS = 300 * NS_PER_MS
"""The least time that one attempt is given to be answered."""
OPEN_RETRY_NS = 500 * NS_PER_MS
NOTES_MAX = 20
"""Notes that ride along with one renewal at most (etcd allows 128 operations a transaction)."""

TAKES = (Way.T3, Way.T4, Way.T5, Way.T6, Way.T7, Way.T8)


def retry_ns(draft: Draft) -> int:
    """How long after the last sending the next attempt is due, with the outcome of the last still open."""
    write = session.waiting(draft.session)
    if write is None and draft.session.attempt < 3:
        return draft.spec.renew_every_ns // 10
    return max(draft.spec.renew_every_ns // 2, 3 * draft.session.ttl_ns // session.PENDING_MAX)


def due_at(draft: Draft) -> Instant | None:
    """When the next own write is due if nothing else happens; None: nothing is planned."""
    own = draft.session
    if own.phase is Phase.NONE or own.phase is Phase.OPENING or draft.node.stopped or draft.node.closing:
        return None
    if own.sent_at is None:
        return draft.at
    if own.pending or own.phase is Phase.REGISTERING:
        return own.sent_at.plus(retry_ns(draft))
    if draft.node.renew_asked or draft.node.notes:
        return draft.at
    return own.sent_at.plus(draft.spec.renew_every_ns)


def write(draft: Draft) -> None:
    """Send at most one own write, if one is due or wanted and none is under way."""
    own = draft.session
    if len(own.pending) >= session.PENDING_MAX:
        draft.effects.append(Warned("", "session given up", f"{len(own.pending)} writes without answer"))
        abandon(draft, "session")
        return
    due = due_at(draft)
    is_due = due is not None and due.wait_over(draft.at)
    if own.phase is Phase.REGISTERING and is_due:
        _register(draft)
    elif own.phase is Phase.LIVE and own.pending:
        if is_due:
            _renew(draft)
    elif own.phase is Phase.LIVE and not _send_wanted(draft) and is_due and not draft.node.closing:
        _renew(draft)


def _send(
    draft: Draft, what: str, txn: Txn, leases: Sequence[str], covers: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """Book a write and ask for its sending. The sequence number is the one that `_own` has put into it."""
    own, request = draft.session, draft.next_request()
    entry = OwnWrite(
        request=request,
        sequence=own.sequence + 1,
        sent_at=draft.at,
        ttl_ns=own.ttl_ns,
        what=what,
        txn=txn,
        leases=tuple(leases),
        covers=tuple(covers),
        head=draft.node.head,
        notes=tuple(notes),
    )
    timeout_ns = max(ATTEMPT_NS, draft.spec.renew_every_ns)
    draft.effects.append(Commit(request, txn, own.attempt, timeout_ns, what))
    draft.session = session.sent(own, entry)
    if what in ("T2", "T10", "T14", "T1"):
        draft.set(renew_asked=False)


def _own(draft: Draft) -> Own:
    own = draft.session
    return Own(own.id, own.mod, _record(draft))


def _record(draft: Draft) -> records.SessionRecord:
    spec, own = draft.spec, draft.session
    return own.record(spec.node, spec.store, spec.incarnation, own.sequence + 1, spec.margin_ns)


def node_record(draft: Draft) -> NodeRecord:
    """What this node tells the others about itself."""
    spec = draft.spec
    candidates = {lease.name: placement.myself(draft, lease.name) for lease in spec.leases}
    return NodeRecord(
        node=spec.node,
        session=draft.session.id,
        store=spec.store,
        version=spec.version,
        address=spec.address,
        ttl_max_ns=spec.ttl_max_ns,
        priorities={name: c.priority for name, c in candidates.items()},
        ineligible={name: c.ineligible for name, c in candidates.items() if c.ineligible},
        digests={lease.name: lease.digest for lease in spec.leases},
    )


def publish(draft: Draft) -> None:
    """Queue the node record if it tells something new."""
    if draft.session.phase is not Phase.LIVE:
        return
    value = records.encode(node_record(draft))
    if value != draft.node.published:
        note(draft, Put(records.node_key(draft.spec.node), value, draft.session.id))
        draft.set(published=value)


def note(draft: Draft, put: Put) -> None:
    """Let a write ride along with the next renewal."""
    draft.set(notes={**draft.node.notes, put.key: put})


def kept(draft: Draft) -> list[str]:
    """The leases that are served, or on the way up or down, under a claim of ours."""
    return [name for name, state in draft.leases.items() if state.mine]


def _register(draft: Draft) -> None:
    """T1, or T14 while there is something to keep inside the deadline."""
    own = draft.session
    node = node_record(draft)
    names = [name for name in kept(draft) if not guards.past_deadline(draft, name)] if own.old else []
    names = names[: draft.spec.batch_size]
    draft.set(published=records.encode(node), notes=unattached(draft))
    if names:
        letting = [Letting(n, draft.leases[n].token, 0, _held(draft, n, own.id, again=True)) for n in names]
        txn = transactions.t14_reestablish(own.old, own.id, _record(draft), node, letting)
        _send(draft, "T14", txn, names, names)
    else:
        _send(draft, "T1", transactions.t1_register(own.id, _record(draft), node), (), ())


def unattached(draft: Draft) -> dict[str, Put | Delete]:
    """The notes without those that hang on an older session: its etcd lease may be no more."""
    notes = draft.node.notes
    return {key: put for key, put in notes.items() if isinstance(put, Delete) or not put.lease}


def slice_rounds(draft: Draft) -> int:
    """In how many renewals all claims must have been compared, so that no cover ends while all is well."""
    spec = draft.spec
    return max(1, deadline.held_ns(spec.ttl_max_ns, spec.drift_ppm) // spec.renew_every_ns - 2)


def _slice(draft: Draft) -> list[tuple[str, int]]:
    """The own claims that the next renewal compares: all, or a rotating part of them."""
    names = kept(draft)
    size = max(draft.spec.slice_size, -(-len(names) // slice_rounds(draft)))
    if len(names) > size:
        start = draft.node.slice_from % len(names)
        draft.set(slice_from=start + size)
        names = (names + names)[start : start + size]
    return [(name, draft.leases[name].token) for name in names]


def _renew(draft: Draft) -> None:
    claims = _slice(draft)
    notes = list(draft.node.notes.values())[:NOTES_MAX]
    txn = transactions.t2_renew(_own(draft), claims, notes)
    _send(draft, "T2", txn, (), [name for name, _ in claims], [put.key for put in notes])


def _send_wanted(draft: Draft) -> bool:
    """Send the most urgent of what the leases want; False if there is nothing."""
    return (
        _let_go(draft)
        or _accept(draft)
        or _take(draft)
        or _change_insync(draft)
        or _ask(draft)
        or _close(draft)
    )


def _ready_to_let_go(draft: Draft, way: Way) -> list[str]:
    from_here = []
    for name, state in draft.leases.items():
        if state.role is Role.YIELDING and state.way is way and state.mine and guards.all_off(draft, name):
            from_here.append(name)
    return from_here[: draft.spec.batch_size]


def _let_go(draft: Draft) -> bool:
    names = _ready_to_let_go(draft, Way.T11)
    if names:
        items = [Letting(n, draft.leases[n].token, 0, _claim(draft, n, Hold.FREE)) for n in names]
        txn = transactions.t11_release(_own(draft), items)
        _mark_barrier(draft, names)
        _send(draft, "T11", txn, names, ())
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
    txn = transactions.t9_hand_over(_own(draft), item, target.session)
    _mark_barrier(draft, [name])
    _send(draft, "T9", txn, [name], ())
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


def _held(draft: Draft, name: str, own: int, *, again: bool = False) -> ClaimRecord:
    """The claim that makes a lease ours."""
    state, seen = draft.leases[name], draft.view.claim(name).record
    return ClaimRecord(
        Hold.HELD,
        node=draft.spec.node,
        session=own,
        kind=state.move.kind,
        reason="session re-established" if again else state.move.reason,
        traceparent=state.move.trace,
        previous=draft.view.claim(name).mod if not again else state.token,
        from_node=state.move.from_node,
        epoch=max(state.epoch if again else 1, seen.epoch if seen is not None else 1),
    )


def _accept(draft: Draft) -> bool:
    names = [n for n, s in draft.leases.items() if s.role is Role.CLAIMING and s.way is Way.T10]
    handed = [(n, draft.view.claim(n).mod) for n in names if guards.handed_to_me(draft, n)]
    handed = handed[: draft.spec.batch_size]
    if not handed:
        return False
    for name, mod in handed:
        if mod != draft.leases[name].token:
            chronicle.note(draft, name, mod, answered=False)
    claims = [pair for pair in _slice(draft) if pair[0] not in dict(handed)][: draft.spec.slice_size]
    notes = list(draft.node.notes.values())[:NOTES_MAX]
    txn = transactions.t10_accept(_own(draft), [*handed, *claims], notes)
    names = [name for name, _ in handed]
    _send(draft, "T10", txn, names, [*names, *(name for name, _ in claims)], [put.key for put in notes])
    return True


def _take(draft: Draft) -> bool:
    """The first lease that is being claimed, and all others that the same transaction can take."""
    for name, state in draft.leases.items():
        taken = state.role is Role.CLAIMING and state.way in TAKES
        if taken and (found := taking.possible(draft, name)) is not None:
            if found.way is Way.T6:
                new = placement.is_new(draft, name)
                last = draft.view.claim(name).last
                epoch = max(state.epoch, state.seen_epoch, last.epoch if last is not None else 1)
                _send(
                    draft, "T6", transactions.t6_write_absent_down(_own(draft), name, new, epoch), [name], ()
                )
            else:
                _take_batch(draft, found)
            return True
    return False


def _take_batch(draft: Draft, first: taking.Taking) -> None:
    names = []
    for name, state in draft.leases.items():
        if state.role is Role.CLAIMING and state.way is first.way:
            found = taking.possible(draft, name)
            if found is not None and (found.way, found.old) == (first.way, first.old):
                names.append(name)
    names = names[: draft.spec.batch_size]
    own, view = _own(draft), draft.view
    unwritten = [put for name in names for put in chronicle.unwritten(draft, name)]
    items = [
        Taking(n, view.claim(n).mod, view.insync(n).mod, _held(draft, n, draft.session.id)) for n in names
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
    _send(draft, first.way.value, replace(txn, puts=(*txn.puts, *unwritten)), names, names)


def _claimed_by(draft: Draft, name: str) -> str:
    record = draft.view.claim(name).record
    return record.node if record is not None else ""


def _change_insync(draft: Draft) -> bool:
    for name, state in draft.leases.items():
        if insync.may_change(draft, name) and (stores := insync.wanted(draft, name)) is not None:
            seen = draft.view.insync(name)
            txn = transactions.t13_change_insync(_own(draft), name, state.token, seen.mod, stores)
            _send(draft, "T13", txn, [name], [name])
            return True
    return False


def _ask(draft: Draft) -> bool:
    """A better node's intent, after its hold-down and within the flap budget."""
    for name in draft.leases:
        if ask_at(draft, name) is None or not ask_over(draft, name):
            continue
        mod = draft.view.claim(name).mod
        me = draft.spec.node
        wait_ms = draft.spec.lease_by_name[name].hold_down_ns // NS_PER_MS
        reason = f"{me} has the higher priority and was well for {wait_ms} ms"
        traceparent = trace.of_move(draft.spec.cluster, name, mod, placement.holding_session(draft, name))
        intent = IntentRecord(Kind.FAILBACK, me, mod, me, reason, traceparent)
        txn = transactions.ask_for_failback(_own(draft), name, mod, intent)
        draft.update(name, asked_at=draft.at)
        _send(draft, "ask", txn, (), ())
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
    record = _record(draft)
    txn = transactions.t12_close(own.id, own.mod, record)
    request = draft.next_request()
    draft.set(closing=request)
    draft.effects.append(Commit(request, txn, own.attempt, ATTEMPT_NS, "T12"))
    return True


def open_session(draft: Draft, *, instead_of: int = 0) -> None:
    """Ask for an etcd lease; `instead_of` a session whose record vanished, for T14."""
    request = draft.next_request()
    own = draft.session
    draft.effects.append(OpenSession(request, draft.spec.session_ttl_s))
    draft.session = replace(own, phase=Phase.OPENING, opening=request, old=instead_of, pending=())


def abandon(draft: Draft, why: str) -> None:
    """The session is not ours any more: forget it, and with it every claim that names it."""
    own = draft.session
    for name, state in draft.leases.items():
        if state.mine:
            draft.update(name, mine=False, cover=None, lost=why)
    if own.id:
        draft.effects.append(CloseSession(own.id))
    draft.session = session.Session(sequence=own.sequence, ttl_ns=own.ttl_ns)
    draft.set(notes=unattached(draft), published="")
