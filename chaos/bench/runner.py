"""All runs of all systems, interleaved; what there is, however it ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.bench.figures import Idle, Outcome, Run
from chaos.bench.idle import measure_idle
from chaos.bench.quiet import alone
from chaos.bench.scenarios import Scenario
from chaos.bench.systems import System
from chaos.bench.trial import trial

Attempt = Callable[..., list[Run]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    systems: tuple[System, ...]
    scenarios: tuple[Scenario, ...]
    runs: int
    """Of each scenario that `runs_of` does not name."""
    seed: int = 1
    idle_s: float = 20.0
    """0: no idle figures."""
    keep: Path | None = None
    runs_of: Mapping[str, int] = field(default_factory=dict)
    lock: Path | None = None
    """A file that is locked during each single run."""

    def runs_for(self, scenario: Scenario) -> int:
        """How many of each system."""
        return self.runs_of.get(scenario.name, self.runs)


@dataclass(slots=True)
class Results:
    """What has been measured so far."""

    runs: list[Run] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    interrupted: bool = False


def campaign(plan: Plan, say: Callable[[str], None], attempt: Attempt = trial) -> Results:
    """Scenario by scenario, in each run i of every system after the other; at the first run they begin with another
    system than at the second, and so on. Ctrl-C ends it, with what there is. `attempt` makes one run, as `trial` does.
    """
    results = Results()
    try:
        for system in plan.systems if plan.idle_s > 0 else ():
            with alone(plan.lock):
                rows = measure_idle(system, plan.idle_s)
            for idle in rows:
                results.idle.append(idle)
                say(_idle_line(idle))
        for scenario in plan.scenarios:
            for number in range(1, plan.runs_for(scenario) + 1):
                for system in rotated(plan.systems, number - 1):
                    with alone(plan.lock):
                        chance, keep = (
                            _chance(plan, scenario, number),
                            _folder(plan, system, scenario, number),
                        )
                        made = attempt(system, scenario, number, chance, keep=keep)
                    for run in made:
                        results.runs.append(run)
                        say(_line(run, plan.runs_for(scenario)))
    except KeyboardInterrupt:
        results.interrupted = True
        say("interrupted: what there is follows")
    return results


def rotated(systems: Sequence[System], by: int) -> list[System]:
    """The same, beginning `by` places later: none is always the first after the same other one's run."""
    at = by % len(systems) if systems else 0
    return [*systems[at:], *systems[:at]]


def _chance(plan: Plan, scenario: Scenario, number: int) -> random.Random:
    """The same for every system: the random pause of run i is one and the same."""
    return random.Random(f"{plan.seed}/{scenario.name}/{number}")


def _folder(plan: Plan, system: System, scenario: Scenario, number: int) -> Path | None:
    name = f"{scenario.name}-{number}-{system.name}"
    return plan.keep / name.replace(" ", "-").replace("/", "-") if plan.keep else None


def _line(run: Run, runs: int) -> str:
    head = f"{run.scenario:<10} {run.number:>2}/{runs} {run.system:<22} {run.outcome:<11}"
    if run.outcome is Outcome.ERROR:
        return f"{head} {run.error[:160]}"
    still = "+" if run.bound_at_end else ""
    return (
        f"{head} gap {run.gap_ms:7.1f} ms   two answering {run.answering_ms:.0f}/{run.answering_inside_ms:.0f}/"
        f"{run.answering_local_ms:.0f}   two bound {run.bound_ms:.0f}{still}   holder {run.holder or 'nobody'}"
    )


def _idle_line(idle: Idle) -> str:
    head = f"idle       {idle.system:<22} {idle.role:<8}"
    if idle.error:
        return f"{head} {idle.error[:160]}"
    etcd = "" if idle.etcd_revisions_s is None else f"   etcd {idle.etcd_revisions_s:.1f} revisions/s"
    return (
        f"{head} RSS {idle.rss_kib / 1024:.1f} MiB   PSS {idle.pss_kib / 1024:.1f} MiB   "
        f"CPU {idle.cpu_percent:.2f} %{etcd}"
    )
