"""The contract suite on the simulator's etcd, in virtual time."""

import pytest

from chaos.sim import etcd
from chaos.sim.etcd import FakeEtcd
from leaseha.core.values import NS_PER_S, Delete, Txn, Unknown
from tests.contract.etcd_contract import (
    Batch,
    Compacted,
    EtcdContract,
    LeaderChangeContract,
    Subject,
    Watching,
)

LOOK_NS = NS_PER_S // 4


class FakeWatching(Watching):
    def __init__(self, store, from_revision):
        self.store = store
        self.at = from_revision

    async def next(self):
        try:
            entries = self.store.since(self.at)
        except etcd.Compacted as gone:
            return Compacted(gone.revision)
        if not entries:
            raise TimeoutError("nothing is pending")
        self.at = entries[-1][0] + 1
        return Batch(self.store.head(), tuple(change for _, some in entries for change in some))

    async def close(self):
        pass


class FakeSubject(Subject):
    def __init__(self):
        self.store = FakeEtcd()
        self.now_ns = 0

    async def txn(self, txn):
        try:
            return self.store.txn(txn)
        except ValueError as error:
            return Unknown(str(error))

    async def read_all(self):
        return self.store.read_all()

    async def grant(self, ttl_s):
        return self.store.grant(ttl_s, self.now_ns)

    async def revoke(self, lease):
        self.store.revoke(lease)

    async def keepalive(self, lease):
        found = self.store.keepalive(lease, self.now_ns)
        return self.store.leases[lease].ttl_ns // NS_PER_S if found else 0

    async def watch(self, from_revision):
        return FakeWatching(self.store, from_revision)

    async def compact(self, revision):
        self.store.compact(revision)

    async def delete(self, key):
        await self.txn(Txn((), (Delete(key),), ()))

    async def advance(self, seconds):
        end_ns = self.now_ns + round(seconds * NS_PER_S)
        while self.now_ns < end_ns:
            self.now_ns = min(end_ns, self.now_ns + LOOK_NS)
            self.store.expire(self.now_ns)

    async def leader_change(self):
        self.store.change_leader(self.now_ns)


@pytest.fixture
def subject():
    return FakeSubject()


class TestFakeEtcd(EtcdContract):
    pass


class TestFakeLeaderChange(LeaderChangeContract):
    pass
