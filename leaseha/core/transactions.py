"""The transactions T1 to T14 of design 4.2, one function each; nothing else writes to etcd.

OWN is `Own`: compare the `mod_revision` of the own session record and put that record anew with a fresh nonce.
So of all the transactions that one node has ever sent, at most one of those that compare the same revision can be
applied, a committed one kills the others for ever, and the failure branch, which reads the own record, says which.
Every failure branch reads the own record and all compared keys. Lists are batches of at most 60 leases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leaseha.core import records
from leaseha.core.records import (
    ClaimRecord,
    Hold,
    InsyncRecord,
    IntentRecord,
    Life,
    NodeRecord,
    SessionRecord,
)
from leaseha.core.values import Compare, Delete, Put, Target, Txn


@dataclass(frozen=True, slots=True)
class Own:
    """OWN: this session's record is still at `mod`; put `record` there, attached to the session."""

    session: int
    mod: int
    record: SessionRecord

    def key(self) -> str:
        """`sessions/me`."""
        return records.session_key(self.session)

    def compare(self) -> Compare:
        """The barrier: no other own write came between."""
        return Compare(self.key(), Target.MOD, self.mod)

    def put(self) -> Put:
        """The own record with its fresh nonce."""
        return Put(self.key(), records.encode(self.record), self.session)


@dataclass(frozen=True, slots=True)
class Taking:
    """One lease to be taken: its claim and in-sync set as seen, and the claim to write."""

    lease: str
    claim_mod: int
    insync_mod: int
    claim: ClaimRecord


@dataclass(frozen=True, slots=True)
class Letting:
    """One held lease to be let go: its token, and the claim to write (*free*, or *held* by the target)."""

    lease: str
    token: int
    insync_mod: int
    claim: ClaimRecord


@dataclass(frozen=True, slots=True)
class Absent:
    """One claim that is absent: to be written down as *free* if the lease is new, else as *lost*."""

    lease: str
    new: bool
    epoch: int
    store: str
    """New: the writer's, with which the in-sync set begins."""
    at_ms: int = 0
    """New: unix time, ms."""


@dataclass(frozen=True, slots=True)
class Admitting:
    """One held lease whose in-sync set is to be these stores."""

    lease: str
    token: int
    insync_mod: int
    stores: frozenset[str]
    nodes: Mapping[str, str] | None = None
    """Of each of these, the node that has it, as far as it is known."""
    at_ms: int = 0
    """Unix time, ms."""


def _mod(key: str, value: int) -> Compare:
    return Compare(key, Target.MOD, value)


def _absent(key: str) -> Compare:
    return Compare(key, Target.CREATE, 0)


def _txn(own: Own, compares: Sequence[Compare], puts: Sequence[Put | Delete]) -> Txn:
    """OWN and more. The failure branch reads the own record and all compared keys."""
    reads = (own.key(), *dict.fromkeys(compare.key for compare in compares))
    return Txn((own.compare(), *compares), (own.put(), *puts), reads)


def _taken_as_seen(items: Sequence[Taking]) -> list[Compare]:
    compares = []
    for item in items:
        compares.append(_mod(records.claim_key(item.lease), item.claim_mod))
        compares.append(_mod(records.insync_key(item.lease), item.insync_mod))
    return compares


def _claims(items: Sequence[Taking] | Sequence[Letting]) -> list[Put | Delete]:
    return [Put(records.claim_key(item.lease), records.encode(item.claim)) for item in items]


def t1_register(session: int, record: SessionRecord, node: NodeRecord) -> Txn:
    """T1: `create(sessions/x) == 0`; put own record and node record, attached to x (used once, never again)."""
    own = Own(session, 0, record)
    node_put = Put(records.node_key(node.node), records.encode(node), session)
    return Txn((_absent(own.key()),), (own.put(), node_put), (own.key(),))


def t2_renew(own: Own, claims: Sequence[tuple[str, int]], notes: Sequence[Put | Delete] = ()) -> Txn:
    """T2: OWN; `mod(claim)` of a slice of own claims. `notes` (node record, history) ride along.

    T10, accepting a handover, is this with `mod(claim) == c` in the slice, where claim c names this session.
    """
    return _txn(own, [_mod(records.claim_key(lease), token) for lease, token in claims], notes)


