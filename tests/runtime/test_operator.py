"""An operator's request: no answer from etcd is no failure yet, and only an answer to this very request counts."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.sim.etcd import FakeEtcd
from leaseha.core import records, trace
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, IntentRecord, Kind
from leaseha.core.values import Delete, Outcome, Put, Txn, Unknown
from leaseha.errors import SwitchoverFailed
from leaseha.runtime.operator import UNSURE, move

LEASE, HOLDER, TARGET, BY = "backups", "node1", "node2", "an operator on node3"
OLD = IntentRecord(
    Kind.SWITCHOVER, BY, 1, TARGET, f"switchover asked for by {BY}", answer="node2 was ill then"
)


class Client:
    """A client of an etcd in memory. Each write may be lost, or applied with its answer lost."""

    def __init__(self, etcd: FakeEtcd, holder: Callable[[FakeEtcd], None]) -> None:
        self.etcd = etcd
        self.apply = self.tell = True
        self._holder = holder

    async def grant(self, ttl_s: int, timeout_s: float) -> int:
        return self.etcd.grant(ttl_s, 0)

    async def revoke(self, session: int) -> None:
        self.etcd.revoke(session)

    async def get(self, key: str):
        head, keys = self.etcd.read_all()
        return head, next(kv for kv in keys if kv.key == key)

    async def commit(self, txn: Txn, attempt: int, timeout_ns: int) -> Outcome:
        outcome = self.etcd.txn(txn) if self.apply else None
        return outcome if outcome is not None and self.tell else Unknown("no answer in time")

    async def read_all(self, timeout_s: float):
        self._holder(self.etcd)
        await asyncio.sleep(0)
        return self.etcd.read_all()

    async def move(self, timeout_s: float = 20.0):
        return await move(self, "backup", LEASE, TARGET, BY, timeout_s)


def intent_of(etcd: FakeEtcd) -> IntentRecord | None:
    """What stands as the intent."""
    key = records.intent_key(LEASE)
    return next((records.decode(IntentRecord, kv.value) for kv in etcd.read_all()[1] if kv.key == key), None)


def claim(node: str, session: int) -> Put:
    return Put(records.claim_key(LEASE), records.encode(ClaimRecord(Hold.HELD, node, session)))


def obeys(etcd: FakeEtcd) -> None:
    """The holder hands over what an unanswered intent asks for, and the target's service answers."""
    asked = intent_of(etcd)
    if asked is not None and not asked.answer:
        etcd.write((claim(TARGET, 2), Delete(records.intent_key(LEASE))))
        token = etcd.head().revision
        line = HistoryRecord(token, Kind.SWITCHOVER, "", HOLDER, TARGET, 0, "", gap_ms=15, answered=True)
        etcd.write((Put(records.history_key(LEASE, token), records.encode(line)),))


def refuses(etcd: FakeEtcd) -> None:
    """The holder says no to an unanswered intent."""
    asked = intent_of(etcd)
    if asked is not None and not asked.answer:
        no = replace(asked, answer="node2 is ill now")
        etcd.write((Put(records.intent_key(LEASE), records.encode(no)),))


def sleeps(etcd: FakeEtcd) -> None:
    """Nobody does anything."""


def client(holder: Callable[[FakeEtcd], None], *, old_answer: bool = False) -> Client:
    """An etcd in which the lease is held, with an answer to an earlier request for this token if asked for."""
    etcd = FakeEtcd()
    etcd.write((claim(HOLDER, 1),))
    token = next(kv.mod for kv in etcd.read_all()[1] if kv.key == records.claim_key(LEASE))
    if old_answer:
        # In all else the same request: only when it was answered tells it from ours.
        old = replace(OLD, token=token, traceparent=trace.of_move("backup", LEASE, token, 1))
        etcd.write((Put(records.intent_key(LEASE), records.encode(old)),))
    return Client(etcd, holder)


async def test_a_move_that_comes_although_etcd_never_answered_is_told_as_done():
    """Its leader changed between the write and its answer: the holder has the intent and hands over."""
    asking = client(obeys)
    asking.tell = False

    moved = await asking.move()

    assert (moved.from_node, moved.holder, moved.gap_ms) == (HOLDER, TARGET, 15)


async def test_a_request_that_nobody_obeys_is_unknown_only_at_the_timeout():
    asking = client(sleeps)
    asking.apply = False

    with pytest.raises(SwitchoverFailed, match=UNSURE):
        await asking.move(0.2)


async def test_a_request_that_stands_for_certain_is_not_called_unknown():
    with pytest.raises(SwitchoverFailed) as refused:
        await client(sleeps).move(0.2)

    assert UNSURE not in str(refused.value)
    assert "is still with node1" in str(refused.value)


@pytest.mark.parametrize("apply", [True, False])
async def test_a_no_to_an_earlier_request_is_not_taken_for_the_answer(apply):
    """The earlier no may stand where our own request, whose write had no answer, was lost or comes late."""
    asking = client(sleeps, old_answer=True)
    asking.apply, asking.tell = apply, False

    with pytest.raises(SwitchoverFailed, match=UNSURE):
        await asking.move(0.2)


@pytest.mark.parametrize("tell", [True, False])
async def test_a_no_to_this_very_request_is_told_at_once(tell):
    asking = client(refuses, old_answer=True)
    asking.tell = tell

    with pytest.raises(SwitchoverFailed, match="the holder refused: node2 is ill now"):
        await asking.move()


async def test_the_request_is_taken_back_at_the_end():
    asking = client(sleeps)
    with pytest.raises(SwitchoverFailed):
        await asking.move(0.2)

    assert intent_of(asking.etcd) is None
