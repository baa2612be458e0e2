"""Where etcd's leader is, and when a holder moves it off its own host."""

import asyncio
import logging
from dataclasses import dataclass, field, replace

import pytest

from leaseha.adapters.etcd import MemberStatus, Peer
from leaseha.config import EtcdConfig, KeepAway
from leaseha.core import machine
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import StoreDenied, StoreError, StoreUnavailable
from leaseha.runtime import leader
from leaseha.runtime.leader import (
    AFTER_FAILURE_S,
    STABLE_S,
    LeaderKeeper,
    Nodes,
    best_target,
    exposed,
    hosts_of,
    nodes_of,
)
from tests.core.harness import spec

ADDRESSES = {"node1": "10.0.0.1", "node2": "10.0.0.2"}
HOLDING = Nodes("node1", ADDRESSES, {"node1": ("backups",)}, (7,))


def member(number: int, **facts) -> MemberStatus:
    """On the host 10.0.0.NUMBER, following the first."""
    told = {"version": "3.5.16", "member_id": number, "leader_id": 1, "raft_term": 3, "raft_index": 100}
    return MemberStatus(f"http://10.0.0.{number}:2379", **(told | facts))


@dataclass
class FakeEtcd:
    """Three members that say what they are told to."""

    members: list[MemberStatus] = field(default_factory=lambda: [member(n) for n in (1, 2, 3)])
    listed: tuple[Peer, ...] = ()
    foreign: str | StoreError = ""
    refusal: StoreError | None = None
    moved_to: list[int] = field(default_factory=list)

    async def status(self) -> tuple[MemberStatus, ...]:
        return tuple(self.members)

    async def peers(self, _timeout_s: float = 1.0) -> tuple[Peer, ...]:
        return self.listed

    async def foreign_key(self, _root: str, _timeout_s: float = 1.0) -> str:
        if isinstance(self.foreign, StoreError):
            raise self.foreign
        return self.foreign

    async def move_leader(self, member_id: int, _timeout_s: float = 1.0) -> None:
        self.moved_to.append(member_id)
        if self.refusal is not None:
            raise self.refusal
        self.members = [
            replace(one, leader_id=member_id, raft_term=one.raft_term + 1) for one in self.members
        ]


