"""What a node is shown: looks at all of etcd, changes on the watch, its own record among them. Nothing is decided."""

from __future__ import annotations

from leaseha.core import attention, events, facts, records, session, writer
from leaseha.core import view as views
from leaseha.core.records import IntentRecord, Life, NodeRecord, SessionRecord
from leaseha.core.session import Found, Phase
from leaseha.core.state import Draft, NodeState
from leaseha.core.values import Head, KeyValue


def known(state: NodeState, event: events.Event) -> bool:
    """True for the echo of one's own renewals: the watch tells what was proven before, an answer what was settled.

    A third of all events are such, and nothing follows from them.
    """
    own = state.session
    if isinstance(event, events.Watched):
        key = records.session_key(own.id)
        return all(change.now.key == key and 0 < change.now.mod <= own.mod for change in event.changes)
    if isinstance(event, events.TxnDone):
        return event.request != state.closing and all(w.request != event.request for w in own.pending)
    return False


def snapshot(draft: Draft, event: events.Snapshot) -> None:
    """Everything at one revision. Unasked (request 0) it means that the watch missed something before."""
    if event.request and event.request != draft.node.reading:
        return
    asked = event.request != 0
    if asked:
        draft.set(reading=0)
    if draft.ready and facts.rewound(
        event.head, draft.node.reading_floor if asked else Head(draft.node.head.cluster_id, 0, 0)
    ):
        facts.begin_anew(draft, f"a read was answered at revision {event.head.revision}")
        return
    facts.heard(draft, event.head)
    if draft.ready:
        new = views.with_snapshot(
            draft.view, event.at, event.wall_ms, event.head.revision, event.keys, broken=not asked
        )
    else:
        new = views.first_look(event.at, event.wall_ms, event.head.revision, event.keys)
    draft.set(view=new)
    attention.everything_seen(draft)
    _own_seen(draft)


def read_failed(draft: Draft, event: events.ReadFailed) -> None:
    """No answer to a read: the next one is due soon."""
    if event.request == draft.node.reading:
        draft.set(reading=0)


def watched(draft: Draft, event: events.Watched) -> None:
    """Changes on an unbroken history."""
    if draft.ready:
        before = draft.view
        draft.set(view=views.with_changes(before, event.at, event.wall_ms, event.changes))
        attention.seen(draft, before, [change.now.key for change in event.changes])
        for change in event.changes:
            _new_session_seen(draft, change)
            _intent_seen(draft, change)
            _leaving_seen(draft, change)
        _own_seen(draft)


def _intent_seen(draft: Draft, change: events.Change) -> None:
    """A switchover is asked for: who may be its target shows that it lives."""
    kind, _, lease = views.place(change.now.key)
    if kind is IntentRecord and change.now.mod and lease in draft.leases and not draft.leases[lease].mine:
        record = records.decode(IntentRecord, change.now.value)
        if record is not None and not record.answer and record.by != draft.spec.node:
            draft.set(renew_asked=True)


def _leaving_seen(draft: Draft, change: events.Change) -> None:
    """A holder says that it stops: in a moment there will be something to take, and this node is awake then."""
    if views.place(change.now.key)[0] is NodeRecord and change.now.mod and not draft.node.active:
        record = records.decode(NodeRecord, change.now.value)
        if record is not None and record.session in draft.node.holders and record.ineligible:
            draft.set(renew_asked=True)


def _new_session_seen(draft: Draft, change: events.Change) -> None:
    """Another node is back: if it was cut off, some switch or client may still have its address in mind."""
    if change.before is not None or not change.now.mod or views.place(change.now.key)[0] is not SessionRecord:
        return
    record = records.decode(SessionRecord, change.now.value)
    if record is not None and record.node != draft.spec.node:
        facts.doubt_all(draft, f"{record.node} is back")


def _own_seen(draft: Draft) -> None:
    """The own record as seen by a read or the watch, if that is newer than what is proven."""
    own = draft.session
    if own.id and own.phase in (Phase.LIVE, Phase.REGISTERING):
        seen = draft.view.session(own.id)
        if seen.mod > own.mod or (seen.mod == 0 and own.phase is Phase.LIVE and seen.known_at > own.mod):
            _judge_own(draft, seen.record, seen.mod)
    _node_record_seen(draft)
    facts.lost_claims(draft)


def _node_record_seen(draft: Draft) -> None:
    """Publish again if the own node record is gone, or stands under an older session (a late T1 does that)."""
    seen = draft.view.nodes.get(draft.spec.node)
    standing = seen.record.session if seen and seen.record else 0
    if standing == draft.session.id or draft.session.phase is not Phase.LIVE:
        return
    last = draft.node.republished_at
    if last is not None and not last.plus(draft.spec.renew_every_ns).wait_over(draft.at):
        return  # another process puts its own there: once a renewal, and not as fast as both can
    if records.node_key(draft.spec.node) not in draft.node.notes:
        draft.set(published="", republished_at=draft.at)
        draft.republish = True


def _judge_own(draft: Draft, record: SessionRecord | None, mod: int) -> None:
    value = records.encode(record) if record is not None else ""
    key = records.session_key(draft.session.id)
    found, ours = session.look(draft.session, draft.spec.incarnation, KeyValue(key, value, mod))
    if found is Found.OURS and ours is not None:
        facts.committed(draft, ours, mod)
    elif found is Found.GONE:
        facts.gone(draft)
    elif not (record is not None and record.life is Life.CLOSED and draft.node.closing):
        writer.abandon(draft, "session")
