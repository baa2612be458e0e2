"""What lies on the disk, and what is cleared away."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from leaseha.repository.durable import fsync_folder
from leaseha.repository.paths import Address, Kind
from leaseha.repository.store import DirectoryStore, WrongHashError
from leaseha.repository.temporary import Temporaries
from leaseha.repository.tokens import Mark
from tests.repository.served import CHILD_ENV, name_of

MARK = Mark(0, 7)
BODY = b"some bytes"
OBJECT = Address(("r",), Kind.DATA, name_of(BODY))


def put(store: DirectoryStore, address: Address, body: bytes) -> None:
    upload = store.begin(address, MARK, len(body))
    upload.write(memoryview(body))
    upload.verify()
    upload.publish(lambda: None)


def test_an_object_lies_where_restic_looks_for_it(tmp_path: Path):
    put(DirectoryStore(tmp_path), OBJECT, BODY)

    path = tmp_path / "r/data" / OBJECT.name[:2] / OBJECT.name
    assert path.read_bytes() == BODY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_bytes_of_another_name_are_told_before_anything_is_published(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    upload = store.begin(OBJECT, MARK, None)
    upload.write(memoryview(b"others"))

    with pytest.raises(WrongHashError):
        upload.verify()
    upload.abort()
    assert list((tmp_path / ".leaseha/tmp").iterdir()) == []


def test_a_last_word_against_it_leaves_no_trace(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    upload = store.begin(OBJECT, MARK, len(BODY))
    upload.write(memoryview(BODY))

    def no() -> None:
        raise PermissionError("too late")

    with pytest.raises(PermissionError, match="too late"):
        upload.publish(no)
    upload.abort()
    with pytest.raises(FileNotFoundError):
        store.open(OBJECT)


def test_a_promised_length_that_did_not_come_is_not_on_the_disk(tmp_path: Path):
    """Space is reserved for the promise; the object has its own size."""
    store = DirectoryStore(tmp_path)
    upload = store.begin(OBJECT, MARK, 1_000_000)
    upload.write(memoryview(BODY))
    upload.publish(lambda: None)

    with store.open(OBJECT) as stored:
        assert len(BODY) == stored.size


def test_deleting_is_idempotent(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    put(store, OBJECT, BODY)
    for _ in range(2):
        store.delete(OBJECT)

    assert list(store.entries(Address(("r",), Kind.DATA))) == []


class Disk:
    """A disk that says what it was told to keep, and may refuse."""

    def __init__(self) -> None:
        self.synced: list[Path] = []
        self.refuses = False

    def sync(self, folder: Path) -> None:
        if self.refuses:
            raise OSError(errno.EIO, "the disk refuses")
        fsync_folder(folder)
        self.synced.append(folder)


def test_a_deletion_that_finds_nothing_is_durable_too(tmp_path: Path):
    """Who removed it may have died before its fsync; what a client hears must hold after a power failure."""
    put(DirectoryStore(tmp_path), OBJECT, BODY)
    path = tmp_path / "r/data" / OBJECT.name[:2] / OBJECT.name
    path.unlink()
    disk = Disk()
    DirectoryStore(tmp_path, disk.sync).delete(OBJECT)

    assert disk.synced == [path.parent]


def test_a_deletion_in_a_folder_that_is_not_there_settles_the_next_one_above(tmp_path: Path):
    disk = Disk()
    DirectoryStore(tmp_path, disk.sync).delete(OBJECT)

    assert disk.synced == [tmp_path]


def test_a_deletion_that_the_disk_refuses_is_no_success(tmp_path: Path):
    disk = Disk()
    store = DirectoryStore(tmp_path, disk.sync)
    disk.refuses = True

    with pytest.raises(OSError, match="the disk refuses"):
        store.delete(OBJECT)


def test_folders_that_someone_else_made_are_settled_once_by_each_process(tmp_path: Path):
    folder = tmp_path / "r/data" / OBJECT.name[:2]
    folder.mkdir(parents=True)
    disk = Disk()
    store = DirectoryStore(tmp_path, disk.sync)
    put(store, OBJECT, BODY)
    assert disk.synced == [tmp_path, tmp_path / "r", tmp_path / "r/data"]

    put(store, OBJECT, BODY)
    assert len(disk.synced) == 3


def test_one_look_settles_all_data_folders_of_a_repository(tmp_path: Path):
    DirectoryStore(tmp_path).create(("r",))
    disk = Disk()
    store = DirectoryStore(tmp_path, disk.sync)
    for number in range(20):
        body = b"%d" % number
        put(store, Address(("r",), Kind.DATA, name_of(body)), body)

    assert len(disk.synced) == 3


def test_a_folder_that_the_disk_refused_is_settled_at_the_next_try(tmp_path: Path):
    disk = Disk()
    store = DirectoryStore(tmp_path, disk.sync)
    disk.refuses = True
    with pytest.raises(OSError, match="the disk refuses"):
        put(store, OBJECT, BODY)
    disk.refuses = False
    put(store, OBJECT, BODY)

    assert disk.synced == [tmp_path, tmp_path / "r", tmp_path / "r/data"]


def test_a_folder_that_was_removed_by_hand_is_made_again(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    put(store, OBJECT, BODY)
    shutil.rmtree(tmp_path / "r")
    put(store, OBJECT, BODY)

    with store.open(OBJECT) as stored:
        assert stored.size == len(BODY)


def test_an_open_object_stays_readable_while_it_is_deleted(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    put(store, OBJECT, BODY)
    with store.open(OBJECT) as stored:
        store.delete(OBJECT)
        assert os.pread(stored.fd, 100, 0) == BODY


def test_a_listing_survives_that_objects_vanish_under_it(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies:
        put(store, Address(("r",), Kind.INDEX, name_of(body)), body)
    listing = store.entries(Address(("r",), Kind.INDEX))
    first = next(listing)
    for body in bodies:
        store.delete(Address(("r",), Kind.INDEX, name_of(body)))

    assert first.name not in [entry.name for entry in listing]


def test_a_name_that_is_none_never_becomes_a_path(tmp_path: Path):
    with pytest.raises(ValueError, match="not the name"):
        DirectoryStore(tmp_path).open(Address(("r",), Kind.DATA, "../../config"))


def test_only_leftovers_of_the_dead_are_removed(tmp_path: Path):
    """Several processes share a directory: a live upload of another one stays."""
    folder = tmp_path / "tmp"
    mine = Temporaries(folder).make(MARK, None)
    script = """
        import sys
        from pathlib import Path
        from leaseha.repository.temporary import Temporaries
        from leaseha.repository.tokens import Mark
        made = Temporaries(Path(sys.argv[1])).make(Mark(0, 3), 100)
        print(made.path.name, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=top,
        env=CHILD_ENV,
    ) as other:
        theirs = other.stdout.readline().strip()
        assert Temporaries(folder).remove_stale() == 0
        assert {mine.path.name, theirs} == {entry.name for entry in folder.iterdir()}

        other.kill()
        other.wait()
        assert Temporaries(folder).remove_stale() == 1
        assert [mine.path.name] == [entry.name for entry in folder.iterdir()]
    mine.close(remove=True)


def test_a_temporary_says_whose_it_is(tmp_path: Path):
    made = Temporaries(tmp_path / "tmp").make(MARK, None)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]

    assert f"{MARK.name}.{boot}.{os.getpid()}.1" == made.path.name
    made.close(remove=True)
