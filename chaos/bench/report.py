"""The results in a file for programs (JSON) and in one for people (Markdown); every run is in the first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from chaos.bench.figures import Idle, Outcome, Run, Spread, chosen, in_order, ratio, spread
from chaos.bench.runner import Results
from chaos.bench.scenarios import PHASES
from leaseha.errors import LabError

FORMAT: Final = 1
_TEXT: Final = {phase.name: phase.text for phase in PHASES}
_YARDSTICK: Final = "keepalived"

GAPS_INTRO: Final = """\
What the client missed, in ms: the longest silence of each run, seen by a prober that asks each millisecond. p95 is by
nearest rank (of fewer than 20 runs it is the worst). *Unanswered*: probes that got no answer at all, median / max;
where it is 0, a silence of a few ms was lateness, of the nodes or of the machine. *of N* appears where runs are missing
that ended wrong, see below. The last columns divide by keepalived's gap in the same campaign: ratio of the medians, and
in brackets the median of the quotients of runs that followed each other; a dash where keepalived's median is less than
5 ms: its node that goes on answering, as after SIGKILL and SIGSTOP, makes no gap, but two nodes."""

TWO_INTRO: Final = """\
For how long two nodes answered on the address, in ms: median / max of all runs; a single 0 where it was 0 in all.
*Client's side*: by the client, by a prober that asks each node by its MAC, by ARP. *Cut side too*: the same and what a
host sees that shares the faulty node's side of a partition. *Node itself too*: the same and what a process on the
faulty node is answered. *Two bound*: two kernels had the address; `+` where they had it still when the run was over, so
that the figure is only how long was looked. A node with the address bound may be silent all the same."""

IDLE_INTRO: Final = """\
Nothing happens for {seconds:.0f} s, and no instrument runs. All processes of a node together; CPU in % of one core;
etcd itself is not counted, and what is written to it comes from both nodes together. PSS shares what processes have in
common: two nodes on one machine flatter it."""


@dataclass(frozen=True, slots=True)
class About:
    """Where the figures come from."""

    command: str
    began: str
    machine: Mapping[str, str]
    systems: Mapping[str, Mapping[str, str]]


def as_json(results: Results, about: About) -> str:
    """Everything, a run a line, so that a diff can be read."""
    head: dict[str, Any] = {"format": FORMAT, **asdict(about), "interrupted": results.interrupted}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, rows in (("idle", results.idle), ("runs", results.runs)):
        body = ",\n".join(f"  {json.dumps(_rounded(asdict(row)))}" for row in rows)
        lines.append(f" {json.dumps(key)}: [\n{body}\n ]" if body else f" {json.dumps(key)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def from_json(text: str) -> tuple[Results, About]:
    """What `as_json` wrote. Raises `LabError` if it is something else."""
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise LabError(f"format {found['format']} of the results is unknown")
        runs = [Run(**row | {"outcome": Outcome(row["outcome"])}) for row in found["runs"]]
        idle = [Idle(**row) for row in found["idle"]]
        about = About(found["command"], found["began"], found["machine"], found["systems"])
        return Results(runs, idle, found["interrupted"]), about
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"no results of the bench: {error}") from error


def as_markdown(results: Results, about: About, plot: str = "") -> str:
    """The page; `plot` is the picture's file name."""
    parts = ["# leaseha and keepalived under the same faults", _head(results, about)]
    if plot:
        parts.append(f"![Client-seen gaps of all runs]({plot})")
    if results.runs:
        parts += ["## Gaps", GAPS_INTRO, gaps_table(results.runs)]
        parts += ["## Two nodes at once", TWO_INTRO, two_table(results.runs)]
        parts += ["## Runs that ended wrong", wrong_runs(results.runs)]
    if results.idle:
        seconds = max(row.seconds for row in results.idle)
        parts += ["## At rest", IDLE_INTRO.format(seconds=seconds), idle_table(results.idle)]
    parts += ["## What was measured", _systems(about)]
    return "\n\n".join(parts) + "\n"


def _head(results: Results, about: About) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in about.machine.items())
    text = f"`{about.command}`, begun {about.began}. {machine}."
    return text + (" **Interrupted**: not all runs were made." if results.interrupted else "")


def _systems(about: About) -> str:
    lines = ["| system | settings |", "|---|---|"]
    for name, facts in about.systems.items():
        lines.append(f"| {name} | {', '.join(f'{key} {value}' for key, value in facts.items())} |")
    return "\n".join(lines)


def _rows(runs: Sequence[Run]) -> list[tuple[str, str, list[Run]]]:
    """(scenario, system, runs) in the order of tables."""
    systems = in_order([run.system for run in runs])
    scenarios = [phase.name for phase in PHASES if any(run.scenario == phase.name for run in runs)]
    found = [(at, who, chosen(runs, at, who)) for at in scenarios for who in systems]
    return [row for row in found if row[2]]


