"""What others do to a VIP, and what an agent finds of its own past: mended, said, never served out of turn."""

import time
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
    log_of,
    never_two,
    only_one_answers,
    run_cli,
    wait_logged,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

VIPS = ("10.77.0.50/24", "fd77::50/64")
TTL_S = 3.0
SETTINGS = {"session": {"ttl": "3s"}, "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}}}


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("drift")
    names = (FIRST, SECOND)
    with cluster(folder, nodes=names, vips=VIPS, settings=SETTINGS, extra_hosts=("intruder",)) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """The preferred node holds, the other stands by."""
    whole(_lab)
    return _lab


def token(lab: Lab, name: str = FIRST) -> int:
    """The lease's token as a node knows it."""
    return lab.nodes[name].status()["leases"][LEASE]["token"]


def as_bound(lab: Lab, name: str, vip: str) -> list[str]:
    """The VIP with its prefix length as the host has it; empty if it has not."""
    return [one for one in lab.host(name).addresses() if one.partition("/")[0] == vip]


@pytest.mark.parametrize("subject", [0, 1])
def test_a_vip_that_somebody_removed_is_back_within_a_second_and_that_is_said(lab: Lab, subject: int):
    vip = VIPS[subject].partition("/")[0]
    (bound,) = as_bound(lab, FIRST, vip)
    before, after = token(lab), len(log_of(lab, FIRST))

    with never_two(lab):
        removed_ns = time.monotonic_ns()
        lab.host(FIRST).remove_address(bound)
        wait_logged(lab, FIRST, "someone removed the VIP: bind it again", vip, after=after)
        holding(lab, FIRST, subject=subject)
        ended_ns = lab.settle()

        assert lab.prober.longest_gap_ms(removed_ns, ended_ns, subject) < 1000
        assert as_bound(lab, FIRST, vip) == [bound]
        assert token(lab) == before


def test_a_host_that_claims_the_vip_is_answered_with_an_announcement_by_the_proven_holder_and_warnings(
    lab: Lab,
):
    intruder = lab.host("intruder")
    before, after = token(lab), len(log_of(lab, FIRST))
    claimed_ns = lab.settle()

    intruder.add_address("10.77.0.50/32")
    try:
        intruder.announce(lab.vip)
        line = wait_logged(lab, FIRST, "foreign claim heard", intruder.mac, lab.vip, after=after)
        assert "WARNING" in line

        def announced() -> bool:
            return any(host == FIRST for host, _ in lab.arp.announcements(claimed_ns))

        wait_until("the holder announces again", announced)
        assert "WARNING" in wait_logged(lab, FIRST, "foreign claim defended", intruder.mac, after=after)
        heard = lab.nodes[FIRST].status()["leases"][LEASE]["foreign_claims"]
        assert heard["defended"] == 1 <= heard["heard"]
        assert f"the last: {heard['last']}" in run_cli(lab, FIRST, "status").stdout
    finally:
        intruder.remove_address("10.77.0.50/32")
    lab.prober.wait_for_answer(by=FIRST, after_ns=time.monotonic_ns(), timeout_s=SOON_S)
    assert token(lab) == before


def test_a_restarted_agent_removes_its_leftovers_and_serves_through_the_protocol_only(lab: Lab):
    old, after = token(lab), len(log_of(lab, FIRST))
    with never_two(lab):
        lab.nodes[FIRST].kill_tree()
        assert as_bound(lab, FIRST, lab.vip), (
            "what an agent leaves that was killed with its guard is the premise of this test"
        )
        lab.start_node(FIRST)
        wait_logged(lab, FIRST, "removed a leftover of an earlier run", lab.vip, after=after)
        gone_ns = lab.settle()

        def first_look(status: dict) -> bool:
            return status["leases"][LEASE]["token"] is not None

        lease = lab.nodes[FIRST].wait_for("a first look at etcd", first_look)["leases"][LEASE]
        if lease["token"] == old:
            assert lease["role"] == "STANDBY"
            assert not as_bound(lab, FIRST, lab.vip)
        _, heard_ns = lab.prober.wait_for_answer(after_ns=gone_ns, timeout_s=SOON_S)
        lab.nodes[SECOND].wait_for("the lease has moved", lambda s: s["leases"][LEASE]["token"] > old, SOON_S)
        holding(lab, FIRST)

        moves = [move for move in history(lab, SECOND) if move["token"] > old]
        assert moves[0]["kind"] == "failover"
        assert "silent for" in moves[0]["reason"]
        assert heard_ns > gone_ns
        only_one_answers(lab, FIRST)


def test_a_vip_that_an_administrator_configured_is_named_at_start_and_taken_over_when_held(lab: Lab):
    lab.nodes[SECOND].stop()
    after = len(log_of(lab, SECOND))
    lab.host(SECOND).add_address("10.77.0.50/24")
    lab.start_node(SECOND)
    line = wait_logged(lab, SECOND, "is configured here by someone else", lab.vip, after=after)
    lab.host(SECOND).remove_address("10.77.0.50/24")

    assert "WARNING" in line
    lab.nodes[SECOND].wait_ready()
