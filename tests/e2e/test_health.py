"""What the checks of a node make of its leases: a holder that should not serve lets go, but never into nothing."""

from collections.abc import Iterator

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    history,
    holding,
    never_two,
    run_cli,
    standing_by,
    told,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

GATEWAY = "gateway"
OFTEN = {"every": "500ms", "timeout": "500ms", "fall": 2, "rise": 1}


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("health")
    flag = folder / "flag"
    checks = {
        "gateway": {"ping": "10.77.0.1", "effect": "ineligible", **OFTEN},
        "disk": {"script": ["/bin/sh", "-c", f"test ! -e {flag}.$(hostname)"], "weight": -60, **OFTEN},
    }
    lease = {"hold_down": "1s", "flap_budget": 60, "check": checks}
    settings = {"session": {"ttl": "1s"}, "lease": {LEASE: lease}}
    with cluster(folder, nodes=(FIRST, SECOND), settings=settings, extra_hosts=(GATEWAY,)) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """The preferred node holds, the other stands by."""
    whole(_lab)
    return _lab


def test_a_holder_that_does_not_reach_the_gateway_lets_go_to_a_node_that_does(lab: Lab):
    with never_two(lab):
        lab.host(FIRST).cut_from(lab.host(GATEWAY))
        holding(lab, SECOND)

        move = history(lab, SECOND)[-1]
        assert (move["kind"], move["to_node"]) == ("release", SECOND)
        assert "gateway" in move["reason"]
        rows = {row["node"]: row for row in told(lab, SECOND, "status")["leases"][LEASE]["candidates"]}
        assert not rows[FIRST]["candidate"]
        assert "gateway" in rows[FIRST]["why"]
        lab.heal()
        holding(lab, FIRST)


def test_a_gateway_that_is_away_for_all_ends_no_service_and_the_holder_says_why_it_stays(lab: Lab):
    token = lab.nodes[FIRST].status()["leases"][LEASE]["token"]

    def stays(status: dict) -> bool:
        return "no better candidate: stays" in status["leases"][LEASE]["note"]

    def ill(status: dict) -> bool:
        return bool(status["leases"][LEASE]["checks"]) and any(
            check["check"] == GATEWAY and check["healthy"] is False
            for check in status["leases"][LEASE]["checks"]
        )

    # The other node first: with both at once the holder might let go before it knows that nobody is better.
    lab.host(SECOND).cut_from(lab.host(GATEWAY))
    lab.nodes[SECOND].wait_for("its check fails", ill, SOON_S)
    lab.nodes[FIRST].wait_for(
        "the other is no candidate",
        lambda s: not any(r["candidate"] for r in s["leases"][LEASE]["candidates"] if r["node"] == SECOND),
        SOON_S,
    )
    lab.host(FIRST).cut_from(lab.host(GATEWAY))
    lab.nodes[FIRST].wait_for("it says why it stays", stays, SOON_S)

    assert "check gateway fails" in run_cli(lab, FIRST, "status").stdout
    assert lab.nodes[FIRST].status()["leases"][LEASE]["token"] == token
    holding(lab, FIRST)


def test_a_check_with_a_weight_makes_the_other_node_the_better_one(lab: Lab):
    # After the gateway's return the other may be well a moment earlier: the holder would let go for that.
    standing_by(lab, FIRST, FIRST, SECOND)
    holding(lab, FIRST)  # it may have been about to, when both were well
    standing_by(lab, FIRST, FIRST, SECOND)
    flag = lab.directory / f"flag.{FIRST}"
    flag.touch()
    try:
        with never_two(lab):
            holding(lab, SECOND)
        move = history(lab, SECOND)[-1]
        assert (move["kind"], move["to_node"]) == ("failback", SECOND)
        rows = told(lab, SECOND, "status")["leases"][LEASE]["candidates"]
        assert [(row["node"], row["priority"]) for row in rows] == [(SECOND, 90), (FIRST, 40)]
    finally:
        flag.unlink()
    holding(lab, FIRST)
