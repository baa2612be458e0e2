"""Moves of a lease under real faults in the lab, as a client sees them: a campaign, not a test.

    python -m leaseha.lab.sandbox -- python -m chaos.moves --runs 20 --ttl 2s --out docs/benchmarks/moves

Each run: the preferred node holds; after a random pause a fault (or an order); the other node takes over; the
fault ends; the preferred node gets its lease back. Written: for how long the client missed the address (which
the kernel answers for, also after the agent's death) and the service on it (the repository, by HTTP), for how
long two nodes *answered* (by UDP, asked through the VIP and each node by its own MAC, and by ARP), for how long
two kernels had the address *bound*.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from leaseha import __version__
from leaseha.errors import LabError
from leaseha.lab.etcd import find_etcd
from leaseha.lab.lab import LEASE, Lab

FIRST: Final = "node1"
OTHER: Final = "node2"
PORT: Final = 8000
FROZEN_S: Final = 5.0
MOVE_S: Final = 30.0
PHASE_MAX_S: Final = 1.0
"""The fault comes at a random phase of the renewal, whose period is less than this."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario; all in ms."""

    scenario: str
    gap_ms: float
    service_gap_ms: float
    answering_ms: float
    answering_count: int
    bound_ms: float
    failback_gap_ms: float
    failback_service_gap_ms: float
    failback_answering_ms: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault or an order, and how it ends."""

    name: str
    text: str
    begin: Callable[[Lab], None]
    end: Callable[[Lab], None]
    lasts_s: float = 0.0
    """How long it lasts at least, even when the other node serves already."""


def _order_switchover(lab: Lab) -> None:
    """`leaseha switchover`, as an operator would on the other node."""
    config = str(lab.nodes[OTHER].config)
    command = [sys.executable, "-m", "leaseha", "switchover", "--config", config, "--to", OTHER]
    done = lab.host(OTHER).run(command, timeout_s=MOVE_S)
    if done.returncode != 0:
        raise LabError(f"switchover failed: {done.stdout}{done.stderr}")


def _nothing(_: Lab) -> None:
    """A switchover ends by itself."""


def _restart(lab: Lab) -> None:
    node = lab.nodes[FIRST]
    node.wait()
    node.start()


def _wake(lab: Lab) -> None:
    """Frozen past its deadline the agent was killed by its guard: start it again, as a service manager would."""
    if lab.nodes[FIRST].running:
        lab.nodes[FIRST].thaw()
    else:
        _restart(lab)


SCENARIOS: Final = (
    Scenario("kill", "agent SIGKILLed, host alive", lambda lab: lab.nodes[FIRST].kill(), _restart),
    Scenario(
        "freeze",
        f"agent SIGSTOPped for {FROZEN_S:g} s",
        lambda lab: lab.nodes[FIRST].freeze(),
        _wake,
        FROZEN_S,
    ),
    Scenario(
        "cut",
        "host cut off silently",
        lambda lab: lab.host(FIRST).cut_silent(),
        lambda lab: lab.host(FIRST).heal(),
        FROZEN_S,
    ),
    Scenario(
        "carrier",
        "carrier lost",
        lambda lab: lab.host(FIRST).cut_carrier(),
        lambda lab: lab.host(FIRST).heal(),
        FROZEN_S,
    ),
    Scenario("term", "SIGTERM", lambda lab: lab.nodes[FIRST].term(), _restart),
    Scenario("switchover", "switchover by hand", _order_switchover, _nothing),
)


def holding(lab: Lab, name: str) -> None:
    """Until a node serves the lease by its own word, and the client hears it."""

    def serves(status: dict[str, Any]) -> bool:
        return bool(status["leases"][LEASE]["role"] == "HOLDER")

    lab.nodes[name].wait_for(f"{name} serves", serves, MOVE_S)
    lab.prober.wait_for_answer(by=name, after_ns=time.monotonic_ns(), timeout_s=MOVE_S)


def candidate(lab: Lab, name: str) -> None:
    """Until a node is ready to take the lease."""

    def admitted(status: dict[str, Any]) -> bool:
        rows = status["leases"][LEASE]["candidates"]
        return any(row["node"] == name and row["candidate"] for row in rows)

    lab.nodes[name].wait_for(f"{name} is a candidate", admitted, MOVE_S)


def once(lab: Lab, scenario: Scenario, chance: random.Random) -> Run:
    """One run. Raises `LabError` if the lease does not move, or not back."""
    holding(lab, FIRST)
    candidate(lab, OTHER)
    time.sleep(chance.uniform(0, PHASE_MAX_S))  # waits for a fact: the random phase is what is wanted
    began_ns = time.monotonic_ns()
    scenario.begin(lab)
    _, taken_ns = lab.prober.wait_for_answer(by=OTHER, after_ns=began_ns, timeout_s=MOVE_S)
    _, served_ns = lab.service.wait_for_answer(after_ns=taken_ns, timeout_s=MOVE_S)
    left_s = scenario.lasts_s - (time.monotonic_ns() - began_ns) / 1e9
    time.sleep(max(0.0, left_s))  # waits for a fact: the fault is defined to last so long
    scenario.end(lab)
    lab.prober.wait_for_answer(by=FIRST, after_ns=taken_ns, timeout_s=MOVE_S)
    back_ns = time.monotonic_ns()
    holding(lab, FIRST)
    ended_ns = lab.settle()
    # The failback begins when the other node is heard for the last time; until then it is the fault's time.
    turn_ns = max(t for t in lab.prober.answers()[OTHER] if t <= back_ns) - 1
    answering = lab.two_answering(began_ns, turn_ns)
    bound = lab.monitor.overlaps(began_ns, ended_ns)
    return Run(
        scenario.name,
        gap_ms=lab.prober.longest_gap_ms(began_ns, turn_ns - 1),
        # Nothing tells whose an answer of the service is; at `served_ns` it is the other node's.
        service_gap_ms=lab.service.longest_gap_ms(began_ns, served_ns - 1),
        answering_ms=sum(one.ms for one in answering),
        answering_count=len(answering),
        bound_ms=sum(one.ms for one in bound),
        failback_gap_ms=lab.prober.longest_gap_ms(turn_ns + 1, ended_ns),
        failback_service_gap_ms=lab.service.longest_gap_ms(served_ns + 1, ended_ns),
        failback_answering_ms=sum(one.ms for one in lab.two_answering(turn_ns, ended_ns)),
    )


def campaign(
    runs: int, ttl: str, chosen: list[Scenario], seed: int, etcd_members: int, keep: Path | None
) -> list[Run]:
    """All runs of all scenarios, each scenario in a lab of its own."""
    chance = random.Random(seed)
    found: list[Run] = []
    settings = {
        "session": {"ttl": ttl},
        "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}},
    }
    for scenario in chosen:
        # Of its own each: a data directory remembers the tokens of the etcd before, and a node its data directory.
        folder = keep and keep / scenario.name
        with Lab(nodes=(FIRST, OTHER), etcd_members=etcd_members, settings=settings, directory=folder) as lab:
            # One directory for both, as on a shared disk: it is the service that is measured, not its data.
            data = lab.directory / "data"
            data.mkdir(exist_ok=True)
            for name in (FIRST, OTHER):
                lab.start_nodes(name, lease={LEASE: {"repository": {"port": PORT, "path": str(data)}}})
            lab.measure(service_port=PORT)
            for number in range(1, runs + 1):
                run = once(lab, scenario, chance)
                found.append(run)
                print(f"{scenario.name} {number}/{runs}: {json.dumps(asdict(run))}", flush=True)
    return found


def table(runs: list[Run]) -> str:
    """Markdown: min / median / max of each figure, ms."""
    lines = [
        "| scenario | runs | address away | service away | two answering | two bound |",
        "|---|---|---|---|---|---|",
    ]
    for scenario in SCENARIOS:
        mine = [run for run in runs if run.scenario == scenario.name]
        if mine:
            cells = _cells(mine, "gap_ms", "service_gap_ms", "answering_ms", "bound_ms")
            lines.append(f"| {scenario.text} | {len(mine)} | {' | '.join(cells)} |")
    cells = _cells(runs, "failback_gap_ms", "failback_service_gap_ms", "failback_answering_ms")
    lines.append(f"| failback (after each of the above) | {len(runs)} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _cells(runs: list[Run], *names: str) -> list[str]:
    return [_spread([getattr(run, name) for run in runs]) for name in names]


def _spread(values: list[float]) -> str:
    return f"{min(values):.0f} / **{statistics.median(values):.0f}** / {max(values):.0f}"


def versions() -> dict[str, str]:
    """What was measured, and on what."""
    etcd = find_etcd()
    return {
        "leaseha": __version__,
        "etcd": etcd.version,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }


def main() -> int:
    """Run the campaign and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--ttl", default="2s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--etcd-members", type=int, default=1)
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS])
    parser.add_argument("--keep", type=Path, help="a folder for configurations and logs, which stay")
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    arguments = parser.parse_args()
    chosen = [one for one in SCENARIOS if not arguments.scenario or one.name in arguments.scenario]
    runs = campaign(
        arguments.runs, arguments.ttl, chosen, arguments.seed, arguments.etcd_members, arguments.keep
    )
    text = table(runs)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        command = (
            f"python -m chaos.moves --runs {arguments.runs} --ttl {arguments.ttl} --seed {arguments.seed}"
        )
        facts = {"command": command, "versions": versions(), "runs": [asdict(run) for run in runs]}
        arguments.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        head = f"# Moves at ttl {arguments.ttl}\n\nms, min / **median** / max. `{command}`; "
        known = ", ".join(f"{name} {value}" for name, value in versions().items())
        arguments.out.with_suffix(".md").write_text(f"{head}{known}.\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
