"""What etcd's own faults do to a lease: moves seen and the outage in ms, at two ttls: a campaign, not a test.

    python -m leaseha.lab.sandbox -- python -m chaos.etcd_faults --runs 5 --out docs/benchmarks/etcd-faults

At the default ttl, 5 s, no fault moves the lease. At 2 s an election at etcd's default timings may cost it.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from chaos.moves import FIRST, MOVE_S, OTHER, candidate, holding, versions
from chaos.traces import spread
from leaseha.errors import LabError
from leaseha.lab.etcd import EtcdMember
from leaseha.lab.lab import LEASE, Lab

TTLS: Final = ("5s", "2s")
FROZEN_S: Final = 5.0
SETTLED_S: Final = 3.0
PHASE_MAX_S: Final = 1.0
"""The fault comes at a random phase of the renewal, whose period is at most this."""


@dataclass(frozen=True, slots=True)
class Run:
    """One fault at one ttl."""

    fault: str
    ttl: str
    moves: int
    """How often the token changed."""
    outage_ms: float
    """The longest time without an answer on the VIP; 0 if no probe was lost."""
    answering_ms: float
    """For how long two nodes answered."""
    sessions_lost: int
    """Nodes that had to open another session."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to etcd; it returns when etcd is whole again."""

    name: str
    text: str
    members: int
    do: Callable[[Lab, random.Random], None]


def _restart(lab: Lab, _: random.Random) -> None:
    lab.etcd.restart("etcd1")


def _kill_single(lab: Lab, _: random.Random) -> None:
    lab.etcd.kill()
    lab.etcd.start()


def _kill_leader(lab: Lab, _: random.Random) -> None:
    leader = lab.etcd.wait_leader()
    leader.kill()
    lab.etcd.wait_leader(other_than=leader)
    time.sleep(SETTLED_S)  # waits for a fact: the cluster is watched while it has two members
    lab.etcd.start(leader.name)


def _freeze(member: EtcdMember) -> None:
    member.freeze()
    try:
        time.sleep(FROZEN_S)  # waits for a fact: the fault is defined to last so long
    finally:
        member.thaw()


def _freeze_leader(lab: Lab, _: random.Random) -> None:
    _freeze(lab.etcd.wait_leader())


def _freeze_follower(lab: Lab, chance: random.Random) -> None:
    leader = lab.etcd.wait_leader()
    _freeze(chance.choice([one for one in lab.etcd.members if one is not leader]))


def _compact(lab: Lab, chance: random.Random) -> None:
    """A random member freezes, with the watches on it; history that they have not seen is compacted elsewhere."""
    frozen = chance.choice(lab.etcd.members)
    if frozen is lab.etcd.wait_leader():
        lab.etcd.move_leader(next(one for one in lab.etcd.members if one is not frozen))
    leader = lab.etcd.wait_leader()
    key = base64.b64encode(b"/somebody-else").decode()
    frozen.freeze()
    try:
        answers = [leader.gateway("/v3/kv/put", {"key": key, "value": ""}) for _ in range(3)]
        revision = answers[-1]["header"]["revision"]
        leader.gateway("/v3/kv/compaction", {"revision": revision, "physical": True})
        time.sleep(FROZEN_S)  # waits for a fact: the fault is defined to last so long
    finally:
        frozen.thaw()


FAULTS: Final = (
    Fault("restart", "the only member restarted (SIGTERM)", 1, _restart),
    Fault("kill", "the only member SIGKILLed and started", 1, _kill_single),
    Fault("leader", "the leader of three SIGKILLed", 3, _kill_leader),
    Fault("freeze-leader", f"the leader of three SIGSTOPped {FROZEN_S:g} s", 3, _freeze_leader),
    Fault("freeze-follower", f"a follower of three SIGSTOPped {FROZEN_S:g} s", 3, _freeze_follower),
    Fault("compact", "history compacted under a watch on a frozen member", 3, _compact),
)


def _sessions(lab: Lab) -> dict[str, str]:
    return {name: lab.nodes[name].status()["session"]["id"] for name in (FIRST, OTHER)}


def _proven(status: dict[str, Any]) -> bool:
    left = status["session"]["deadline_left_s"]
    return left is not None and left > 0


