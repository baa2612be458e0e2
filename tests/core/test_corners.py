"""Rare meetings of events, each of which once stood open in the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leaseha.core import actions, effects, events, records
from leaseha.core.effects import Effect
from leaseha.core.records import ClaimRecord, Hold, Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft, Role
from tests.core import hands
from tests.core.harness import World, spec

FULL = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", resources=True)


def by_hand(world: World, key: str, record: records.Record) -> None:
    world.tell(world.etcd.put(key, records.encode(record)))


@pytest.mark.parametrize("action", [actions.claim, actions.accept, actions.hand_over])
def test_an_action_without_its_ground_changes_nothing(action: Callable[[Draft, str], str]) -> None:
    """The guards see to it that there is one; without it nothing is sent and nothing goes down."""
    world = World(spec("a"))
    draft = Draft(world.nodes["a"], world.now())

    assert action(draft, "l") == ""
    assert draft.effects == []
    assert draft.done() == world.nodes["a"]


def test_a_node_that_never_got_a_session_stops_at_once() -> None:
    """There is nothing to close."""
    world = World(spec("a"))
    world.cut.add("a")
    world.start()
    world.give("a", events.StopAsked(world.now()))

    assert world.nodes["a"].stopped
    assert not any(isinstance(e, effects.CloseSession) for _, e in world.log)


def test_a_closing_that_is_seen_before_it_is_answered_ends_once() -> None:
    """The own record says *closed*, by this node itself: no session was lost."""
    world = hands.serving()
    hands.keep(world, "b", "T12")
    world.give("b", events.StopAsked(world.now()))
    closing = hands.kept(world, "b", "T12")
    outcome = hands.apply(world, closing)

    assert not world.nodes["b"].stopped

    hands.answer(world, "b", closing, outcome)

    assert world.nodes["b"].stopped
    assert [e.failure for n, e in world.log if n == "b" and isinstance(e, effects.Stopped)] == [""]


def test_a_claim_that_is_written_over_while_it_is_being_released_is_lost() -> None:
    """The release may have moved it itself, so nothing is said before the release is answered."""
    world = hands.serving()
    hands.keep(world, "a", "T11")
    world.give("a", events.StopAsked(world.now()))
    release = hands.kept(world, "a", "T11")
    by_hand(world, records.claim_key("l"), ClaimRecord(Hold.HELD, node="x", session=99))

    assert world.role("a") is Role.YIELDING

    hands.answer(world, "a", release, hands.apply(world, release))

    assert "Y-taken" in world.rows("a")
    assert world.nodes["a"].stopped


def test_a_lease_that_is_handed_over_while_it_is_being_taken_is_accepted() -> None:
    """Another took it first, and hands it over in the same breath."""
    world = hands.serving()
    hands.keep(world, "b", "T5")
    world.give("a", events.StopAsked(world.now()))
    taking = hands.kept(world, "b", "T5")
    mine = ClaimRecord(Hold.HELD, node="b", session=world.nodes["b"].session.id, kind=Kind.SWITCHOVER)
    world.blind.add("b")
    by_hand(world, records.claim_key("l"), mine)
    hands.answer(world, "b", taking, hands.apply(world, taking))

    assert world.holders() == ["b"]
    assert world.rows("b")[-4:] == ["C-over", "S-accept", "C-won", "P-up"]


def test_a_session_that_is_re_established_opens_the_gate_under_its_new_token() -> None:
    """B7, G6: the service goes on, and each write from now on carries the new token."""
    world = hands.serving(spec("a", FULL))
    before = world.state("a").token
    hands.erase(world, hands.record_key(world, "a"))
    world.run(0.5)
    gates = [e.token for _, e in world.log if isinstance(e, effects.OpenGate)]

    assert world.holders() == ["a"]
    assert gates == [before, world.state("a").token]
    assert world.rows("a")[-1] == "P-up"


def test_a_doubt_while_the_gate_is_opened_again_is_answered_after_it() -> None:
    world = hands.serving(spec("a", FULL))

    def hold(effect: Effect) -> bool:
        return isinstance(effect, effects.OpenGate)

    world.held_back["a"] = hold
    hands.erase(world, hands.record_key(world, "a"))
    world.run(0.5)
    gate = world.kept[-1][1]
    said = sum(isinstance(e, effects.Announce) for _, e in world.log)
    world.give("a", events.Doubt(world.now(), "l", "link up"))

    assert sum(isinstance(e, effects.Announce) for _, e in world.log) == said

    world.give("a", events.EffectDone(world.now(), "l", "OpenGate", gate.serial, ok=True))

    assert sum(isinstance(e, effects.Announce) for _, e in world.log) == said + 1


def test_an_etcd_that_went_back_before_a_session_was_open_is_waited_for_all_the_same() -> None:
    """A8: another cluster id is another etcd, whatever its revision."""
    world = World(spec("a"))
    world.held_back["a"] = lambda effect: isinstance(effect, effects.OpenSession)
    world.start()
    opening = world.kept[-1][1]
    world.etcd.cluster_id += 1
    world.give("a", world.snapshot(0))
    world.give("a", events.SessionOpened(world.now(), opening.request, 55))
    world.run(1)

    assert hands.warned(world, "a") == ["etcd went back in time"]
    assert effects.CloseSession(55) in [e for _, e in world.log]

    hands.let(world, "a")
    world.run(15)

    assert world.holders() == []


def test_leases_of_two_holders_that_ended_together_are_taken_by_a_transaction_each() -> None:
    """T4 compares one session record."""
    leases = [
        LeaseSpec(name, priorities, digest="v.x", failback=False)
        for name, priorities in (("l", {"a": 9, "b": 1, "c": 5}), ("m", {"a": 1, "b": 9, "c": 5}))
    ]
    world = World(*(spec(name, *leases) for name in "abc"))
    world.start("a")
    world.run(0.5)
    world.start("b", "c")
    world.run(2)
    intent = records.IntentRecord(Kind.SWITCHOVER, "op", world.state("a", "m").token, "b")
    by_hand(world, records.intent_key("m"), intent)
    world.run(2)

    assert (world.holders("l"), world.holders("m")) == (["a"], ["b"])

    changes = []
    for name in "ab":
        world.kill(name)
        key = hands.record_key(world, name)
        closed = records.SessionRecord(records.Life.CLOSED, name, by=name)
        changes += world.etcd.put(key, records.encode(closed))
    world.tell(changes)
    world.run(0.2)

    assert (world.holders("l"), world.holders("m")) == (["c"], ["c"])
    assert world.sent("c").count("T4") == 2


def test_a_node_record_that_is_about_to_be_written_anyway_is_not_queued_twice() -> None:
    """Someone removed it while news of it waited for the next renewal."""
    world = hands.serving()
    hands.keep(world, "b")
    world.give("b", events.HealthChanged(world.now(), "l", -5, ""))
    world.give("b", events.HealthChanged(world.now(), "l", -9, ""))
    queued = dict(world.nodes["b"].notes)
    hands.erase(world, records.node_key("b"))

    assert records.node_key("b") in queued
    assert dict(world.nodes["b"].notes) == queued

    hands.end(world, "b")
    hands.let(world, "b")
    world.run(1.2)
    node = records.decode(records.NodeRecord, world.etcd.keys[records.node_key("b")].value)
    assert node is not None

    assert node.priorities == {"l": 41}
