"""A store that is not in sync is compared with, brought level and admitted, while clients go on. Real processes."""

import asyncio
import os

from leaseha.repository.manifest import manifest
from tests.repository.cluster import Cluster, pack
from tests.repository.served import name_of


async def test_an_empty_store_gets_everything_and_is_admitted(cluster: Cluster):
    holder, late = await cluster.add("a", "b")
    cluster.insync = {"a"}
    cluster.nodes.pop("b")
    assert (await cluster.take(holder, 7)).ok
    body = os.urandom(5000)
    stored = [f"/x/{kind}/{name_of(body)}" for kind in ("keys", "locks", "data", "index", "snapshots")]
    for path in (*stored, "/x/config", "/config"):
        assert (await holder.ask("POST", path, body)).status == 200
    packs = [pack(50_000) for _ in range(40)]
    for path, bytes_ in packs:
        assert (await holder.ask("POST", path, bytes_)).status == 200

    cluster.nodes["b"] = late
    cluster.tell()
    await cluster.all_in_sync("a", "b")

    assert all(late.has(path, bytes_) for path, bytes_ in packs)
    assert all(late.has(path, body) for path in (*stored, "/x/config", "/config"))
    assert manifest(late.root) == manifest(holder.root)


async def test_what_a_store_has_and_the_holder_has_not_is_put_aside_there(cluster: Cluster):
    holder, late = await cluster.add("a", "b")
    path, body = pack()
    file = late.file(path)
    file.parent.mkdir(parents=True)
    file.write_bytes(body)
    late.file("/r/config").write_bytes(b"never acknowledged")
    cluster.insync = {"a"}

    assert (await cluster.take(holder, 7)).ok
    await cluster.all_in_sync("a", "b")

    assert not file.exists()
    assert not late.file("/r/config").exists()
    kept = [one.name for one in (late.root / ".leaseha/quarantine").rglob("*") if one.is_file()]
    assert sorted(kept) == sorted([path[-64:], "config"])


async def test_clients_write_and_delete_while_a_store_catches_up(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    await standby.die()
    packs = [pack(20_000) for _ in range(60)]
    for path, body in packs:
        assert (await holder.ask("POST", path, body)).status == 200
    assert cluster.insync == {"a"}
    stored = dict(packs)
    ending = asyncio.Event()

    async def client() -> None:
        while not ending.is_set():
            path, body = pack(30_000)
            assert (await holder.ask("POST", path, body)).status == 200
            stored[path] = body
            gone = next(iter(stored))
            stored.pop(gone)
            assert (await holder.ask("DELETE", gone)).status == 200

    clients = [asyncio.create_task(client()) for _ in range(3)]
    await standby.restart()
    await cluster.all_in_sync("a", "b")
    ending.set()
    await asyncio.gather(*clients)

    assert all(standby.has(path, body) for path, body in stored.items())
    assert manifest(standby.root) == manifest(holder.root)


async def test_one_that_caught_up_may_take_over_with_everything(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    await standby.die()
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    await standby.restart()
    await cluster.all_in_sync("a", "b")
    await holder.die()
    holder.alive = False

    assert (await cluster.take(standby, 8)).ok

    assert (await standby.ask("GET", path)).body == body


async def test_how_far_a_store_has_caught_up_is_told_while_it_does(cluster: Cluster):
    holder, late = await cluster.add("a", "b")
    cluster.insync = {"a"}
    cluster.nodes.pop("b")
    assert (await cluster.take(holder, 7)).ok
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200

    late.stop()  # it does not answer for a while
    cluster.nodes["b"] = late
    cluster.tell()
    async with asyncio.timeout(20):
        while (peer := (await holder.replication())["peers"][0])["state"] != "catching-up":
            await asyncio.sleep(0.005)  # waits for a fact: it has begun
    late.go_on()
    await cluster.all_in_sync("a", "b")

    assert {"total_bytes", "sent_bytes", "rate", "eta_s"} <= peer.keys()
    assert (await holder.replication())["peers"][0]["state"] == "member"
