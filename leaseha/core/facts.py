"""What each event means: facts are booked here, nothing is decided."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import (
    actions,
    attention,
    chronicle,
    deadline,
    events,
    guards,
    records,
    sequence,
    session,
    upkeep,
    writer,
)
from leaseha.core import view as views
from leaseha.core.effects import CloseSession, MoveEnded, ReadAll, Stopped, Warned
from leaseha.core.records import ClaimRecord
from leaseha.core.session import Found, OwnWrite, Phase
from leaseha.core.state import Draft, Role, Way
from leaseha.core.taking import after_ttl_max
from leaseha.core.values import (
    NS_PER_MS,
    NS_PER_S,
    Committed,
    Head,
    KeyValue,
    LeaseMissing,
    Put,
    Refused,
)

READ_RETRY_NS = 500 * NS_PER_MS
STEADY_FACTOR = 3
"""Commits further apart than this many renewal periods are not regular."""
STOP_MAX_NS = 5 * NS_PER_S
"""After everything is off: how long closing the session may take. Before: what a way down may take beside its waits."""


def read_all(draft: Draft) -> None:
    """Ask for a linearizable look at everything."""
    request = draft.next_request()
    draft.set(reading=request, read_at=draft.at, reading_floor=draft.node.head)
    draft.effects.append(ReadAll(request, restart_watch=not draft.ready))


def started(draft: Draft, event: events.Started) -> None:
    """The process is up."""
    draft.session = replace(draft.session, ttl_ns=draft.spec.ttl_ns)
    for name in [name for name, state in draft.leases.items() if not state.since.boot_ns]:
        draft.update(name, since=event.at)
    draft.republish = True
    read_all(draft)


def session_opened(draft: Draft, event: events.SessionOpened) -> None:
    """A fresh etcd lease: register under it, or re-establish what is kept."""
    own = draft.session
    if event.request != own.opening or own.phase is not Phase.OPENING:
        draft.effects.append(CloseSession(event.session))
        return
    draft.session = replace(
        own, phase=Phase.REGISTERING, id=event.session, mod=0, sent_at=None, attempt=0, opening=0
    )


def session_failed(draft: Draft, event: events.SessionFailed) -> None:
    """No session: try again in a while."""
    own = draft.session
    if event.request == own.opening and own.phase is Phase.OPENING:
        draft.session = replace(own, phase=Phase.NONE, opening=0)
        draft.set(retry_at=event.at.plus(writer.OPEN_RETRY_NS))


def session_doubted(draft: Draft, event: events.SessionDoubted) -> None:
    """The keepalive found no etcd lease. That proves nothing; a renewal will tell."""
    if event.session == draft.session.id:
        draft.set(renew_asked=True)


def rewound(head: Head, floor: Head) -> bool:
    """An answer that is older than what was known before it was asked for: etcd was restored from a snapshot."""
    if floor.cluster_id and head.cluster_id != floor.cluster_id:
        return True
    return head.revision < floor.revision or head.raft_term < floor.raft_term


def begin_anew(draft: Draft, why: str) -> None:
    """Drop everything that was believed, open a new session, and claim nothing for `ttl_max`."""
    draft.effects.append(Warned("", "etcd went back in time", why))
    for name, state in draft.leases.items():
        record = draft.view.claim(name).record
        epoch = max(state.epoch, state.seen_epoch, record.epoch if record is not None else 1)
        blocked = actions.data_blocked(draft, name)
        # A `mod` may come again for another intent: what was tried before says nothing about it.
        draft.update(name, seen_epoch=epoch, blocked=blocked, better_since=None, asked_at=None, tried=0)
    claims_from = after_ttl_max(draft, draft.at)
    writer.abandon(draft, "rewound")
    draft.set(view=None, head=Head(0, 0, 0), notes={}, published="", claims_from=claims_from)
    read_all(draft)


def heard(draft: Draft, head: Head) -> None:
    """Remember the newest that was told of etcd."""
    known = draft.node.head
    if head.revision >= known.revision:
        draft.set(head=Head(head.cluster_id, head.revision, max(head.raft_term, known.raft_term)))


def txn_done(draft: Draft, event: events.TxnDone) -> None:
    """A transaction ended. One that is not pending any more was settled by other means; its answer is old news."""
    if event.request == draft.node.closing and draft.node.closing:
        finish(draft)
        return
    write = next((w for w in draft.session.pending if w.request == event.request), None)
    if write is None:
        return
    match event.outcome:
        case Committed(head) | Refused(head, _) if rewound(head, write.head):
            begin_anew(
                draft, f"{write.what} was answered at revision {head.revision} < {write.head.revision}"
            )
        case Committed(head):
            heard(draft, head)
            committed(draft, write, head.revision)
        case Refused(head, reads):
            heard(draft, head)
            refused(draft, write, head.revision, reads)
        case LeaseMissing():
            draft.session = session.without(draft.session, write.request)
            gone(draft)
        case _:
            draft.session = session.unknown(draft.session, event.request)


def committed(draft: Draft, write: OwnWrite, revision: int) -> None:
    """An own write is proven: it is the current record, and what it put stands."""
    answered_ns = STEADY_FACTOR * draft.spec.renew_every_ns
    regular_ns = STEADY_FACTOR * writer.every_ns(draft)
    took_ns = draft.at.boot_ns - write.sent_at.boot_ns
    if took_ns * 2 > write.ttl_ns:
        draft.effects.append(Warned("", "slow renewal", f"{write.what} took {took_ns // NS_PER_MS} ms"))
    draft.session = session.committed(draft.session, write, revision, draft.at, regular_ns, answered_ns)
    if draft.session.steady_since == draft.at:
        doubt_all(draft, "renewals go on after a gap")
    puts = [KeyValue(p.key, p.value, revision, 0, p.lease) for p in write.txn.puts if isinstance(p, Put)]
    before = draft.view
    if draft.ready:  # else the snapshot that this process waits for has it, or its watch
        draft.set(view=views.with_own(before, draft.at, revision, puts))
        attention.seen(draft, before, [kv.key for kv in puts])
    sent = {p.key: p for p in write.txn.puts}
    left = {k: p for k, p in draft.node.notes.items() if k not in write.notes or sent.get(k) != p}
    draft.set(notes=left)
    _cover(draft, write)
    for name in write.leases:
        _lease_committed(draft, write, name, revision)
    if write.what in ("T1", "T14"):
        draft.republish = True  # what changed while it was on its way could not be told
        for name in [n for n, s in draft.leases.items() if s.mine and n not in write.leases]:
            draft.update(name, mine=False, cover=None, lost="session")


def _cover(draft: Draft, write: OwnWrite) -> None:
    """Leases whose claims this write compared or wrote may be served under it."""
    until = deadline.of_cover(write.sent_at, draft.spec.ttl_max_ns, draft.spec.drift_ppm)
    for name in write.covers:
        # Only what is on its way down waits for a cover.
        waits = draft.leases[name].role is not Role.HOLDER
        (draft.update if waits else draft.update_quietly)(name, cover=until, covered_by=write.sequence)


def _lease_committed(draft: Draft, write: OwnWrite, name: str, revision: int) -> None:
    """What the commit means for a lease that the write was about."""
    state = draft.leases[name]
    match write.what:
        case "T9" | "T11":
            draft.update(name, mine=False, cover=None)
        case "T10":
            _now_mine(draft, name, _compared(write, name), draft.view.claim(name).record)
        case "T3" | "T4" | "T5" | "T7" | "T8":
            _now_mine(draft, name, revision, draft.view.claim(name).record)
            chronicle.note(draft, name, revision, answered=False)
        case "T14" if state.mine:
            draft.update(name, token=revision, under=draft.session.id, regate="gate" in state.up)


def _compared(write: OwnWrite, name: str) -> int:
    """The `mod` at which this write compared the lease's claim."""
    key = records.claim_key(name)
    return next((compare.value for compare in write.txn.compares if compare.key == key), 0)


