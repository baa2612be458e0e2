"""How a lease is lost, and that everything is cut at once when it is (G1, G5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leaseha.core import effects, events, machine, records
from leaseha.core.records import ClaimRecord, Hold, Life, SessionRecord
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft, Role
from leaseha.core.transitions import Row
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import InvariantBroken
from tests.core import hands
from tests.core.harness import World, spec

FULL = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", resources=True)


def by_hand(world: World, key: str, record: records.Record) -> None:
    world.tell(world.etcd.put(key, records.encode(record)))


def own_record(world: World, name: str) -> SessionRecord:
    record = records.decode(SessionRecord, world.etcd.keys[hands.record_key(world, name)].value)
    assert record is not None
    return record


def extended(world: World, name: str) -> list[Instant]:
    return [e.deadline for n, e in world.log if n == name and isinstance(e, effects.Extend)]


def test_a_holder_without_a_proven_renewal_stops_at_its_deadline() -> None:
    """G5: ttl x (1 - drift) from the sending of the last proven renewal."""
    world = hands.serving(spec("a"))
    told = extended(world, "a")[-1]
    world.cut.add("a")
    world.run((told.boot_ns - world.at_ns) / NS_PER_S - 0.02)

    assert world.holders() == ["a"]

    world.run(0.04)

    assert world.rows("a")[-2:] == ["F-off", "S-accept"]
    assert "H-deadline" in world.rows("a")


@pytest.mark.parametrize("clock", ["boot_ns", "raw_ns"])
def test_the_deadline_has_passed_when_either_clock_says_so(clock: str) -> None:
    """A18: one of them may be slewed."""
    world = hands.serving(spec("a"))
    ahead = replace(world.now(), **{clock: world.at_ns + 6 * NS_PER_S})
    world.give("a", events.Tick(ahead))

    assert "H-deadline" in world.rows("a")


def test_a_lease_that_is_lost_is_cut_from_the_network_first() -> None:
    world = hands.serving(spec("a", FULL))
    world.cut.add("a")
    since = len(world.log)
    world.run(6)
    cut = [
        e
        for _, e in world.log[since:]
        if isinstance(e, effects.UnbindVip | effects.CloseGate | effects.StopResources)
    ]

    assert [type(e).__name__ for e in cut] == ["UnbindVip", "CloseGate", "StopResources"]
    assert all(e.urgent for e in cut)


def test_a_lease_whose_claim_was_not_compared_in_time_is_lost_under_a_live_session() -> None:
    """A3: whoever finds the claim absent waits ttl_max, so no ttl may hold it longer."""
    world = hands.serving(spec("a", ttl_ns=30 * NS_PER_S))
    world.cut.add("a")
    world.run(16)

    assert "H-cover" in world.rows("a")


@pytest.mark.parametrize("blind", [False, True])
def test_a_claim_that_another_wrote_over_is_lost(blind: bool) -> None:
    """Seen by the watch at once, or by the next renewal, which compares it."""
    world = hands.serving(spec("a"))
    if blind:
        world.blind.add("a")
    by_hand(world, records.claim_key("l"), ClaimRecord(Hold.HELD, node="x", session=99))
    world.run(1.1)

    assert world.rows("a")[-2:] == ["H-taken", "F-off"]


def test_a_claim_that_vanishes_is_lost() -> None:
    world = hands.serving(spec("a"))
    hands.erase(world, records.claim_key("l"))

    assert "H-taken" in world.rows("a")


@pytest.mark.parametrize("life", [Life.DEAD, Life.CLOSED])
@pytest.mark.parametrize("blind", [False, True])
def test_a_session_that_another_ended_is_lost_with_all_its_leases(life: Life, blind: bool) -> None:
    world = hands.serving(spec("a"))
    if blind:
        world.blind.add("a")
    by_hand(world, hands.record_key(world, "a"), replace(own_record(world, "a"), life=life, by="b"))
    world.run(1.1)

    assert "H-session" in world.rows("a")


def test_a_record_that_another_process_wrote_ends_the_session_too() -> None:
    """A12: an unknown nonce in the own record means that this process was superseded."""
    world = hands.serving(spec("a"))
    by_hand(world, hands.record_key(world, "a"), replace(own_record(world, "a"), incarnation="another"))

    assert "H-session" in world.rows("a")


def test_a_node_whose_session_was_ended_opens_a_new_one() -> None:
    world = hands.serving(spec("a"))
    old = world.nodes["a"].session.id
    by_hand(world, hands.record_key(world, "a"), replace(own_record(world, "a"), life=Life.DEAD))
    world.run(20)

    assert world.nodes["a"].session.id not in (0, old)
    assert world.holders() == ["a"]


@pytest.mark.parametrize(
    ("effect", "row"), [(effects.BindVip, "P-deadline"), (effects.CloseGate, "Y-deadline")]
)
def test_the_deadline_counts_on_the_way_up_and_on_the_way_down_too(effect: type, row: str) -> None:
    world = World(spec("a", FULL))
    world.held_back["a"] = lambda found: isinstance(found, effect)
    world.start()
    world.run(1)
    world.give("a", events.StopAsked(world.now())) if row[0] == "Y" else None
    world.cut.add("a")
    world.run(6)

    assert row in world.rows("a")


def test_a_lease_that_was_cut_and_whose_claim_still_stands_is_accepted_again() -> None:
    """Back in touch with etcd, the claim names this very session: serve under a renewal that compares it."""
    world = hands.serving(spec("a"))
    token = world.state("a").token
    world.cut.add("a")
    world.run(6)
    world.cut.clear()
    world.run(2)

    assert world.holders() == ["a"]
    assert world.state("a").token == token
    assert world.rows("a")[-5:] == ["H-deadline", "F-off", "S-accept", "C-won", "P-up"]
    assert any(isinstance(e, effects.MoveEnded) and e.token == token for _, e in world.log)


def test_a_slow_renewal_is_warned_of() -> None:
    """One that used over half of its budget."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.run(1.1)
    renewal = hands.kept(world, "a")
    world.run(2.6)
    hands.answer(world, "a", renewal, hands.apply(world, renewal))

    assert "slow renewal" in hands.warned(world, "a")
    assert world.holders() == ["a"]


