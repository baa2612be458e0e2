"""What stands in etcd when an agent dies, as it would have written it."""

import time
from collections.abc import Callable
from typing import Any

from leaseha.adapters.etcd import EtcdClient
from leaseha.core import records
from leaseha.core.records import ClaimRecord, Hold, Life, SessionRecord
from leaseha.core.values import NS_PER_S, Committed, KeyValue, Put, Txn

PREFIX = "/leaseha/guarded/"
SOON_S = 20.0
LIVE = SessionRecord(Life.LIVE, "node1", "store-1", "inc", 7, 2 * NS_PER_S, 20_000_000)


async def standing(etcd: EtcdClient, *leases: str, record: SessionRecord = LIVE) -> tuple[int, int]:
    """A session that holds these leases, as an agent would have written it: (session, revision)."""
    session = await etcd.grant(60)
    claim = ClaimRecord(Hold.HELD, "node1", session, "first", "first holder", epoch=3)
    puts = [Put(records.session_key(session), records.encode(record), session)]
    puts += [Put(records.claim_key(lease), records.encode(claim)) for lease in leases]
    revision = 0
    for at in range(0, len(puts), 100):
        outcome = await etcd.commit(Txn((), tuple(puts[at : at + 100]), ()), 0, 5 * NS_PER_S)
        assert isinstance(outcome, Committed)
        revision = outcome.head.revision
    return session, revision


async def found(etcd: EtcdClient) -> dict[str, KeyValue]:
    return {kv.key: kv for kv in (await etcd.read_all())[1]}


def until(what: str, fact: Callable[[], Any], timeout_s: float = SOON_S) -> Any:
    """The first true value of a fact."""
    end = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < end, f"did not come: {what}"
        time.sleep(0.005)  # waits for a fact: the one that is asked for
    return found
