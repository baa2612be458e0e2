"""One run: a lab, two nodes under one system, a fault at a random phase, and what was seen of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from chaos.bench.eyes import Eyes
from chaos.bench.figures import Outcome, Run
from chaos.bench.scenarios import INSIDE, Phase, Scenario
from chaos.bench.systems import FIRST, OTHER, Pair, System
from leaseha.errors import LabError
from leaseha.lab.lab import Lab
from leaseha.lab.recording import Kind, Record
from leaseha.lab.timeline import MS, total_ms

STEP_S: Final = 30.0
PHASE_MAX_S: Final = 1.0
"""The fault comes at a random phase of any period up to this, that of the adverts and renewals compared."""
CALM_S: Final = 1.0
CALM_AT_END_S: Final = 2.0
AFTER_S: Final = 3.0
AFTER_END_S: Final = 60.0
"""A fault's end is looked at until all is calm, at most so long: keepalived has flapped for 8 s after a thaw, and the
kernel of a client keeps a wrong neighbour for up to 50 s after a heal, if nobody announces."""
ON_ITS_WAY_NS: Final = 50 * MS
"""A probe sent so shortly before the end of the looking may have its answer yet to come."""
_POLL_S: Final = 0.05


def trial(
    system: System,
    scenario: Scenario,
    number: int,
    chance: random.Random,
    *,
    keep: Path | None = None,
    **lab_options: Any,
) -> list[Run]:
    """One run, phase by phase; a phase that could not be done is an `ERROR`. `keep`: a folder for what stays;
    `lab_options`: where the lab is another than usual, such as where etcd's members are.
    """
    found: list[Run] = []
    fails_back = scenario.prepared is not None
    try:
        with Lab(
            nodes=(FIRST, OTHER),
            extra_hosts=(INSIDE,),
            settings=system.settings(fails_back=fails_back),
            directory=keep,
            **lab_options,
        ) as lab:
            pair = system.pair(lab)
            bring_up(pair)
            with Eyes(lab) as eyes:
                _begin(lab, pair, scenario, chance)
                for phase, calm in _calms(scenario):
                    run = Run(system.name, phase.name, number, Outcome.MOVED)
                    found += [_observed(lab, pair, eyes, phase, run, system.patience_s, calm)]
    except Exception as error:  # noqa: BLE001  (a campaign outlives any one run; the error is noted in its place)
        why = reason(error)
        missing = scenario.phases[len(found) :]
        found += [Run(system.name, one.name, number, Outcome.ERROR, error=why) for one in missing]
    return found


def reason(error: Exception) -> str:
    """On one line, with the kind of an error that is none of the lab's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LabError) else f"{type(error).__name__}: {text}"


def bring_up(pair: Pair) -> None:
    """The preferred node holds, the other stands by. Raises `LabError`."""
    pair.start(FIRST)
    pair.wait_holding(FIRST)
    pair.start(OTHER)
    pair.wait_standing_by(OTHER)


def _begin(lab: Lab, pair: Pair, scenario: Scenario, chance: random.Random) -> None:
    """All that must be true before the first phase, then a random pause."""
    lab.prober.wait_for_answer(by=FIRST, timeout_s=STEP_S)
    if scenario.prepared is not None:
        scenario.prepared(lab, pair)
    until_calm(lab, CALM_S, STEP_S)
    time.sleep(chance.uniform(0, PHASE_MAX_S))


def _calms(scenario: Scenario) -> list[tuple[Phase, tuple[float, float]]]:
    """Each phase, and how calm it must be at its end, for how long that is waited for. A fault that ends while it is
    looked at ends when it is due, or when the address has moved, not when all is calm.
    """
    if len(scenario.phases) == 1:
        return [(scenario.phases[0], (CALM_S, AFTER_S))]
    fault, end = scenario.phases
    return [(fault, (0.0, 0.0)), (end, (CALM_AT_END_S, AFTER_END_S))]


