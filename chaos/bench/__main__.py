"""leaseha and keepalived under the same faults, interleaved: measured, tabled, drawn.

    python -m leaseha.lab.sandbox -- python -m chaos.bench --runs 10 --out docs/benchmarks/bench

Writes OUT.json (every run), OUT.md and OUT.svg; also at Ctrl-C, with what there is. The exit code is 0 when every run
could be done, whatever it showed.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final, NoReturn

from chaos.bench.agents import Leaseha
from chaos.bench.figures import Outcome
from chaos.bench.keepalived import Keepalived, find_keepalived, version
from chaos.bench.plot import strip_plot
from chaos.bench.quiet import LOCK_HELP
from chaos.bench.report import About, as_json, as_markdown, gaps_table, idle_table, two_table
from chaos.bench.runner import Plan, Results, campaign
from chaos.bench.scenarios import SCENARIOS, Scenario, scenario_of
from chaos.bench.systems import System
from chaos.bench.trial import trial
from chaos.moves import versions
from leaseha.config.durations import parse_duration
from leaseha.errors import LeasehaError

RUNS: Final = 10
ETCD_DATA_HELP: Final = "a folder on a disk for etcd; default: in memory"
KINDS: Final = ("leaseha", "keepalived")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m chaos.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(one.name for one in SCENARIOS)
    made.add_argument(
        "--runs", default="10", help="of each scenario and system, such as 10,death=30 (default 10)"
    )
    made.add_argument("--ttl", default="2s", help="of leaseha; several with commas, each a system of its own")
    made.add_argument("--renew-every", default="", help="one for each ttl; empty: its default")
    made.add_argument("--margin", default="", help="one for each ttl; empty: its default")
    made.add_argument("--adverts", default="1,0.1,0.03", help="of keepalived, in s (default 1,0.1,0.03)")
    made.add_argument("--systems", default=",".join(KINDS), help="leaseha, keepalived or both (default)")
    made.add_argument(
        "--scenarios", default="", help=f"of {names}; with commas; default: all; `none`: idle figures alone"
    )
    made.add_argument(
        "--idle", type=float, default=20.0, help="seconds of the idle figures; 0: none (default 20)"
    )
    made.add_argument("--seed", type=int, default=1, help="of the random pauses (default 1)")
    made.add_argument(
        "--keep", type=Path, help="a folder for configurations, logs and recordings of every run"
    )
    made.add_argument("--lock", type=Path, help=LOCK_HELP)
    made.add_argument("--etcd-data", type=Path, help=ETCD_DATA_HELP)
    made.add_argument("--out", type=Path, help="path without suffix; .json, .md and .svg are written")
    return made


def systems_of(arguments: argparse.Namespace) -> tuple[System, ...]:
    """As the command line names them. Raises `ValueError`."""
    kinds = _listed(arguments.systems)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"no system {', '.join(unknown)}: there are {', '.join(KINDS)}")
    found: list[System] = []
    if "leaseha" in kinds:
        ttls = _listed(arguments.ttl)
        periods, margins = arguments.renew_every.split(","), arguments.margin.split(",")
        if max(len(periods), len(margins)) > len(ttls):
            raise ValueError("more of --renew-every or --margin than of --ttl")
        for ttl, period, margin in zip_longest(ttls, periods, margins, fillvalue=""):
            for text in filter(None, (ttl, period.strip(), margin.strip())):
                parse_duration(text)
            found.append(Leaseha(ttl, period.strip(), margin.strip()))
    if "keepalived" in kinds:
        find_keepalived()
        found += [Keepalived(float(advert)) for advert in _listed(arguments.adverts)]
    if not found:
        raise ValueError("no system to measure")
    return tuple(found)


def scenarios_of(text: str) -> tuple[Scenario, ...]:
    """All if the text is empty. Raises `ValueError`."""
    if text == "none":
        return ()
    return tuple(dict.fromkeys(scenario_of(name) for name in _listed(text))) or SCENARIOS


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Raises `ValueError` for what cannot be meant."""
    runs, runs_of = runs_in(arguments.runs)
    return Plan(
        systems_of(arguments),
        scenarios_of(arguments.scenarios),
        runs,
        arguments.seed,
        arguments.idle,
        arguments.keep,
        runs_of,
        arguments.lock,
    )


def runs_in(text: str) -> tuple[int, dict[str, int]]:
    """Of all scenarios, and of those that are named. Raises `ValueError`."""
    runs, runs_of = RUNS, {}
    for part in _listed(text):
        name, named, number = part.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--runs {text}: numbers, at least 1, such as 10,death=30")
        if named:
            runs_of[scenario_of(name).name] = int(number)
        else:
            runs = int(number)
    return runs, runs_of


def about(plan: Plan, argv: Sequence[str], program: str = "chaos.bench") -> About:
    """Versions and machine."""
    machine = {
        **versions(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }
    if any(isinstance(one, Keepalived) for one in plan.systems):
        machine = {"leaseha": machine["leaseha"], "keepalived": version(), **machine}
    machine["architecture"] = machine.pop("machine", platform.machine())
    return About(
        shlex.join(["python", "-m", program, *argv]),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        machine,
        {system.name: system.facts() for system in plan.systems},
    )


def write(results: Results, told: About, out: Path) -> None:
    """Three files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    json_file, page, picture = (Path(f"{out}{suffix}") for suffix in (".json", ".md", ".svg"))
    json_file.write_text(as_json(results, told), encoding="utf-8")
    picture.write_text(strip_plot(results.runs), encoding="utf-8")
    page.write_text(as_markdown(results, told, picture.name if results.runs else ""), encoding="utf-8")
    print(f"written: {json_file}, {page}, {picture}")


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parser().parse_args(given)
        plan = plan_of(arguments)
        told = about(plan, given)
    except (ValueError, LeasehaError) as error:
        print(f"chaos.bench: {error}", file=sys.stderr)
        return 2
    attempt = functools.partial(trial, etcd_folder=arguments.etcd_data)
    results = campaign(plan, lambda line: print(line, flush=True), attempt)
    for table in (gaps_table(results.runs), two_table(results.runs), idle_table(results.idle)):
        print(f"\n{table}")
    if arguments.out:
        write(results, told, arguments.out)
    failed = [run for run in results.runs if run.outcome is Outcome.ERROR]
    return 1 if failed or results.interrupted or any(row.error for row in results.idle) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
