"""The simulator's command line: campaigns of seeds, one seed again, planted bugs."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from chaos.checkers import Violation
from chaos.sim import hunt
from chaos.sim.options import PROFILES, drawn
from chaos.sim.run import Result, Run, run_seed

Pool = Callable[[int], Any]
"""How many processes -> a context with `imap_unordered`."""


def main(given: list[str] | None = None, pool: Pool = multiprocessing.Pool) -> int:
    """Exit 0: no violation (or, with --bugs, each bug was caught); 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (default %(default)s)")
    parser.add_argument("--start", type=int, default=1, help="the first seed (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--profile", default="", choices=("", *PROFILES), help="default: the seed chooses")
    parser.add_argument("--seed", type=int, help="run this one seed again and say what happened")
    parser.add_argument("-v", action="store_true", help="with --seed: print the whole history")
    parser.add_argument(
        "--bugs", nargs="*", metavar="NAME", help="plant bugs (default: each) until they are caught"
    )
    arguments = parser.parse_args(given)
    if arguments.seed is not None:
        return _again(arguments.seed, arguments.profile, verbose=arguments.v)
    if arguments.bugs is not None:
        return hunt.hunt_all(arguments.bugs, arguments.jobs)
    return _campaign(arguments.seeds, arguments.start, pool(arguments.jobs), arguments.profile)


def _again(seed: int, profile: str, *, verbose: bool) -> int:
    options = drawn(seed, profile)
    print(options)
    run = Run(options)
    result = run.run()
    if verbose:
        for entry in run.world.history.entries:
            print(f"{entry.at_ns / 1e9:12.6f} {entry.what:10} {' '.join(str(fact) for fact in entry.facts)}")
    _tell(result)
    print(f"history {result.digest[:16]}, {result.moves} claims")
    return 1 if result.violations else 0


def _tell(result: Result) -> None:
    for violation in result.violations[:5]:
        print(f"  {violation}")


def _one(job: tuple[int, str]) -> Result:
    """A run; what it raises (the core stops itself on a contradiction) is told with its seed, like a violation."""
    try:
        return run_seed(*job)
    except Exception as error:  # noqa: BLE001  # whatever it is, the campaign goes on and the seed is told
        return Result(drawn(*job), [Violation("raised", 0, f"{type(error).__name__}: {error}")], "", 0)


def _campaign(seeds: int, start: int, pool: Any, profile: str) -> int:
    began = time.monotonic()
    bad: list[int] = []
    moves = 0
    profiles: Counter[str] = Counter()
    with pool as workers:
        for result in workers.imap_unordered(_one, [(start + n, profile) for n in range(seeds)], chunksize=8):
            profiles[result.options.profile] += 1
            moves += result.moves
            if profiles.total() % 500 == 0:
                print(f"... {profiles.total()} seeds after {time.monotonic() - began:.0f} s", flush=True)
            if result.violations:
                bad.append(result.options.seed)
                print(
                    f"seed {result.options.seed} ({result.options.profile}): {len(result.violations)} violations"
                )
                _tell(result)
                again = f" --profile {profile}" if profile else ""
                print(f"  again: python -m chaos.sim --seed {result.options.seed}{again} -v", flush=True)
    took_s = time.monotonic() - began
    print(
        f"{seeds} seeds, {moves} claims, {len(bad)} with violations, {took_s:.0f} s ({seeds / took_s:.1f} seeds/s)"
    )
    print("profiles: " + ", ".join(f"{name} {count}" for name, count in sorted(profiles.items())))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
