"""A disk that is full, or turns read-only, in mid-backup: real file systems, real restic, and the backup ends well."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.backup import Backup, chosen_client
from leaseha.lab.lab import LEASE, REPOSITORY_PORT, Lab
from tests.e2e.cluster import FIRST, SECOND, log_of, run_cli, wait_logged, wait_until
from tests.e2e.test_copies import MIB, in_sync, level, objects, pair, serves, written_set

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SIZE = 40 * MIB
SPEED_KIB_S = 16 * 1024


def mount(*arguments: str) -> bool:
    """In the mount namespace of the sandbox. False: it cannot be done now."""
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def disk_of(folder: Path, node: str, size: str) -> Iterator[Path]:
    """A file system of its own for a node's data, there before the lab is."""
    at = folder / f"{node}.data"
    at.mkdir(parents=True)
    assert mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@contextlib.contextmanager
def backing_up(folder: Path, lab: Lab) -> Iterator[Backup]:
    """Under way, and in the end done well by itself."""
    backup = Backup(chosen_client(), lab.client, folder, lab.vip, REPOSITORY_PORT)
    backup.make_files(SIZE)
    backup.prepare()
    backup.start(SPEED_KIB_S)
    yield backup
    code, output = backup.wait(90)
    assert code == 0, output
    assert backup.check(60) == ""


def make_read_only(disk: Path) -> None:
    """As a kernel does that has met an error on it. It waits for a moment when nobody writes a file."""
    until = time.monotonic() + 30
    while not mount("-o", "remount,ro", str(disk)):
        assert time.monotonic() < until


def test_a_standby_whose_disk_is_full_leaves_the_set_and_comes_back_when_there_is_room(
    restic: str, tmp_path: Path
):
    folder = tmp_path / "lab"
    with disk_of(folder, SECOND, f"{SIZE // 2}") as disk, pair(folder) as lab:
        with backing_up(tmp_path, lab):
            wait_until("the standby is out of the set", lambda: in_sync(lab, FIRST) == [FIRST])
        assert "no space left" in log_of(lab, FIRST) + log_of(lab, SECOND)
        assert "ONE COPY" in run_cli(lab, FIRST, "status").stdout
        assert len(written_set(lab)) == 1

        assert mount("-o", f"remount,size={4 * SIZE}", str(disk))
        level(lab, FIRST)
        assert objects(lab, SECOND) == objects(lab, FIRST)


def test_a_holder_whose_disk_turns_read_only_lets_the_standby_serve_at_once(restic: str, tmp_path: Path):
    folder = tmp_path / "lab"
    with disk_of(folder, FIRST, f"{4 * SIZE}") as disk, pair(folder) as lab:
        with backing_up(tmp_path, lab) as backup:
            backup.wait_stored(lab.data(SECOND), SIZE // 2, 60)
            make_read_only(disk)
            serves(lab, SECOND)
        wait_logged(lab, FIRST, "EROFS")
        assert lab.nodes[FIRST].status()["leases"][LEASE]["holder"] == SECOND

        assert mount("-o", "remount,rw", str(disk))
        level(lab, SECOND)
        assert objects(lab, FIRST) == objects(lab, SECOND)


def test_a_standby_whose_disk_turns_read_only_costs_a_copy_and_no_backup(restic: str, tmp_path: Path):
    folder = tmp_path / "lab"
    with disk_of(folder, SECOND, f"{4 * SIZE}") as disk, pair(folder) as lab:
        with backing_up(tmp_path, lab) as backup:
            backup.wait_stored(lab.data(SECOND), SIZE // 2, 60)
            make_read_only(disk)
            wait_until("the standby is out of the set", lambda: in_sync(lab, FIRST) == [FIRST])

        assert mount("-o", "remount,rw", str(disk))
        level(lab, FIRST)
        assert objects(lab, SECOND) == objects(lab, FIRST)
