"""Whatever the agent of a service started ends with it: no session, double fork or cleared environment leads out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.runtime.guard_tree import kill_all, members, service_group
from tests.runtime.standing import until

ESCAPE = """
import os, sys
os.setsid()
if os.fork():
    os._exit(0)
open(sys.argv[2] + "/cgroup.procs", "w").write(str(os.getpid())) if sys.argv[2] else None
if os.fork():
    os._exit(0)
os.setsid()
open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.execve("/bin/sleep", ["sleep", "60"], {})
"""
MARK = "LEASEHA_TREE_TEST=1"


@pytest.fixture
def group() -> Iterator[str]:
    """A cgroup of this test's own."""
    for tree in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/freezer"):
        path = Path(tree) / f"leaseha-test-{os.getpid()}.service"
        if not (Path(tree) / "cgroup.procs").exists():
            continue
        try:
            path.mkdir()
        except OSError:
            continue
        yield str(path)
        for inner in (*path.glob("*/"), path):
            inner.rmdir()
        return
    pytest.skip("no cgroup can be made here: run as root on a machine with a writable /sys/fs/cgroup")


def daemon(folder: Path, group: str) -> int:
    """Double-forked, in a session of its own, without an environment."""
    note = folder / "pid"
    subprocess.run([sys.executable, "-c", ESCAPE, str(note), group], check=True, timeout=20)
    until("the daemon stands alone", note.exists)
    return int(note.read_text())


def test_a_daemon_that_dropped_everything_is_killed_by_its_cgroup(group, tmp_path):
    pid = daemon(tmp_path, group)
    assert members(group) == {pid}

    kill_all(MARK, group)

    assert members(group) == set()


def test_one_in_a_group_below_is_killed_too(group, tmp_path):
    inner = Path(group) / "inner"
    inner.mkdir()
    pid = daemon(tmp_path, str(inner))

    kill_all(MARK, group)

    until("it is gone", lambda: not Path(f"/proc/{pid}").exists() or members(group) == set())


def test_a_group_that_is_gone_has_nobody(tmp_path):
    assert members(str(tmp_path / "none")) == set()


V2 = "0::/system.slice/leaseha.service\n"
V1 = "9:name=systemd:/system.slice/leaseha.service\n1:cpu:/\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "at"),
    [(V2, ""), (V1, "systemd"), ("0::/system.slice/leaseha.service", "unified")],
)
def test_the_main_process_of_a_service_owns_its_cgroup(tmp_path, groups, at):
    place = tmp_path / at / "system.slice/leaseha.service"
    place.mkdir(parents=True)
    (place / "cgroup.procs").touch()

    assert service_group(77, "77", groups, str(tmp_path)) == str(place)


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ("", V2),
        ("76", V2),  # something in a service, such as cron's, started the agent: the rest is not ours
        ("77", "0::/user.slice/user-0.slice/session-1.scope\n"),
        ("77", "0::/\n"),
        ("77", "0::/../other.service\n"),
    ],
)
def test_no_other_cgroup_is_taken_for_its_own(tmp_path, said, groups):
    place = tmp_path / "system.slice/leaseha.service"
    place.mkdir(parents=True)
    (place / "cgroup.procs").touch()

    assert service_group(77, said, groups, str(tmp_path)) == ""