def _declare_dead(old: int, old_record: SessionRecord, by: str) -> Put:
    record = replace(old_record, life=Life.DEAD, by=by)
    return Put(records.session_key(old), records.encode(record))


def t3_take_silent(
    own: Own, old: int, old_mod: int, old_record: SessionRecord, items: Sequence[Taking]
) -> Txn:
    """T3: OWN; `mod(sessions/old) == M`, `mod(claim) == T`, `mod(insync) == I`; old *dead*, claim *held* by me."""
    compares = [_mod(records.session_key(old), old_mod), *_taken_as_seen(items)]
    return _txn(own, compares, [_declare_dead(old, old_record, own.record.node), *_claims(items)])


def t4_take_others(own: Own, old: int, old_mod: int, items: Sequence[Taking]) -> Txn:
    """T4: OWN; `mod(sessions/old) == D` (*dead* or *closed*), each claim, each insync; claims *held* by me."""
    compares = [_mod(records.session_key(old), old_mod), *_taken_as_seen(items)]
    return _txn(own, compares, _claims(items))


def t5_take_free(own: Own, items: Sequence[Taking]) -> Txn:
    """T5: OWN; `mod(claim) == F`, `mod(insync) == I`; claim *held* by me."""
    return _txn(own, _taken_as_seen(items), _claims(items))


def t6_write_absent_down(own: Own, items: Sequence[Absent]) -> Txn:
    """T6: OWN; `create(claim) == 0`; claim *lost*, or for a new lease *free*.

    A new lease has `create(insync) == 0` too, and no history; its in-sync set begins with the writer's store.
    """
    compares: list[Compare] = []
    puts: list[Put | Delete] = []
    for item in items:
        compares.append(_absent(records.claim_key(item.lease)))
        hold = Hold.FREE if item.new else Hold.LOST
        claim = ClaimRecord(hold, node=own.record.node, epoch=item.epoch)
        puts.append(Put(records.claim_key(item.lease), records.encode(claim)))
        if item.new:
            key, node = records.insync_key(item.lease), own.record.node
            first = InsyncRecord(frozenset({item.store}), {item.store: node}, item.at_ms)
            compares.append(_absent(key))
            puts.append(Put(key, records.encode(first)))
    return _txn(own, compares, puts)


def t7_take_lost(own: Own, items: Sequence[Taking]) -> Txn:
    """T7: OWN; `mod(claim) == G`, `mod(insync) == I`, after `ttl_max` from seeing G; claim *held* by me."""
    return _txn(own, _taken_as_seen(items), _claims(items))


def t8_take_gone(own: Own, old: int, old_record: SessionRecord, items: Sequence[Taking]) -> Txn:
    """T8: OWN; `create(sessions/old) == 0`, `mod(claim)`, `mod(insync)`; old record *dead*, claim *held* by me."""
    compares = [_absent(records.session_key(old)), *_taken_as_seen(items)]
    return _txn(own, compares, [_declare_dead(old, old_record, own.record.node), *_claims(items)])


def t9_hand_over(own: Own, item: Letting, target: int) -> Txn:
    """T9: OWN; `mod(claim) == T`, `lease(sessions/target) == target`, `mod(insync)`; claim *held* by target.

    A live record hangs on its own session; a *dead*, *closed* or vanished one fails the compare.
    """
    compares = [
        _mod(records.claim_key(item.lease), item.token),
        Compare(records.session_key(target), Target.LEASE, target),
        _mod(records.insync_key(item.lease), item.insync_mod),
    ]
    return _txn(own, compares, _claims([item]))


def t10_accept(own: Own, handed: Sequence[tuple[str, int]], notes: Sequence[Put | Delete] = ()) -> Txn:
    """T10: T2 with `mod(claim) == c` in its slice, where claim c names this session."""
    return t2_renew(own, handed, notes)


def t11_release(own: Own, items: Sequence[Letting]) -> Txn:
    """T11: OWN; `mod(claim) == T`; claim *free*. Only when the VIP is proven off."""
    return _txn(own, [_mod(records.claim_key(item.lease), item.token) for item in items], _claims(items))


