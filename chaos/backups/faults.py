"""What happens to the holder in the middle of a backup, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from leaseha.errors import LabError
from leaseha.lab.lab import Lab

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
