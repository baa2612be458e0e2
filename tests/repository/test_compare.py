"""The holder compares with its members while clients write; and nodes are killed in the middle of a catch-up."""

import asyncio
from pathlib import Path

from leaseha.repository.differences import Differences
from leaseha.repository.door import DoorOptions
from leaseha.repository.manifest import manifest
from leaseha.repository.operations import CHANGES_MOST, Operations
from leaseha.repository.paths import Address, Kind
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark
from tests.repository.cluster import Cluster, Node, pack

OFTEN = DoorOptions(compare_every_s=0.2)


async def figures(node: Node) -> dict:
    told = (await node.process.status()).upkeep
    return {**told["compare"], **told["mending"]}


async def until_figures(node: Node, **wanted: int) -> dict:
    async with asyncio.timeout(20):
        while True:
            found = await figures(node)
            if all(found[name] >= least for name, least in wanted.items()):
                return found
            await asyncio.sleep(0.05)  # waits for a fact: the figures


async def stored(holder: Node, count: int, size: int = 5000) -> list[tuple[str, bytes]]:
    packs = [pack(size) for _ in range(count)]
    for path, body in packs:
        assert (await holder.ask("POST", path, body)).status == 200
    return packs


async def test_what_a_member_lacks_is_sent_to_it_and_counted(cluster: Cluster):
    cluster.door = OFTEN
    holder, standby = await cluster.pair("a", "b")
    packs = await stored(holder, 5)
    for path, _ in packs[:3]:
        standby.file(path).unlink()
    standby.file(packs[3][0]).write_bytes(b"short")

    await standby.until(lambda: all(standby.has(*one) for one in packs), "it has all of them again")

    found = await until_figures(holder, lacking=4, sent=4)
    assert found["surplus"] == 0
    assert cluster.written == []


async def test_a_member_that_lacks_much_counts_no_more_until_it_was_caught_up_with(cluster: Cluster):
    cluster.door = OFTEN
    holder, standby = await cluster.pair("a", "b")
    packs = await stored(holder, 50, 100)
    for path, _ in packs[:40]:
        standby.file(path).unlink()

    await holder.until(lambda: {"a"} in cluster.written, "it counts no more")
    await cluster.all_in_sync("a", "b")

    assert all(standby.has(*one) for one in packs)


async def test_what_the_holder_has_lost_is_fetched_from_the_member(cluster: Cluster):
    cluster.door = OFTEN
    holder, standby = await cluster.pair("a", "b")
    packs = await stored(holder, 5)
    assert (await holder.ask("POST", "/r/config", b"a config")).status == 200
    for path in (packs[0][0], packs[1][0], "/r/config"):
        holder.file(path).unlink()

    await holder.until(
        lambda: holder.has(*packs[0]) and holder.has(*packs[1]) and holder.has("/r/config", b"a config"),
        "it has all of them again",
    )

    found = await until_figures(holder, surplus=3, fetched=3)
    assert found["lacking"] == 0
    assert all(standby.has(*one) for one in packs)


async def test_what_a_member_alone_has_and_is_spoilt_or_was_deleted_is_put_aside_there(cluster: Cluster):
    cluster.door = DoorOptions(compare_every_s=0.2, trash_days=0)
    holder, standby = await cluster.pair("a", "b")
    (deleted, body), (lost, _) = await stored(holder, 2)
    assert (await holder.ask("DELETE", deleted)).status == 200
    standby.file(deleted).write_bytes(body)
    standby.file(lost).write_bytes(b"spoilt")
    holder.file(lost).unlink()

    await standby.until(
        lambda: not standby.file(deleted).exists() and not standby.file(lost).exists(), "both are put aside"
    )

    kept = [one.name for one in (standby.root / ".leaseha/quarantine").rglob("*") if one.is_file()]
    assert sorted(kept) == sorted([deleted[-64:], lost[-64:]])
    assert not holder.file(deleted).exists()


async def test_a_config_that_differs_is_told_and_left_alone(cluster: Cluster):
    cluster.door = OFTEN
    holder, standby = await cluster.pair("a", "b")
    assert (await holder.ask("POST", "/r/config", b"a config")).status == 200
    standby.file("/r/config").write_bytes(b"another!")

    await until_figures(holder, configs=1)

    assert holder.has("/r/config", b"a config")
    assert standby.has("/r/config", b"another!")


async def test_a_storm_of_uploads_and_deletes_is_no_difference(cluster: Cluster):
    cluster.door = OFTEN
    holder, standby = await cluster.pair("a", "b")
    ending = asyncio.Event()

    async def client() -> None:
        last: list[str] = []
        while not ending.is_set():
            path, body = pack(30_000)
            assert (await holder.ask("POST", path, body)).status == 200
            last.append(path)
            if len(last) > 3:
                assert (await holder.ask("DELETE", last.pop(0))).status == 200

    clients = [asyncio.create_task(client()) for _ in range(4)]
    before = (await figures(holder))["compared"]
    found = await until_figures(holder, compared=before + 4)
    ending.set()
    await asyncio.gather(*clients)

    assert (found["lacking"], found["surplus"], found["sent"], found["fetched"]) == (0, 0, 0, 0)
    assert cluster.written == []
    assert manifest(standby.root) == manifest(holder.root)


