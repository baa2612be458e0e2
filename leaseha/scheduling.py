"""How urgent the kernel takes this process to be: real-time or raised priority, and memory that stays in memory.

For agent and guard alike, so of the standard library alone, and asked of the kernel only where it is permitted:
nothing here is needed, and nothing raises for what is refused. What is raised are threads, one by one: the kernel
knows no priority of a process. A thread that starts processes gives its urgency to none of them
(SCHED_RESET_ON_FORK), nor to threads that it starts, which is why each of ours asks for its own (`follow`).

What it does not promise: that nothing comes before. Other real-time threads do, and interrupts; and the kernel leaves
5 % to the rest by default (`sched_rt_runtime_us`), and takes real-time from groups without a budget of their own.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import Final

REALTIME_PRIORITY: Final = 5
"""Of 1 to 99: above every ordinary process, below the kernel's own threads for interrupts, which are at 50."""
NICE: Final = -10
RUN_S: Final = 2
"""A real-time thread that computes for so long without a pause is told so (SIGXCPU)."""
RUN_MAX_S: Final = 10
"""And killed after this: it would be a fault, and nobody could log in to see it."""

REAL_TIME: Final = "real-time"
RAISED: Final = "raised"
NORMAL: Final = "normal"
RANKS: Final = (NORMAL, RAISED, REAL_TIME)
"""Least first."""

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK: Final = 14
_CAP_SYS_NICE: Final = 23


class _Process:
    """This one."""

    rank = NORMAL
    """What its threads are to have."""


def rank() -> str:
    """What this process was granted: one of `RANKS`."""
    return _Process.rank


def raise_process() -> str:
    """Every thread of this process as urgent as is permitted; what came of it. The caller's may start processes."""
    me = os.getpid()
    _limit_runs()
    if _set_realtime(me, forks=True):
        _Process.rank = REAL_TIME
    elif _set_nice(me, forks=True):
        _Process.rank = RAISED
        _set_group(NICE)
    else:
        _Process.rank = NORMAL
    sweep()
    return _Process.rank


def lower_process() -> None:
    """Ordinary again, all of it, for as long as this process lives."""
    raised, _Process.rank = _Process.rank == RAISED, NORMAL
    for thread in threads():
        _set(thread, os.SCHED_OTHER, 0, forks=True)
        if raised and _nice(thread) == NICE:
            with suppress(OSError):  # gone
                os.setpriority(os.PRIO_PROCESS, thread, 0)
    if raised:
        _set_group(0)


def follow(*, forks: bool = False) -> None:
    """The calling thread gets what its process has. `forks`: it starts processes, which shall not have it."""
    if _Process.rank == REAL_TIME:
        _set_realtime(0, forks=forks)
    elif _Process.rank == RAISED:
        _set_nice(0, forks=forks)


def sweep() -> int:
    """Threads that ask for nothing (those of libraries) get it too; how many there were. They start no processes."""
    found = 0
    if _Process.rank == NORMAL:
        return found
    for thread in threads():
        if _Process.rank == REAL_TIME and not is_realtime(thread):
            found += _set_realtime(thread, forks=False)
        elif _Process.rank == RAISED and _nice(thread) > NICE:
            found += _set_nice(thread, forks=False)
    return found


def threads() -> list[int]:
    """Numbers of all threads of this process."""
    return [int(name) for name in os.listdir("/proc/self/task")]


def is_realtime(thread: int) -> bool:
    """Of a thread or process by its number; False if it is gone."""
    try:
        policy = os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK
    except OSError:
        return False
    return policy in (os.SCHED_RR, os.SCHED_FIFO)


def lock_memory() -> str:
    """What this process uses, and will use, is never swapped or dropped; empty, or why that is not permitted.

    Pages are locked as they are touched (MCL_ONFAULT): it costs no memory that was not used before.
    """
    if why := why_not_locked():
        return why
    # Takes 0.4 MB where nothing else has loaded it, so not before it is of use.
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"mlockall: {os.strerror(ctypes.get_errno())}"
    return ""


def why_not_realtime() -> str:
    """What this account lacks for real-time priority; empty if the kernel should grant it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    if soft == resource.RLIM_INFINITY or soft >= REALTIME_PRIORITY or _capable(_CAP_SYS_NICE):
        return ""
    return f"the account may not have real-time priority (LimitRTPRIO={REALTIME_PRIORITY} or CAP_SYS_NICE)"


def why_not_locked() -> str:
    """What this account lacks for locked memory; empty if the kernel should grant it.

    A limit that is merely high is none to lock under: beyond it every later request for memory would fail.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or _capable(_CAP_IPC_LOCK):
        return ""
    return "the account may not lock memory (LimitMEMLOCK=infinity or CAP_IPC_LOCK)"


def _capable(number: int) -> bool:
    """In the machine's first user namespace: in another, a capability permits none of this."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            if file.read().split() != [b"0", b"0", b"4294967295"]:
                return False
        with open("/proc/self/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"CapEff:")), b"CapEff: 0")
    except OSError:
        return False
    return bool(int(line.split()[1], 16) >> number & 1)


def _set_realtime(thread: int, *, forks: bool) -> bool:
    return _set(thread, os.SCHED_RR, REALTIME_PRIORITY, forks=forks)


def _set(thread: int, policy: int, priority: int, *, forks: bool) -> bool:
    """False if it is refused, or the thread is gone."""
    try:
        os.sched_setscheduler(
            thread, policy | (os.SCHED_RESET_ON_FORK if forks else 0), os.sched_param(priority)
        )
    except OSError:
        return False
    return True


def _set_nice(thread: int, *, forks: bool) -> bool:
    if forks:
        _set(thread, os.SCHED_OTHER, 0, forks=True)
    if _nice(thread) <= NICE:
        return True
    try:
        os.setpriority(os.PRIO_PROCESS, thread, NICE)
    except OSError:
        return False
    return True


def _nice(thread: int) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:
        return NICE  # gone


def _set_group(nice: int) -> None:
    """Where the kernel shares time among sessions first (autogroup), nice counts within one only."""
    if os.getsid(0) != os.getpid():
        return  # the session of a terminal: not ours to raise
    try:
        with open("/proc/self/autogroup", "wb") as file:
            file.write(str(nice).encode())
    except OSError:
        return  # none, or not permitted


def _limit_runs() -> None:
    """Before anything is real-time: what computes without end then ends."""
    us = 1_000_000
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    most = RUN_MAX_S * us if hard == resource.RLIM_INFINITY else min(hard, RUN_MAX_S * us)
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (min(RUN_S * us, most), most))
    except (OSError, ValueError):
        return  # the kernel's throttling is left
