"""A disk whose fsync fails in mid-backup, by a file system of our own: no acknowledgement rests on it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from tests.e2e.cluster import FIRST, SECOND, log_of, run_cli, wait_until
from tests.e2e.test_copies import in_sync, level, objects, pair, serves, written_set
from tests.e2e.test_sick_disks import SIZE, backing_up

pytestmark = [
    pytest.mark.netns,
    pytest.mark.lab,
    pytest.mark.skipif(
        not (find_library("fuse3") or find_library("fuse")), reason="no libfuse: apt-get install libfuse2"
    ),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="the kernel has no /dev/fuse"),
]


@contextlib.contextmanager
def disk_of(folder: Path, node: str) -> Iterator[Path]:
    """Gives the file that makes every fsync on this node's data fail while it exists."""
    backing, trigger, at = folder.parent / "backing", folder.parent / "sick", folder / f"{node}.data"
    for one in (backing, at):
        one.mkdir(parents=True, mode=0o700)
    command = [sys.executable, "-m", "tests.e2e.fsync_disk", str(backing), str(at), str(trigger)]
    process = subprocess.Popen(command)
    try:
        wait_until("the file system is there", lambda: at.is_mount() or process.poll() is not None)
        assert process.poll() is None, "the file system could not be mounted"
        yield trigger
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)
        process.terminate()
        process.wait(20)


def test_a_standby_that_cannot_fsync_leaves_the_set_and_the_backup_ends_well(restic: str, tmp_path: Path):
    folder = tmp_path / "lab"
    with disk_of(folder, SECOND) as sick, pair(folder) as lab:
        with backing_up(tmp_path, lab) as backup:
            backup.wait_stored(lab.data(SECOND), SIZE // 3, 60)
            sick.touch()
            wait_until("the standby is out of the set", lambda: in_sync(lab, FIRST) == [FIRST])
        assert len(written_set(lab)) == 1
        assert "ONE COPY" in run_cli(lab, FIRST, "status").stdout

        sick.unlink()
        level(lab, FIRST)
        assert objects(lab, SECOND) == objects(lab, FIRST)


def test_a_holder_that_cannot_fsync_yields_and_the_backup_goes_on(restic: str, tmp_path: Path):
    folder = tmp_path / "lab"
    with disk_of(folder, FIRST) as sick, pair(folder) as lab:
        with backing_up(tmp_path, lab) as backup:
            backup.wait_stored(lab.data(SECOND), SIZE // 3, 60)
            sick.touch()
            serves(lab, SECOND)
        assert "EIO" in log_of(lab, FIRST)

        sick.unlink()
        level(lab, SECOND)
        assert objects(lab, FIRST) == objects(lab, SECOND)
