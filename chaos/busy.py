"""False takeovers on a machine whose cores are kept busy by other work, with real-time priority granted and without.

    python -m chaos.busy --ttl 300ms --minutes 10 --out docs/benchmarks/busy-cores

Two nodes, one etcd member and one client in the lab; nothing fails. Beside them as many processes compute without a
pause as `--hogs` says for each core (default 2), at normal priority, each in a session of its own: where the kernel
shares time among sessions first (autogroup), each weighs as much as an agent. Counted: changes of ownership, times
that a holder stopped at its deadline, and why, by its own log; how much of its time a renewal had used when the next
one was proven; what a client missed. Instruments run at real-time priority 2, below the agents: else they would be
late themselves. Runs in a sandbox of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.bench.idle import cost_of
from chaos.moves import FIRST, OTHER, candidate, holding, versions
from leaseha.config.durations import parse_duration
from leaseha.errors import LabError, LeasehaError
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.sandbox import ensure_sandbox

INSTRUMENTS_AT: Final = 2
ETCD_AT: Final = 4
"""Real-time priorities: the agents have 5."""
LOOK_S: Final = 2.0
REMEMBERED_S: Final = 62.0
"""So long an agent's figures reach back: those of the calm start are gone then."""
EARLY_MS: Final = 50.0
"""A deadline that was noticed no later than this: the agent ran in time."""
MOVES_MAX: Final = 100
HEADINGS: Final = (
    "real-time",
    "minutes",
    "false takeovers",
    "stopped at the deadline",
    "most of its time that a renewal used",
    "slow renewals",
    "timers late",
    "etcd's answer",
    "collector",
    "longest gap of the client",
    "two answering",
    "etcd says it was late",
    "RSS / PSS of agent and guard",
)
_HOG: Final = "while True: pass"
_COPYING_HOG: Final = "data = bytes(4 << 20)\nwhile True: bytearray(data)"
_NUMBER: Final = re.compile(r"\b[0-9]+\b")
_HUNG: Final = re.compile(r"the agent of \S+ hung, \d+ ms past its deadline: killing it")
_WHY: Final = re.compile(
    r"a deadline passed: the last proven renewal was sent (?P<proven>\S+) ms ago, (?:(?P<sent>\d+) without an answer, "
    r"for (?P<waited>\S+) ms|none was sent since); this was noticed (?P<late>\S+) ms late"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """Who is granted real-time priority."""

    name: str
    agents: bool
    etcd: bool
    text: str


VARIANTS: Final = (
    Variant("granted", agents=True, etcd=True, text="agents, guards and etcd real-time"),
    Variant("agents", agents=True, etcd=False, text="agents and guards real-time, etcd as any process"),
    Variant("refused", agents=False, etcd=False, text='nobody (`node.realtime = "off"`)'),
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a holder stopped at its deadline, by its own log."""

    node: str
    what: str
    line: str


@dataclass(slots=True)
class Measured:
    """One variant; empty figures and a reason if it could not be measured."""

    variant: str
    seconds: float = 0.0
    hogs: int = 0
    moves: list[dict[str, Any]] = field(default_factory=list)
    """Changes of ownership, as in `leaseha history`: nothing failed, so each is a false one."""
    demotions: list[Cause] = field(default_factory=list)
    slow_renewals: int = 0
    """Warnings of the agents: a renewal had used over half of its ttl."""
    renewal_used: list[float] = field(default_factory=list)
    """The holder's, one a look: the worst of the last minute; 1 is all of its time."""
    timer_late_ms: float = 0.0
    etcd_answer_ms: float = 0.0
    gc_pause_ms: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)
    """That the client noticed, in order of time."""
    answering_ms: float = 0.0
    etcd_slow: int = 0
    """Lines in which etcd says itself that it was late."""
    priorities: dict[str, str] = field(default_factory=dict)
    memory_kib: dict[str, list[int]] = field(default_factory=dict)
    """RSS and PSS of agent and guard together."""
    error: str = ""


def cause_of(node: str, line: str) -> Cause | None:
    """What the agent's own figures say; None if the line is another."""
    hung = _HUNG.search(line)
    if hung is not None:
        return Cause(node, "the agent did not run for so long that its guard killed it", hung[0])
    found = _WHY.search(line)
    if found is None:
        return None
    late_ms, waited_ms = float(found["late"]), float(found["waited"] or 0)
    if late_ms > EARLY_MS:
        what = "the agent did not run in time"
    elif found["sent"] is None:
        what = "no renewal was sent in time"
    else:
        what = f"etcd's answer had not come after {'over' if waited_ms > 100 else 'under'} 100 ms"
    return Cause(node, what, line[line.index("a deadline passed") :].strip())


@contextlib.contextmanager
def hogs(count: int) -> Iterator[list[int]]:
    """Processes that compute without a pause; every other one copies memory, too. Gives their numbers."""
    started = []
    try:
        for number in range(count):
            program = (_HOG, _COPYING_HOG)[number % 2]
            command = [sys.executable, "-I", "-S", "-c", program]
            started.append(subprocess.Popen(command, start_new_session=True))
        yield [one.pid for one in started]
    finally:
        for one in started:
            one.kill()
            one.wait()


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Nobody else who asks for this lock measures meanwhile."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_realtime(pid: int, priority: int) -> None:
    """Every thread of a process, and those that they will start. Raises `LabError` where that is not permitted."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(priority))
    except PermissionError as error:
        raise LabError("real-time priority is not permitted here: run as root") from error


def measure(variant: Variant, ttl: str, renew_every: str, seconds: float, per_core: int) -> Measured:
    """One variant, in a lab of its own. Errors are results, too."""
    found = Measured(variant.name)
    session = {"ttl": ttl} | ({"renew_every": renew_every} if renew_every else {})
    settings = {
        "node": {"realtime": "auto" if variant.agents else "off"},
        "session": session,
        "lease": {LEASE: {"failback": "off"}},
    }
    try:
        with Lab(nodes=(FIRST, OTHER), settings=settings) as lab:
            _bring_up(lab, variant)
            with hogs(per_core * (os.cpu_count() or 1)) as pids:
                found.hogs = len(pids)
                _watch(lab, found, seconds)
    except (LeasehaError, OSError) as error:
        found.error = f"{type(error).__name__}: {error}"
    return found


def _bring_up(lab: Lab, variant: Variant) -> None:
    for member in lab.etcd.members:
        if variant.etcd and member.process is not None:
            make_realtime(member.process.pid, ETCD_AT)
    for name in (FIRST, OTHER):
        lab.start_nodes(name)
    own = os.sched_getscheduler(0)
    make_realtime(os.getpid(), INSTRUMENTS_AT)  # the instruments inherit it
    try:
        lab.measure(period_ms=5.0, direct_ms=20.0, arp_ms=20.0)
    finally:
        os.sched_setscheduler(0, own, os.sched_param(0))
    holding(lab, FIRST)
    candidate(lab, OTHER)


def _watch(lab: Lab, found: Measured, seconds: float) -> None:
    offsets = {name: lab.nodes[name].log.stat().st_size for name in (FIRST, OTHER)}
    etcd_log = lab.etcd.members[0].log
    etcd_offset = etcd_log.stat().st_size
    token = lab.nodes[FIRST].status()["leases"][LEASE]["token"]
    # The figures of the calm start are waited out, where there is time for it.
    skip_s = REMEMBERED_S if seconds > 2 * REMEMBERED_S else 0.0
    began_ns = lab.settle()
    while (passed_s := (time.monotonic_ns() - began_ns) / 1e9) < seconds:
        time.sleep(min(LOOK_S, seconds - passed_s))  # waits for a fact: this much time is what is measured
        for name in (FIRST, OTHER):
            if not lab.nodes[name].running:
                lab.start_node(name)  # as a service manager would
            elif passed_s >= skip_s:
                _look(lab, name, found)
    ended_ns = lab.settle()
    found.seconds = (ended_ns - began_ns) / 1e9
    found.gaps_ms = [round(span.ms, 1) for span in lab.prober.gaps(began_ns, ended_ns)]
    found.answering_ms = sum(one.ms for one in lab.two_answering(began_ns, ended_ns))
    for name in (FIRST, OTHER):
        cost = cost_of(lab.nodes[name].pids())
        found.memory_kib[name] = [cost.rss_kib, cost.pss_kib]
        lines = _lines(lab.nodes[name].log, offsets[name])
        found.demotions += [cause for line in lines if (cause := cause_of(name, line)) is not None]
        found.slow_renewals += sum("slow renewal" in line for line in lines)
    slow = ("took too long", "slow fdatasync", "failed to send out heartbeat on time")
    found.etcd_slow = sum(any(word in line for word in slow) for line in _lines(etcd_log, etcd_offset))
    found.moves = [move for move in _history(lab) if move["token"] > token]


def _look(lab: Lab, name: str, found: Measured) -> None:
    """At the agent's own figures; one that does not answer within a second is asked again at the next look."""
    try:
        status = lab.nodes[name].status()
    except (OSError, LabError):
        return
    urgency = status["urgency"]
    worst = urgency["worst"]
    guard = (urgency["guard"] or {}).get("priority", "?")
    memory = "locked" if urgency["memory_locked"] else "not locked"
    found.priorities[name] = f"agent {urgency['priority']}, guard {guard}, memory {memory}"
    if status["leases"][LEASE]["role"] == "HOLDER":
        found.renewal_used.append(worst["renewal_used"])
    found.timer_late_ms = max(found.timer_late_ms, worst["timer_late_ms"])
    found.etcd_answer_ms = max(found.etcd_answer_ms, worst["etcd_answer_ms"])
    found.gc_pause_ms = max(found.gc_pause_ms, worst["gc_pause_ms"])


def _lines(file: Path, offset: int) -> list[str]:
    with file.open("rb") as source:
        source.seek(offset)
        return source.read().decode(errors="replace").splitlines()


def _history(lab: Lab) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "leaseha", "history", "--json", "-n", str(MOVES_MAX)]
    done = lab.host(OTHER).run([*command, "--config", str(lab.nodes[OTHER].config)])
    if done.returncode:
        raise LabError(f"leaseha history: {done.stdout}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def table(results: Sequence[Measured]) -> str:
    """Markdown: one row a variant."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    texts = {one.name: one.text for one in VARIANTS}
    for one in results:
        if one.error:
            lines.append(
                f"| {texts[one.variant]} | not measured: {one.error.splitlines()[0]} |"
                + " |" * (len(HEADINGS) - 2)
            )
            continue
        memory = " and ".join(
            f"{rss / 1024:.0f} / {pss / 1024:.0f} MiB" for rss, pss in one.memory_kib.values()
        )
        cells = [
            texts[one.variant],
            f"{one.seconds / 60:.1f}",
            f"**{len(one.moves)}**{' or more' if len(one.moves) >= MOVES_MAX else ''}",
            str(len(one.demotions)),
            f"{max(one.renewal_used, default=0):.0%}, median {statistics.median(one.renewal_used or [0]):.0%}",
            str(one.slow_renewals),
            f"{one.timer_late_ms:.0f} ms",
            f"{one.etcd_answer_ms:.0f} ms",
            f"{one.gc_pause_ms:.1f} ms",
            f"{max(one.gaps_ms, default=0):.0f} ms",
            f"{one.answering_ms:.0f} ms",
            str(one.etcd_slow),
            memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reasons(results: Sequence[Measured]) -> str:
    """Markdown: why holders stopped, and why others took over."""
    lines = []
    for one in results:
        causes = Counter(cause.what for cause in one.demotions)
        moved = [f"{move['kind']}: {_NUMBER.sub('N', move['reason'])}" for move in one.moves]
        kinds = Counter(moved)
        for what, count in [*causes.most_common(), *kinds.most_common()]:
            lines.append(f"- *{one.variant}*, {count} ×: {what}")
        if one.demotions:
            lines.append(f"  - such as: {one.demotions[0].line}")
    return "\n".join(lines) or "Nobody stopped, and nothing moved."


def page(results: Sequence[Measured], facts: dict[str, Any]) -> str:
    """The whole of it as Markdown."""
    known = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    count = next((one.hogs for one in results if one.hogs), 0)
    head = f"`{facts['command']}`, {facts['date']}; {known}, {facts['cores']} cores."
    text = (
        f"Two nodes, one etcd member (data in memory) and the client on one machine, beside {count} processes that "
        "compute without a pause at normal priority, each in a session of its own. Nothing fails: every takeover is a "
        f"false one. etcd, where it is real-time, at SCHED_RR {ETCD_AT}, agents and guards at 5, instruments always at "
        f"{INSTRUMENTS_AT}. Timers, answers and pauses: the worst that the agents noted, of both. An answer counts "
        "until the agent has it in hands, so it contains the agent's own lateness."
    )
    parts = (f"# Busy cores, ttl {facts['ttl']}", head, text, table(results), "## Why", reasons(results))
    return "\n\n".join(parts) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m chaos.busy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--ttl", default="300ms")
    made.add_argument("--renew-every", default="60ms", help="default 60ms; empty: ttl / 5")
    made.add_argument("--minutes", type=float, default=10.0, help="of each variant (default 10)")
    made.add_argument("--hogs", type=int, default=2, help="for each core (default 2)")
    names = ", ".join(one.name for one in VARIANTS)
    made.add_argument("--variants", default="", help=f"of {names}, with commas; default: all")
    made.add_argument("--lock", type=Path, help="a file that is locked (flock) during each measurement")
    made.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if something could not be measured, a granted variant moved, or two answered."""
    given = list(sys.argv[1:] if argv is None else argv)
    asked = parser().parse_args(given)
    wanted = [name.strip() for name in asked.variants.split(",") if name.strip()]
    chosen = [one for one in VARIANTS if not wanted or one.name in wanted]
    if len(chosen) < len(set(wanted)) or asked.minutes <= 0 or parse_duration(asked.ttl) <= 0:
        print("chaos.busy: no such variant, or no time at all: see --help", file=sys.stderr)
        return 2
    ensure_sandbox([sys.executable, "-m", "chaos.busy", *given])
    results = []
    for variant in chosen:
        with alone(asked.lock):
            results.append(measure(variant, asked.ttl, asked.renew_every, asked.minutes * 60, asked.hogs))
        print(f"{variant.name}: {json.dumps(asdict(results[-1]))}", flush=True)
    facts = {
        "command": shlex.join(["python", "-m", "chaos.busy", *given]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "ttl": asked.ttl,
        "cores": os.cpu_count(),
        "versions": versions(),
    }
    print(f"\n{table(results)}\n\n{reasons(results)}")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**facts, "results": [asdict(one) for one in results]}, indent=1)
        Path(f"{asked.out}.json").write_text(text + "\n", encoding="utf-8")
        Path(f"{asked.out}.md").write_text(page(results, facts), encoding="utf-8")
    bad = any(one.error or one.answering_ms for one in results)
    return 1 if bad or any(one.moves for one in results if one.variant == VARIANTS[0].name) else 0


if __name__ == "__main__":
    sys.exit(main())
