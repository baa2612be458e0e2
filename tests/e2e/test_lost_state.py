"""The only admitted state directory is lost: nobody takes the lease, until an operator does what the manual says."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FAST, FIRST, SECOND, cluster, holding, standing_by, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.lab]

MANUAL = Path(__file__).parents[2] / "docs/operations.md"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    if shutil.which("etcdctl") is None:
        pytest.skip("etcdctl is missing: apt-get install etcd-client")
    folder = tmp_path_factory.mktemp("lost")
    with cluster(folder, nodes=(FIRST, SECOND), settings=FAST, start=False) as lab:
        yield lab


def as_the_manual_says(lab: Lab) -> list[list[str]]:
    """The commands of the manual, for the lab's cluster."""
    lines = re.findall(r"^etcdctl (.*)$", MANUAL.read_text(encoding="utf-8"), re.MULTILINE)
    filled = [line.replace("CLUSTER", "lab").replace("LEASE", LEASE).split() for line in lines]
    return [["etcdctl", "--endpoints", lab.etcd.endpoints[0], *line] for line in filled]


def all_out_of_sync(lab: Lab) -> bool:
    rows = lab.nodes[FIRST].status()["leases"][LEASE]["candidates"]
    return [row["why"] for row in rows] == ["not in-sync"] * 2


def test_the_manual_gets_a_lease_out_of_not_in_sync_for_ever(lab: Lab):
    lab.start_nodes(FIRST)
    holding(lab, FIRST)
    lab.nodes[FIRST].stop()
    shutil.rmtree(lab.directory / f"{FIRST}.state")
    lab.start_nodes(FIRST, SECOND)
    wait_until("nobody was admitted", lambda: all_out_of_sync(lab))
    for agent in lab.nodes.values():
        agent.stop()

    commands = as_the_manual_says(lab)
    assert len(commands) == 3
    for command in commands:
        done = lab.host(FIRST).run(command, timeout_s=20, env={**os.environ, "ETCDCTL_API": "3"})
        assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stdout

    lab.start_nodes(FIRST)
    holding(lab, FIRST)
    lab.start_nodes(SECOND)
    standing_by(lab, FIRST, SECOND)