def gaps_table(runs: Sequence[Run]) -> str:
    """Of the client's gaps."""
    peers = [who for who in in_order([run.system for run in runs]) if who.startswith(_YARDSTICK)]
    heads = [
        "scenario",
        "system",
        "runs",
        "min",
        "median",
        "p95",
        "max",
        "unanswered",
        *(f"/ {who}" for who in peers),
    ]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for scenario, system, mine in _rows(runs):
        good = [run.gap_ms for run in mine if run.good]
        count = str(len(mine)) if len(good) == len(mine) else f"**{len(good)} of {len(mine)}**"
        lost = _middle_and_most([float(run.unanswered) for run in mine if run.good])
        cells = [_TEXT[scenario], system, count, *_four(spread(good)), lost]
        for who in peers:
            own = system.startswith(_YARDSTICK)
            cells.append("" if own else _ratio_cell(mine, chosen(runs, scenario, who)))
        lines.append(_line(cells))
    return "\n".join(lines)


def _four(found: Spread | None) -> list[str]:
    if found is None:
        return ["-"] * 4
    return [_ms(found.low), f"**{_ms(found.median)}**", _ms(found.p95), _ms(found.high)]


def _ratio_cell(ours: Sequence[Run], theirs: Sequence[Run]) -> str:
    found = ratio(ours, theirs)
    if found is None or found.of_medians is None:
        return "-"
    return _quotient(found.of_medians) + ("" if found.of_pairs is None else f" ({_quotient(found.of_pairs)})")


def _quotient(value: float) -> str:
    return "<0.01" if 0 < value < 0.005 else f"{value:.2f}"


def two_table(runs: Sequence[Run]) -> str:
    """Of the time in which two nodes answered, or had the address; and who was left."""
    heads = [
        "scenario",
        "system",
        "client's side",
        "cut side too",
        "node itself too",
        "runs with two",
        "two bound",
        "answers at the end",
    ]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for scenario, system, all_mine in _rows(runs):
        mine = [run for run in all_mine if run.outcome is not Outcome.ERROR]
        if mine:
            lines.append(_line([_TEXT[scenario], system, *_two_cells(mine)]))
    return "\n".join(lines)


def _two_cells(mine: Sequence[Run]) -> list[str]:
    views = (
        [r.answering_ms for r in mine],
        [r.answering_inside_ms for r in mine],
        [r.answering_local_ms for r in mine],
    )
    plus = "+" if any(run.bound_at_end for run in mine) else ""
    holders = Counter(run.holder or "nobody" for run in mine)
    return [
        *(_middle_and_most(view) for view in views),
        f"{sum(run.two for run in mine)} of {len(mine)}",
        _middle_and_most([run.bound_ms for run in mine]) + plus,
        ", ".join(f"{who} {count}" for who, count in sorted(holders.items())),
    ]


def _middle_and_most(values: Sequence[float]) -> str:
    found = spread(values)
    if found is None or found.high == 0:
        return "0"
    return f"**{_ms(found.median)}** / {_ms(found.high)}"


def wrong_runs(runs: Sequence[Run]) -> str:
    """Each of them."""
    wrong = [run for run in runs if not run.good]
    if not wrong:
        return f"None of {len(runs)}."
    lines = ["| scenario | system | run | what | |", "|---|---|---|---|---|"]
    for run in wrong:
        who = run.holder or "nobody"
        seen = f"looked for {_ms(run.phase_ms)} ms, longest silence {_ms(run.gap_ms)} ms, {who} answers"
        why = run.error.replace("|", "\\|")[:300] if run.outcome is Outcome.ERROR else seen
        lines.append(_line([_TEXT[run.scenario], run.system, str(run.number), run.outcome, why]))
    return "\n".join(lines)


def idle_table(rows: Sequence[Idle]) -> str:
    """Holder and standby of each system."""
    heads = [
        "system",
        "node",
        "processes",
        "RSS, MiB",
        "PSS, MiB",
        "CPU, %",
        "etcd revisions/s",
        "etcd log entries/s",
    ]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        if row.error:
            lines.append(_line([row.system, row.role, row.error.replace("|", "\\|")[:300], *[""] * 5]))
            continue
        sizes = [f"{row.rss_kib / 1024:.1f}", f"{row.pss_kib / 1024:.1f}", f"{row.cpu_percent:.2f}"]
        rates = ["" if rate is None else f"{rate:.1f}" for rate in (row.etcd_revisions_s, row.etcd_entries_s)]
        lines.append(_line([row.system, row.role, str(row.processes), *sizes, *rates]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(value: float) -> str:
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"