def _now_mine(draft: Draft, name: str, token: int, record: ClaimRecord | None) -> None:
    """A claim of ours is proven. The lease is in CLAIMING: it leaves that only when no write for it is pending."""
    epoch = record.epoch if record is not None else 1
    draft.update(name, mine=True, lost="", token=token, epoch=epoch, under=draft.session.id)


def refused(draft: Draft, write: OwnWrite, revision: int, reads: tuple[KeyValue, ...]) -> None:
    """A compare failed. Only the own record, which was read with it, tells what is current."""
    if draft.ready:
        draft.set(view=views.with_reads(draft.view, draft.at, revision, reads))
        attention.everything_seen(draft)
    else:
        upkeep.forget_moved(draft, reads)
    own_key = records.session_key(draft.session.id)
    own = next((kv for kv in reads if kv.key == own_key), KeyValue(own_key, "", 0))
    # With this write still among the pending ones: a second execution is refused after the first was applied.
    found, ours = session.look(draft.session, draft.spec.incarnation, own)
    draft.session = session.without(draft.session, write.request)
    if draft.session.phase is Phase.REGISTERING:
        _registration_refused(draft, own, found, ours)
        return
    if found is Found.OURS and ours is not None:
        committed(draft, ours, own.mod)
    elif found is Found.GONE:
        gone(draft)
    elif found is Found.LOST:
        writer.abandon(draft, "session")
    elif found is Found.OLDER:
        begin_anew(draft, "the own session record is older than what was confirmed")
    if write.what == "T9" and draft.leases[write.leases[0]].mine:
        draft.update(write.leases[0], way=Way.NONE)
        draft.set(renew_asked=True)
    lost_claims(draft, none_applied=found is Found.SAME)