class Keeping:
    """A keeper on the first node, whose clock moves by hand."""

    def __init__(self, etcd: FakeEtcd, keep: KeepAway = KeepAway.OWN) -> None:
        self.etcd, self.nodes, self.now = etcd, HOLDING, Instant(0, 0)
        config = EtcdConfig((), "/leaseha", None, None, None, None, None, keep_leader_away=keep)
        self.keeper = LeaderKeeper(config, lambda: self.now)

    def go_on(self, seconds: int) -> None:
        """A look each 5 s, as the agent does."""
        for _ in range(seconds // 5):
            asyncio.run(self.keeper.look(self.etcd, self.nodes))
            self.now = self.now.plus(5 * NS_PER_S)

    @property
    def note(self) -> str:
        return self.keeper.told["note"]


def placed(members, nodes=HOLDING, peers=()) -> dict[str, str]:
    return asyncio.run(hosts_of(members, peers, nodes))


def test_a_member_is_on_the_node_whose_address_it_listens_on():
    assert list(placed([member(1), member(2), member(3)]).values()) == ["node1", "node2", ""]


def test_a_member_named_by_loopback_is_here_and_its_own_word_of_loopback_says_nothing():
    here = MemberStatus("http://localhost:2379", member_id=9)
    there = replace(member(3), member_id=3)
    peers = (Peer(3, "c", ("http://127.0.0.1:2379", "http://10.0.0.2:2380")),)

    assert list(placed([here, there], peers=peers).values()) == ["node1", "node2"]


def test_a_leader_on_a_holders_host_is_told_and_one_elsewhere_or_alone_is_not():
    three = [member(n) for n in (1, 2, 3)]
    elsewhere = [member(n, leader_id=2) for n in (1, 2, 3)]

    assert "http://10.0.0.1:2379 is on the host of node1, which holds backups" in exposed(
        three, placed(three), HOLDING
    )
    assert exposed(elsewhere, placed(elsewhere), HOLDING) == ""
    assert exposed(three[:1], placed(three), HOLDING) == ""


def test_a_member_that_was_cut_off_and_still_thinks_it_leads_is_not_believed():
    split = [member(1, raft_term=3), member(2, leader_id=2, raft_term=4), member(3, leader_id=2, raft_term=4)]

    assert leader.leader_of(split).member_id == 2


@pytest.mark.parametrize(
    "unfit",
    [
        {"why": "no answer in time"},
        {"alarms": ("NOSPACE",)},
        {"leader_id": 0},
        {"raft_term": 2},
    ],
)
def test_who_is_not_well_or_does_not_follow_shall_not_lead(unfit):
    members = [member(1), member(2, **unfit), member(3, raft_index=90)]

    assert best_target(members, placed(members), (), HOLDING).member_id == 3


def test_a_learner_and_the_host_of_another_holder_are_left_out():
    members = [member(n) for n in (1, 2, 3)]
    both = replace(HOLDING, holding={"node1": ("a",), "node2": ("b",)})

    assert best_target(members, placed(members), (), both).member_id == 3
    assert best_target(members, placed(members), (Peer(3, "c", (), learner=True),), both) is None


def test_who_has_most_of_the_log_leads():
    members = [member(1), member(2, raft_index=99), member(3, raft_index=101)]

    assert best_target(members, placed(members), (), HOLDING).member_id == 3


def test_the_leadership_is_moved_once_when_all_has_been_stable():
    keeping = Keeping(FakeEtcd())

    keeping.go_on(STABLE_S)
    assert keeping.etcd.moved_to == []
    keeping.go_on(120)

    assert keeping.etcd.moved_to == [2]
    assert keeping.keeper.told["endpoint"] == "http://10.0.0.2:2379"


def test_an_election_or_a_move_of_the_lease_begins_the_wait_anew():
    keeping = Keeping(FakeEtcd())
    keeping.go_on(STABLE_S)
    keeping.nodes = replace(HOLDING, tokens=(8,))
    keeping.go_on(STABLE_S)
    keeping.etcd.members = [member(n, raft_term=4) for n in (1, 2, 3)]
    keeping.go_on(STABLE_S)

    assert keeping.etcd.moved_to == []


def test_nothing_is_moved_unless_it_is_wanted_nor_by_who_holds_nothing_nor_where_another_holds():
    unasked = Keeping(FakeEtcd(), KeepAway.OFF)
    standby = Keeping(FakeEtcd())
    standby.nodes = replace(HOLDING, holding={"node2": ("backups",)})
    for keeping in (unasked, standby):
        keeping.go_on(60)

        assert keeping.etcd.moved_to == []
        assert keeping.note == ""


def test_an_etcd_that_others_use_is_left_alone_unless_always_is_said(caplog):
    shared = Keeping(FakeEtcd(foreign="/registry/pods/x"))
    with caplog.at_level(logging.WARNING, "leaseha.leader"):
        shared.go_on(3 * AFTER_FAILURE_S)
    always = Keeping(FakeEtcd(foreign="/registry/pods/x"), KeepAway.ALWAYS)
    always.go_on(60)

    assert shared.etcd.moved_to == []
    assert "/registry/pods/x" in shared.note
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert always.etcd.moved_to == [2]


def test_an_etcd_whose_other_keys_may_not_be_seen_is_left_alone():
    hidden = Keeping(FakeEtcd(foreign=StoreDenied("permission denied")))
    hidden.go_on(60)

    assert hidden.etcd.moved_to == []
    assert "unknown (permission denied)" in hidden.note


@pytest.mark.parametrize("refusal", [StoreUnavailable("timed out"), StoreDenied("permission denied")])
def test_after_a_failure_it_is_not_tried_again_for_minutes(refusal, caplog):
    keeping = Keeping(FakeEtcd(refusal=refusal))
    with caplog.at_level(logging.WARNING, "leaseha.leader"):
        keeping.go_on(STABLE_S + AFTER_FAILURE_S - 5)
        assert keeping.etcd.moved_to == [2]
        keeping.go_on(60)

    assert keeping.etcd.moved_to == [2, 2]
    assert str(refusal) in keeping.note
    assert len(caplog.records) == 1


def test_with_no_fit_member_it_stays_and_says_so():
    keeping = Keeping(
        FakeEtcd(members=[member(1), member(2, why="no answer"), member(3, alarms=("CORRUPT",))])
    )
    keeping.go_on(60)

    assert keeping.etcd.moved_to == []
    assert "no healthy, voting member" in keeping.note


def test_before_the_first_look_at_etcd_no_node_is_known():
    """An agent that starts while etcd is away asks its members all the same."""
    assert nodes_of(machine.initial(spec("a"))) == Nodes("a", {}, {})
