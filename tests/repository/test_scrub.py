"""What has gone bad on a disk is found, and replaced by a good copy. Real processes; bytes are spoilt in place."""

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

from leaseha.repository.chores import Progress
from leaseha.repository.door import DoorOptions
from leaseha.repository.hashing import hash_of
from leaseha.repository.manifest import manifest
from leaseha.repository.paths import Address, Kind
from leaseha.repository.scrub import Scrub
from leaseha.repository.store import DirectoryStore
from tests.repository.cluster import Cluster, Node, pack
from tests.repository.served import name_of, until

FAST = DoorOptions(scrub_rate=1 << 30, scrub_every_s=0.0, compare_every_s=0.0)


def spoil(file: Path) -> None:
    """One bit, as a disk does it: same size, same time."""
    times = file.stat()
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(bytes([first[0] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


async def upkeep(node: Node) -> dict:
    return (await node.process.status()).upkeep


async def until_upkeep(node: Node, part: str, **wanted: int) -> dict:
    async with asyncio.timeout(20):
        while True:
            found = (await upkeep(node))[part]
            if all(found[name] >= least for name, least in wanted.items()):
                return found
            await asyncio.sleep(0.05)  # waits for a fact: the figures


def kept(node: Node) -> list[Path]:
    return [one for one in (node.root / ".leaseha/quarantine").rglob("*") if one.is_file()]


async def test_a_bad_object_of_a_standby_is_replaced_by_the_holders(cluster: Cluster):
    cluster.door = FAST
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200

    spoil(standby.file(path))
    await standby.until(lambda: standby.has(path, body), "it is good again")

    found = await until_upkeep(standby, "scrub", found=1, healed=1)
    assert found["bad"] == 0
    assert (await upkeep(holder))["mending"]["sent"] == 1
    assert cluster.insync == {"a", "b"}
    assert [one.name for one in kept(standby)] == [path[-64:]]
    assert kept(standby)[0].read_bytes() != body


async def test_a_bad_object_of_the_holder_is_fetched_from_a_member(cluster: Cluster):
    cluster.door = replace(FAST, metrics=True)
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(1_000_000)
    assert (await holder.ask("POST", path, body)).status == 200

    spoil(holder.file(path))
    await holder.until(lambda: holder.has(path, body), "it is good again")

    await until_upkeep(holder, "scrub", found=1, healed=1)
    assert (await upkeep(holder))["mending"]["fetched"] == 1
    metrics = (await holder.ask("GET", "/metrics")).body.decode().splitlines()
    for figure in ("scrub_found_total 1", "scrub_healed_total 1", "scrub_bad 0", "mending_fetched_total 1"):
        assert f"leaseha_repository_{figure}" in metrics
    assert (await holder.ask("GET", path)).body == body
    assert standby.has(path, body)


async def test_what_nobody_has_a_good_copy_of_stays_where_it_is_and_is_told(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    for node in (holder, standby):
        spoil(node.file(path))

    assert (await holder.process.change_door(FAST)).ok
    found = await until_upkeep(holder, "mending", lost=1)

    assert found["fetched"] == 0
    spoilt = (await holder.ask("GET", path)).body
    assert len(spoilt) == len(body)
    assert spoilt != body
    assert cluster.insync == {"a", "b"}


async def test_one_spoilt_object_does_not_keep_the_others_from_a_second_copy(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    packs = [pack(5000) for _ in range(10)]
    for path, body in packs:
        assert (await holder.ask("POST", path, body)).status == 200
    bad = packs[3][0]
    spoil(holder.file(bad))
    good = standby.file(bad)
    good.unlink()
    await standby.die()
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    assert cluster.insync == {"a"}

    await standby.restart()
    await cluster.all_in_sync("a", "b")

    assert standby.has(path, body)
    assert not good.exists()
    assert (await upkeep(holder))["scrub"]["bad"] == 1


async def test_a_member_that_takes_no_good_copy_counts_no_more_until_it_has_taken_it(cluster: Cluster):
    cluster.door = FAST
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    temporaries = standby.root / ".leaseha/tmp"
    temporaries.rename(standby.root / ".leaseha/elsewhere")

    spoil(standby.file(path))
    await holder.until(lambda: cluster.insync == {"a"}, "it counts no more")
    assert not standby.has(path, body)

    (standby.root / ".leaseha/elsewhere").rename(temporaries)
    await cluster.all_in_sync("a", "b")
    assert standby.has(path, body)


async def test_what_was_deleted_does_not_come_back_by_mending(cluster: Cluster):
    cluster.door = FAST
    holder, standby = await cluster.pair("a", "b")
    packs = [pack(50_000) for _ in range(20)]
    for path, body in packs:
        assert (await holder.ask("POST", path, body)).status == 200
    for path, _ in packs[:10]:
        spoil(standby.file(path))
    for path, _ in packs:
        assert (await holder.ask("DELETE", path)).status == 200

    await until_upkeep(standby, "scrub", read_bytes=1)
    assert not any(node.file(path).exists() for node in (holder, standby) for path, _ in packs)
    assert manifest(standby.root) == manifest(holder.root)


def filled(root: Path, count: int = 30) -> DirectoryStore:
    for number in range(count):
        body = b"%d" % number * 1000
        kind = ("data", "index", "snapshots")[number % 3]
        name = name_of(body)
        folder = root / "r" / kind / (name[:2] if kind == "data" else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return DirectoryStore(root)


def test_a_pass_goes_on_where_it_was_after_a_restart(tmp_path: Path):
    store = filled(tmp_path)
    allowed = [10]

    def active() -> bool:
        allowed[0] -= 1
        return allowed[0] > 0

    first = Scrub(store, active)
    first.pace.rate = 1 << 30
    first.begin()
    until(lambda: allowed[0] <= 0, "it was told to stop")
    first.end()
    until((tmp_path / ".leaseha/scrub").exists, "its place is kept")
    before = first.status()["pass_objects"]
    assert 0 < before < 30

    second = Scrub(store, lambda: True)
    second.pace.rate, second.every_s = 1 << 30, 3600.0
    assert second.status()["running"]
    second.begin()
    until(lambda: second.status()["finished_s"] > 0, "the pass is over")
    second.end()
    assert second.status()["pass_objects"] == 30
    assert second.status()["read_bytes"] + first.status()["read_bytes"] < 30 * 2000 + 4000


def test_bad_objects_are_remembered_over_a_restart_and_healed_ones_forgotten(tmp_path: Path):
    store = filled(tmp_path)
    bad = [one for one in (tmp_path / "r/data").rglob("*") if one.is_file()][:2]
    good = [one.read_bytes() for one in bad]
    for one in bad:
        spoil(one)
    result = Scrub(store, lambda: False).chore({}, progress := Progress())
    assert (result["ok"], result["bad"], result["objects"]) == (False, 2, 30)
    assert sorted(one.name in "".join(progress.found) for one in bad) == [True, True]

    new = bad[0].with_name("new")
    new.write_bytes(good[0])
    new.rename(bad[0])
    again = Scrub(store, lambda: False)
    assert again.status()["found"] == 2
    assert not again.suspect(Address(("r",), Kind.DATA, bad[0].name))
    assert again.suspect(Address(("r",), Kind.DATA, bad[1].name))
    assert not again.suspect(Address(("r",), Kind.DATA, "0" * 64))
    assert [one.name for one in again.bad()] == [bad[1].name]
    assert again.status()["healed"] == 1


def test_an_object_that_the_disk_does_not_give_is_bad_until_another_file_has_taken_its_place(tmp_path: Path):
    store = filled(tmp_path)
    victim = next(one for one in (tmp_path / "r/data").rglob("*") if one.is_file())
    sector, faults = [victim.stat().st_ino], []

    def read(path: Path, paced):
        if path.stat().st_ino in sector:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return hash_of(path, paced)

    scrub = Scrub(store, lambda: True, faults.append, read)
    scrub.pace.rate, scrub.every_s = 1 << 30, 3600.0
    scrub.begin()
    until(lambda: scrub.status()["finished_s"] > 0, "the pass goes on behind it")
    assert [one.name for one in scrub.bad()] == [victim.name]
    assert victim.exists()
    assert (tmp_path / ".leaseha/quarantine").exists()

    new = victim.with_name("new")
    new.write_bytes(victim.read_bytes())
    new.rename(victim)
    until(lambda: scrub.status()["healed"] == 1, "it is good again")
    scrub.end()
    assert scrub.bad() == []
    assert faults == []


def test_it_reads_no_faster_than_it_is_told(tmp_path: Path):
    store = filled(tmp_path)
    scrub = Scrub(store, lambda: True)
    scrub.pace.rate = 4000
    scrub.begin()
    until(lambda: scrub.read_bytes > 0, "it has begun")
    assert not scrub.status()["finished_s"]
    scrub.end()


async def test_the_chores_read_everything_and_say_what_differs(cluster: Cluster):
    cluster.door = replace(FAST, scrub_rate=0)
    holder, standby = await cluster.pair("a", "b")
    packs = [pack(5000) for _ in range(10)]
    for path, body in [*packs, ("/r/config", b"config")]:
        assert (await holder.ask("POST", path, body)).status == 200

    assert (await chore(holder, "verify", node="b"))["result"] == {
        "ok": True,
        "objects": 13,
        "differences": 0,
    }
    spoil(standby.file(packs[0][0]))
    standby.file(packs[1][0]).unlink()
    standby.file("/r/config").write_bytes(b"another")
    told = await chore(holder, "verify", node="b")
    assert told["result"] == {"ok": False, "objects": 13, "differences": 3}
    text = "\n".join(told["found"])
    assert f"{packs[0][0]}: good here, spoilt at b" in text
    assert f"{packs[1][0]}: good here, missing at b" in text
    await standby.until(lambda: standby.has(*packs[0]), "what it found is mended")

    assert (await chore(standby, "scrub"))["result"]["ok"]
    assert not (await standby.process.chore("verify", {"node": "a"})).ok
    assert "no other node c" in (await chore(holder, "verify", node="c"))["error"]


async def chore(one: Node, what: str, **arguments: str) -> dict:
    assert (await one.process.chore(what, arguments)).ok
    async with asyncio.timeout(20):
        while (told := (await one.process.status()).chores[what])["state"] == "running":
            await asyncio.sleep(0.02)  # waits for a fact: the chore's end
    return told