def test_what_is_on_its_way_or_in_doubt_is_no_difference():
    operations = Operations(Mark(0, 7), Tail())
    addresses = [Address(("r",), Kind.DATA, f"{number:064x}") for number in range(4)]
    changes = operations.watch()
    open_, doubtful, done, _ = addresses
    operations.begin(open_)
    operations.doubt(operations.begin(doubtful))
    operations.done(operations.begin(done))

    known = operations.pending() | (changes.take() or frozenset())
    found = Differences(dict.fromkeys(addresses, 1), list(addresses), list(addresses)).without(known)

    assert found.all() == [addresses[3]] * 3


def test_a_delete_is_remembered_until_the_object_is_written_again():
    operations = Operations(Mark(0, 7), Tail())
    address = Address(("r",), Kind.DATA, "0" * 64)
    seq = operations.begin(address)
    operations.delete(seq, address)
    operations.done(seq)
    assert operations.was_deleted(address)
    operations.done(operations.begin(address))
    assert not operations.was_deleted(address)
    for number in range(CHANGES_MOST + 1):
        operations.delete(1, Address(("r",), Kind.DATA, f"{number:064x}"))
    assert operations.was_deleted(address)


# ---- killed in the middle of a catch-up


async def far_behind(cluster: Cluster, *, rate: int = 100_000) -> tuple[Node, Node, list[tuple[str, bytes]]]:
    """The standby lacks 40 packs, and gets them slowly; one at least has come."""
    cluster.door = DoorOptions(catch_up_rate=rate)
    holder, standby = await cluster.pair("a", "b")
    await standby.die()
    packs = await stored(holder, 40, 20_000)
    assert cluster.insync == {"a"}
    await standby.restart()
    await standby.until(lambda: any(standby.has(*one) for one in packs), "it has begun to come")
    return holder, standby, packs


def unadmitted(cluster: Cluster, standby: Node, packs: list[tuple[str, bytes]]) -> bool:
    return cluster.insync == {"a"} and not all(standby.has(*one) for one in packs)


def whole(root: Path) -> bool:
    return not [one for one in (root / ".leaseha/tmp").iterdir() if one.stat().st_size]


async def test_a_store_that_dies_half_level_is_never_admitted_and_is_level_when_it_is_back(cluster: Cluster):
    holder, standby, packs = await far_behind(cluster)
    told = (await holder.replication())["peers"][0]
    assert told["state"] == "catching-up"
    assert told["sent_bytes"] < told["total_bytes"] >= 40 * 20_000  # no faster than it was told
    await standby.die()
    assert unadmitted(cluster, standby, packs)

    cluster.door = DoorOptions()
    assert (await holder.process.change_door(cluster.door)).ok
    await standby.restart()
    await cluster.all_in_sync("a", "b")

    assert all(standby.has(*one) for one in packs)
    assert manifest(standby.root) == manifest(holder.root)
    assert whole(standby.root)
    assert {"a"} not in cluster.written[cluster.written.index({"a", "b"}) :]


async def test_a_holder_that_dies_half_way_leaves_nobody_admitted_and_goes_on_when_it_is_back(
    cluster: Cluster,
):
    holder, standby, packs = await far_behind(cluster)
    await holder.die()
    assert unadmitted(cluster, standby, packs)

    cluster.door = DoorOptions()
    await holder.restart()
    assert (await cluster.take(holder, 8)).ok
    await cluster.all_in_sync("a", "b")

    assert all(standby.has(*one) for one in packs)
    assert manifest(standby.root) == manifest(holder.root)


async def test_verify_in_a_storm_of_uploads_and_deletes_finds_no_difference(cluster: Cluster):
    holder, _ = await cluster.pair("a", "b")
    await stored(holder, 30)
    ending = asyncio.Event()

    async def client() -> None:
        while not ending.is_set():
            path, body = pack(30_000)
            assert (await holder.ask("POST", path, body)).status == 200
            assert (await holder.ask("DELETE", path)).status == 200

    clients = [asyncio.create_task(client()) for _ in range(3)]
    assert (await holder.process.chore("verify", {"node": "b"})).ok
    async with asyncio.timeout(20):
        while (told := (await holder.process.status()).chores["verify"])["state"] == "running":
            await asyncio.sleep(0.02)  # waits for a fact: the chore's end
    ending.set()
    await asyncio.gather(*clients)

    assert told["error"] == ""
    assert told["result"]["differences"] == 0
    assert told["result"]["objects"] >= 30
