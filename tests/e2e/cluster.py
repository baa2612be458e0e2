"""A running cluster in the lab, and what the tests of the whole product say of it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, Lab

FIRST, SECOND, THIRD = "node1", "node2", "node3"
NODES = (FIRST, SECOND, THIRD)
SOON_S = 40.0
"""A bound for waits on a loaded machine; every wait ends with its fact."""
CALM_NS = 150_000_000
"""Answers of one node less than 100 ms apart are one stay for the instruments: moves are kept further apart."""

FAST: dict[str, Any] = {
    "session": {"ttl": "1s"},
    "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}},
}


def run_cli(lab: Lab, node: str, *arguments: str, timeout_s: float = SOON_S) -> subprocess.CompletedProcess:
    """`leaseha ARGUMENTS` on a node, with its configuration where the command takes one; both outputs in stdout."""
    verb, *rest = arguments
    config = [] if verb in {"version", "fsm"} else ["--config", str(lab.nodes[node].config)]
    command = [sys.executable, "-m", "leaseha", verb, *rest, *config]
    done = lab.host(node).run(command, timeout_s=timeout_s)
    assert "Traceback" not in done.stdout, done.stdout
    return done


def told(lab: Lab, node: str, *arguments: str) -> Any:
    """The JSON that a command prints; it must succeed."""
    done = run_cli(lab, node, *arguments, "--json")
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def history(lab: Lab, node: str, lease: str = LEASE) -> list[dict[str, Any]]:
    """All moves, oldest first."""
    return told(lab, node, "history", lease)


def holding(lab: Lab, name: str, *, lease: str = LEASE, subject: int = 0, timeout_s: float = SOON_S) -> dict:
    """Until a node serves a lease by its own word and has for a while by the client's; its status of the lease."""

    def serves(status: dict[str, Any]) -> bool:
        return status["leases"][lease]["role"] == "HOLDER"

    lab.nodes[name].wait_for(f"{name} serves {lease}", serves, timeout_s)
    calm_ns = time.monotonic_ns() + CALM_NS
    lab.prober.wait_for_answer(by=name, after_ns=calm_ns, timeout_s=timeout_s, subject=subject)
    return lab.nodes[name].status()["leases"][lease]


def standing_by(lab: Lab, holder: str, *names: str, lease: str = LEASE) -> None:
    """Until the holder counts these nodes among the candidates, each as its running agent published itself."""
    sessions = {name: lab.nodes[name].status()["session"]["id"] for name in names}

    def ready(status: dict[str, Any]) -> bool:
        rows = {row["node"] for row in status["leases"][lease]["candidates"] if row["candidate"]}
        now = {row["node"]: row["session"] for row in status["nodes"]}
        return set(names) <= rows and all(now[name] == session for name, session in sessions.items())

    lab.nodes[holder].wait_for(f"{', '.join(names)} stand by", ready, SOON_S)


def whole(lab: Lab, first: str = FIRST) -> None:
    """All faults taken back, all agents up, the preferred node holding, the others standing by."""
    lab.heal()
    for name, agent in lab.nodes.items():
        if not agent.running:
            lab.start_node(name)
    for agent in lab.nodes.values():
        agent.wait_ready(SOON_S)
    holding(lab, first)
    standing_by(lab, first, *(name for name in lab.nodes if name != first))


@contextlib.contextmanager
def never_two(lab: Lab) -> Iterator[int]:
    """G1 over the block, by all that the instruments saw; gives the instant of its beginning in ns."""
    began_ns = lab.settle()
    yield began_ns
    ended_ns = lab.settle()
    for subject in range(len(lab.vips)):
        assert lab.two_answering(began_ns, ended_ns, subject) == []


def only_one_answers(lab: Lab, name: str) -> None:
    """From now on this node answers on every VIP, to the client, to ARP, and asked by MAC; nobody else does."""
    since_ns = lab.settle()
    for subject in range(len(lab.vips)):
        lab.prober.wait_for_answer(by=name, after_ns=since_ns + CALM_NS, subject=subject)
        lab.settle()
        for seen in (lab.prober, lab.direct, lab.arp):
            who = {host for host, instants in seen.answers(subject).items() if instants[-1] > since_ns}
            assert who <= {name}, f"{seen.file.stem}: {who}"


def log_of(lab: Lab, name: str) -> str:
    """All that an agent has logged."""
    return lab.nodes[name].log.read_text(encoding="utf-8", errors="replace")


def wait_logged(lab: Lab, name: str, *words: str, after: int = 0, timeout_s: float = SOON_S) -> str:
    """The first line of an agent's log, from an offset on, that has all these words."""
    found = ""

    def said() -> bool:
        nonlocal found
        lines = log_of(lab, name)[after:].splitlines()
        found = next((line for line in lines if all(word in line for word in words)), "")
        return bool(found)

    wait_until(f"{name} says {words}", said, timeout_s, lab.nodes[name].tail)
    return found


def wait_until(
    what: str, fact: Callable[[], bool], timeout_s: float = SOON_S, more: Callable[[], str] = lambda: ""
) -> None:
    """Until a fact; fails with what was waited for."""
    end = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > end:
            raise LabError(f"did not come: {what}\n{more()}")
        time.sleep(0.01)  # waits for a fact: the one that is asked for


def assert_no_traceback(folder: Path) -> None:
    """No log of anything that ran there shows a traceback, nor asks the user to report a fault."""
    for log in folder.rglob("*.log"):
        text = log.read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in text, f"{log}: {text[-3000:]}"
        assert "fault in leaseha" not in text, f"{log}: {text[-3000:]}"


@contextlib.contextmanager
def cluster(folder: Path, *, start: bool = True, measure: bool = True, **options: Any) -> Iterator[Lab]:
    """A lab whose agents all run, the preferred node first, under all instruments; its logs are looked at last."""
    options.setdefault("settings", FAST)
    with Lab(directory=folder, **options) as lab:
        if start:
            lab.start_nodes(lab.node_names[0])
            lab.nodes[lab.node_names[0]].wait_for(
                "the first node serves", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S
            )
            lab.start_nodes(*lab.node_names[1:])
        if measure:
            # Half as often as in a campaign: what is looked for lasts longer, and the cores are shared.
            lab.measure(period_ms=2.0, direct_ms=8.0, arp_ms=8.0)
        yield lab
    assert_no_traceback(folder)