def _registration_refused(draft: Draft, own: KeyValue, found: Found, ours: OwnWrite | None) -> None:
    """T1 or T14 found its compares failed: registered by an earlier attempt, or claims have moved."""
    if found is Found.OURS and ours is not None:
        committed(draft, ours, own.mod)
    elif found is Found.LOST:
        writer.abandon(draft, "session")
    lost_claims(draft)


def gone(draft: Draft) -> None:
    """The own record vanished: every write for it is void. Re-establish inside the deadline what is held."""
    own = draft.session
    if own.phase is Phase.REGISTERING and not own.old:
        writer.abandon(draft, "session")
        return
    old = own.old or own.id
    warned = Warned("", "session gone", f"the record of session {old:016x} vanished from etcd")
    draft.effects += [warned, CloseSession(own.id)]
    draft.set(published="", notes=writer.unattached(draft))
    writer.open_session(draft, instead_of=old if writer.kept(draft) else 0)


def lost_claims(draft: Draft, *, none_applied: bool = False) -> None:
    """Every claim of ours that is seen to stand otherwise is lost, unless an own write may have moved it.

    `none_applied`: the own record, read with it, says that no pending write was applied.
    """
    if not draft.ready:
        return
    for name in draft.in_order(draft.node.active):
        state = draft.leases[name]
        if not state.mine:
            continue
        seen = draft.view.claim(name)
        if seen.mod == state.token or seen.known_at < state.token:
            continue
        if not none_applied and state.role is Role.YIELDING and guards.in_flight(draft, name):
            continue
        draft.update(name, mine=False, cover=None, lost="taken")


def doubt_all(draft: Draft, why: str) -> None:
    """Announce everything that is held once more."""
    for name, state in draft.leases.items():
        if state.role is Role.HOLDER:
            draft.update(name, doubt=why)


def effect_done(draft: Draft, event: events.EffectDone) -> None:
    """An effect on a lease ended."""
    awaited = event.serial in draft.leases[event.lease].expected
    sequence.ended(draft, event.lease, event.serial, event.effect, event.ok)
    if awaited and not event.ok:
        draft.effects.append(Warned(event.lease, f"{event.effect} failed", event.detail))


def first_answer(draft: Draft, event: events.FirstAnswer) -> None:
    """The service answers on the VIP: the move is over, and its line of history is complete."""
    state = draft.leases[event.lease]
    if event.serial != state.awaiting or not state.mine:
        return
    draft.update(event.lease, awaiting=0)
    if not event.ok:
        draft.effects.append(Warned(event.lease, "no answer yet", "the service does not answer on its VIP"))
        return
    if state.move.off_since is None and not state.move.kind:
        return
    if state.move.kind == actions.RESUME:
        entry = chronicle.record(draft, event.lease, state.token, answered=True)
    else:
        entry = chronicle.note(draft, event.lease, state.token, answered=True)
    draft.effects.append(
        MoveEnded(event.lease, state.token, state.move.trace, records.encode(entry), event.at)
    )
    draft.update(event.lease, move=replace(state.move, kind="", off_since=None, down_ms=-1))


def vip_missing(draft: Draft, event: events.VipMissing) -> None:
    """Someone removed a VIP that is served, or about to be served, here."""
    state = draft.leases[event.lease]
    if state.role in (Role.PREPARING, Role.HOLDER) and "vip" in state.up:
        draft.update(event.lease, drifted=event.detail or "removed")


def doubt(draft: Draft, event: events.Doubt) -> None:
    """A reason to announce again."""
    if draft.leases[event.lease].role is Role.HOLDER:
        draft.update(event.lease, doubt=event.why)


def resource_failed(draft: Draft, event: events.ResourceFailed) -> None:
    """A resource died or stopped answering."""
    if "resources" in draft.leases[event.lease].up:
        draft.update(event.lease, trouble=event.detail or "failed")


def health_changed(draft: Draft, event: events.HealthChanged) -> None:
    """What the checks say of this node as a holder of the lease."""
    draft.update(event.lease, penalty=event.penalty, ineligible=event.ineligible)
    draft.republish = True


def busy_changed(draft: Draft, event: events.BusyChanged) -> None:
    """Whether clients write to it now."""
    draft.update(event.lease, busy=event.busy)


def copies_reported(draft: Draft, event: events.CopiesReported) -> None:
    """Which stores the replication wants admitted: said by a holder, and true only while it is one."""
    state = draft.update(event.lease, heard=event.number)
    if state.mine and event.token == state.token:
        draft.update(event.lease, wanted=event.stores)


def store_found(draft: Draft, event: events.StoreFound) -> None:
    """Which bytes this node has of a lease: another directory than before is another store."""
    draft.update(event.lease, store=event.store)
    draft.republish = True


def tick(draft: Draft, event: events.Tick) -> None:
    """Time has passed."""


def finish(draft: Draft) -> None:
    """T12 was answered, or will not be: nothing more to do."""
    draft.set(stopped=True)
    if draft.session.id:
        draft.effects.append(CloseSession(draft.session.id))
    draft.effects.append(Stopped())
