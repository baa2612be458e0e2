"""How a node writes: its session, its renewals, what rides along with them, and the records that they carry.

A renewal without answer is not repeated: a new one with its own sequence number goes to another member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaseha.core import (
    deadline,
    guards,
    placement,
    records,
    session,
    transactions,
)
from leaseha.core.effects import CloseSession, Commit, OpenSession
from leaseha.core.records import ClaimRecord, Hold, Life, NodeRecord
from leaseha.core.session import OwnWrite, Phase
from leaseha.core.state import Draft
from leaseha.core.transactions import Letting, Own
from leaseha.core.values import NS_PER_MS, Delete, Instant, Put, Txn, earliest

ATTEMPT_NS = 300 * NS_PER_MS
"""The least time that one attempt is given to be answered."""
SPREAD = 32
"""Attempts without answer cover three ttls with so many of them; from then on they slowly become rarer, but never
rarer than renewals: who is as fast as they when etcd is back keeps its lease (`taking.steady_at`)."""
OPEN_RETRY_NS = 500 * NS_PER_MS
NOTES_MAX = 20
"""Notes that ride along with one renewal at most (etcd allows 128 operations a transaction)."""


def retry_ns(draft: Draft) -> int:
    """How long after the last sending the next attempt is due, with the outcome of the last still open."""
    own, every_ns = draft.session, draft.spec.renew_every_ns
    if session.waiting(own) is None and own.attempt < 3:
        return every_ns // 10
    tried_ns = own.sent_at.boot_ns - own.pending[0].sent_at.boot_ns if own.pending and own.sent_at else 0
    return max(every_ns // 2, 3 * own.ttl_ns // SPREAD, min(tried_ns // SPREAD, every_ns))


def standby_ttl_ns(draft: Draft) -> int:
    """What a renewal of a node that holds nothing is good for: three of its long periods."""
    return min(3 * _standby_every_ns(draft), draft.spec.ttl_max_ns)


def _standby_every_ns(draft: Draft) -> int:
    return max(draft.spec.renew_every_ns, draft.spec.standby_every_ns)


def ttl_ns(draft: Draft) -> int:
    """The ttl that the next own write carries: longer where nothing is held and nothing is about to be."""
    ttl = draft.session.ttl_ns
    return ttl if hurried(draft) else max(ttl, standby_ttl_ns(draft))


def hurried(draft: Draft) -> bool:
    """Something is held or on its way, or may be in a moment: renewals come as fast as a holder's.

    So a standby knows whether etcd answers *it* before it calls a holder silent, and a holder knows of a target
    that it lives before it goes down for it.
    """
    if draft.node.active or draft.node.stopping or not draft.ready:
        return True
    at = alert_at(draft)
    return (at is not None and at.wait_over(draft.at)) or _asked(draft)


def _asked(draft: Draft) -> bool:
    """Someone asks for a move, and was not answered; what is for an older claim was, or will never be."""
    for lease, seen in draft.view.intents.items():
        record = seen.record
        if record is not None and not record.answer and record.token == draft.view.claim(lease).mod:
            return True
    return False


def alert_at(draft: Draft) -> Instant | None:
    """When a holder will have been quiet for half of its ttl: a standby that renews seldom begins to hurry then."""
    if draft.node.active or _standby_every_ns(draft) == draft.spec.renew_every_ns:
        return None
    found: Instant | None = None
    for holder in draft.node.holders:
        seen = draft.view.session(holder)
        if seen.record is not None and seen.record.life is Life.LIVE:
            at = seen.at.plus(seen.record.ttl_ns // 2)
            found = at if found is None else earliest(found, at)
    return found


def every_ns(draft: Draft) -> int:
    """How long after the last own write the next is due."""
    proven = draft.session.proven
    slow = proven is not None and proven.ttl_ns >= standby_ttl_ns(draft) and not hurried(draft)
    return _standby_every_ns(draft) if slow else draft.spec.renew_every_ns


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
    return own.sent_at.plus(every_ns(draft))


def send(
    draft: Draft, what: str, txn: Txn, leases: Sequence[str], covers: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """Book a write and ask for its sending. The sequence number is the one that `_own` has put into it."""
    own, request = draft.session, draft.next_request()
    entry = OwnWrite(
        request=request,
        sequence=own.sequence + 1,
        sent_at=draft.at,
        ttl_ns=ttl_ns(draft),
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
        draft.set(renew_asked=False, swept_at=draft.at)


def own(draft: Draft) -> Own:
    """What every own write compares and puts (the barrier rule)."""
    session = draft.session
    return Own(session.id, session.mod, own_record(draft))


def own_record(draft: Draft) -> records.SessionRecord:
    """The own record as the next write puts it, with a fresh nonce."""
    spec, sequence = draft.spec, draft.session.sequence + 1
    return records.SessionRecord(
        Life.LIVE, spec.node, spec.store, spec.incarnation, sequence, ttl_ns(draft), spec.margin_ns
    )


def node_record(draft: Draft) -> NodeRecord:
    """What this node tells the others about itself."""
    spec = draft.spec
    candidates = {lease.name: placement.myself(draft, lease.name) for lease in spec.leases}
    ports = {lease.name: lease.peer_port for lease in spec.leases if lease.replicated}
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
        stores={name: candidates[name].store for name in ports if candidates[name].store} or None,
        peer_ports=ports or None,
    )


def publish(draft: Draft) -> None:
    """Queue the node record if it tells something new."""
    if draft.session.phase is not Phase.LIVE:
        return
    offers = dict(draft.node.offers)
    for name in draft.attended() if len(offers) == len(draft.leases) else draft.leases:
        candidate = placement.myself(draft, name)
        offers[name] = candidate.priority, candidate.ineligible, candidate.store
    if offers == draft.node.offers and draft.node.published:
        return
    draft.set(offers=offers)
    value = records.encode(node_record(draft))
    if value != draft.node.published:
        note(draft, Put(records.node_key(draft.spec.node), value, draft.session.id))
        draft.set(published=value)


def note(draft: Draft, put: Put) -> None:
    """Let a write ride along with the next renewal."""
    draft.set(notes={**draft.node.notes, put.key: put})


def kept(draft: Draft) -> list[str]:
    """The leases that are served, or on the way up or down, under a claim of ours."""
    return [name for name in draft.in_order(draft.node.active) if draft.leases[name].mine]


def register(draft: Draft) -> None:
    """T1, or T14 while there is something to keep inside the deadline."""
    own = draft.session
    node = node_record(draft)
    names = [name for name in kept(draft) if not guards.past_deadline(draft, name)] if own.old else []
    names = names[: draft.spec.batch_size]
    draft.set(published=records.encode(node), notes=unattached(draft))
    if names:
        letting = [Letting(n, draft.leases[n].token, 0, held(draft, n, own.id, again=True)) for n in names]
        txn = transactions.t14_reestablish(own.old, own.id, own_record(draft), node, letting)
        send(draft, "T14", txn, names, names)
    else:
        send(draft, "T1", transactions.t1_register(own.id, own_record(draft), node), (), ())


def unattached(draft: Draft) -> dict[str, Put | Delete]:
    """The notes without those that hang on an older session: its etcd lease may be no more."""
    notes = draft.node.notes
    return {key: put for key, put in notes.items() if isinstance(put, Delete) or not put.lease}


def slice_rounds(draft: Draft) -> int:
    """In how many renewals all claims must have been compared, so that no cover ends while all is well."""
    spec = draft.spec
    return max(1, deadline.held_ns(spec.ttl_max_ns, spec.drift_ppm) // spec.renew_every_ns - 2)


def claims_slice(draft: Draft) -> list[tuple[str, int]]:
    """The own claims that the next renewal compares: all, or a rotating part of them."""
    names = kept(draft)
    size = max(draft.spec.slice_size, -(-len(names) // slice_rounds(draft)))
    if len(names) > size:
        size = max(size, 2 * draft.spec.slice_size)  # a renewal that is late, or lost, must not end a cover
    if len(names) > size:
        start = draft.node.slice_from % len(names)
        draft.set(slice_from=start + size)
        names = (names + names)[start : start + size]
    return [(name, draft.leases[name].token) for name in names]


def renew(draft: Draft) -> None:
    """T2, with a slice of the own claims and what rides along."""
    claims = claims_slice(draft)
    notes = list(draft.node.notes.values())[:NOTES_MAX]
    txn = transactions.t2_renew(own(draft), claims, notes)
    send(draft, "T2", txn, (), [name for name, _ in claims], [put.key for put in notes])


def held(draft: Draft, name: str, own: int, *, again: bool = False) -> ClaimRecord:
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
