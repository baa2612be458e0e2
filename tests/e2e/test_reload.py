"""`leaseha reload` on real nodes: the program is replaced, and no client notices."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.nodes import merged
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    cluster,
    holding,
    log_of,
    never_two,
    only_one_answers,
    run_cli,
    standing_by,
    wait_logged,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NAMES = (FIRST, SECOND)
SETTINGS = {
    "session": {"ttl": "2s", "ttl_max": "12s"},
    "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}},
}


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    with cluster(tmp_path_factory.mktemp("reload"), nodes=NAMES, settings=SETTINGS, measure=False) as lab:
        lab.measure(period_ms=1.0, direct_ms=8.0, arp_ms=8.0)
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """All is well, the preferred node holds, the other stands by; both run with the first settings."""
    for name, agent in _lab.nodes.items():
        agent.configure(_lab.config_for(name))
    whole(_lab)
    return _lab


def token(lab: Lab, name: str = FIRST) -> int:
    return lab.nodes[name].status()["leases"][LEASE]["token"]


def lost(lab: Lab, began_ns: int) -> int:
    """How many of the prober's questions were not answered since then."""
    ended_ns = lab.settle()
    return lab.prober.longest_gap_ms(began_ns, ended_ns)


@pytest.mark.parametrize("options", [(), ("--exec",)], ids=["reload", "exec"])
def test_a_reload_moves_nothing_and_no_client_notices(lab: Lab, options):
    before, pid = token(lab), lab.nodes[FIRST].pid
    with never_two(lab) as began_ns:
        done = run_cli(lab, FIRST, "reload", *options, "--json")
        assert done.returncode == 0, done.stdout + lab.nodes[FIRST].tail()
        found = json.loads(done.stdout)
        holding(lab, FIRST)
        gap = lost(lab, began_ns)
    print(found, "gap", gap)
    assert token(lab) == before == found["holds"][LEASE]
    assert lab.nodes[FIRST].pid == pid
