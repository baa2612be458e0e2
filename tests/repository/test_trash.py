"""What clients delete is kept for a while and can be brought back; what leaseha puts aside is kept longer."""

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
from datetime import date, timedelta
from pathlib import Path

import pytest

from leaseha.repository.aside import Aside, Keeper
from leaseha.repository.chores import Chores, Progress
from leaseha.repository.door import DoorOptions
from leaseha.repository.durable import fsync_folder
from leaseha.repository.paths import Address, Kind
from leaseha.repository.replicate import SingleCopy
from leaseha.repository.store import DirectoryStore
from leaseha.repository.undelete import Undelete
from tests.repository.cluster import Cluster, pack
from tests.repository.served import CHILD_ENV, Served, name_of, until

TOP = Path(__file__).parents[2]
BODY = os.urandom(5000)
NAME = name_of(BODY)
PACK = Address(("r",), Kind.DATA, NAME)
TODAY = date(2026, 3, 10)
ALL = {"repository": None, "since": "", "names": []}


def aside(root: Path, keep_days: int = 7, today: date = TODAY, **options) -> Aside:
    return Aside(root, root / ".leaseha/trash", keep_days, today=lambda: today, **options)


def put(served: Served, kind: str = "data", body: bytes = BODY, repo: str = "/r/") -> str:
    path = f"{repo}{kind}/{name_of(body)}" if kind != "config" else f"{repo}config"
    assert served.ask("POST", path, body).status == 200
    return path


def undelete(served: Served, **wish) -> tuple[dict, Progress]:
    progress = Progress()
    chore = Undelete(served.store, served.gate, SingleCopy(), served.usage)
    return chore({**ALL, **wish}, progress), progress


def in_trash(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".leaseha/trash").rglob("*") if path.is_file())


# ---- going there


def test_what_a_client_deletes_is_in_the_trash_of_the_day_and_nowhere_else(served: Served):
    path = put(served)

    assert served.ask("DELETE", path).status == 200

    assert served.ask("HEAD", path).status == 404
    assert [kept.address for kept in served.store.trash.entries()] == [PACK]
    (kept,) = served.store.trash.entries()
    assert kept.path == served.root / ".leaseha/trash" / kept.day / "r/data" / NAME
    assert kept.path.read_bytes() == BODY
    assert (served.store.trash.objects, served.store.trash.bytes) == (1, len(BODY))


def test_the_same_name_deleted_twice_on_a_day_is_kept_twice(served: Served):
    for _ in range(3):
        assert served.ask("DELETE", put(served)).status == 200

    assert in_trash(served.root) == [NAME, f"{NAME}.1", f"{NAME}.2"]


def test_a_lock_is_gone_for_good(served: Served):
    assert served.ask("DELETE", put(served, "locks")).status == 200

    assert in_trash(served.root) == []


def test_deleting_what_is_not_there_is_no_error_and_leaves_nothing(served: Served):
    assert served.ask("DELETE", f"/r/data/{NAME}").status == 200

    assert in_trash(served.root) == []


def test_where_nothing_is_kept_a_delete_is_for_good(served: Served):
    served.store.trash.keep_days = 0

    assert served.ask("DELETE", put(served)).status == 200

    assert in_trash(served.root) == []


def test_a_delete_is_durable_on_both_sides_before_it_is_answered(tmp_path: Path):
    """The new place first: a power failure between the two leaves it in one of them at least."""
    synced: list[Path] = []
    store = DirectoryStore(tmp_path, lambda folder: (synced.append(folder), fsync_folder(folder))[0])
    path = tmp_path / "r/data" / NAME[:2] / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)

    store.delete(PACK)

    (kept,) = store.trash.entries()
    assert synced[-2:] == [kept.path.parent, path.parent]
    # And each folder on the way there, in the one above it.
    above = [tmp_path, *list(kept.path.parent.parents)[:-1]]
    assert {folder for folder in above if folder.is_relative_to(tmp_path / ".leaseha")} <= {*synced}
    assert tmp_path in synced


