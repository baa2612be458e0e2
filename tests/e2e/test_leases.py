"""Several leases on one set of nodes: each at home on its own preferred node, each moving by itself."""

from collections.abc import Iterator

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    NODES,
    SECOND,
    THIRD,
    cluster,
    history,
    holding,
    never_two,
    run_cli,
    standing_by,
    told,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

VIPS = ("10.77.0.50/24", "10.77.0.51/24", "10.77.0.52/24")
HOMES = {LEASE: FIRST, "files": SECOND, "mail": THIRD}


def settings() -> dict:
    """Three leases, each preferring another node."""
    leases = {}
    for at, (lease, home) in enumerate(HOMES.items()):
        others = [name for name in NODES if name != home]
        priority = {home: 100} | {name: 50 - 10 * rank for rank, name in enumerate(others)}
        leases[lease] = {"vips": [VIPS[at]], "priority": priority, "hold_down": "1s", "flap_budget": 60}
    return {"session": {"ttl": "1s"}, "lease": leases}


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    with cluster(tmp_path_factory.mktemp("leases"), vips=VIPS, settings=settings()) as lab:
        yield lab


def at_home(lab: Lab) -> None:
    """Each lease on its preferred node, with both others as candidates."""
    for agent in lab.nodes.values():
        agent.wait_ready()
    for subject, (lease, home) in enumerate(HOMES.items()):
        holding(lab, home, lease=lease, subject=subject)
        standing_by(lab, home, *(name for name in NODES if name != home), lease=lease)


def test_each_lease_goes_home_and_a_dead_node_loses_only_its_own(lab: Lab):
    at_home(lab)
    with never_two(lab) as began_ns:
        tokens = {lease: lab.nodes[FIRST].status()["leases"][lease]["token"] for lease in HOMES}
        lab.nodes[SECOND].kill()
        # "files" prefers, after its home, the first node.
        lab.prober.wait_for_answer(by=FIRST, after_ns=began_ns, subject=1, timeout_s=40)
        holding(lab, FIRST, lease="files", subject=1)
        now = told(lab, FIRST, "status")["leases"]

        assert {lease: now[lease]["holder"] for lease in HOMES} == {
            LEASE: FIRST,
            "files": FIRST,
            "mail": THIRD,
        }
        assert now[LEASE]["token"] == tokens[LEASE]
        assert now["mail"]["token"] == tokens["mail"]
        lab.start_node(SECOND)
        at_home(lab)

    assert [move["kind"] for move in history(lab, FIRST, "files")][-2:] == ["failover", "failback"]


def test_a_lease_must_be_named_where_there_are_several(lab: Lab):
    done = run_cli(lab, FIRST, "switchover", "--to", THIRD)

    assert (done.returncode, done.stdout) == (
        2,
        "leaseha: LEASE is missing: there are backups, files, mail\n",
    )


def test_a_stopped_node_hands_all_its_leases_over_at_once(lab: Lab):
    at_home(lab)
    with never_two(lab) as began_ns:
        told(lab, FIRST, "switchover", "files", "--to", FIRST)
        lab.nodes[FIRST].term()
        for subject, lease in enumerate(HOMES):
            by = SECOND if lease != "mail" else THIRD
            lab.prober.wait_for_answer(by=by, after_ns=began_ns, subject=subject, timeout_s=40)
        assert lab.nodes[FIRST].wait() == 0
        holding(lab, SECOND, lease="files", subject=1)

    assert run_cli(lab, SECOND, "status").returncode == 0
