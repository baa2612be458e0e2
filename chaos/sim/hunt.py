"""The hunt for planted bugs: each must be found, by a seed that is without fault when nothing is planted."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chaos.sim.bug import Bug, planted
from chaos.sim.bugs import BUGS, BY_NAME
from chaos.sim.options import drawn
from chaos.sim.run import Run
from leaseha.errors import InvariantBroken

SEEDS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Catch:
    """A seed that tells a planted bug from none."""

    seed: int
    what: str


def broken_by(bug: Bug | None, steer: Callable[..., None], profile: str, seed: int) -> str:
    """The first violation of a steered seed with the bug planted (None: without); empty if there is none."""
    options = drawn(seed, profile)
    steer(options)
    try:
        if bug is None:
            found = Run(options).run().violations
        else:
            with planted(bug):
                found = Run(options).run().violations
    except InvariantBroken as error:
        return f"the core stopped itself: {error}"
    return str(found[0]) if found else ""


def caught(name: str, seed: int) -> Catch | None:
    """The seed finds the bug, and finds nothing where the bug is not."""
    bug = BY_NAME[name]
    what = broken_by(bug, bug.steer, bug.profile, seed)
    if not what or broken_by(None, bug.steer, bug.profile, seed):
        return None
    return Catch(seed, what)


def hunt(name: str, jobs: int) -> Catch | None:
    """Seeds from 1 on until the bug is caught; None: not within `SEEDS_MAX`."""
    with multiprocessing.Pool(jobs) as pool:
        for found in pool.imap(functools.partial(caught, name), range(1, SEEDS_MAX + 1)):
            if found is not None:
                pool.terminate()
                return found
    return None


def hunt_all(names: list[str], jobs: int) -> int:
    """Print what found each bug; exit 1 if one was not caught, 2 for a name that is none."""
    if unknown := [name for name in names if name not in BY_NAME]:
        print(f"no such bug: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        return 2
    missed = 0
    print(f"{'bug':16} {'seeds':>6} {'s':>5}  violation")
    for bug in [BY_NAME[name] for name in names] or BUGS:
        began = time.monotonic()
        found = hunt(bug.name, jobs)
        missed += found is None
        told = f"{found.seed:6}" if found is not None else f">{SEEDS_MAX:5}"
        what = found.what if found is not None else "NOT CAUGHT"
        print(f"{bug.name:16} {told} {time.monotonic() - began:5.0f}  {what}  [{bug.story}]", flush=True)
    return 1 if missed else 0
