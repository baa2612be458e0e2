"""Urgency is asked for and never needed: what is granted is given to threads, and to nothing that is started."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha import scheduling

SHOW = (
    "import os; print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0))"
)


def in_a_process(code: str, *, limits: str = "") -> dict:
    """What a fresh interpreter prints as JSON. `limits` is run first, in it."""
    head = "import json, os, resource, subprocess, sys, threading\nfrom leaseha import scheduling\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(limits) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


UNPRIVILEGED = """
for what in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE, resource.RLIMIT_MEMLOCK):
    resource.setrlimit(what, (0, 0))
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
"""
NICE_ONLY = UNPRIVILEGED.replace(
    "for what", "resource.setrlimit(resource.RLIMIT_NICE, (30, 30))\nfor what"
).replace("resource.RLIMIT_NICE, resource.RLIMIT_MEMLOCK)", "resource.RLIMIT_MEMLOCK)")
GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def permitted() -> None:
    if scheduling.why_not_realtime():
        pytest.skip(f"{scheduling.why_not_realtime()}: run as root")
    found = in_a_process("print(json.dumps(scheduling.raise_process()))")
    if found != scheduling.REAL_TIME:
        pytest.skip("the kernel grants no real-time priority to this group of processes")


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("takes other accounts: run as root")


def test_an_account_that_may_nothing_goes_on_as_an_ordinary_process(root: None):
    found = in_a_process(
        """
        rank = scheduling.raise_process()
        scheduling.follow()
        print(json.dumps([rank, scheduling.is_realtime(0), os.nice(0), scheduling.lock_memory(),
                          scheduling.why_not_realtime()]))
        """,
        limits=UNPRIVILEGED,
    )

    assert found[:3] == [scheduling.NORMAL, False, 0]
    assert "LimitMEMLOCK=infinity" in found[3]
    assert "LimitRTPRIO=5" in found[4]


def may(code: str) -> bool:
    return (
        subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


REFUSING = [
    *(["a limit"] if may("import resource; resource.setrlimit(resource.RLIMIT_NICE, (30, 30))") else []),
    *(["a group"] if (GROUPS / "cpu.rt_runtime_us").exists() and os.access(GROUPS, os.W_OK) else []),
]
"""How real-time can be refused here: a limit takes CAP_SYS_RESOURCE, a group's share CONFIG_RT_GROUP_SCHED."""


@pytest.fixture(params=REFUSING)
def refused(request: pytest.FixtureRequest, root: None) -> Iterator[str]:
    """What makes a process one that may be better than others, and not real-time."""
    if request.param == "a limit":
        yield NICE_ONLY
        return
    group = GROUPS / f"leaseha-test-{os.getpid()}"
    group.mkdir()
    try:
        yield f"with open('{group}/tasks', 'w') as file: file.write(str(os.getpid()))\n"
    finally:
        group.rmdir()


def test_where_real_time_is_refused_a_better_nice_value_is_taken_and_given_back(refused: str):
    found = in_a_process(
        """
        show = ["python3", "-c", "import os; print(os.sched_getscheduler(0) & 3, os.nice(0))"]
        rank = scheduling.raise_process()
        nice = os.nice(0)
        child = subprocess.run(show, capture_output=True, text=True).stdout.split()
        scheduling.lower_process()
        print(json.dumps([rank, nice, child, scheduling.rank(), os.nice(0)]))
        """,
        limits=refused,
    )

    assert found == [scheduling.RAISED, scheduling.NICE, ["0", "0"], scheduling.NORMAL, 0]


def test_every_thread_has_it_whoever_started_it_and_no_process_that_any_of_them_starts(permitted: None):
    found = in_a_process(
        f"""
        def start():
            done = subprocess.run([sys.executable, "-c", {SHOW!r}], capture_output=True, text=True)
            children.append(done.stdout.split())

        def work(forks):
            scheduling.follow(forks=forks)
            ready.set()
            if forks:
                start()
            over.wait()

        children, over = [], threading.Event()
        rank = scheduling.raise_process()
        start()
        for forks in (True, False):
            ready = threading.Event()
            threading.Thread(target=work, args=(forks,), daemon=True).start()
            ready.wait()
        stranger = threading.Thread(target=over.wait, daemon=True)
        stranger.start()
        before = scheduling.is_realtime(stranger.native_id)
        scheduling.sweep()
        threads = [scheduling.is_realtime(one) for one in scheduling.threads()]
        while len(children) < 2:
            pass
        scheduling.lower_process()
        after = [scheduling.is_realtime(one) for one in scheduling.threads()]
        print(json.dumps([rank, children, before, threads, after]))
        """
    )

    assert found == [scheduling.REAL_TIME, [["0", "0"]] * 2, False, [True] * 4, [False] * 4]


def test_what_computes_without_end_is_told_so_and_then_ended(permitted: None):
    found = in_a_process(
        """
        import signal
        told = []
        signal.signal(signal.SIGXCPU, lambda *_: told.append(scheduling.lower_process()))
        scheduling.RUN_S = 0
        scheduling.raise_process()
        limits = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (50_000, limits[1]))
        while not told:
            pass
        print(json.dumps([limits[1] // 1_000_000, scheduling.rank(), scheduling.is_realtime(0)]))
        """
    )

    assert found == [scheduling.RUN_MAX_S, scheduling.NORMAL, False]


def test_locked_memory_costs_none_that_was_not_used_before(permitted: None):
    if why := scheduling.why_not_locked():
        pytest.skip(f"{why}: run as root")
    found = in_a_process(
        """
        import ctypes
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4
        before = resident()
        why = scheduling.lock_memory()
        big = bytearray(1)
        import mmap
        area = mmap.mmap(-1, 64 << 20)
        print(json.dumps([why, resident() - before]))
        """
    )

    assert found[0] == ""
    assert found[1] < 4 * 1024
