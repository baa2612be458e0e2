"""Process trees of an agent, whatever they did to get away: by its service's cgroup where it has one, else by mark.

Under systemd everything that the main process of a unit starts is in the unit's cgroup: new sessions, double forks
and a cleared environment do not lead out of it. Elsewhere the cgroup is shared with whoever started the agent (a
login, a build), and only the mark in the environment is sure to be ours. Standard library alone, as all of the guard.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

from leaseha.runtime.guard_kernel import DEATH_S, NS_PER_S, Unknown, marked, wait_gone

CGROUPS: Final = "/sys/fs/cgroup"
DEPTH_MAX: Final = 8
"""Groups that a resource made for itself, below its agent's."""
_GONE_S: Final = 0.2


def service_group(agent: int, said: str, groups: str, root: str = CGROUPS) -> str:
    """The cgroup of the service of which the agent is the main process; empty if there is none, or it is not ours.

    `said`: SYSTEMD_EXEC_PID of the agent's environment, which systemd sets to the pid of the process that it started
    for a unit (systemd.exec(5)): an agent that something else in a unit started does not have its own there. `groups`:
    what /proc/PID/cgroup says.
    """
    if not said.isdigit() or int(said) != agent:
        return ""
    for line in groups.splitlines():
        names, path = line.split(":", 2)[1:]
        # Version 2 has no names; with version 1 the units are in systemd's own hierarchy, and perhaps in a second one.
        trees = {"": (root, f"{root}/unified"), "name=systemd": (f"{root}/systemd",)}.get(names, ())
        if not path.endswith(".service") or ".." in path.split("/"):
            continue
        for tree in trees:
            if os.path.isfile(f"{tree}{path}/cgroup.procs"):
                return f"{tree}{path}"
    return ""


def own_group() -> str:
    """The cgroup of this guard's agent, if it is the main process of a service; to be asked while the agent lives."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            return service_group(os.getppid(), os.environ.get("SYSTEMD_EXEC_PID", ""), file.read())
    except OSError:
        return ""


def members(group: str, depth: int = DEPTH_MAX) -> set[int]:
    """All living processes in a cgroup and those below it, but for this one. A group that is gone has none."""
    found: set[int] = set()
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            found |= {int(one) for one in file.read().split()}
        inner = [one.path for one in os.scandir(group) if one.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return found
    for one in inner if depth else ():
        found |= members(one, depth - 1)
    return {pid for pid in found if pid not in (0, os.getpid()) and not _ended(pid)}


def kill_all(mark: str, group: str) -> None:
    """Until a look finds no process with the mark, nor any in the group (empty: none is ours). Raises Unknown."""
    end_ns = time.monotonic_ns() + int(DEATH_S * NS_PER_S)
    while pids := set(marked(mark)) | (members(group) if group else set()):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                wait_gone(pidfd, _GONE_S)
            except ProcessLookupError:
                continue
            finally:
                os.close(pidfd)
        if time.monotonic_ns() > end_ns:
            raise Unknown(f"what the agent had started does not end: {sorted(pids)}")


def _ended(pid: int) -> bool:
    """A zombie is still listed with version 1, and runs nothing."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
