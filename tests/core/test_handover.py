"""From one process of a node to the next: it gains no time by that, and nothing moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leaseha.core import deadline, effects, events, handover, records
from leaseha.core.handover import Handover
from leaseha.core.records import Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import InvariantBroken
from tests.core import hands
from tests.core.harness import World, spec

FULL = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", hold_down_ns=3 * NS_PER_S, resources=True)


def raised(world: World, name: str = "a") -> None:
    """The ttl is `ttl_max` now, proven."""
    world.give(name, events.TtlChanged(world.now(), world.nodes[name].spec.ttl_max_ns))


def replaced(world: World, name: str = "a", **more: object) -> Handover:
    """Another process of the node, under the name of an incarnation of its own; it has not begun."""
    told = handover.take(world.nodes[name])
    mine = replace(world.nodes[name].spec, incarnation=f"next-{name}")
    world.nodes[name] = handover.adopted(mine, told, world.now(), **more)  # type: ignore[arg-type]
    world.at_ns += NS_PER_S
    return told


def test_the_next_process_holds_the_lease_under_the_same_session_and_token() -> None:
    world = hands.serving(spec("a", FULL), spec("b", FULL))
    raised(world)
    old, before = world.nodes["a"], len(world.log)
    told = replaced(world)
    world.start("a")
    world.run(0.5)

    new = world.nodes["a"]
    assert (new.session.id, new.leases["l"].token) == (old.session.id, old.leases["l"].token)
    assert world.role("a") is Role.HOLDER
    assert new.leases["l"].since == old.leases["l"].since
    kinds = {type(effect) for name, effect in world.log[before:] if name == "a"}
    assert not kinds & {effects.BindVip, effects.UnbindVip, effects.Announce, effects.Transitioned}
    assert handover.proven(new, told)
    record = records.decode(records.SessionRecord, world.etcd.keys[hands.record_key(world, "a")].value)
    assert record is not None
    assert (record.incarnation, record.ttl_ns) == ("next-a", new.spec.ttl_ns)
    world.run(20)
    assert world.holders() == ["a"]


def test_it_serves_until_the_deadline_of_the_old_process_and_no_longer() -> None:
    world = hands.serving(spec("a"), spec("b"))
    raised(world)
    until = handover.deadlines(world.nodes["a"], world.now())["l"]
    replaced(world)
    hands.keep(world, "a")
    world.start("a")

    told = [e.deadline for n, e in world.log if n == "a" and isinstance(e, effects.Extend)][-1]
    assert told.left_ns(world.now()) <= until.left_ns(world.now())
    assert not handover.proven(world.nodes["a"], handover.take(hands.serving(spec("a")).nodes["a"]))
    left_s = until.left_ns(world.now()) / NS_PER_S
    world.run(left_s + 0.05)
    assert world.role("a") is not Role.HOLDER


def test_its_first_write_is_a_renewal_that_compares_every_claim_and_a_read_may_come_later() -> None:
    world = hands.serving(spec("a"), spec("b"))
    raised(world)
    before = len(world.log)
    told = replaced(world)
    world.held_back["a"] = lambda effect: isinstance(effect, effects.ReadAll)
    world.start("a")
    assert [e.what for n, e in world.log[before:] if n == "a" and isinstance(e, effects.Commit)] == ["T2"]
    assert handover.proven(world.nodes["a"], told)
    assert world.nodes["a"].view is None, "what one wrote oneself is not all there is"

    world.execute("a", world.kept[-1][1])
    assert world.nodes["a"].view is not None
    assert world.role("a") is Role.HOLDER


def test_a_claim_that_moved_meanwhile_is_not_served_although_nothing_was_read_yet() -> None:
    world = hands.serving(spec("a"), spec("b"))
    raised(world)
    replaced(world)
    key = records.claim_key("l")
    world.etcd.put(key, records.encode(records.ClaimRecord(records.Hold.HELD, node="b", session=9)))
    world.held_back["a"] = lambda effect: isinstance(effect, effects.ReadAll)
    world.start("a")
    assert world.nodes["a"].view is None
    assert "H-taken" in world.rows("a")


def test_a_longer_ttl_is_proven_before_a_process_hands_over_and_the_shorter_counts_from_sending() -> None:
    world = hands.serving(spec("a"), spec("b"))
    node = world.nodes["a"].spec
    raised(world)
    left_ns = handover.left_ns(world.nodes["a"], world.now())
    assert left_ns == deadline.held_ns(node.ttl_max_ns, node.drift_ppm)
    replaced(world)
    hands.keep(world, "a")
    world.start("a")
    assert handover.left_ns(world.nodes["a"], world.now()) == deadline.held_ns(node.ttl_ns, node.drift_ppm)


@pytest.mark.parametrize("what", ["commit", "note", "yielding", "plan", "stopping", "session"])
def test_a_process_hands_over_only_while_nothing_is_under_way(what: str) -> None:
    world = hands.serving(spec("a", FULL), spec("b", FULL))
    assert handover.not_calm(world.nodes["a"]) == ""
    state = world.nodes["a"]
    lease = state.leases["l"]
    match what:
        case "commit":
            hands.keep(world, "a")
            raised(world)
            state = world.nodes["a"]
        case "note":
            state = replace(state, notes={"k": None})  # type: ignore[dict-item]
        case "yielding":
            state = replace(state, leases={"l": replace(lease, role=Role.YIELDING)})
        case "plan":
            state = replace(state, leases={"l": replace(lease, plan=("Announce",))})
        case "stopping":
            state = replace(state, stopping=True)
        case "session":
            state = replace(state, session=replace(state.session, phase=type(state.session.phase).OPENING))
    assert handover.not_calm(state)
    with pytest.raises(InvariantBroken, match="handed over although"):
        handover.take(state)


def test_a_node_that_holds_nothing_can_hand_over_without_a_session() -> None:
    world = hands.serving(spec("a"), spec("b"))
    world.cut.add("b")
    world.run(2)
    assert handover.not_calm(world.nodes["b"])
    assert handover.nothing_held(world.nodes["b"])
    assert not handover.nothing_held(world.nodes["a"])
    assert handover.left_ns(world.nodes["b"], world.now()) is None
    told = replaced(world, "b")
    assert (told.session, told.held()) == (0, ())
    world.cut.discard("b")
    world.start("b")
    world.run(1)
    assert handover.proven(world.nodes["b"], told)
    assert world.holders() == ["a"]


def test_a_standby_goes_on_under_its_session_and_takes_over_later() -> None:
    world = hands.serving(spec("a"), spec("b"))
    own = world.nodes["b"].session.id
    told = replaced(world, "b")
    world.start("b")
    world.run(1)
    assert handover.standing_by(world.nodes["b"], "l")
    assert world.nodes["b"].session.id == own == told.session
    assert handover.proven(world.nodes["b"], told)
    world.kill("a")
    world.run(30)
    assert world.holders() == ["b"]


def test_a_vip_that_is_new_is_bound_and_a_gate_that_was_not_carried_is_opened() -> None:
    world = hands.serving(spec("a", FULL), spec("b", FULL))
    raised(world)
    before = len(world.log)
    replaced(world, drifted={"l": "new"}, regate=["l"])
    world.start("a")
    world.run(0.5)
    kinds = [type(effect) for name, effect in world.log[before:] if name == "a"]
    assert effects.BindVip in kinds
    assert effects.OpenGate in kinds
    assert effects.UnbindVip not in kinds
    assert world.role("a") is Role.HOLDER


def test_what_is_held_and_not_configured_any_more_is_a_fault() -> None:
    world = hands.serving(spec("a"), spec("b"))
    told = handover.take(world.nodes["a"])
    other = spec("a", LeaseSpec("other", {"a": 1}))
    with pytest.raises(InvariantBroken, match="l is held, and not configured"):
        handover.adopted(other, told, world.now())
    idle = replace(told, leases=tuple(replace(one, held=False) for one in told.leases))
    assert set(handover.adopted(other, idle, world.now()).leases) == {"other"}


def test_a_lease_that_is_retired_is_handed_over_and_not_taken_again() -> None:
    world = hands.serving(spec("a"), spec("b"))
    world.give("a", events.Retired(world.now(), "l", "gone from the configuration"))
    world.run(0.5)
    assert world.holders() == ["b"]
    assert "H-ineligible" in world.rows("a")
    world.run(20)
    assert world.holders() == ["b"]
    world.give("a", events.Retired(world.now(), "l", ""))
    world.run(30)
    assert world.holders() == ["a"]


def test_a_lease_that_is_retired_is_let_go_although_nobody_else_can_take_it() -> None:
    world = hands.serving(spec("a"))
    world.give("a", events.Retired(world.now(), "l", "gone from the configuration"))
    world.run(3)
    assert world.holders() == []
    assert (record := world.claim()) is not None
    assert (record.hold, record.kind) == (records.Hold.FREE, Kind.RELEASE)
    assert record.reason == "gone from the configuration"


def test_after_a_restored_etcd_the_next_process_still_waits() -> None:
    world = hands.serving(spec("a"), spec("b"))
    world.run(1)
    told = handover.take(world.nodes["b"])
    later = Instant(world.at_ns + 9 * NS_PER_S, world.at_ns + 9 * NS_PER_S)
    state = handover.adopted(world.nodes["b"].spec, replace(told, claims_from=later), world.now())
    assert state.claims_from == later