# Another ttl


def test_a_raised_ttl_moves_the_deadline_when_it_is_proven() -> None:
    """A9."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    before = extended(world, "a")[-1]
    world.give("a", events.TtlChanged(world.now(), 10 * NS_PER_S))

    assert extended(world, "a")[-1] == before

    hands.end(world, "a")

    assert extended(world, "a")[-1] == world.now().plus(9_990_000_000)


def test_a_lowered_ttl_moves_the_deadline_when_it_is_sent() -> None:
    """A9: a standby may count with it as soon as it is sent."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.give("a", events.TtlChanged(world.now(), 1 * NS_PER_S))

    assert extended(world, "a")[-1] == world.now().plus(999_000_000)


def test_no_ttl_is_longer_than_ttl_max() -> None:
    world = hands.serving(spec("a"))
    world.give("a", events.TtlChanged(world.now(), 3600 * NS_PER_S))
    world.run(1)

    assert own_record(world, "a").ttl_ns == 15 * NS_PER_S


# Faults of leaseha itself


def test_a_table_that_goes_round_in_circles_breaks_an_invariant() -> None:
    """The caller then stops holding."""
    world = World(spec("a"))
    row = Row("S-loop", Role.STANDBY, Role.STANDBY, "", lambda *_: True, lambda *_: "", "round and round")
    draft = Draft(world.nodes["a"], world.now())

    with pytest.raises(InvariantBroken, match="more than 8 transitions"):
        machine.settle(draft, "l", {Role.STANDBY: (row,)})


@pytest.mark.parametrize("changes", [{"role": Role.HOLDER}, {"role": Role.STANDBY, "up": frozenset({"vip"})}])
def test_a_state_that_contradicts_itself_breaks_an_invariant(changes: dict[str, object]) -> None:
    world = hands.serving(spec("a"))
    lease = replace(world.state("a"), mine=False, **changes)  # type: ignore[arg-type]

    with pytest.raises(InvariantBroken):
        machine.check_invariants(replace(world.nodes["a"], leases={"l": lease}), ["l"])
