"""What operators, checks, disks and networks do to a node that holds a lease, and what it makes of it."""

from __future__ import annotations

import pytest

from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Effect
from leaseha.core.records import Hold, IntentRecord, Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_S, Refused
from tests.core import hands
from tests.core.harness import World, spec

PRIORITIES = {"a": 100, "b": 50, "c": 10}
FULL = LeaseSpec("l", PRIORITIES, digest="v.x", hold_down_ns=3 * NS_PER_S, resources=True)
STAYS = LeaseSpec("l", PRIORITIES, digest="v.x", failback=False)
"""No failback: whoever has it keeps it."""
PARKED = LeaseSpec("l", {"a": 100, "b": 50, "c": 0}, digest="v.x", failback=False)


def ask(world: World, target: str = "", *, kind: str = Kind.SWITCHOVER, token: int = 0) -> None:
    """An operator's intent, as `leaseha switchover` writes it."""
    known = token or world.etcd.keys[records.claim_key("l")].mod
    intent = IntentRecord(kind, "op", known, target, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    world.tell(world.etcd.put(records.intent_key("l"), records.encode(intent)))


def answer(world: World) -> str:
    kv = world.etcd.keys[records.intent_key("l")]
    record = records.decode(IntentRecord, kv.value)
    assert record is not None
    return record.answer


def of(world: World, name: str, *kinds: type[Effect]) -> list[Effect]:
    return [e for n, e in world.log if n == name and isinstance(e, kinds)]


# Switchover


def test_a_switchover_goes_to_the_node_named() -> None:
    world = hands.serving(*(spec(n, STAYS) for n in "abc"))
    ask(world, "c")
    world.run(0.1)

    assert world.holders() == ["c"]
    assert world.rows("a")[-2:] == ["H-switchover", "Y-gone"]
    assert world.rows("c")[-3:] == ["S-accept", "C-won", "P-up"]


def test_a_switchover_without_a_target_goes_to_the_best_other_candidate() -> None:
    world = hands.serving(*(spec(n, STAYS) for n in "abc"))
    ask(world)
    world.run(0.1)

    assert world.holders() == ["b"]


def test_the_claim_of_a_switchover_carries_its_trace_and_who_asked() -> None:
    """G7: the trace begins with the command and goes on in the target."""
    world = hands.serving()
    ask(world, "b")
    claim = world.claim()

    assert claim is not None
    assert (claim.kind, claim.from_node, claim.reason) == (Kind.SWITCHOVER, "a", "asked by op")
    assert claim.traceparent.startswith("00-aaaa")
    assert {e.trace for e in of(world, "b", effects.MoveEnded)} == {claim.traceparent}


def test_down_goes_in_order_and_the_claim_moves_last() -> None:
    """G4, break before make: gate, resources, VIP, then T9."""
    world = hands.serving(*(spec(n, FULL) for n in "ab"))
    since = len(world.log)
    ask(world, "b")
    names = [
        e.what if isinstance(e, effects.Commit) else type(e).__name__
        for n, e in world.log[since:]
        if n == "a"
    ]
    order = [n for n in names if n in ("CloseGate", "StopResources", "UnbindVip", "T9")]

    assert order == ["CloseGate", "StopResources", "UnbindVip", "T9"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("a", "a holds it already"),
        ("nobody", "nobody is no candidate: no such node is running"),
        ("c", "c is no candidate: priority 0"),
    ],
)
def test_a_switchover_to_a_node_that_cannot_take_is_answered_with_the_reason(target: str, why: str) -> None:
    world = hands.serving(*(spec(n, PARKED) for n in "abc"))
    ask(world, target)
    world.run(1)

    assert world.holders() == ["a"]
    assert answer(world) == why


def test_a_switchover_with_nobody_to_go_to_is_answered_with_the_reason() -> None:
    world = hands.serving(spec("a"))
    ask(world)
    world.run(1)

    assert world.holders() == ["a"]
    assert answer(world) == "there is no other candidate"


def test_an_answer_is_written_once_and_never_over_a_newer_intent() -> None:
    """The operator gave up and asked for something else while the answer was on its way."""
    world = hands.serving(spec("a", STAYS), spec("b", STAYS))
    hands.keep(world, "a", "answer")
    ask(world, "nobody")
    ask(world, "b")
    hands.let(world, "a")
    outcome = hands.end(world, "a")
    world.run(1)

    assert isinstance(outcome, Refused)
    assert world.sent("a").count("answer") == 1
    assert world.holders() == ["b"]


def test_an_intent_against_an_older_token_is_not_obeyed() -> None:
    """It was meant for another situation."""
    world = hands.serving()
    ask(world, "b", token=1)
    world.run(1)

    assert world.holders() == ["a"]
    assert answer(world) == ""


