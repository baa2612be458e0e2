"""Who may hold a lease and who should: candidates, ranks, hold-down, the flap budget, and the history it stands on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leaseha.core import effects, events, placement, records
from leaseha.core.effects import Effect
from leaseha.core.placement import Candidate
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, IntentRecord, Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft
from leaseha.core.values import NS_PER_MS, NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec

PRIORITIES = {"a": 100, "b": 50, "c": 10}
WELL = Candidate("a", 1, "s", 5, alive=True, ineligible="", in_sync=True, same_definition=True)


def lease(**changes: object) -> LeaseSpec:
    one = LeaseSpec("l", PRIORITIES, digest="v.x", hold_down_ns=3 * NS_PER_S)
    return replace(one, **changes)  # type: ignore[arg-type]


def draft(world: World, name: str) -> Draft:
    return Draft(world.nodes[name], world.now())


def history(world: World, kind: str, age_s: float, token: int) -> None:
    at_ms = int(world.at_ns / NS_PER_MS - age_s * 1000)
    entry = HistoryRecord(token, kind, "", "a", "b", at_ms, "")
    world.tell(world.etcd.put(records.history_key("l", token), records.encode(entry)))


def past(world: World) -> list[HistoryRecord]:
    found = [records.decode(HistoryRecord, kv.value) for k, kv in world.etcd.keys.items() if "/history/" in k]
    return sorted((entry for entry in found if entry), key=lambda entry: entry.token)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"alive": False}, "silent"),
        ({"priority": 0}, "priority 0"),
        ({"same_definition": False}, "its VIPs for this lease differ"),
        ({"ineligible": "disk full"}, "disk full"),
        ({"in_sync": False}, "not in-sync"),
    ],
)
def test_a_candidate_is_alive_wanted_alike_eligible_and_in_sync(changes: dict[str, object], why: str) -> None:
    assert replace(WELL, **changes).why_not() == why  # type: ignore[arg-type]


def test_candidates_rank_themselves_alike_by_priority_and_then_by_name() -> None:
    nodes = [replace(WELL, node=n, priority=p) for n, p in (("c", 5), ("b", 5), ("a", 1), ("d", 9))]

    assert [c.node for c in sorted(nodes, key=Candidate.order)] == ["d", "b", "c", "a"]


def test_every_node_computes_the_same_order() -> None:
    world = hands.serving(*(spec(n) for n in "cab"), seconds=20)

    for name in "abc":
        assert [c.node for c in placement.ranked(draft(world, name), "l")] == ["a", "b", "c"]
        assert placement.rank(draft(world, name), "l") == "abc".index(name)


@pytest.mark.parametrize(
    ("one", "other", "same"), [("v.x", "v.y", True), ("v.x", "w.x", False), (None, "v.x", False)]
)
def test_the_vips_must_be_the_same_and_the_rest_may_differ(
    one: str | None, other: str, *, same: bool
) -> None:
    assert placement.same_vips(one, other) is same


def test_a_node_whose_vips_differ_from_the_live_holders_is_no_candidate() -> None:
    world = hands.serving(spec("a"), spec("b", lease(digest="other.x")))
    mine = placement.myself(draft(world, "b"), "l")

    assert mine.why_not() == "its VIPs for this lease differ"
    assert placement.rank(draft(world, "b"), "l") is None


def test_a_holder_that_has_not_published_itself_is_no_measure() -> None:
    world = hands.serving()
    hands.erase(world, records.node_key("a"))

    assert placement.myself(draft(world, "b"), "l").same_definition
    assert not placement.is_better(draft(world, "b"), "l")


def test_a_weight_lowers_a_priority_but_never_to_what_never_holds() -> None:
    world = World(spec("a", lease(), lease(name="m", priorities={"a": 0})))
    for name in ("l", "m"):
        world.started.add("a")
        world.give("a", events.HealthChanged(world.now(), name, -500, ""))

    assert placement.effective(draft(world, "a"), "l") == 1
    assert placement.effective(draft(world, "a"), "m") == 0


def test_a_session_is_silent_when_its_record_did_not_change_for_as_long_as_it_may_count_on() -> None:
    world = hands.serving()
    session = world.nodes["a"].session.id

    assert not placement.silent(draft(world, "b"), session)
    assert placement.silent(draft(world, "b"), 999)

    world.kill("a")
    world.run(6.6)

    assert placement.silent(draft(world, "b"), session)


# Failback


def test_the_better_node_waits_out_its_hold_down() -> None:
    """Counted from when it was well and admitted; an interruption begins it anew."""
    world = World(spec("a"), spec("b"))
    world.start("b")
    world.run(1)
    world.start("a")
    world.run(2)
    world.give("a", events.HealthChanged(world.now(), "l", 0, "shaky"))
    world.run(1)
    world.give("a", events.HealthChanged(world.now(), "l", 0, ""))
    world.run(2.8)

    assert world.holders() == ["b"]

    world.run(0.5)

    assert world.holders() == ["a"]


def test_the_intent_for_failback_says_who_asks_and_why() -> None:
    world = World(spec("a"), spec("b"))
    world.start("b")
    world.run(1)
    world.start("a")
    hands.keep(world, "b", "T9")
    world.run(5)
    intent = records.decode(IntentRecord, world.etcd.keys[records.intent_key("l")].value)
    assert intent is not None

    assert (intent.kind, intent.by, intent.target) == (Kind.FAILBACK, "a", "a")
    assert intent.reason == "a has the higher priority and was well for 3000 ms"


def test_a_lease_without_failback_stays_where_it_is() -> None:
    world = World(spec("a", lease(failback=False)), spec("b", lease(failback=False)))
    world.start("b")
    world.run(1)
    world.start("a")
    world.run(9)

    assert world.holders() == ["b"]


def test_a_failback_that_had_no_effect_is_asked_for_again_after_a_while() -> None:
    world = World(spec("a"), spec("b", lease(failback=False)))
    world.start("b")
    world.run(1)
    world.start("a")
    world.run(12)

    assert world.sent("a").count("ask") == 1

    world.run(10)

    assert world.sent("a").count("ask") == 2


def test_an_hour_has_as_many_failbacks_as_the_flap_budget() -> None:
    """G8: counted from history, so that a restart does not reset it."""
    world = World(spec("a", lease(flap_budget=2)), spec("b", lease(flap_budget=2)))
    world.start("b")
    world.run(1)
    history(world, Kind.FAILBACK, 3590, 1)
    history(world, Kind.FAILBACK, 100, 2)
    history(world, Kind.SWITCHOVER, 50, 3)
    world.start("a")
    world.run(5)

    assert world.holders() == ["b"]
    assert placement.budget_free_at(draft(world, "a"), "l") is not None

    world.run(7)

    assert world.holders() == ["a"]


def test_a_budget_of_none_allows_no_failback() -> None:
    world = hands.serving(spec("a", lease(flap_budget=0)))
    free = placement.budget_free_at(draft(world, "a"), "l")

    assert free == world.now().plus(placement.HOUR_NS)


# History


def test_each_move_is_one_line_of_history_with_its_gap() -> None:
    """G7."""
    world = hands.serving()
    world.give("a", events.StopAsked(world.now()))
    world.run(1.5)
    first, release = past(world)

    assert (first.kind, first.to_node, first.answered) == (Kind.FIRST, "a", True)
    assert (release.kind, release.from_node, release.to_node) == (Kind.RELEASE, "a", "b")
    assert (release.gap_ms, release.reason) == (0, "released by a: stop")


def test_the_ring_of_history_is_bounded() -> None:
    """The oldest lines go when the ring is full."""
    world = World(spec("a"))
    for token in range(1, 121):
        history(world, Kind.FAILOVER, 4000, token)
    stores = records.InsyncRecord(frozenset({"store-a"}))
    world.tell(world.etcd.put(records.insync_key("l"), records.encode(stores)))
    world.tell(world.etcd.put(records.claim_key("l"), records.encode(ClaimRecord(Hold.FREE))))
    world.start()
    world.run(20)
    tokens = [entry.token for entry in past(world)]

    assert world.holders() == ["a"]
    assert len(tokens) == 100
    assert tokens[0] == 22


def test_a_failback_whose_target_vanished_before_it_told_is_told_by_the_next_holder() -> None:
    """Or a node that dies at each failback would have no budget (G8)."""
    world = World(spec("a"), spec("b"))
    world.start("b")
    world.run(1)
    world.start("a")

    def dies(effect: Effect) -> bool:
        if isinstance(effect, effects.Commit) and effect.what == "T10":
            world.kill("a")
        return "a" in world.dead

    world.held_back["a"] = dies
    world.run(4.5)
    claim = world.claim()
    assert claim is not None

    assert (claim.node, claim.kind) == ("a", Kind.FAILBACK)

    world.run(9)

    assert world.holders() == ["b"]
    assert [(e.kind, e.to_node, e.answered) for e in past(world)][-2:] == [
        (Kind.FAILBACK, "a", False),
        (Kind.FAILOVER, "b", True),
    ]
