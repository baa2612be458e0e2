"""Deletes and indexes keep their order on every store; a storm of faults leaves nothing in between. Real processes."""

import asyncio
import random

from tests.repository.cluster import Cluster, pack
from tests.repository.served import name_of, post_head


async def test_a_delete_waits_for_the_uploads_before_it_and_is_on_every_store_when_it_is_acknowledged(
    cluster: Cluster,
):
    holder, standby = await cluster.pair("a", "b")
    old, old_body = pack()
    assert (await holder.ask("POST", old, old_body)).status == 200
    cluster.obeys = False
    await standby.die()
    new, new_body = pack()
    upload = holder.asking("POST", new, new_body)
    await holder.until(lambda: cluster.last_wants == {"a"}, "the upload waits for its second copy")

    delete = holder.asking("DELETE", old)
    done, _ = await asyncio.wait([upload, delete], timeout=0.5)
    assert not done
    assert holder.has(old, old_body)
    cluster.obey()

    assert (await upload).status == 200
    assert (await delete).status == 200
    assert not holder.file(old).exists()


async def test_an_index_is_nowhere_before_the_packs_that_came_before_it_are_everywhere(cluster: Cluster):
    holder, second, third = await cluster.pair("a", "b", "c")
    cluster.obeys = False
    third.stop()
    path, body = pack(20_000_000)
    upload = holder.asking("POST", path, body)
    await holder.until(lambda: cluster.last_wants == {"a", "b"}, "the pack waits for its third copy", 30)
    index = f"/r/index/{name_of(b'index')}"
    asked = holder.asking("POST", index, b"index")
    done, _ = await asyncio.wait([upload, asked], timeout=0.5)

    assert not done
    assert not second.file(index).exists()
    assert not holder.file(index).exists()
    cluster.obey()
    assert [(await one).status for one in (upload, asked)] == [200, 200]
    assert second.has(path, body)
    assert second.has(index, b"index")


async def test_what_failed_halfway_is_brought_into_line_without_anybody_asking(cluster: Cluster):
    """The client's bytes were wrong in the end for nobody, but its own disk refused: the standby has it alone."""
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    folder = holder.file(path).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"no folder")  # the pack cannot get its name here

    assert (await holder.ask("POST", path, body)).status == 500

    folder.unlink()
    for _ in range(500):
        if (await holder.replication())["doubtful"] == 0:
            break
        await asyncio.sleep(0.02)  # waits for a fact: the minder comes once a second
    assert not standby.file(path).exists()
    assert not holder.file(path).exists()
    assert (await holder.replication())["tail"] == 0


async def test_a_connection_that_breaks_in_mid_upload_leaves_nothing_anywhere(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(1_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:-1])
        await holder.until(lambda: standby.temporaries() == 1, "the upload has begun")
    await holder.until(lambda: not holder.temporaries() + standby.temporaries(), "the temporaries are gone")

    assert not standby.file(path).exists()
    assert (await holder.replication())["doubtful"] == 0


async def test_after_a_storm_of_takeovers_all_that_was_acknowledged_is_there_and_members_do_not_differ(
    cluster: Cluster,
):
    """Three nodes; clients upload and delete without pause; holders are stopped, thawed and asked to move."""
    chance = random.Random(20261123)
    await cluster.pair("a", "b", "c")
    stored: dict[str, bytes] = {}
    deleted: set[str] = set()
    maybe: set[str] = set()
    ending = asyncio.Event()
    finished = 0

    async def client() -> None:
        nonlocal finished
        while not ending.is_set():
            finished += 1
            path, body = pack(chance.randrange(1, 600_000))
            target = cluster.holder
            try:
                if stored and chance.random() < 0.2:
                    path = chance.choice(sorted(stored))
                    body = stored.pop(path)
                    maybe.add(path)
                    if (await target.ask("DELETE", path)).status == 200:
                        maybe.discard(path)
                        deleted.add(path)
                elif (await target.ask("POST", path, body)).status == 200:
                    stored[path] = body
                else:
                    maybe.add(path)
            except OSError:
                maybe.add(path)
            await asyncio.sleep(0.002)  # waits for a fact: there is a holder again

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for token in range(8, 12):
        goal = finished + 20
        async with asyncio.timeout(20):
            while finished < goal:
                await asyncio.sleep(0.002)  # waits for a fact: some traffic under each holder
        before = cluster.holder
        # What an agent would see: only members may take over.
        after = cluster.nodes[chance.choice(sorted(cluster.insync - {before.name}))]
        if chance.random() < 0.5:
            before.stop()
            assert (await cluster.take(after, token)).ok
            before.go_on()
        else:
            await before.process.stop(0.2)
            assert (await cluster.take(after, token)).ok
        await cluster.all_in_sync("a", "b", "c")
    ending.set()
    await asyncio.gather(*clients)
    await cluster.confirmed(cluster.holder)
    for _ in range(500):
        if (await cluster.holder.replication())["tail"] == 0:
            break
        await asyncio.sleep(0.02)  # waits for a fact: the minder comes once a second

    listings = {name: set(objects(cluster, name)) for name in cluster.insync}
    assert len(stored) > 20
    for path, body in stored.items():
        assert all(cluster.nodes[name].has(path, body) for name in cluster.insync), path
    for path in deleted - maybe - stored.keys():
        assert not any(path[-64:] in listing for listing in listings.values()), path
    assert len({frozenset(listing) for listing in listings.values()}) == 1


def objects(cluster: Cluster, name: str) -> list[str]:
    return [entry.name for entry in (cluster.nodes[name].root / "r/data").rglob("*") if len(entry.name) == 64]
