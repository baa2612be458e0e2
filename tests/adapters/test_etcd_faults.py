"""What the client does when etcd's members freeze, die, or are not there at all."""

import asyncio
import contextlib
import time

import pytest

from leaseha.adapters.etcd import EtcdClient
from leaseha.core.values import NS_PER_MS, NS_PER_S, Committed, Put, Txn, Unknown
from leaseha.errors import StoreUnavailable
from tests.adapters.etcd_members import Members, free_ports, needs_etcd

pytestmark = [pytest.mark.lab, needs_etcd]

ATTEMPT_NS = 300 * NS_PER_MS
SOON_S = 15
"""A bound for a loaded machine; what is usual stands in the assertions' messages."""


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    with Members(tmp_path_factory.mktemp("trio"), size=3) as members:
        yield members


@pytest.fixture
async def members(trio):
    """All three well, before and after."""
    yield trio
    for index in range(trio.size):
        if index in trio.running:
            trio.thaw(index)
        else:
            trio.start(index)
            trio.wait_listening(index)


@pytest.fixture
async def client(members, request):
    made = EtcdClient(members.endpoints, f"/leaseha/{request.node.name}/", silence_s=0.5)
    await made.wait_ready(20)
    await all_well(made)
    yield made
    await made.close()


async def all_well(client):
    """Every member knows the leader and has something to say of itself."""
    async with asyncio.timeout(SOON_S):
        while True:
            statuses = await client.status(1.0)
            if all(s.leader_id and s.raft_term and s.db_bytes for s in statuses):
                return
            # waits for a fact: the member that was started last has joined
            await asyncio.sleep(0.05)


def write(value):
    return Txn((), (Put("key", str(value)),), ())


async def committed_at_last(client):
    """Attempts as the core makes them: each with a write of its own. How many it took."""
    async with asyncio.timeout(SOON_S):
        attempt = 0
        while not isinstance(await client.commit(write(attempt), attempt, ATTEMPT_NS), Committed):
            attempt += 1
    return attempt + 1


async def stuck_to(client, members, index):
    """Have the client stick to this member."""
    client._ring.current = index
    assert isinstance(await client.commit(write("stuck"), 0, 2 * NS_PER_S), Committed)
    assert client._ring.current == index


async def follower(client, members):
    return (await members.leader(client) + 1) % members.size


async def test_a_frozen_member_costs_one_attempt(members, client):
    frozen = await follower(client, members)
    await stuck_to(client, members, frozen)
    members.freeze(frozen)
    first = await client.commit(write(1), 0, ATTEMPT_NS)
    assert isinstance(first, Unknown)
    assert "no answer in time" in first.why
    assert isinstance(await client.commit(write(2), 1, 2 * NS_PER_S), Committed)
    assert isinstance(await client.commit(write(3), 0, 2 * NS_PER_S), Committed), "left for good"


async def test_the_next_attempt_need_not_wait_for_the_first(members, client):
    frozen = await follower(client, members)
    await stuck_to(client, members, frozen)
    members.freeze(frozen)
    first = asyncio.create_task(client.commit(write(1), 0, 3 * NS_PER_S))
    await asyncio.sleep(0)
    second = await client.commit(write(2), 1, 2 * NS_PER_S)
    assert isinstance(second, Committed)
    assert not first.done()
    members.thaw(frozen)
    assert isinstance(await first, (Committed, Unknown)), "a late copy may execute"
    assert client._ring.current != frozen, "its late answer does not bring the slow member back"


async def test_reads_pass_a_frozen_member_by(members, client):
    frozen = await follower(client, members)
    await stuck_to(client, members, frozen)
    members.freeze(frozen)
    async with asyncio.timeout(SOON_S):
        head, keys = await client.read_all()
        assert [kv.key for kv in keys] == ["key"]
        assert head.revision >= keys[0].mod
        assert await client.grant(30) > 0


async def test_a_frozen_leader_is_replaced_without_a_restart(members, client):
    leader = await members.leader(client)
    await stuck_to(client, members, leader)
    members.freeze(leader)
    attempts = await committed_at_last(client)
    assert attempts > 1
    members.thaw(leader)
    assert isinstance(await client.commit(write("after"), 0, 5 * NS_PER_S), Committed)


async def test_a_killed_leader_is_replaced_without_a_restart(members, client):
    lease = await client.grant(30)
    leader = await members.leader(client)
    await stuck_to(client, members, leader)
    members.kill(leader)
    await committed_at_last(client)
    assert await client.keepalive_once(lease) == 30
    members.start(leader)
    members.wait_listening(leader)
    await stuck_to_again(client, leader)


