"""The campaign of busy cores: what it makes of an agent's words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import busy
from chaos.busy import Measured

LINE = (
    "2026-01-01 00:00:00.000 WARNING node1: a deadline passed: the last proven renewal was sent 301.2 ms ago, {waits}; "
    "this was noticed {late} ms late; of late timers rang up to 9 ms late, etcd answered within 200 ms, the collector "
    "paused for 0.4 ms"
)


@pytest.mark.parametrize(
    ("waits", "late", "what"),
    [
        ("2 without an answer, for 240.1 ms", "0.4", "etcd's answer had not come after over 100 ms"),
        ("1 without an answer, for 60 ms", "0.4", "etcd's answer had not come after under 100 ms"),
        ("2 without an answer, for 240.1 ms", "180", "the agent did not run in time"),
        ("none was sent since", "2", "no renewal was sent in time"),
    ],
)
def test_who_was_late_is_read_from_the_line_that_the_agent_logs(waits: str, late: str, what: str):
    found = busy.cause_of("node1", LINE.format(waits=waits, late=late))

    assert found is not None
    assert (found.node, found.what) == ("node1", what)
    assert busy.cause_of("node1", "anything else") is None


def test_an_agent_that_its_guard_killed_is_counted_once():
    lines = (
        "2026-01-01 ERROR node1: guard: the agent of node1 hung, 251 ms past its deadline: killing it",
        "2026-01-01 WARNING node1: guard: the agent of node1 hung, 251 ms past its deadline; everything is off",
    )

    (cause,) = (found for line in lines if (found := busy.cause_of("node1", line)) is not None)
    assert cause.what == "the agent did not run for so long that its guard killed it"


def test_the_page_says_what_moved_why_and_what_could_not_be_measured():
    cause = busy.cause_of("node1", LINE.format(waits="none was sent since", late="2"))
    assert cause is not None
    moved = Measured("refused", 600, 4, [{"kind": "failover", "reason": "node1 silent for 321 ms"}], [cause])
    facts = {"command": "it", "date": "then", "ttl": "300ms", "cores": 2, "versions": {"leaseha": "1"}}

    page = busy.page([moved, Measured("granted", error="LabError: no etcd")], facts)

    assert '| nobody (`node.realtime = "off"`) | 10.0 | **1** | 1 |' in page
    assert "*refused*, 1 ×: no renewal was sent in time" in page
    assert "*refused*, 1 ×: failover: node1 silent for N ms" in page
    assert "not measured: LabError: no etcd" in page


def test_hogs_are_ordinary_each_in_a_session_of_its_own_and_gone_afterwards():
    with busy.hogs(2) as pids:
        assert {os.getsid(pid) for pid in pids} == set(pids)
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_OTHER}

    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_variant_that_does_not_exist_is_refused():
    command = [sys.executable, "-m", "chaos.busy", "--variants", "nonsense"]

    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 2
