"""A data directory is the one that was served before, or it is not served; and nobody makes it but its operator."""

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from leaseha.runtime.datadir import DataDirectory


class Disk:
    """A directory in which a disk can be mounted, as seen by one node."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mount"
        self.away = folder / "disk"
        self.state = folder / "state"

    def plug(self) -> None:
        """The mount point gets the disk."""
        self.path.rmdir()
        self.away.rename(self.path)

    def unplug(self) -> None:
        """The disk goes; an empty mount point is left."""
        self.path.rename(self.away)
        self.path.mkdir()

    def node(self) -> DataDirectory:
        """A node that starts, with what it remembers."""
        return DataDirectory("backups", self.path, self.state)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path)
    disk.path.mkdir()
    return disk


def test_the_first_use_gives_the_directory_an_identity_and_the_node_remembers_it(disk: Disk):
    assert disk.node().claim() == ""

    found = (disk.path / ".leaseha/store-id").read_text().strip()
    assert str(uuid.UUID(found)) == found
    assert (disk.state / "stores/backups").read_text().strip() == found
    assert disk.node().claim() == "", "and again after a restart"


def test_a_missing_directory_is_named_with_its_key_and_never_made(disk: Disk):
    disk.path.rmdir()

    why = disk.node().claim()

    key = f"lease.backups.repository.path = {disk.path}"
    assert why == f"{key}: there is no such directory: create it, or mount it"
    assert not disk.path.exists()


def test_an_empty_mount_point_is_not_what_was_served_before(disk: Disk):
    disk.node().claim()
    disk.unplug()

    why = disk.node().claim()

    assert why == (
        f"the data directory {disk.path} is not the one that this node served before (is it mounted?);"
        f" if it is meant, remove {disk.state}/stores/backups"
    )
    assert list(disk.path.iterdir()) == [], "nothing was written where the disk will be"


def test_the_disk_that_comes_back_is_served_again(disk: Disk):
    node = disk.node()
    node.claim()
    disk.unplug()
    assert node.claim()

    disk.plug()

    assert node.claim() == ""


def test_another_disk_is_refused_until_the_operator_says_that_it_is_meant(disk: Disk):
    disk.node().claim()
    disk.unplug()
    DataDirectory("backups", disk.path, disk.path.with_name("another node")).claim()
    assert "not the one" in disk.node().claim()

    (disk.state / "stores/backups").unlink()

    assert disk.node().claim() == ""
    assert (disk.state / "stores/backups").read_text() == (disk.path / ".leaseha/store-id").read_text()


def test_nodes_that_share_a_directory_agree_on_its_identity(disk: Disk):
    others = [DataDirectory("backups", disk.path, disk.path.with_name(f"node{n}")) for n in range(3)]

    assert [node.claim() for node in others] == ["", "", ""]
    assert len({node.memory.read_text() for node in others}) == 1


def test_to_look_is_not_to_write(disk: Disk):
    assert disk.node().trouble() == ""

    assert list(disk.path.iterdir()) == []
    assert not disk.state.exists()


def test_a_file_in_its_place_is_a_sentence_and_no_error(disk: Disk):
    disk.path.rmdir()
    disk.path.write_text("")

    assert "is no directory: move that file away" in disk.node().claim()


def test_a_memory_that_cannot_be_kept_is_a_sentence_that_names_the_file(disk: Disk):
    disk.state.write_text("a file where the state directory should be")

    assert f"cannot be used: Not a directory ({disk.state}/stores" in disk.node().claim()


async def test_looks_that_overlap_each_have_their_answer(disk: Disk):
    """A takeover looks, and so does who keeps the lease ready, at the same time."""
    node = disk.node()

    async def often() -> set[str]:
        return {await node.look() for _ in range(50)}

    assert await asyncio.gather(*(often() for _ in range(4))) == [{""}] * 4


async def test_a_directory_whose_server_is_away_is_given_up_in_time(disk: Disk, tmp_path: Path):
    """As on a dead network disk: a look that never returns. Here a pipe that nobody writes to."""
    node = disk.node()
    node.claim()
    node.memory.unlink()
    os.mkfifo(node.memory)
    try:
        with pytest.raises(TimeoutError, match="has not answered for"):
            await node.look(0.2)
    finally:
        with open(os.open(node.memory, os.O_WRONLY), "w") as pipe:  # noqa: PTH123 - lets the thread go
            pipe.write("")