def test_a_target_that_dies_before_it_takes_leaves_the_holder_serving_again() -> None:
    """It serves only after a renewal that was sent later and compared this claim: then T9 is dead for ever (A1)."""
    world = hands.serving()
    hands.keep(world, "a", "T9")
    ask(world, "b")
    handover = hands.kept(world, "a")
    world.cut.add("b")
    hands.erase(world, hands.record_key(world, "b"))
    hands.answer(world, "a", handover, hands.apply(world, handover))
    world.run(2)

    assert world.holders() == ["a"]
    assert world.rows("a")[-3:] == ["H-switchover", "Y-resume", "P-up"]


# Failback


def test_a_failback_that_the_holder_does_not_want_is_not_obeyed() -> None:
    """The node that asks must be named, a candidate, and better."""
    world = hands.serving()
    for target in ("b", "nobody", "a"):
        ask(world, target, kind=Kind.FAILBACK)
        world.run(0.1)

        assert world.holders() == ["a"]


def test_an_unknown_kind_of_intent_is_passed_over() -> None:
    world = hands.serving()
    ask(world, "b", kind="dance")
    world.run(0.1)

    assert world.holders() == ["a"]


# Health


def test_an_ineligible_holder_lets_go_when_another_can_hold() -> None:
    world = hands.serving()
    world.give("a", events.HealthChanged(world.now(), "l", 0, "disk full"))
    world.run(0.2)

    assert world.holders() == ["b"]
    assert world.rows("a")[-2:] == ["H-ineligible", "Y-gone"]


def test_an_ineligible_holder_stays_while_nobody_else_can_hold() -> None:
    """A rebooting router must not end the service."""
    world = hands.serving(spec("a"))
    world.give("a", events.HealthChanged(world.now(), "l", 0, "router away"))
    world.run(2)

    assert world.holders() == ["a"]


def test_weights_of_failed_checks_move_the_lease_to_the_node_that_is_better_now() -> None:
    """A failback by effective priority, after the hold-down."""
    world = hands.serving()
    world.give("a", events.HealthChanged(world.now(), "l", -60, ""))
    world.run(5)

    assert world.holders() == ["b"]
    assert "H-failback" in world.rows("a")


# Effects that fail, and things that someone takes away


def test_a_node_that_cannot_bind_lets_go_and_leaves_the_lease_to_others_for_a_while() -> None:
    world = World(spec("b"), spec("a"))
    world.start()
    hands.fails(world, "a", effects.BindVip)
    world.run(5)

    assert world.holders() == ["b"]
    assert world.rows("a")[-3:] == ["C-won", "P-failed", "Y-gone"]
    assert "BindVip failed" in hands.warned(world, "a")


def test_a_first_holder_that_cannot_bind_admits_the_others_so_that_one_of_them_can_take() -> None:
    """Nothing can be lacking where nothing is replicated; else a new lease would wait for its first node for ever."""
    world = World(spec("a"), spec("b"))
    hands.fails(world, "a", effects.BindVip, times=9)
    world.start()
    world.run(11)

    assert world.holders() == ["b"]


def test_a_node_alone_tries_again_after_its_backoff() -> None:
    world = World(spec("a"))
    hands.fails(world, "a", effects.BindVip)
    world.start()
    world.run(9)

    assert world.holders() == []

    world.run(2)

    assert world.holders() == ["a"]


def test_a_failed_way_down_is_tried_again_and_nothing_is_freed_before_it_is_done() -> None:
    """B13: never *free* while the VIP may still be on."""
    world = hands.serving()
    hands.fails(world, "a", effects.UnbindVip)
    world.give("a", events.StopAsked(world.now()))
    claim = world.claim()

    assert claim is not None
    assert (claim.hold, world.role("a")) == (Hold.HELD, Role.YIELDING)

    world.run(1.2)

    assert world.role("a") is Role.STOPPED
    assert world.holders() == ["b"]


def test_a_handover_that_can_not_take_the_vip_off_is_given_up_and_the_holder_serves_again() -> None:
    """Nothing was written, so nobody else may: better served here than nowhere."""
    world = hands.serving(spec("a", STAYS), spec("b", STAYS))
    token = world.state("a").token
    hands.fails(world, "a", effects.UnbindVip, times=3)
    ask(world)
    world.run(3)

    assert world.rows("a")[-2:] == ["Y-stuck", "P-up"]
    assert world.holders() == ["a"]
    assert world.state("a").token == token
    assert "T9" not in world.sent("a")
    assert answer(world) == "the handover came to nothing"


def test_a_holder_that_could_not_let_go_tries_it_again_by_itself_only_after_a_while() -> None:
    world = hands.serving()
    hands.fails(world, "a", effects.UnbindVip, times=3)
    world.give("a", events.HealthChanged(world.now(), "l", 0, "disk"))
    world.run(3)

    assert world.holders() == ["a"]

    world.run(55)

    assert world.rows("a").count("H-ineligible") == 1

    world.run(8)

    assert world.holders() == ["b"]


