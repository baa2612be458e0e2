"""The renewals of a real agent: nothing is imported or opened by them, and its children are none the more urgent."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha import scheduling
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FIRST, SOON_S, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.lab]

RENEWALS = 60
WARM_S = 20
HOOKED = """
import os, sys, threading
sink = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
main = threading.main_thread()

def heard(event, arguments):
    if event in ("import", "open", "compile", "os.fork", "subprocess.Popen"):
        who = "loop" if threading.current_thread() is main else "beside"
        os.write(sink, f"{who} {event} {arguments[0]!r}\\n".encode())

sys.addaudithook(heard)
from leaseha.cli import main as run
sys.exit(run(sys.argv[1:]))
"""
SLEEPER = {"script": ["/bin/sleep", "600"], "every": "60s", "weight": -1}
SETTINGS = {
    "session": {"ttl": "1s", "renew_every": "50ms"},
    "lease": {LEASE: {"check": {"script": SLEEPER}}},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    with Lab(nodes=(FIRST,), directory=tmp_path_factory.mktemp("path"), settings=SETTINGS) as made:
        agent = made.node(FIRST)
        program = (sys.executable, "-c", HOOKED, str(made.directory / "audit"), "run", "--config")
        agent.start(program=(*program, str(agent.config)))
        agent.wait_for("it serves", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S)
        yield made


def revision(lab: Lab) -> int:
    return int(lab.etcd.members[0].status()["header"]["revision"])


def audited(lab: Lab) -> list[str]:
    return (lab.directory / "audit").read_text().splitlines()


def after(lab: Lab, renewals: int) -> None:
    """Until so many more have been committed."""
    goal = revision(lab) + renewals
    wait_until(f"{renewals} renewals", lambda: revision(lab) >= goal, SOON_S)


def test_renewals_import_nothing_and_open_nothing(lab: Lab):
    after(lab, RENEWALS)
    # What runs beside begins at its own times (the exporter of traces, the first round of checks): wait it out.
    quiet = 0
    for _ in range(WARM_S):
        before = len(audited(lab))
        after(lab, RENEWALS // 3)
        quiet = quiet + 1 if not any("import" in line for line in audited(lab)[before:]) else 0
        if quiet == 3:
            break
    before = len(audited(lab))

    after(lab, RENEWALS)

    assert [line for line in audited(lab)[before:] if line.startswith("loop")] == []
    assert [line for line in audited(lab)[before:] if " import " in line] == []


def test_an_agent_and_its_guard_are_urgent_and_what_they_start_is_not(lab: Lab):
    if why := scheduling.why_not_realtime():
        pytest.skip(f"{why}: run as root")
    agent = lab.nodes[FIRST]
    told = agent.wait_for("the guard has said what it is", lambda s: bool(s["urgency"]["guard"]))["urgency"]
    if told["priority"] != scheduling.REAL_TIME:
        pytest.skip(f"{told['note']}: give this group of processes a share of real-time")
    assert told["guard"]["priority"] == scheduling.REAL_TIME

    urgent = {pid: all(map(scheduling.is_realtime, tasks(pid))) for pid in agent.pids()}
    children = {pid for pid in urgent if b"/bin/sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()}

    assert len(children) == 1
    assert {pid: True for pid in urgent if pid not in children} | dict.fromkeys(children, False) == urgent
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in children} == {0}


def tasks(pid: int) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
