"""What etcd does to a cluster at the default ttl: nothing that moves a lease, and nothing that needs a restart."""

import base64
import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from leaseha.errors import LabError
from leaseha.lab.etcd import EtcdMember
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    holding,
    log_of,
    never_two,
    standing_by,
    told,
    wait_until,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SETTINGS = {"lease": {LEASE: {"hold_down": "1s", "flap_budget": 60, "failback": "off"}}}
NAMES = (FIRST, SECOND)
WATCH_LEAVES_S = 5.0
"""A watch leaves a silent member after 2 s."""


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Iterator[Lab]:
    """One etcd member."""
    with cluster(tmp_path_factory.mktemp("single"), nodes=NAMES, settings=SETTINGS) as lab:
        yield lab


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Iterator[Lab]:
    """Three etcd members at their default timings."""
    folder = tmp_path_factory.mktemp("three")
    with cluster(folder, nodes=NAMES, settings=SETTINGS, etcd_members=3) as lab:
        yield lab


class Unmoved:
    """What must be as it was when a fault is over."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.holder = lab.nodes[FIRST].status()["leases"][LEASE]["holder"]
        self.other = SECOND if self.holder == FIRST else FIRST
        holding(lab, self.holder)
        standing_by(lab, self.holder, self.other)
        self.pids = {name: lab.nodes[name].pid for name in NAMES}
        self.sessions = {name: lab.nodes[name].status()["session"]["id"] for name in NAMES}
        self.token = self.now()["token"]
        self.began_ns = lab.settle()

    def now(self) -> dict:
        """The lease by its holder's word."""
        return self.lab.nodes[self.holder].status()["leases"][LEASE]

    def wait_renewed(self) -> None:
        """Until both nodes have proven their sessions after this call."""
        asked = time.monotonic()

        def fresh() -> bool:
            left = [self.lab.nodes[name].status()["session"]["deadline_left_s"] for name in NAMES]
            return all(one is not None and one > 5.0 - (time.monotonic() - asked) + 0.1 for one in left)

        wait_until("both sessions are renewed", fresh, SOON_S, self.lab.nodes[self.holder].tail)

    def check(self) -> None:
        """No move, no gap, the same processes and sessions; and the cluster still does as it is told."""
        self.wait_renewed()
        lab, ended_ns = self.lab, self.lab.settle()

        assert self.now()["token"] == self.token
        assert {name: lab.nodes[name].pid for name in NAMES} == self.pids
        assert {name: lab.nodes[name].status()["session"]["id"] for name in NAMES} == self.sessions
        assert [one.who for one in lab.monitor.holders(self.began_ns, ended_ns)] == [self.holder]
        assert lab.prober.longest_gap_ms(self.began_ns, ended_ns) < 500
        done = told(lab, self.other, "switchover")
        assert (done["from_node"], done["holder"]) == (self.holder, self.other)
        holding(lab, self.other)


def test_a_restarted_etcd_moves_nothing(single: Lab):
    with never_two(single):
        before = Unmoved(single)
        single.etcd.restart("etcd1")
        before.check()


def test_a_killed_and_restarted_etcd_moves_nothing(single: Lab):
    with never_two(single):
        before = Unmoved(single)
        single.etcd.kill()
        single.etcd.start()
        before.check()


def test_a_killed_leader_of_three_moves_nothing(three: Lab):
    with never_two(three):
        before = Unmoved(three)
        leader = three.etcd.wait_leader()
        leader.kill()
        three.etcd.wait_leader(other_than=leader)
        before.check()
        three.etcd.start(leader.name)
        three.etcd.wait_healthy()


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_a_frozen_member_of_three_moves_nothing(three: Lab, which: str):
    with never_two(three):
        before = Unmoved(three)
        leader = three.etcd.wait_leader()
        chosen = leader if which == "leader" else next(m for m in three.etcd.members if m is not leader)
        chosen.freeze()
        try:
            if which == "leader":
                three.etcd.wait_leader(other_than=leader)
            before.check()
        finally:
            chosen.thaw()
        three.etcd.wait_healthy()


def frozen_and_compacted(lab: Lab, member: EtcdMember, noticed: Callable[[], bool]) -> bool:
    """Freeze a member, let history go on and be forgotten elsewhere; whether a watch met that within its patience."""
    if member is lab.etcd.wait_leader():
        lab.etcd.move_leader(next(one for one in lab.etcd.members if one is not member))
    leader = lab.etcd.wait_leader()
    key = base64.b64encode(b"/somebody-else").decode()
    member.freeze()
    try:
        answers = [leader.gateway("/v3/kv/put", {"key": key, "value": ""}) for _ in range(3)]
        revision = answers[-1]["header"]["revision"]
        leader.gateway("/v3/kv/compaction", {"revision": revision, "physical": True})
        with contextlib.suppress(LabError):
            wait_until("the watch leaves the frozen member", noticed, WATCH_LEAVES_S)
        return noticed()
    finally:
        member.thaw()
        lab.etcd.wait_healthy()


def test_history_that_is_compacted_under_a_lagging_watch_moves_nothing(three: Lab):
    """The member that a node watches is frozen; by the time the watch goes to another one, history is gone there."""
    with never_two(three):
        before = Unmoved(three)
        after = {name: len(log_of(three, name)) for name in NAMES}

        def reread() -> bool:
            return any("all keys read anew" in log_of(three, name)[after[name] :] for name in NAMES)

        met = any(frozen_and_compacted(three, member, reread) for member in three.etcd.members)

        assert met, "no watch met a compacted history: this test tried nothing"
        before.check()
