"""The watch tells every change once and in order, whatever breaks underneath; where it cannot, it says so."""

import asyncio
import itertools
import random
import shutil

import pytest

from leaseha.adapters.etcd import EtcdClient, WatchBatch, WatchReread
from leaseha.adapters.etcd.messages import Prefix, rpc
from leaseha.adapters.etcd.watch import Stream
from leaseha.adapters.etcd.wire import CallFailed
from leaseha.core.values import NS_PER_MS, NS_PER_S, Committed, Delete, Put, Txn
from tests.adapters.etcd_members import Members, needs_etcd
from tests.adapters.relay import Relay

pytestmark = [pytest.mark.lab, needs_etcd]

SILENCE_S = 0.3
SOON_S = 20


class Watched:
    """What a watch has handed on."""

    def __init__(self, client, from_revision):
        self.news = []
        self._more = asyncio.Event()
        self.task = asyncio.create_task(client.watch(from_revision, self._take))

    def _take(self, news):
        self.news.append(news)
        self._more.set()

    @property
    def revisions(self):
        """Each revision once for each delivery that tells it."""
        told = [[c.revision for c in n.changes] for n in self.news if isinstance(n, WatchBatch)]
        return [revision for batch in told for revision, _ in itertools.groupby(batch)]

    async def until(self, fact):
        async with asyncio.timeout(SOON_S):
            while not fact():
                self._more.clear()
                await self._more.wait()

    async def until_revision(self, revision):
        await self.until(lambda: revision in self.revisions)

    async def until_reread(self):
        await self.until(lambda: any(isinstance(n, WatchReread) for n in self.news))
        return next(n for n in self.news if isinstance(n, WatchReread))

    async def close(self):
        self.task.cancel()
        await asyncio.wait({self.task})


async def write(client, value, timeout_ns=5 * NS_PER_S):
    outcome = await client.commit(Txn((), (Put("key", str(value)),), ()), 0, timeout_ns)
    assert isinstance(outcome, Committed), outcome
    return outcome.head.revision


async def compact(client, revision):
    await client._ring.members[0].kv.Compact(rpc.CompactionRequest(revision=revision))


def behind(relay):
    return f"http://127.0.0.1:{relay.port}"


@pytest.fixture
def one(tmp_path):
    with Members(tmp_path) as members:
        yield members


@pytest.fixture
def three(tmp_path):
    with Members(tmp_path, size=3) as members:
        yield members


@pytest.fixture
async def made():
    """Clients that are closed in the end: `made(endpoints)`."""
    clients = []

    def make(endpoints):
        clients.append(EtcdClient(endpoints, "/leaseha/watch/", silence_s=SILENCE_S))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def test_nothing_is_lost_nor_told_twice_while_members_freeze_and_die(three, made):
    seed = 20260105
    chance = random.Random(seed)
    writer, reader = made(three.endpoints), made(three.endpoints)
    start = (await writer.wait_ready(20)).revision
    watched = Watched(reader, start + 1)
    done = asyncio.Event()
    write_on = asyncio.create_task(keep_writing(writer, done))
    for _ in range(6):
        victim = chance.randrange(3)
        if chance.random() < 0.5:
            three.freeze(victim)
            # waits for a fact: the member has been frozen for as long as a watch needs to leave it
            await asyncio.sleep(chance.uniform(0.1, 3 * SILENCE_S))
            three.thaw(victim)
        else:
            three.kill(victim)
            # waits for a fact: the member has been away for so long
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            three.start(victim)
            three.wait_listening(victim)
    done.set()
    assert await write_on > 0, "the writer had its turn"
    last = await written_at_last(writer)
    await watched.until_revision(last)
    told = watched.revisions
    assert told == list(range(start + 1, told[-1] + 1)), f"seed {seed}"
    assert not any(isinstance(n, WatchReread) for n in watched.news)
    await watched.close()


async def keep_writing(client, done):
    """Puts and deletions of several keys, some of one revision; what is unknown may have happened, too."""
    committed, n = 0, 0
    while not done.is_set():
        n += 1
        puts = (Put("a", str(n)), Put("b", str(n))) if n % 3 else (Put(f"c{n}", "x"), Delete(f"c{n - 3}"))
        outcome = await client.commit(Txn((), puts, ()), n % 2, 400 * NS_PER_MS)
        committed += isinstance(outcome, Committed)
        # waits for a fact: the next write is due
        await asyncio.sleep(0.005)
    return committed


async def written_at_last(client):
    """Once there is a leader again; what was unknown before may have been written, too."""
    async with asyncio.timeout(SOON_S):
        while True:
            outcome = await client.commit(Txn((), (Put("key", "last"),), ()), 1, NS_PER_S)
            if isinstance(outcome, Committed):
                return outcome.head.revision
            # waits for a fact: there may be a leader by now
            await asyncio.sleep(0.05)


