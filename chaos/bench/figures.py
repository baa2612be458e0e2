"""What a run came to, and what many runs come to. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

P95: Final = 0.95
NOISE_MS: Final = 5.0
"""A prober that asks each ms on a busy machine misses so much now and then: a quotient by less says nothing."""


class Outcome(StrEnum):
    """How one phase of one run ended, as a client sees it."""

    MOVED = "moved"
    """Who was expected to answer after the fault answers."""
    STAYED = "stayed"
    """Who answered before the fault answers still, and that is no failure: its host was alive and reachable."""
    NO_TAKEOVER = "no takeover"
    """Nobody, or the wrong one, answered within the patience of the bench. The gap is only what was seen of it."""
    ERROR = "error"
    """The run could not be done; `Run.error` says why. It has no figures."""


GOOD: Final = frozenset({Outcome.MOVED, Outcome.STAYED})


@dataclass(frozen=True, slots=True)
class Run:
    """One phase (a fault, or its end) of one run of one system. All durations in ms."""

    system: str
    scenario: str
    number: int
    """Runs of different systems with the same number followed each other at once."""
    outcome: Outcome
    gap_ms: float = 0.0
    """The longest silence that the client met."""
    lost_ms: float = 0.0
    """All its silences added up."""
    unanswered: int = 0
    """Probes of the client (one a ms) that nobody ever answered. A silence without any is lateness, of whomever."""
    answering_ms: float = 0.0
    """Two nodes answered: by the client, by a prober that asks each node by MAC, by ARP; from the client's side."""
    answering_inside_ms: float = 0.0
    """The same, with what is seen from a host that shares the fate of the faulty node's cable."""
    answering_local_ms: float = 0.0
    """The same, with what a process on the faulty node itself is answered."""
    answering_count: int = 0
    """Occasions on which two answered, by all of these; one may have no length."""
    bound_ms: float = 0.0
    """Two kernels had the address."""
    bound_at_end: bool = False
    """They had it still when the phase was over: `bound_ms` is only what was seen of it."""
    holder: str = ""
    """Who answered the client last."""
    phase_ms: float = 0.0
    """How long was looked."""
    error: str = ""

    @property
    def good(self) -> bool:
        """Its figures may be counted."""
        return self.outcome in GOOD

    @property
    def two(self) -> bool:
        """Two nodes answered, to anybody, if only once."""
        return self.answering_count > 0


@dataclass(frozen=True, slots=True)
class Idle:
    """What one node costs while nothing happens. Sizes in KiB of all its processes, CPU in % of one core."""

    system: str
    role: str
    """`holder`, `standby`."""
    rss_kib: int
    pss_kib: int
    cpu_percent: float
    processes: int
    seconds: float
    etcd_revisions_s: float | None = None
    """Transactions that changed etcd, a second, of the whole cluster; None for who uses no etcd."""
    etcd_entries_s: float | None = None
    """Entries of etcd's log a second: what is written to disk."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in four numbers and its size."""

    count: int
    low: float
    median: float
    p95: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing. p95 is the smallest value that 95 % of all are not above: of ten runs, the worst."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, math.ceil(P95 * len(ordered)))
    return Spread(len(ordered), ordered[0], statistics.median(ordered), ordered[rank - 1], ordered[-1])


@dataclass(frozen=True, slots=True)
class Ratio:
    """One system's gap over another's."""

    of_medians: float | None
    """None where the other's median is less than `NOISE_MS`."""
    of_pairs: float | None
    """Median of the runs with the same number; None where no pair has a quotient."""
    pairs: int


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> Ratio | None:
    """Of the client's gaps in good runs of the same scenario. None if either has none."""
    mine, other = ({run.number: run.gap_ms for run in runs if run.good} for runs in (ours, theirs))
    if not mine or not other:
        return None
    below = statistics.median(other.values())
    quotients = [gap / other[number] for number, gap in mine.items() if other.get(number, 0) >= NOISE_MS]
    return Ratio(
        statistics.median(mine.values()) / below if below >= NOISE_MS else None,
        statistics.median(quotients) if quotients else None,
        len(quotients),
    )


def chosen(runs: Sequence[Run], scenario: str, system: str = "") -> list[Run]:
    """Of one scenario, and of one system if it is named."""
    return [run for run in runs if run.scenario == scenario and system in {"", run.system}]


def in_order(names: Sequence[str]) -> list[str]:
    """Each once, in the order of first appearance."""
    return list(dict.fromkeys(names))
