"""What the death of etcd's leader costs: with the holder's host, or under a healthy holder. A campaign, not a test.

    python -m leaseha.lab.sandbox -- python -m chaos.leader --runs 10 --out docs/benchmarks/etcd-leader

Three etcd members at their default timings, on node1 (which holds), on node2 and on a third host. Writes OUT.json and
OUT.md, also at Ctrl-C, with what there is. Exit code 1 if a run could not be done.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from chaos.bench.__main__ import ETCD_DATA_HELP, about
from chaos.bench.agents import Leaseha
from chaos.bench.figures import Outcome, Run, chosen, in_order, spread
from chaos.bench.quiet import LOCK_HELP
from chaos.bench.report import About, as_json
from chaos.bench.runner import Plan, Results, campaign
from chaos.bench.scenarios import WATCHED_S, Phase, Scenario
from chaos.bench.systems import FIRST, OTHER, Pair
from chaos.bench.trial import trial
from leaseha.config.durations import parse_duration
from leaseha.errors import LabError, LeasehaError
from leaseha.lab.lab import Lab

WITNESS: Final = "witness"
KEPT_AWAY_S: Final = 90.0
"""By when a holder has moved the leadership off its host."""
ELECTED_S: Final = 9.0
"""etcd has a new leader by then, and the lease is served again."""

INTRO: Final = """\
Three etcd members at their default timings (heartbeat 100 ms, election timeout 1 s) on node1, node2 and a third host.
*death*: the host of the holder (node1) dies, its etcd member with it, which leads etcd when the run begins; where
`etcd.keep_leader_away` is on, the holder has moved the leadership meanwhile. *leader*: etcd's leader, on the third
host, is SIGKILLed, the holder is well. The gap is the longest silence that a client meets which asks each millisecond,
in ms; p95 is by nearest rank. *Holder at the end*: who answered last, with how many runs."""


@dataclass(frozen=True, slots=True)
class Placed(Leaseha):
    """leaseha with etcd's members on the nodes' own hosts."""

    keep_away: bool = False

    @property
    def name(self) -> str:
        """Such as `ttl 300ms, kept away`."""
        return f"ttl {self.ttl}" + (", kept away" if self.keep_away else "")

    def settings(self, *, fails_back: bool) -> Mapping[str, Any]:
        """It never fails back while it is looked at."""
        del fails_back
        keep = {"etcd": {"keep_leader_away": True}} if self.keep_away else {}
        return {**Leaseha.settings(self, fails_back=False), **keep}


def _lead(lab: Lab, host: str) -> None:
    """Let the member on this host lead."""
    lab.etcd.wait_healthy()
    lab.etcd.move_leader(next(one for one in lab.etcd.members if one.host.name == host))


def _lead_from_first(lab: Lab, _: Pair) -> None:
    """The leader is on the holder's host, until the holder moves it, if it shall."""
    _lead(lab, FIRST)
    if "etcd" not in lab.settings:
        return
    end = time.monotonic() + KEPT_AWAY_S
    while lab.etcd.wait_leader().host.name == FIRST:
        if time.monotonic() > end:
            raise LabError(f"{FIRST} has not moved etcd's leadership within {KEPT_AWAY_S:g} s")
        time.sleep(0.2)  # waits for a fact: another member leads


def _lead_from_witness(lab: Lab, _: Pair) -> None:
    _lead(lab, WITNESS)


def _kill_leader(lab: Lab, _: Pair) -> None:
    lab.etcd.wait_leader().kill()