async def test_a_watch_leaves_a_member_that_falls_silent_behind_an_open_connection(three, made):
    direct = made(three.endpoints)
    start = (await direct.wait_ready(20)).revision
    async with Relay(three.client_ports[0]) as relay:
        client = made([behind(relay), three.endpoints[1]])
        watched = Watched(client, start + 1)
        await watched.until_revision(await write(direct, "through the relay"))
        relay.silence()
        last = await write(direct, "past it")
        await watched.until_revision(last)
        assert watched.revisions == list(range(start + 1, last + 1))
        await watched.close()


async def test_a_quiet_watch_is_kept_by_signs_of_life(one, made):
    client = made(one.endpoints)
    start = (await client.wait_ready(20)).revision
    watched = Watched(client, start + 1)
    await watched.until_revision(await write(client, 1))
    streams = await opened_streams(one)
    # waits for a fact: several silences have passed
    await asyncio.sleep(5 * SILENCE_S)
    assert await opened_streams(one) == streams, "no stream was given up"
    await watched.until_revision(await write(client, 2))
    await watched.close()


async def opened_streams(members):
    """How many watch streams the member has ever been asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", members.client_ports[0])
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    line = next(
        line
        for line in text.splitlines()
        if line.startswith("grpc_server_started_total") and 'grpc_method="Watch"' in line
    )
    return float(line.rsplit(" ", 1)[1])


async def test_a_watch_survives_a_restart_of_its_only_member(one, made):
    client = made(one.endpoints)
    start = (await client.wait_ready(20)).revision
    watched = Watched(client, start + 1)
    await write(client, 1)
    one.restart(0)
    await client.wait_ready(20)
    last = await write(client, 2)
    await watched.until_revision(last)
    assert watched.revisions == [start + 1, last]
    await watched.close()


async def test_a_compaction_under_a_broken_watch_is_told_with_all_keys_as_they_are(one, made):
    direct = made(one.endpoints)
    start = (await direct.wait_ready(20)).revision
    async with Relay(one.client_ports[0]) as relay:
        watched = Watched(made([behind(relay)]), start + 1)
        await watched.until_revision(await write(direct, "before"))
        await relay.cut()
        await write(direct, "unseen")
        compacted = await write(direct, "last before the compaction")
        await compact(direct, compacted)
        relay.heal()
        reread = await watched.until_reread()
        assert (reread.compacted, reread.head.revision) == (compacted, compacted)
        assert [(kv.key, kv.value) for kv in reread.keys] == [("key", "last before the compaction")]
        assert "compacted" in reread.why
        last = await write(direct, "after")
        await watched.until_revision(last)
        assert watched.revisions == [start + 1, last], "nothing between is told as if it were unbroken"
        await watched.close()


async def test_a_break_without_a_compaction_loses_nothing(one, made):
    direct = made(one.endpoints)
    start = (await direct.wait_ready(20)).revision
    async with Relay(one.client_ports[0]) as relay:
        watched = Watched(made([behind(relay)]), start + 1)
        await watched.until_revision(await write(direct, "before"))
        await relay.cut()
        for n in range(20):
            last = await write(direct, n)
        relay.heal()
        await watched.until_revision(last)
        assert watched.revisions == list(range(start + 1, last + 1))
        await watched.close()


async def test_an_etcd_that_went_back_is_told_with_all_keys_as_they_are(one, made):
    """As after a restored snapshot: a watch from a revision of the future would be silent."""
    client = made(one.endpoints)
    start = (await client.wait_ready(20)).revision
    watched = Watched(client, start + 1)
    for n in range(10):
        last = await write(client, n)
    await watched.until_revision(last)
    one.kill(0)
    shutil.rmtree(one.folder / "m0")
    one.start(0)
    one.wait_listening(0)
    reread = await watched.until_reread()
    assert reread.head.revision < last
    assert reread.keys == ()
    assert "went back" in reread.why
    again = await write(client, "again")
    await watched.until_revision(again)
    assert again < last
    await watched.close()


async def test_a_response_that_is_newer_than_its_changes_does_not_move_the_place_to_go_on_from():
    """A watch that catches up gets a thousand revisions at a time, under a header that names the newest."""
    told = []
    stream = Stream(Prefix("/leaseha/watch/"), 10, 7, told.append, None, SILENCE_S)
    response = rpc.WatchResponse()
    response.header.cluster_id, response.header.revision = 7, 5000
    for revision in (10, 11):
        response.events.add().kv.mod_revision = revision
    stream._heard(response, floor=4000)
    assert stream.next_revision == 12
    assert told[0].head.revision == 11


async def test_a_sign_of_life_from_a_member_that_lags_ends_the_stream():
    stream = Stream(Prefix("/leaseha/watch/"), 10, 7, None, None, SILENCE_S)
    life = rpc.WatchResponse(watch_id=-1)
    life.header.revision = 99
    stream._heard(life, floor=99)
    assert stream.next_revision == 10, "it is no proof that all before it was told"
    with pytest.raises(CallFailed, match="lags"):
        stream._heard(life, floor=100)
