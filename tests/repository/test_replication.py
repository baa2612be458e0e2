"""What the holder acknowledges is on every store that counts, whatever happens to the others (G2). Real processes."""

import asyncio
import os

from tests.repository.cluster import Cluster, pack
from tests.repository.served import name_of, post_head


async def test_an_acknowledged_upload_is_on_both_disks(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(3_000_000)

    assert (await holder.ask("POST", path, body)).status == 200

    assert holder.has(path, body)
    assert standby.has(path, body)
    assert holder.temporaries() == standby.temporaries() == 0
    assert (await holder.replication())["copies"] == 2


async def test_every_kind_of_object_and_a_new_repository_are_replicated(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    body = os.urandom(5000)
    paths = [f"/x/y/{kind}/{name_of(body)}" for kind in ("keys", "locks", "data", "index", "snapshots")]
    assert (await holder.ask("POST", "/x/y/?create=true")).status == 200
    assert (standby.root / "x/y/data/ff").is_dir()

    for path in ("/x/y/config", *paths):
        assert (await holder.ask("POST", path, body)).status == 200
        assert standby.has(path, body)
    for path in paths:
        assert (await holder.ask("DELETE", path)).status == 200
        assert not standby.file(path).exists()
        assert not holder.file(path).exists()


async def test_bytes_that_are_not_what_their_name_says_are_nowhere(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, _ = pack()

    assert (await holder.ask("POST", path, os.urandom(400_000))).status == 400

    assert not holder.file(path).exists()
    assert not standby.file(path).exists()
    replication = await holder.replication()
    assert (replication["doubtful"], replication["copies"]) == (0, 2)
    await holder.until(lambda: standby.temporaries() == 0, "the temporary is gone")


async def test_another_config_is_refused_before_it_reaches_the_standby(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    assert (await holder.ask("POST", "/r/config", b"first")).status == 200
    assert standby.has("/r/config", b"first")

    assert (await holder.ask("POST", "/r/config", b"other")).status == 403
    assert (await holder.ask("POST", "/r/config", b"first")).status == 200

    assert holder.has("/r/config", b"first")
    assert standby.has("/r/config", b"first")


async def test_nothing_is_acknowledged_or_shown_before_a_dead_standby_is_out_of_the_set(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    cluster.obeys = False
    path, body = pack()
    await standby.die()

    upload = holder.asking("POST", path, body)
    await holder.until(lambda: cluster.last_wants == {"a"}, "it is asked out")
    done, _ = await asyncio.wait([upload], timeout=1)

    assert not done
    assert (await holder.ask("HEAD", path)).status == 404
    assert (await holder.ask("GET", "/r/data/")).body.find(path[-64:].encode()) < 0
    cluster.obey()
    assert (await upload).status == 200
    assert holder.has(path, body)
    assert (await holder.replication())["copies"] == 1


async def test_a_standby_that_dies_in_mid_upload_costs_the_client_nothing_but_time(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:1_000_000])
        await holder.until(lambda: standby.temporaries() == 1, "the standby takes it too")
        await standby.die()
        sock.sendall(body[1_000_000:])
        answer = await asyncio.to_thread(sock.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert holder.has(path, body)
    assert cluster.insync == {"a"}


async def test_a_standby_that_stalls_in_mid_upload_is_left_out_in_seconds(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(30_000_000)
    standby.stop()

    async with asyncio.timeout(20):
        assert (await holder.ask("POST", path, body)).status == 200

    assert holder.has(path, body)
    assert cluster.insync == {"a"}
    assert cluster.written == [{"a"}]


async def test_a_standby_whose_process_restarts_stays_a_member_and_gets_what_it_missed(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    cluster.obeys = False
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:1_000_000])
        await holder.until(lambda: standby.temporaries() == 1, "the standby takes it too")
        await standby.die()
        await standby.restart()
        sock.sendall(body[1_000_000:])
        answer = await asyncio.to_thread(sock.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert standby.has(path, body)
    assert cluster.last_wants == frozenset()


async def test_a_standby_that_comes_back_with_an_empty_disk_is_asked_out_until_it_has_everything(
    cluster: Cluster,
):
    holder, standby = await cluster.pair("a", "b")
    await standby.die()
    for entry in sorted(standby.root.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    await standby.restart()
    path, body = pack()

    assert (await holder.ask("POST", path, body)).status == 200

    assert cluster.written[0] == {"a"}
    await cluster.all_in_sync("a", "b")
    assert standby.has(path, body)


async def test_a_store_that_comes_to_count_in_mid_upload_gets_the_whole_object(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    (late,) = await cluster.add("c")
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:1_000_000])
        await holder.until(lambda: standby.temporaries() == 1, "the upload has begun")
        cluster.tell()
        await cluster.all_in_sync("a", "b", "c")
        sock.sendall(body[1_000_000:])
        answer = await asyncio.to_thread(sock.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert all(node.has(path, body) for node in (holder, standby, late))


async def test_fewer_copies_than_configured_refuse_writes_and_not_reads(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    cluster.min_copies = 2
    cluster.tell()
    await standby.die()
    other, more = pack()

    assert (await holder.ask("POST", other, more)).status == 503
    assert (await holder.ask("POST", other, more)).status == 503
    assert (await holder.ask("DELETE", path)).status == 503

    assert (await holder.ask("HEAD", other)).status == 404
    assert (await holder.ask("GET", path)).body == body


async def test_uploads_beside_each_other_all_reach_the_standby(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    packs = [pack(300_000) for _ in range(24)]

    answers = await asyncio.gather(*(holder.ask("POST", path, body) for path, body in packs))

    assert {answer.status for answer in answers} == {200}
    assert all(standby.has(path, body) for path, body in packs)
    await asyncio.sleep(0)
    assert (await holder.replication())["tail"] == 0


async def test_the_same_upload_twice_at_once_and_again_is_acknowledged_each_time(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()

    answers = await asyncio.gather(*(holder.ask("POST", path, body) for _ in range(4)))

    assert {answer.status for answer in answers} == {200}
    assert (await holder.ask("POST", path, body)).status == 200
    assert standby.has(path, body)


async def test_an_upload_whose_object_was_deleted_meanwhile_is_sent_once_more(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(1_000_000)
    assert (await holder.ask("POST", path, body)).status == 200
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:-1])
        await holder.until(lambda: standby.temporaries() == 1, "the upload has begun")
        assert (await holder.ask("DELETE", path)).status == 200
        assert not standby.file(path).exists()
        sock.sendall(body[-1:])
        answer = await asyncio.to_thread(sock.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert holder.has(path, body)
    assert standby.has(path, body)
