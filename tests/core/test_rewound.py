"""etcd restored from a snapshot: nothing it says is believed on the strength of what it said before (A8)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from leaseha.core import effects, events, records
from leaseha.core.records import ClaimRecord, Hold
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from tests.core import hands
from tests.core.harness import PlainEtcd, World, spec

DATA = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", data=True)


def restore(world: World, saved: PlainEtcd) -> None:
    """etcd comes back as it was; nobody's watch says a word."""
    world.etcd = saved


@pytest.mark.parametrize("lease", [DATA, replace(DATA, data=False)], ids=["data", "bare"])
def test_an_older_revision_stops_the_holder_and_nothing_is_claimed_for_ttl_max(lease: LeaseSpec) -> None:
    """A8 (i): drop everything, new session, forget what was seen; a lease with data waits for `recover`."""
    world = World(spec("a", lease))
    world.start()
    saved = copy.deepcopy(world.etcd)
    world.run(3)
    first = world.nodes["a"].session.id
    restore(world, saved)
    world.run(1.2)

    assert "H-rewound" in world.rows("a")
    assert world.role("a") is Role.STANDBY
    assert world.nodes["a"].session.id != first
    assert "etcd went back in time" in hands.warned(world, "a")

    world.run(14)

    assert world.role("a") is Role.STANDBY

    world.run(25)

    assert world.role("a") is (Role.STANDBY if lease.data else Role.HOLDER)


def test_recover_lets_a_lease_with_data_be_claimed_again_under_a_higher_epoch() -> None:
    """A8 (iii, iv): tokens repeat after a restore, so the epoch that `recover` raises goes before them."""
    world = World(spec("a", DATA))
    world.start()
    saved = copy.deepcopy(world.etcd)
    world.run(3)
    restore(world, saved)
    world.run(40)

    assert world.role("a") is Role.STANDBY
    assert "went back in time" in world.state("a").blocked

    free = ClaimRecord(Hold.FREE, node="a", epoch=2)
    world.tell(world.etcd.put(records.claim_key("l"), records.encode(free)))
    world.run(0.2)

    assert world.holders() == ["a"]
    assert world.state("a").epoch == 2
    assert hands.claim(world).epoch == 2


@pytest.mark.parametrize("change", [{"cluster_id": 8}, {"term": 1}, {"revision": 1}])
def test_any_answer_that_is_older_or_of_another_cluster_means_rewound(change: dict[str, int]) -> None:
    """Revision or raft term below what was known when the question was asked, or another cluster id."""
    world = hands.serving(spec("a"))
    world.etcd = replace(world.etcd, **change)
    world.run(1.1)

    assert "H-rewound" in world.rows("a")


def test_a_refusal_at_an_older_revision_means_rewound_too() -> None:
    """The failure branch's head counts like any other."""
    world = hands.serving(spec("a"))
    world.etcd = replace(world.etcd, keys={}, revision=1)
    world.run(1.1)

    assert "H-rewound" in world.rows("a")


