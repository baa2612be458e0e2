"""What happens to the holder in the middle of a backup, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, Lab

FIRST: Final = "node1"
OTHER: Final = "node2"
_STEP_S: Final = 30.0


def _switchover(lab: Lab) -> None:
    config = str(lab.nodes[OTHER].config)
    command = [sys.executable, "-m", "leaseha", "switchover", "--config", config, "--to", OTHER]
    done = lab.host(OTHER).run(command, timeout_s=_STEP_S)
    if done.returncode != 0:
        raise LabError(f"switchover failed: {done.stdout}")


def _thaw(lab: Lab) -> None:
    if lab.nodes[FIRST].pids():
        lab.nodes[FIRST].thaw(tree=True)


def _standby_lost_and_back(lab: Lab) -> None:
    """Killed in the midst of uploads, out of the set, started again, filled, admitted: a member as before."""
    lab.nodes[OTHER].kill_tree()
    _members(lab, FIRST)
    lab.nodes[OTHER].wait()
    lab.nodes[OTHER].start()
    _members(lab, FIRST, OTHER)


def _members(lab: Lab, *names: str) -> None:
    def fact(status: dict[str, Any]) -> bool:
        return sorted(status["leases"][LEASE]["in_sync"]) == sorted(names)

    lab.nodes[FIRST].wait_for(f"the members are {names}", fact, _STEP_S)


def _nothing(_: Lab) -> None:
    """It stays as it is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One of the campaign."""

    name: str
    text: str
    begin: Callable[[Lab], None]
    end: Callable[[Lab], None] = _nothing
    """Called when the backup has ended."""
    before: Callable[[Lab], None] = _nothing
    """Done in the midst of the backup ahead of the fault, whose clock it does not start."""
    taken: Callable[[Lab], None] = _nothing
    """Called as soon as the other node has the address; the backup goes on."""
    sockets: str = ""
    """What becomes of the connections."""
    waiting: bool = False
    """It comes when an upload has been sent whole and its answer is awaited; else when one is on its way."""


FAULTS: Final = (
    Fault(
        "kill-all",
        "SIGKILL to the agent, its guard and its repository process; the host lives",
        lambda lab: lab.nodes[FIRST].kill_tree(),
        sockets="the kernel resets them",
    ),
    Fault(
        "death",
        "the node is off at once",
        lambda lab: lab.kill_host(FIRST),
        sockets="destroyed, and no packet told of it",
    ),
    Fault(
        "death-late",
        "the node is off at once, in the moment when an upload was sent whole and its answer has not come",
        lambda lab: lab.kill_host(FIRST),
        sockets="destroyed, and no packet told of it: the client has nothing to send, and only waits",
        waiting=True,
    ),
    Fault(
        "silent",
        "the node's cable loses every frame; healed when the backup has ended",
        lambda lab: lab.host(FIRST).cut_silent(),
        lambda lab: lab.host(FIRST).heal(),
        sockets="no packet passes; destroyed by the node itself behind the cut",
    ),
    Fault(
        "freeze",
        "SIGSTOP to the agent, its guard and its repository process; SIGCONT when the backup has ended",
        lambda lab: lab.nodes[FIRST].freeze(tree=True),
        _thaw,
        sockets="kept by the kernel behind its fence",
    ),
    Fault(
        "switchover",
        "`leaseha switchover` to the other node",
        _switchover,
        sockets="drained, then closed",
    ),
)


MORE: Final = (
    Fault(
        "standby-then-holder",
        "SIGKILL to all of the standby in mid-backup; back and admitted, then SIGKILL to all of the holder",
        lambda lab: lab.nodes[FIRST].kill_tree(),
        before=_standby_lost_and_back,
        sockets="the kernel resets them",
    ),
    Fault(
        "stale-wakes",
        "SIGSTOP to all of the holder with an upload sent whole; SIGCONT in mid-backup, once the other serves",
        lambda lab: lab.nodes[FIRST].freeze(tree=True),
        taken=_thaw,
        sockets="kept by the kernel behind its fence",
        waiting=True,
    ),
)
"""Longer ones, run by name only."""
ALL: Final = (*FAULTS, *MORE)