def test_a_delete_that_cannot_be_made_durable_is_not_acknowledged(tmp_path: Path):
    def refuse(folder: Path) -> None:
        if "trash" in folder.parts and folder.name == "data":
            raise OSError(5, "Input/output error")
        fsync_folder(folder)

    store = DirectoryStore(tmp_path, refuse)
    path = tmp_path / "r/data" / NAME[:2] / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)

    with pytest.raises(OSError, match="Input/output"):
        store.delete(PACK)


def test_something_that_is_no_file_is_not_moved(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    (tmp_path / "r/data" / NAME[:2] / NAME).mkdir(parents=True)

    with pytest.raises((IsADirectoryError, PermissionError)):
        store.delete(PACK)

    assert in_trash(tmp_path) == []


# ---- being emptied


def filled(root: Path, *days_ago: int, size: int = 100) -> None:
    for days in days_ago:
        source = root / "source"
        source.write_bytes(os.urandom(size))
        address = Address(("a", "b"), Kind.INDEX, name_of(source.read_bytes()))
        assert aside(root, today=TODAY - timedelta(days=days)).put(source, address)


def test_whole_days_are_removed_when_they_are_older_than_is_kept(tmp_path: Path):
    filled(tmp_path, 0, 7, 8, 30)
    trash = aside(tmp_path)

    assert trash.purge() == 2

    assert trash.days() == ["2026-03-03", "2026-03-10"]
    assert sorted(path.name for path in trash.folder.iterdir()) == trash.days()
    assert aside(tmp_path, keep_days=0).purge() == 2
    assert list(trash.folder.iterdir()) == []


def test_what_is_not_ours_in_there_stays(tmp_path: Path):
    filled(tmp_path, 30)
    foreign = tmp_path / ".leaseha/trash/2026-02-08/a/b/index/notes.txt"
    foreign.write_text("mine")

    assert aside(tmp_path).purge() == 1

    assert foreign.exists()


def test_the_oldest_goes_first_when_room_is_needed_and_no_more_than_that(tmp_path: Path):
    filled(tmp_path, 0, 1, 2, 3)
    trash = aside(tmp_path)

    assert trash.make_room(150)

    assert trash.days() == ["2026-03-07", "2026-03-08", "2026-03-09", "2026-03-10"]
    assert [kept.day for kept in trash.entries()] == ["2026-03-09", "2026-03-10"]


def test_nothing_is_emptied_while_it_is_brought_back(tmp_path: Path):
    filled(tmp_path, 0, 30)
    trash = aside(tmp_path)

    with trash.pinned():
        assert not trash.make_room(1)
        assert trash.purge() == 0

    assert trash.purge() == 1


def test_the_keeper_counts_what_is_there_and_empties_what_is_old(tmp_path: Path):
    filled(tmp_path, 0, 30)
    trash = aside(tmp_path)
    keeper = Keeper(trash, first_s=0.01)

    keeper.begin()
    until(lambda: (trash.objects, trash.bytes, trash.purged) == (1, 100, 1), "it was emptied and counted")
    keeper.end()


SMALL_DISK = """
    import os, sys
    from pathlib import Path
    from tests.repository.served import Client, Served, name_of

    served = Served(Path(sys.argv[1]))
    bodies = [os.urandom(1_500_000) for _ in range(4)]
    said = []
    with Client(served.port) as client:
        for body in bodies[:3]:  # each needs the room of the one before
            said.append(client.post("/r/data/" + name_of(body), body))
            said.append(client.ask("DELETE", "/r/data/" + name_of(body)).status)
        said.append(client.post("/r/data/" + name_of(bodies[3]), bodies[3]))
        said.append(client.post("/r/data/" + name_of(bodies[0]), bodies[0]))  # nothing is left to go for it
    print(*said, len(list(served.store.trash.entries())), served.temporaries())
"""


def test_a_full_disk_gives_the_trash_up_before_it_refuses_an_upload(tmp_path: Path):
    """A file system of 2 MiB in a mount namespace of its own."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, timeout=20).returncode
    ):
        pytest.skip("needs a mount namespace (Debian package util-linux, and user namespaces allowed)")
    mount = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, textwrap.dedent(SMALL_DISK)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TOP,
        env=CHILD_ENV,
    )

    assert done.stdout == "200 200 200 200 200 200 200 507 0 []\n", done.stderr


# ---- coming back


def test_all_that_was_deleted_comes_back_and_leaves_the_trash(served: Served):
    bodies = {kind: os.urandom(4000) for kind in ("config", "keys", "data", "index", "snapshots")}
    paths = {put(served, kind, body): body for kind, body in bodies.items()}
    for path in paths:
        assert served.ask("DELETE", path).status == 200

    result, _ = undelete(served)

    assert result == {
        "ok": True, "restored": 5, "bytes": 20_000, "there_already": 0, "damaged": 0, "refused": 0,
    }  # fmt: skip
    assert all(served.ask("GET", path).body == body for path, body in paths.items())
    assert in_trash(served.root) == []
    assert served.usage.uses()["r",].total_bytes == 20_000


def test_packs_come_before_what_says_that_they_are_there(served: Served):
    for kind in ("snapshots", "index", "data", "keys"):
        assert served.ask("DELETE", put(served, kind, os.urandom(10))).status == 200
    came: list[Kind] = []

    class Watching(SingleCopy):
        def upload(self, address, mark, length):
            came.append(address.kind)
            return super().upload(address, mark, length)

    Undelete(served.store, served.gate, Watching(), served.usage)(ALL, Progress())

    assert came == [Kind.KEYS, Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS]


@pytest.mark.parametrize(
    ("wish", "back"),
    [
        ({"repository": "s"}, 1),
        ({"repository": "other"}, 0),
        ({"names": [NAME[:8]]}, 2),
        ({"names": ["config"]}, 0),
        ({"since": "9999-01-01"}, 0),
        ({"since": "2000-01-01"}, 3),
    ],
)
def test_only_what_is_asked_for_comes_back(served: Served, wish: dict, back: int):
    for path in (put(served), put(served, repo="/s/"), put(served, body=b"other")):
        assert served.ask("DELETE", path).status == 200

    assert undelete(served, **wish)[0]["restored"] == back


def test_bytes_that_spoilt_in_the_trash_stay_there_and_an_older_copy_comes_back(served: Served):
    path = put(served)
    for _ in range(2):
        put(served)
        assert served.ask("DELETE", path).status == 200
    trash = {kept.path.name: kept.path for kept in served.store.trash.entries()}
    trash[f"{NAME}.1"].write_bytes(b"spoilt")
    assert undelete(served)[0]["restored"] == 1
    assert served.ask("GET", path).body == BODY

    assert served.ask("DELETE", path).status == 200
    (kept,) = served.store.trash.entries()
    kept.path.write_bytes(b"spoilt")
    result, progress = undelete(served)

    assert (result["ok"], result["damaged"]) == (False, 1)
    assert "not what its name says" in progress.found[0]
    assert served.ask("HEAD", path).status == 404
    assert kept.path.read_bytes() == b"spoilt"


def test_nothing_that_is_there_is_replaced(served: Served):
    path, config = put(served), put(served, "config", b"old")
    for one in (path, config):
        assert served.ask("DELETE", one).status == 200
    put(served)
    put(served, "config", b"new")

    result, progress = undelete(served)

    assert (result["there_already"], result["refused"], result["restored"]) == (1, 1, 0)
    assert served.ask("GET", config).body == b"new"
    assert "another config" in progress.found[0]


def test_a_gate_that_closes_ends_it_and_what_is_left_stays_in_the_trash(served: Served):
    for number in range(3):
        assert served.ask("DELETE", put(served, body=bytes([number]) * 100)).status == 200

    class Closing(SingleCopy):
        def upload(self, address, mark, length):
            served.gate.close("the service moves")
            return super().upload(address, mark, length)

    chores = Chores()
    chore = Undelete(served.store, served.gate, Closing(), served.usage)
    chores.register("undelete", chore, chore.allowed)
    assert chores.begin("undelete", ALL) == ""
    until(lambda: chores.status()["undelete"]["state"] == "failed", "it ended")

    assert "the service moves" in chores.status()["undelete"]["error"]
    assert len(in_trash(served.root)) == 3
    assert "only the holder" in chores.begin("undelete", ALL)


# ---- the quarantine


def test_what_is_put_aside_twice_on_a_day_is_kept_twice_and_folders_are_durable(tmp_path: Path):
    synced: list[Path] = []
    store = DirectoryStore(tmp_path, lambda folder: (synced.append(folder), fsync_folder(folder))[0])
    path = tmp_path / "r/data" / NAME[:2] / NAME
    path.parent.mkdir(parents=True)
    for body in (b"spoilt once", b"spoilt twice"):
        path.write_bytes(body)
        assert store.put_aside(PACK)
    assert not store.put_aside(PACK)

    kept = list(store.quarantine.entries())
    assert {one.path.read_bytes() for one in kept} == {b"spoilt once", b"spoilt twice"}
    assert {kept[0].path.parent, *list(kept[0].path.parents)[:4], path.parent} <= {*synced}
    assert (store.quarantine.objects, store.trash.objects) == (2, 0)


async def test_how_long_things_are_kept_can_change_while_it_runs(agent):
    assert (await agent.serve()).ok
    assert (await agent.process.change_door(DoorOptions(trash_days=0))).ok
    assert (await agent.ask("POST", f"/r/data/{NAME}", BODY)).status == 200

    assert (await agent.ask("DELETE", f"/r/data/{NAME}")).status == 200

    assert in_trash(agent.root) == []


async def test_the_metrics_say_what_is_kept_and_what_is_gone_for_good(agent):
    assert (await agent.serve()).ok
    assert (await agent.process.change_door(DoorOptions(metrics=True))).ok
    assert (await agent.ask("POST", f"/r/data/{NAME}", BODY)).status == 200
    assert (await agent.ask("DELETE", f"/r/data/{NAME}")).status == 200

    lines = (await agent.ask("GET", "/metrics")).body.decode().splitlines()

    assert {"leaseha_repository_trash_bytes 5000", "leaseha_repository_trash_objects 1"} <= {*lines}
    assert {"leaseha_repository_quarantine_bytes 0", "leaseha_repository_trash_purged_total 0"} <= {*lines}


# ---- on two nodes


async def outcome(node, what: str) -> dict:
    async with asyncio.timeout(20):
        while (told := (await node.process.status()).chores[what])["state"] == "running":
            await asyncio.sleep(0.01)  # waits for a fact: it has ended
    return told


async def test_what_comes_back_is_on_the_standby_too(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    assert (await holder.ask("DELETE", path)).status == 200
    assert in_trash(holder.root) == in_trash(standby.root) == [path[-64:]]

    refused = await standby.process.chore("undelete", ALL)
    assert (await holder.process.chore("undelete", ALL)).ok
    told = await outcome(holder, "undelete")

    assert (refused.ok, refused.why[:15]) == (False, "only the holder")
    assert (told["state"], told["done"], told["total"], told["result"]["restored"]) == ("done", 1, 1, 1)
    assert holder.has(path, body)
    assert standby.has(path, body)
    assert (await holder.ask("GET", path)).body == body
    assert in_trash(holder.root) == []
    assert (await holder.replication())["copies"] == 2


async def test_an_unknown_chore_and_a_second_of_a_kind_are_refused_in_a_sentence(cluster: Cluster):
    (node,) = await cluster.add("a")

    answer = await node.process.chore("whitewash", {})

    assert answer.why == "this version knows no chore 'whitewash', only scrub, undelete, verify"