def test_a_fenced_lease_whose_unbinding_failed_is_cut_again() -> None:
    world = hands.serving(spec("a"))
    hands.fails(world, "a", effects.UnbindVip)
    world.cut.add("a")
    world.run(5.1)

    assert world.role("a") is Role.FENCED

    world.run(1)

    assert world.rows("a")[-2:] == ["F-off", "S-accept"]


def test_a_vip_that_someone_removed_is_bound_and_announced_again() -> None:
    world = hands.serving(*(spec(n, FULL) for n in "ab"))
    since = len(world.log)
    world.give("a", events.VipMissing(world.now(), "l", ""))
    names = [type(e).__name__ for n, e in world.log[since:] if n == "a"]

    assert world.holders() == ["a"]
    assert world.rows("a")[-2:] == ["H-drift", "P-up"]
    assert "BindVip" in names
    assert "Announce" in names
    assert "StartResources" not in names


def test_a_missing_vip_is_no_news_where_none_is_held() -> None:
    world = hands.serving()
    before = world.rows("b")
    for kind in (events.VipMissing, events.Doubt, events.ResourceFailed):
        world.give("b", kind(world.now(), "l", "?"))

    assert world.rows("b") == before


def test_a_doubt_is_answered_with_another_announcement_and_no_transition() -> None:
    world = hands.serving()
    rows, said = world.rows("a"), len(of(world, "a", effects.Announce))
    world.give("a", events.Doubt(world.now(), "l", "link up"))

    assert world.rows("a") == rows
    assert len(of(world, "a", effects.Announce)) == said + 1


def test_a_failed_announcement_is_tried_again_and_the_lease_kept() -> None:
    world = hands.serving()
    hands.fails(world, "a", effects.Announce)
    world.give("a", events.Doubt(world.now(), "l", "link up"))
    said = len(of(world, "a", effects.Announce))
    world.run(1.2)

    assert world.holders() == ["a"]
    assert len(of(world, "a", effects.Announce)) == said + 1


def test_a_failed_resource_moves_the_lease_to_another_node() -> None:
    world = hands.serving(*(spec(n, FULL) for n in "ab"))
    world.give("a", events.ResourceFailed(world.now(), "l", "exit 1"))
    world.run(0.2)

    assert world.holders() == ["b"]
    assert world.rows("a")[-2:] == ["H-broken", "Y-gone"]


def test_a_failed_resource_is_started_again_where_nobody_else_can_serve() -> None:
    world = hands.serving(spec("a", FULL))
    starts = len(of(world, "a", effects.StartResources))
    world.give("a", events.ResourceFailed(world.now(), "l", ""))

    assert world.holders() == ["a"]
    assert world.rows("a")[-2:] == ["H-restart", "P-up"]
    assert len(of(world, "a", effects.StartResources)) == starts + 1


def test_a_late_end_of_an_effect_that_nobody_waits_for_changes_no_plan() -> None:
    world = hands.serving()
    before = world.state("a")
    world.give("a", events.EffectDone(world.now(), "l", "BindVip", 999, ok=False))

    assert world.state("a") == before


def test_a_service_that_does_not_answer_yet_is_warned_of_and_its_move_not_ended() -> None:
    world = World(spec("a"))
    world.held_back["a"] = lambda effect: isinstance(effect, effects.Announce)
    world.start()
    world.run(0.1)
    serial = world.kept[-1][1].serial
    world.give("a", events.EffectDone(world.now(), "l", "Announce", serial, ok=True))
    world.give("a", events.FirstAnswer(world.now(), "l", serial, ok=False))

    assert world.holders() == ["a"]
    assert "no answer yet" in hands.warned(world, "a")
    assert of(world, "a", effects.MoveEnded) == []


def test_an_answer_to_an_older_announcement_ends_no_move() -> None:
    world = hands.serving()
    ended = of(world, "a", effects.MoveEnded)
    world.give("a", events.FirstAnswer(world.now(), "l", 999))

    assert of(world, "a", effects.MoveEnded) == ended
    assert len(ended) == 1


def announced(world: World, name: str) -> int:
    return len(of(world, name, effects.Announce))


def test_a_node_that_comes_back_makes_the_holder_announce_again() -> None:
    """It may have been cut off: behind it someone may still have its address in mind for the VIP."""
    world = hands.serving(spec("b"))
    before = announced(world, "b")
    world.nodes["c"] = machine.initial(spec("c"))
    world.start("c")
    world.run(0.5)

    assert announced(world, "b") == before + 1
    assert world.rows("b")[-1] == "P-up"


def test_a_holder_whose_renewals_go_on_after_a_gap_announces_again() -> None:
    world = hands.serving()
    before = announced(world, "a")
    world.cut.add("a")
    world.run(3.5)
    world.cut.clear()
    world.run(1)

    assert world.holders() == ["a"]
    assert announced(world, "a") == before + 1
