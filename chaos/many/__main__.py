"""Many leases on three nodes: what they cost at rest, and how fast a dead node's share is taken over.

    python -m leaseha.lab.sandbox -- python -m chaos.many --leases 1,100,1000 --ttl 2s --runs 5 --out docs/many

One VIP a lease; a third of the leases prefers each node. For each number of leases one lab: start until every VIP
answers; at rest, with no instrument running, etcd's writes (revisions, and entries of its log, with etcd's own
leases) and CPU and memory of agent and guard; then, in each run, the power of one node is lost at a random phase of
its renewals, and for each of its VIPs the first answer that a client gets from another node is timed. Beside: which
VIPs two nodes answered for, and by how much the survivors' renewals were late while they came up with all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from chaos.bench.idle import Cost, cost_of
from chaos.many.figures import Death, NodeCost, Rest, Result
from chaos.many.report import as_json, as_markdown
from chaos.many.watch import RenewalWatch, takeover
from chaos.moves import versions
from leaseha.config.durations import parse_duration
from leaseha.errors import LabError, LeasehaError
from leaseha.lab.lab import LEASE, NODES, Lab
from leaseha.lab.sweeping import Sweep, start_sweep

START_S: Final = 120.0
HOME_S: Final = 180.0
SETTLE_S: Final = 5.0
DIRECT_MS: Final = 250.0
NETWORK: Final = "10.77.0.0/16"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    leases: tuple[int, ...]
    ttl: str
    renew_every: str
    realtime: str
    runs: int
    idle_s: float
    seed: int
    lock: Path | None
    keep: Path | None

    @property
    def session(self) -> dict[str, str]:
        """As the configuration has it."""
        return {"ttl": self.ttl} | ({"renew_every": self.renew_every} if self.renew_every else {})

    @property
    def ttl_s(self) -> float:
        """Of a renewal."""
        return parse_duration(self.ttl) / 1e9


def address(number: int) -> str:
    """The VIP of the lease with this number, from 0; none is a host's own, nor one that looks like a broadcast."""
    return f"10.77.{1 + number // 250}.{1 + number % 250}"


def lease_name(number: int) -> str:
    """Of the lease with this number."""
    return f"v{number:04d}"


def leases_of(count: int) -> dict[str, Any]:
    """The lease tables: each prefers the next node."""
    found: dict[str, Any] = {LEASE: None}
    for number in range(count):
        turn = [NODES[(number + at) % len(NODES)] for at in range(len(NODES))]
        priority = {name: 100 - 10 * at for at, name in enumerate(turn)}
        vips = [f"{address(number)}/32"]
        found[lease_name(number)] = {
            "vips": vips,
            "priority": priority,
            "hold_down": "5s",
            "flap_budget": 60,
        }
    return found