def once(lab: Lab, fault: Fault, ttl: str, chance: random.Random) -> Run:
    """One fault. Raises `LabError` if the cluster does not come back by itself."""
    holding(lab, FIRST)
    candidate(lab, OTHER)
    sessions, pids = _sessions(lab), [lab.nodes[name].pid for name in (FIRST, OTHER)]
    token = lab.nodes[FIRST].status()["leases"][LEASE]["token"]
    time.sleep(chance.uniform(0, PHASE_MAX_S))  # waits for a fact: the random phase is what is wanted
    began_ns = lab.settle()
    fault.do(lab, chance)
    lab.etcd.wait_healthy()
    for name in (FIRST, OTHER):
        lab.nodes[name].wait_for("its session is proven", _proven, MOVE_S)
    time.sleep(SETTLED_S)  # waits for a fact: what follows late still belongs to this fault
    holding(lab, FIRST)
    ended_ns = lab.settle()
    if [lab.nodes[name].pid for name in (FIRST, OTHER)] != pids:
        raise LabError("an agent was restarted")
    tokens = {move["token"] for move in json.loads(_history(lab)) if move["token"] > token}
    return Run(
        fault.name,
        ttl,
        moves=len(tokens),
        outage_ms=lab.prober.longest_gap_ms(began_ns, ended_ns),
        answering_ms=sum(one.ms for one in lab.two_answering(began_ns, ended_ns)),
        sessions_lost=sum(1 for name, one in _sessions(lab).items() if one != sessions[name]),
    )


def _history(lab: Lab) -> str:
    command = [sys.executable, "-m", "leaseha", "history", "--json", "-n", "100"]
    done = lab.host(OTHER).run([*command, "--config", str(lab.nodes[OTHER].config)])
    if done.returncode:
        raise LabError(f"leaseha history: {done.stdout}")
    return done.stdout


def campaign(runs: int, chosen: list[Fault], seed: int) -> list[Run]:
    """All runs; one lab for each ttl and number of etcd members."""
    chance, found = random.Random(seed), []
    for ttl in TTLS:
        for members in sorted({fault.members for fault in chosen}):
            settings = {"session": {"ttl": ttl}, "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}}}
            with Lab(nodes=(FIRST, OTHER), etcd_members=members, settings=settings) as lab:
                lab.start_nodes(FIRST)
                lab.start_nodes(OTHER)
                lab.measure()
                for fault in (one for one in chosen if one.members == members):
                    for number in range(1, runs + 1):
                        found.append(run := once(lab, fault, ttl, chance))
                        print(f"{ttl} {fault.name} {number}/{runs}: {json.dumps(asdict(run))}", flush=True)
                        lab.measure()
    return found


def table(runs: list[Run]) -> str:
    """Markdown: for each fault and ttl, runs that moved the lease, and the outage."""
    lines = [
        "| fault | ttl | runs | with a move | moves | outage | two answering |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        for ttl in TTLS:
            mine = [run for run in runs if (run.fault, run.ttl) == (fault.name, ttl)]
            if mine:
                cells = [
                    fault.text,
                    ttl,
                    str(len(mine)),
                    str(sum(1 for run in mine if run.moves)),
                    str(sum(run.moves for run in mine)),
                    spread([run.outage_ms for run in mine]),
                    spread([run.answering_ms for run in mine]),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and write its results; 1 if a lease moved at the default ttl, or two nodes answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", action="append", choices=[one.name for one in FAULTS])
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    asked = parser.parse_args()
    chosen = [one for one in FAULTS if not asked.fault or one.name in asked.fault]
    runs = campaign(asked.runs, chosen, asked.seed)
    text = table(runs)
    print(text)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m chaos.etcd_faults --runs {asked.runs} --seed {asked.seed}"
        facts = {"command": command, "versions": versions(), "runs": [asdict(run) for run in runs]}
        asked.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        known = ", ".join(f"{name} {value}" for name, value in versions().items())
        head = f"# Faults of etcd\n\nms, min / **median** / max; etcd at its default timings. `{command}`; {known}.\n\n"
        asked.out.with_suffix(".md").write_text(f"{head}{text}\n")
    moved = any(run.moves for run in runs if run.ttl == TTLS[0])
    return 1 if moved or any(run.answering_ms for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