async def stuck_to_again(client, index):
    """The member is used again once its channel has connected."""
    async with asyncio.timeout(SOON_S):
        while True:
            client._ring.current = index
            outcome = await client.commit(write("again"), 0, NS_PER_S)
            if isinstance(outcome, Committed) and client._ring.current == index:
                return


async def test_without_a_quorum_nothing_is_known_and_little_time_is_lost(members, client):
    leader = await members.leader(client)
    left = (leader + 1) % 3
    for index in {0, 1, 2} - {left}:
        members.kill(index)
    await stuck_to_a_lonely_member(client, left)
    with pytest.raises(StoreUnavailable) as caught:
        await client.wait_ready(1.0)
    for endpoint in members.endpoints:
        assert endpoint in str(caught.value)
    statuses = await client.status()
    assert [bool(status.why) for status in statuses] == [index != left for index in range(3)]
    assert "no leader" in " ".join(statuses[left].alarms)


async def stuck_to_a_lonely_member(client, index):
    async with asyncio.timeout(SOON_S):
        while True:
            client._ring.current = index
            outcome = await client.commit(write("lonely"), 0, ATTEMPT_NS)
            assert isinstance(outcome, Unknown)
            if "no leader" in outcome.why:
                return


async def test_every_member_says_who_it_is(members, client):
    statuses = await client.status()
    assert [status.endpoint for status in statuses] == members.endpoints
    assert len({status.member_id for status in statuses}) == 3
    assert sum(status.is_leader for status in statuses) == 1
    assert all(status.db_bytes > 0 and status.raft_term > 0 for status in statuses)
    assert set(await client.versions()) == set(members.endpoints)


async def test_all_keys_are_read_at_one_revision_over_many_pages(members, client):
    for page in range(9):
        puts = tuple(Put(f"many/{page}/{n:04}", "x" * 50) for n in range(120))
        for part in (puts[:60], puts[60:]):
            assert isinstance(await client.commit(Txn((), part, ()), 0, 5 * NS_PER_S), Committed)
    _, whole = await client.read_all()
    client.page_keys = 100
    head, paged = await client.read_all()
    assert paged == whole
    assert len(paged) == 1080
    assert head.revision == (await client.read_head()).revision


async def test_closing_is_bounded_and_ends_what_is_under_way(members, client):
    for index in range(3):
        members.freeze(index)
    news = []
    watching = asyncio.create_task(client.watch(1, news.append))
    under_way = asyncio.create_task(client.commit(write(1), 0, 60 * NS_PER_S))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await client.close()
        assert isinstance(await under_way, Unknown)
    assert isinstance(await client.commit(write(2), 0, NS_PER_S), Unknown)
    watching.cancel()
    await asyncio.wait({watching})


async def test_where_nobody_listens_the_error_names_every_endpoint_and_why():
    endpoints = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    client = EtcdClient(endpoints, "/leaseha/none/")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await client.wait_ready(1.0)
    assert time.monotonic() - started < SOON_S
    text = str(caught.value)
    assert all(endpoint in text for endpoint in endpoints)
    assert "refused" in text
    assert "\n" not in text
    outcome = await client.commit(write(1), 0, ATTEMPT_NS)
    assert isinstance(outcome, Unknown)
    assert not await client.revoke(1, 0.2)
    await client.close()


async def test_an_absent_etcd_keeps_no_core_busy():
    client = EtcdClient([f"http://127.0.0.1:{port}" for port in free_ports(3)], "/leaseha/none/")
    doubts, news = [], []
    tasks = [
        asyncio.create_task(client.watch(1, news.append)),
        asyncio.create_task(client.keep_alive(7, 1.0, doubts.append)),
    ]
    # waits for a fact: the back-offs have grown to their longest
    await asyncio.sleep(1.0)
    used = time.process_time()
    # waits for a fact: so much time has gone by, of which the share is measured
    await asyncio.sleep(2.0)
    share = (time.process_time() - used) / 2.0
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    await client.close()
    assert (doubts, news) == ([], [])
    assert share < 0.4, "about 0.03 usually; a busy loop is 0.9"


async def test_a_lease_that_is_gone_is_doubted_again_and_again_and_the_loop_lives(members, client):
    lease = await client.grant(30)
    doubts = asyncio.Queue()
    task = asyncio.create_task(client.keep_alive(lease, 0.05, doubts.put_nowait))
    await client.revoke(lease)
    async with asyncio.timeout(SOON_S):
        assert [await doubts.get(), await doubts.get()] == [lease, lease]
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