DEATH: Final = Scenario(
    (Phase("death", "node death", lambda lab, _: lab.kill_host(FIRST), lasts_s=WATCHED_S),),
    prepared=_lead_from_first,
)
LEADER: Final = Scenario(
    (Phase("leader", "etcd's leader SIGKILLed", _kill_leader, to="", lasts_s=ELECTED_S, alive=True),),
    prepared=_lead_from_witness,
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m chaos.leader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--runs", type=int, default=10, help="of each scenario and ttl (default 10)")
    made.add_argument("--ttl", default="300ms", help="at which the holder's host dies; several with commas")
    made.add_argument(
        "--kill-ttl", default="300ms,2s,5s", help="at which etcd's leader is killed; empty: not"
    )
    made.add_argument("--etcd-data", type=Path, help=ETCD_DATA_HELP)
    made.add_argument("--seed", type=int, default=1, help="of the random pauses (default 1)")
    made.add_argument(
        "--keep", type=Path, help="a folder for configurations, logs and recordings of every run"
    )
    made.add_argument("--lock", type=Path, help=LOCK_HELP)
    made.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    return made


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def plans_of(arguments: argparse.Namespace) -> tuple[Plan, Plan]:
    """Deaths of the holder's host, then of etcd's leader alone. Raises `ValueError`."""
    if arguments.runs < 1:
        raise ValueError("--runs: at least 1")
    dying, killed = _listed(arguments.ttl), _listed(arguments.kill_ttl)
    for ttl in (*dying, *killed):
        parse_duration(ttl)
    made = functools.partial(
        Plan, runs=arguments.runs, seed=arguments.seed, idle_s=0.0, keep=arguments.keep, lock=arguments.lock
    )
    pairs = tuple(Placed(ttl, keep_away=keep) for ttl in dying for keep in (False, True))
    return made(pairs, (DEATH,)), made(tuple(Placed(ttl) for ttl in killed), (LEADER,))


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each scenario and ttl."""
    lines = [
        "| scenario | system | runs | min | median | p95 | max | two answering, max | holder at the end | wrong |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for scenario in in_order([run.scenario for run in runs]):
        for system in in_order([run.system for run in chosen(runs, scenario)]):
            mine = chosen(runs, scenario, system)
            good = [run for run in mine if run.good]
            gaps = spread([run.gap_ms for run in good])
            figures = (
                [f"{at:.0f}" for at in (gaps.low, gaps.median, gaps.p95, gaps.high)] if gaps else ["-"] * 4
            )
            two = max((run.answering_local_ms for run in mine), default=0.0)
            ends = ", ".join(
                f"{who or 'nobody'} {n}" for who, n in Counter(run.holder for run in good).items()
            )
            cells = [
                scenario,
                system,
                str(len(mine)),
                *figures,
                f"{two:.0f}",
                ends,
                str(len(mine) - len(good)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(results: Results, told: About, out: Path) -> None:
    """Two files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = ", ".join(f"{name} {value}" for name, value in told.machine.items())
    cut = " **Interrupted**: not all runs were made." if results.interrupted else ""
    head = f"# The death of etcd's leader\n\n`{told.command}`, begun {told.began}. {machine}.{cut}"
    Path(f"{out}.json").write_text(as_json(results, told), encoding="utf-8")
    Path(f"{out}.md").write_text(f"{head}\n\n{INTRO}\n\n{table(results.runs)}\n", encoding="utf-8")
    print(f"written: {out}.json, {out}.md")


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    try:
        plans = plans_of(arguments)
        both = Plan((*plans[0].systems, *plans[1].systems), (), arguments.runs)
        told = about(both, given, "chaos.leader")
    except (ValueError, LeasehaError) as error:
        print(f"chaos.leader: {error}", file=sys.stderr)
        return 2
    attempt = functools.partial(trial, etcd_on=(FIRST, OTHER, WITNESS), etcd_folder=arguments.etcd_data)
    results = Results()
    for plan in plans:
        if not results.interrupted:
            part = campaign(plan, lambda line: print(line, flush=True), attempt)
            results.runs += part.runs
            results.interrupted = part.interrupted
    print(f"\n{table(results.runs)}")
    if arguments.out:
        write(results, told, arguments.out)
    return 1 if results.interrupted or any(run.outcome is Outcome.ERROR for run in results.runs) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
