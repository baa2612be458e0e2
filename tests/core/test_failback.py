"""Who asks for a lease back, and when again: one move brings it home, and a move that was made delays no other."""

from __future__ import annotations

from leaseha.core import effects, events, records
from leaseha.core.records import HistoryRecord, Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.values import NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec

LEASE = LeaseSpec("l", {"a": 100, "b": 50, "c": 10}, digest="v.x", hold_down_ns=3 * NS_PER_S, flap_budget=60)


def kinds(world: World) -> list[str]:
    """Of all moves, by token."""
    found = [records.decode(HistoryRecord, kv.value) for k, kv in world.etcd.keys.items() if "/history/" in k]
    return [one.kind for one in sorted((one for one in found if one), key=lambda one: one.token)]


def test_only_the_best_node_asks_so_that_the_lease_moves_once() -> None:
    world = World(*(spec(name, LEASE) for name in "abc"))
    world.start("c")
    world.run(1)
    world.start("b")
    world.run(0.5)
    world.start("a")
    world.run(8)

    assert world.holders() == ["a"]
    assert kinds(world) == [Kind.FIRST, Kind.FAILBACK]


def test_a_failback_that_had_its_effect_does_not_delay_the_next_one() -> None:
    world = World(spec("a", LEASE), spec("b", LEASE))
    world.start("a")
    world.start("b")
    world.run(2)
    for _ in range(2):
        world.give("a", events.HealthChanged(world.now(), "l", 0, "no gateway"))
        world.run(1)
        assert world.holders() == ["b"]
        world.give("a", events.HealthChanged(world.now(), "l", 0, ""))
        world.run(3.5)

        assert world.holders() == ["a"]


def test_a_failback_that_could_not_take_the_vip_off_is_not_tried_again_at_once() -> None:
    """The better node asks every ten seconds; the service must not go down for it each time."""
    world = World(spec("a", LEASE), spec("b", LEASE))
    world.start("b")
    world.run(1)
    hands.fails(world, "b", effects.UnbindVip, times=3)
    world.start("a")
    world.run(50)

    assert world.holders() == ["b"]
    assert world.rows("b").count("H-failback") == 1

    world.run(30)

    assert world.holders() == ["a"]


def test_a_node_that_was_ill_since_it_asked_must_stay_well_anew() -> None:
    """The holder could not obey at once; when it can, the hold-down that the intent stands for is over."""
    world = World(spec("a", LEASE), spec("b", LEASE))
    world.start("b")
    world.start("a")
    world.run(2)
    world.held_back["b"] = lambda effect: isinstance(effect, effects.BindVip)
    world.give("b", events.VipMissing(world.now(), "l", "removed"))
    world.run(2)

    assert "ask" in world.sent("a")

    world.give("a", events.HealthChanged(world.now(), "l", 0, "no gateway"))
    world.run(0.2)
    world.give("a", events.HealthChanged(world.now(), "l", 0, ""))
    world.run(0.2)
    hands.let(world, "b")
    world.execute("b", world.kept[-1][1])
    world.run(2)

    assert world.holders() == ["b"]

    world.run(2)

    assert world.holders() == ["a"]
    assert world.sent("a").count("ask") == 2


def test_a_failback_waits_for_a_pause_between_uploads() -> None:
    world = World(spec("a", LEASE), spec("b", LEASE))
    world.start("b")
    world.run(1)
    world.give("b", events.BusyChanged(world.now(), "l", busy=True))
    world.start("a")
    world.run(100, step_ms=100)

    assert world.holders() == ["b"]

    world.give("b", events.BusyChanged(world.now(), "l", busy=False))
    world.run(0.5)

    assert world.holders() == ["a"]


def test_uploads_without_end_put_a_failback_off_for_ten_minutes() -> None:
    world = World(spec("a", LEASE), spec("b", LEASE))
    world.start("b")
    world.run(1)
    world.give("b", events.BusyChanged(world.now(), "l", busy=True))
    world.start("a")
    world.run(601, step_ms=200)

    assert world.holders() == ["b"]

    world.run(15, step_ms=200)

    assert world.holders() == ["a"]
    assert world.state("b").wanted_back is None