def _observed(
    lab: Lab, pair: Pair, eyes: Eyes, phase: Phase, run: Run, patience_s: float, calm: tuple[float, float]
) -> Run:
    """Do it, look at it, judge it."""
    began_ns = eyes.settle()
    phase.act(lab, pair)
    moved = _moved(lab, phase, began_ns, patience_s)
    left_s = phase.lasts_s - (time.monotonic_ns() - began_ns) / 1e9
    time.sleep(max(0.0, left_s))
    until_calm(lab, *calm)
    ended_ns = eyes.settle()
    seen = _measured(lab, eyes, run, began_ns, ended_ns)
    return replace(seen, outcome=_judged(seen, phase, moved=moved))


def _moved(lab: Lab, phase: Phase, began_ns: int, patience_s: float) -> bool:
    """Whether who shall answer does so in time; at once where it does not matter who."""
    if not phase.to:
        return True
    try:
        lab.prober.wait_for_answer(by=phase.to, after_ns=began_ns, timeout_s=patience_s)
    except LabError:
        lab.prober.require_running()
        return False
    return True


def _judged(seen: Run, phase: Phase, *, moved: bool) -> Outcome:
    """From who answered at last."""
    if seen.holder and moved:
        return Outcome.MOVED
    return Outcome.STAYED if seen.holder and phase.alive else Outcome.NO_TAKEOVER


def _measured(lab: Lab, eyes: Eyes, run: Run, began_ns: int, ended_ns: int) -> Run:
    """The figures of a window."""
    gaps = lab.prober.gaps(began_ns, ended_ns)
    outside, inside, local = eyes.answering_ms(began_ns, ended_ns)
    return replace(
        run,
        gap_ms=max((one.ms for one in gaps), default=0.0),
        lost_ms=total_ms(gaps),
        unanswered=unanswered(lab.prober.records(), began_ns, ended_ns - ON_ITS_WAY_NS),
        answering_ms=outside,
        answering_inside_ms=inside,
        answering_local_ms=local,
        answering_count=eyes.occasions(began_ns, ended_ns),
        bound_ms=total_ms(lab.monitor.overlaps(began_ns, ended_ns)),
        bound_at_end=len(bound_at(lab, ended_ns)) > 1,
        holder=_last(lab, ended_ns),
        phase_ms=(ended_ns - began_ns) / MS,
    )


def unanswered(records: Iterable[Record], start_ns: int, end_ns: int) -> int:
    """Probes sent in the window that have no answer, early or late."""
    sent, answered = set(), set()
    for record in records:
        if record.kind is Kind.SENT and start_ns <= record.t_ns <= end_ns:
            sent.add(record.number)
        elif record.kind is Kind.ANSWER:
            answered.add(record.number)
    return len(sent - answered)


def bound_at(lab: Lab, at_ns: int) -> list[str]:
    """Nodes whose kernel had the address then."""
    spans = lab.monitor.bound().items()
    return [who for who, mine in spans if any(one.start_ns <= at_ns <= one.end_ns for one in mine)]


def _last(lab: Lab, ended_ns: int) -> str:
    """Who answered the client last; empty if nobody did in the last second."""
    latest = {
        who: max((at for at in instants if at <= ended_ns), default=0)
        for who, instants in lab.prober.answers().items()
    }
    who = max(latest, key=lambda one: latest[one], default="")
    return who if who and ended_ns - latest[who] < CALM_S * 1e9 else ""


def until_calm(lab: Lab, calm_s: float, limit_s: float) -> bool:
    """Until one node alone has answered the client, without a break, and been the only one with the address, for
    `calm_s`; False if that does not come within the limit.
    """
    end = time.monotonic() + limit_s
    began_ns = time.monotonic_ns()
    while True:
        now_ns = lab.settle()
        since_ns = now_ns - int(calm_s * 1e9)
        if since_ns >= began_ns and _calm(lab, since_ns, now_ns):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)


def _calm(lab: Lab, since_ns: int, now_ns: int) -> bool:
    answering = [
        who for who, at in lab.prober.answers().items() if any(since_ns <= one <= now_ns for one in at)
    ]
    # A gap of a few ms is the machine's, and no part of a move.
    quiet = all(one.ms < 50 for one in lab.prober.gaps(since_ns, now_ns))
    overlapping = lab.monitor.overlaps(since_ns, now_ns)
    return len(answering) == 1 and quiet and not overlapping and bound_at(lab, now_ns) == answering