def test_an_answer_that_is_older_than_another_which_came_after_its_question_is_no_rewind() -> None:
    """Questions overtake each other: what counts is what was known when this one was asked."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.held_back["a"] = lambda e: isinstance(e, effects.ReadAll)
    world.run(16)
    asked = [e for n, e in world.kept if isinstance(e, effects.ReadAll)][-1]
    early = world.snapshot(asked.request)
    world.run(3)
    hands.let(world, "a")
    world.give("a", replace(early, at=world.now()))

    assert early.head.revision < world.etcd.revision
    assert world.holders() == ["a"]
    assert hands.warned(world, "a") == []


def test_an_own_record_older_than_what_was_confirmed_means_rewound() -> None:
    """A8: the restored record must not be taken for a proof that an old write did commit."""
    world = hands.serving(spec("a"))
    world.blind.add("a")
    key = hands.record_key(world, "a")
    old = world.etcd.keys[key]
    world.run(3)
    world.etcd.put(key, old.value, old.lease)
    world.run(1.1)

    assert "H-rewound" in world.rows("a")


def test_a_read_at_an_older_revision_than_known_when_asked_means_rewound() -> None:
    """A silent watch would never tell."""
    world = hands.serving(spec("a"))
    world.held_back["a"] = lambda e: isinstance(e, effects.ReadAll)
    world.run(15)
    asked = [e for n, e in world.kept if isinstance(e, effects.ReadAll)][-1]
    world.etcd = replace(world.etcd, revision=2)
    hands.let(world, "a")
    world.give("a", world.snapshot(asked.request))

    assert "H-rewound" in world.rows("a")


def test_an_unasked_snapshot_of_another_cluster_means_rewound() -> None:
    """The watch had to start anew, and found another cluster; an older revision alone proves nothing there."""
    world = hands.serving(spec("a"))
    older = replace(world.snapshot(0), head=replace(world.etcd.head(), revision=world.etcd.revision - 1))
    world.give("a", older)

    assert world.holders() == ["a"]

    world.give("a", replace(older, head=replace(older.head, cluster_id=99)))

    assert "H-rewound" in world.rows("a")


def test_a_free_claim_at_first_sight_is_waited_for() -> None:
    """A8 (ii): a restored snapshot may say free under a holder that is inside its deadline."""
    world = hands.serving()
    world.kill("b")
    world.give("a", events.StopAsked(world.now()))
    world.run(0.15)
    late = World(spec("b"))
    late.etcd, late.at_ns = world.etcd, world.at_ns
    late.start()
    late.run(16)

    assert late.holders() == []

    late.run(1)

    assert late.holders() == ["b"]


def test_a_closed_session_at_first_sight_is_waited_for() -> None:
    """A8 (ii): the same for *dead* and *closed* of which one did not see how they came about."""
    world = hands.serving()
    key = hands.record_key(world, "a")
    closed = records.SessionRecord(records.Life.CLOSED, "a", by="a")
    world.etcd.put(key, records.encode(closed))
    late = World(spec("b"))
    late.etcd, late.at_ns = world.etcd, world.at_ns
    late.start()
    late.run(16)

    assert late.holders() == []

    late.run(1)

    assert late.holders() == ["b"]
    assert "S-ended" in late.rows("b")


def test_a_read_that_fails_is_asked_again() -> None:
    """Before the first snapshot nothing can be decided; it is asked for every half second."""
    world = World(spec("a"))
    world.cut.add("a")
    world.start()
    world.run(2)

    assert 3 <= sum(isinstance(e, effects.ReadAll) for _, e in world.log) <= 6

    world.cut.clear()
    world.run(1)

    assert world.holders() == ["a"]


def test_answers_to_questions_of_before_are_not_heard() -> None:
    """After beginning anew, the snapshot that was asked for before, and the old watch, count for nothing."""
    world = hands.serving(spec("a"))
    world.held_back["a"] = lambda e: isinstance(e, effects.ReadAll)
    world.etcd = replace(world.etcd, revision=2)
    world.run(1.1)

    assert not world.nodes["a"].view

    world.give("a", world.snapshot(1))
    world.give("a", events.ReadFailed(world.now(), 1, "old"))
    world.give("a", events.Watched(world.now(), world.etcd.head(), 0, ()))

    assert not world.nodes["a"].view
    assert world.nodes["a"].reading


def test_a_node_that_has_begun_anew_sleeps_while_etcd_is_away() -> None:
    """An old time of retry must not wake it each millisecond."""
    world = World(spec("a"))
    world.held_back["a"] = lambda e: isinstance(e, effects.OpenSession)
    world.start()
    opening = next(e for n, e in world.kept if isinstance(e, effects.OpenSession))
    world.give("a", events.SessionFailed(world.now(), opening.request, "no leader"))
    hands.let(world, "a")
    world.run(2)
    world.etcd = replace(world.etcd, revision=2)
    world.held_back["a"] = lambda e: isinstance(e, effects.ReadAll)
    world.run(1.2)
    ticks = sum(isinstance(e, effects.WakeAt) for _, e in world.log)
    world.run(1, step_ms=1)

    assert not world.nodes["a"].view
    assert sum(isinstance(e, effects.WakeAt) for _, e in world.log) - ticks < 20


def test_an_intent_at_a_revision_that_was_tried_before_the_restore_is_another_one() -> None:
    """Revisions come again: an order must not be passed over for having the number of an older one."""
    world = hands.serving()
    world.nodes["a"] = replace(
        world.nodes["a"], leases={"l": replace(world.state("a"), tried=world.etcd.revision + 50)}
    )
    saved = copy.deepcopy(world.etcd)
    world.run(3)
    restore(world, saved)
    world.run(1.2)

    assert "H-rewound" in world.rows("a")
    assert world.state("a").tried == 0
