"""A holder whose repository hangs renews as ever, and lets go to a node that answers; alone it stays, and says why."""

import os
import signal
from collections.abc import Iterator

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    holding,
    log_of,
    standing_by,
    wait_logged,
    wait_until,
)
from tests.e2e.test_repository import repository_pid

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NAMES = (FIRST, SECOND)


@pytest.fixture
def lab(tmp_path) -> Iterator[Lab]:
    """Two nodes with a repository each, whose data path may fail for half a second."""
    path = {"every": "200ms", "tolerance": "500ms"}
    lease = {
        "hold_down": "60s",
        "drain_timeout": "0s",
        "data_path": path,
        "priority": {FIRST: 100, SECOND: 90},
    }
    settings = {"session": {"ttl": "2s"}, "lease": {LEASE: lease}}
    with cluster(tmp_path, nodes=NAMES, settings=settings, start=False) as lab:
        for name in NAMES:
            place = lab.directory / f"data-{name}"
            place.mkdir()
            lab.node(name, lease={LEASE: {"repository": {"port": 8000, "path": str(place)}}})
        yield lab


def test_a_hanging_repository_moves_the_lease_when_there_is_a_better_node_and_never_otherwise(lab: Lab):
    lab.start_nodes(FIRST)
    first = holding(lab, FIRST)
    pid = repository_pid(lab, FIRST)
    os.kill(pid, signal.SIGSTOP)
    wait_logged(lab, FIRST, "the data path fails: the repository does not answer through")
    lab.nodes[FIRST].wait_for("it stays", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S)
    assert lab.nodes[FIRST].status()["leases"][LEASE]["token"] == first["token"]
    os.kill(pid, signal.SIGCONT)
    wait_logged(lab, FIRST, "the data path is trusted again")

    lab.start_nodes(SECOND)
    standing_by(lab, FIRST, SECOND)
    after = len(log_of(lab, FIRST))
    os.kill(repository_pid(lab, FIRST), signal.SIGSTOP)

    holding(lab, SECOND)
    wait_logged(lab, FIRST, "the data path fails: the repository does not answer through", after=after)
    rows = lambda: lab.nodes[SECOND].status()["leases"][LEASE]["candidates"]  # noqa: E731
    wait_until(
        "it is no candidate until the hold-down is over",
        lambda: any(one["node"] == FIRST and "data path" in one["why"] for one in rows()),
    )