@contextlib.contextmanager
def quiet(lock: Path | None) -> Iterator[None]:
    """Nobody else measures, or makes noise, meanwhile."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def sweeping(lab: Lab, count: int, *, direct: bool) -> Iterator[Sweep]:
    """A client that asks all VIPs."""
    nodes = [lab.host(name) for name in NODES]
    targets = [address(number) for number in range(count)]
    log = lab.directory / "sweeper.log"
    sweeper = start_sweep(lab.client, targets, nodes, log, direct_ms=DIRECT_MS if direct else 0.0)
    try:
        yield sweeper.wait_ready()
    finally:
        sweeper.stop()


def held_by(lab: Lab) -> dict[str, int]:
    """How many leases each running node serves, by its own word. Raises `LabError`."""
    found = {}
    for name, agent in lab.nodes.items():
        with contextlib.suppress(OSError):
            roles = [lease["role"] for lease in agent.status(10.0)["leases"].values()]
            found[name] = roles.count("HOLDER")
    return found


def wait_home(lab: Lab, count: int) -> None:
    """Until each node serves its third. Raises `LabError`."""
    wanted = {name: len(range(at, count, len(NODES))) for at, name in enumerate(NODES)}
    end = time.monotonic() + HOME_S
    while (found := held_by(lab)) != wanted:
        if time.monotonic() > end:
            raise LabError(f"leases do not go home: {found}, not {wanted}")
        time.sleep(0.5)  # polls a fact; a status of many leases is work for the agent


def start(lab: Lab, count: int) -> float:
    """Until every VIP answers: s from the moment that etcd can be reached, with all agents up. Raises `LabError`.

    Else the agent that is up first takes all that nobody has ever held, and what is measured is how it goes home.
    """
    etcd = lab.etcd.members[0]
    with sweeping(lab, count, direct=False) as sweeper:
        etcd.freeze()
        for name in NODES:
            lab.start_node(name)
        for name in NODES:
            wait_up(lab, name)
        began_ns = time.monotonic_ns()
        etcd.thaw()
        answered = sweeper.wait_all(range(count), began_ns, START_S)
    return (max(at_ns for at_ns, _ in answered.values()) - began_ns) / 1e9


def wait_up(lab: Lab, name: str) -> None:
    """Until the agent answers at all. Raises `LabError`."""
    agent, end = lab.nodes[name], time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            agent.get("/livez")
            return
        if not agent.running or time.monotonic() > end:
            raise LabError(f"the agent of {name} does not come up\n{agent.tail()}")
        time.sleep(0.05)  # polls a fact


def rest(lab: Lab, seconds: float) -> Rest:
    """Nothing happens. Raises `LabError`, `OSError`."""
    time.sleep(SETTLE_S)  # waits for a fact: what a start or a status leaves behind is over then
    agents = {name: (lab.nodes[name].pid,) for name in NODES}
    guards = {n: tuple(p for p in lab.nodes[n].pids() if p not in agents[n]) for n in NODES}
    began, etcd_before = time.monotonic(), _etcd(lab)
    before = {name: (cost_of(agents[name]), cost_of(guards[name])) for name in NODES}
    time.sleep(seconds)
    after = {name: (cost_of(agents[name]), cost_of(guards[name])) for name in NODES}
    passed, etcd_after = time.monotonic() - began, _etcd(lab)
    held = held_by(lab)

    def cpu(earlier: Cost, later: Cost) -> float:
        return (later.cpu_s - earlier.cpu_s) / passed * 100

    nodes = []
    for name in NODES:
        agent, guard = after[name]
        spent = [cpu(one, other) for one, other in zip(before[name], after[name], strict=True)]
        agent_cost = spent[0], agent.rss_kib, agent.pss_kib
        nodes.append(
            NodeCost(name, held[name], *agent_cost, spent[1], guard.rss_kib, guard.pss_kib),
        )
    rates = [(late - early) / passed for early, late in zip(etcd_before, etcd_after, strict=True)]
    return Rest(rates[0], rates[1], passed, tuple(nodes))


def _etcd(lab: Lab) -> tuple[int, int]:
    status = lab.etcd.members[0].status()
    return int(status["header"]["revision"]), int(status["raftIndex"])


def status_takes(lab: Lab) -> float:
    """Seconds of `leaseha status` on the first node. Raises `LabError`."""
    command = [sys.executable, "-m", "leaseha", "status", "--config", str(lab.nodes[NODES[0]].config)]
    began = time.monotonic()
    done = lab.host(NODES[0]).run(command, timeout_s=60.0)
    if done.returncode != 0:
        raise LabError(f"status says {done.returncode}: {done.stdout[-300:]}")
    return time.monotonic() - began


def death(lab: Lab, plan: Plan, count: int, victim: str, chance: random.Random) -> Death:
    """Power lost; then everything as it was. Raises `LabError`."""
    share = list(range(NODES.index(victim), count, len(NODES)))
    with quiet(plan.lock), sweeping(lab, count, direct=True) as sweeper, RenewalWatch(lab) as renewals:
        sweeper.wait_all(range(count), time.monotonic_ns(), START_S)
        time.sleep(1.0 + chance.uniform(0, plan.ttl_s / 5))  # waits for a fact: a random phase of the renewal
        began_ns = time.monotonic_ns()
        lab.kill_host(victim)
        with contextlib.suppress(LabError):  # what is missing is a figure
            sweeper.wait_all(share, began_ns, plan.ttl_s + 15.0, other_than=victim)
        time.sleep(1.0)  # waits for a fact: two that answer would do so now
        found = takeover(sweeper, share, began_ns, victim)
        pause_ms = renewals.longest_ms(began_ns, [name for name in NODES if name != victim])
    lab.boot_host(victim)
    lab.start_node(victim)
    wait_home(lab, count)
    return Death(share=len(share), pause_ms=pause_ms, **found)


def measure(plan: Plan, count: int, chance: random.Random) -> Result:
    """One number of leases. Raises `LabError`."""
    settings = {"node": {"realtime": plan.realtime}, "session": plan.session, "lease": leases_of(count)}
    folder = plan.keep and plan.keep / f"leases-{count}"
    with Lab(settings=settings, directory=folder) as lab:
        lab.client.space.route("route", "add", dst=NETWORK, oif=lab.client.index())
        with quiet(plan.lock):
            began = time.monotonic()
            started_s = start(lab, count)
            wait_home(lab, count)
            home_s = time.monotonic() - began
            resting = rest(lab, plan.idle_s)
            status_s = status_takes(lab)
        told(f"{count} leases: all answer after {started_s:.1f} s, home after {home_s:.1f} s")
        told(json.dumps(asdict(resting)))
        deaths = []
        for number in range(plan.runs):
            victim = NODES[number % len(NODES)] if count >= len(NODES) else NODES[0]
            deaths.append(death(lab, plan, count, victim, chance))
            told(f"{count} leases, run {number + 1}/{plan.runs}: {json.dumps(asdict(deaths[-1]))}")
    return Result(count, started_s, home_s, resting, status_s, tuple(deaths))


def told(line: str) -> None:
    """Progress."""
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m chaos.many",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--leases", default="1,100,1000", help="numbers of leases (default 1,100,1000)")
    made.add_argument("--ttl", default="2s")
    made.add_argument("--renew-every", default="", help="empty: the default, ttl/5")
    made.add_argument("--runs", type=int, default=5, help="node deaths for each number (default 5)")
    made.add_argument("--realtime", default="auto", help="`node.realtime` of the agents: auto or off")
    made.add_argument("--idle", type=float, default=20.0, help="seconds at rest (default 20)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--lock", type=Path, help="a file to flock while something is measured")
    made.add_argument("--keep", type=Path, help="a folder for configurations, logs and recordings")
    made.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    told_to = parser().parse_args(given)
    counts = tuple(int(part) for part in told_to.leases.split(","))
    plan = Plan(
        counts,
        told_to.ttl,
        told_to.renew_every,
        told_to.realtime,
        told_to.runs,
        told_to.idle,
        told_to.seed,
        told_to.lock,
        told_to.keep,
    )
    chance = random.Random(plan.seed)
    about = {
        "command": shlex.join(["python", "-m", "chaos.many", *given]),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        **versions(),
        "cores": str(os.cpu_count()),
    }
    try:
        results = [measure(plan, count, chance) for count in plan.leases]
    except (LeasehaError, OSError) as error:
        print(f"chaos.many: {error}", file=sys.stderr)
        return 1
    page = as_markdown(results, plan.session, about)
    told(page)
    if told_to.out:
        told_to.out.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{told_to.out}.json").write_text(as_json(results, about), encoding="utf-8")
        Path(f"{told_to.out}.md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