def t12_close(session: int, mod: int, record: SessionRecord, items: Sequence[Letting] = ()) -> Txn:
    """T12: `mod(sessions/me) == m`, claims; own record *closed* (attached to nothing), claims *free*."""
    key = records.session_key(session)
    compares = [_mod(key, mod), *(_mod(records.claim_key(item.lease), item.token) for item in items)]
    closed = replace(record, life=Life.CLOSED, by=record.node)
    return Txn(
        tuple(compares), (Put(key, records.encode(closed)), *_claims(items)), tuple(c.key for c in compares)
    )


def t13_change_insync(own: Own, items: Sequence[Admitting]) -> Txn:
    """T13: OWN; `mod(claim) == T`, `mod(insync) == I`; insync."""
    compares: list[Compare] = []
    puts: list[Put] = []
    for item in items:
        key = records.insync_key(item.lease)
        compares += [_mod(records.claim_key(item.lease), item.token), _mod(key, item.insync_mod)]
        record = InsyncRecord(item.stores, item.nodes, item.at_ms)
        puts.append(Put(key, records.encode(record)))
    return _txn(own, compares, puts)


def t14_reestablish(
    old: int, session: int, record: SessionRecord, node: NodeRecord, kept: Sequence[Letting]
) -> Txn:
    """T14: `create(sessions/me) == 0`, `create(sessions/y) == 0`, every kept claim; record y, those claims *held* by y.

    Every claim that is not rewritten here is forgotten: a claim is served only under the session that it names.
    """
    own = Own(session, 0, record)
    compares = [_absent(records.session_key(old)), _absent(own.key())]
    compares += [_mod(records.claim_key(item.lease), item.token) for item in kept]
    node_put = Put(records.node_key(node.node), records.encode(node), session)
    reads = (own.key(), *(compare.key for compare in compares if compare.key != own.key()))
    return Txn(tuple(compares), (own.put(), node_put, *_claims(kept)), reads)


def ask_for_failback(own: Own, lease: str, token: int, intent: IntentRecord) -> Txn:
    """A better node's intent: OWN; `mod(claim) == T`; intent, attached to the asker's session."""
    put = Put(records.intent_key(lease), records.encode(intent), own.session)
    return _txn(own, [_mod(records.claim_key(lease), token)], [put])


def answer_intent(own: Own, lease: str, intent_mod: int, answered: IntentRecord) -> Txn:
    """The holder's no: OWN; `mod(intent) == N`, so that it never stands in place of a newer intent."""
    key = records.intent_key(lease)
    return _txn(own, [_mod(key, intent_mod)], [Put(key, records.encode(answered), own.session)])


@dataclass(frozen=True, slots=True)
class Recovering:
    """One lease that nobody holds and nobody may take: an operator names the only store that still counts."""

    lease: str
    claim_mod: int
    """0: its claim is absent."""
    insync_mod: int
    claim: ClaimRecord
    """As it is to stand: *free* again, or *lost*, which is taken after `ttl_max`."""
    insync: InsyncRecord
    session: int
    """The session that the claim names; 0: none."""
    session_mod: int
    """0: gone."""
    nodes: Sequence[tuple[str, int]]
    """Each node of the lease with its record's `mod`; 0: absent."""


def accept_loss(item: Recovering) -> Txn:
    """An operator's: `mod` of claim, in-sync set, the claim's session and all node records; claim and set.

    The claim is written anew, so whatever compares it (all but T1, T6 and T12) and is still on its way is dead: a
    holder of before that comes back finds its claim taken, and the set that it wrote last cannot come again. Claim
    and set have the same `mod` then, by which whoever takes over knows that this comes after a loss.
    """
    claim, insync = records.claim_key(item.lease), records.insync_key(item.lease)
    compares = [_mod(claim, item.claim_mod), _mod(insync, item.insync_mod)]
    if item.session:
        compares.append(_mod(records.session_key(item.session), item.session_mod))
    compares += [_mod(records.node_key(node), mod) for node, mod in item.nodes]
    puts = (Put(claim, records.encode(item.claim)), Put(insync, records.encode(item.insync)))
    return Txn(tuple(compares), puts, ())
