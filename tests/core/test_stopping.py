"""The end of a node, in each role: everything that is held is let go first, and nothing waits for ever."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import effects, events, records
from leaseha.core.events import Event
from leaseha.core.records import Hold
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec


def failures(world: World, name: str) -> list[str]:
    """Why a node ended, each time it said so."""
    return [e.failure for n, e in world.log if n == name and isinstance(e, effects.Stopped)]


def test_a_standby_stops_at_once() -> None:
    world = hands.serving()
    world.give("b", events.StopAsked(world.now()))
    world.run(0.1)

    assert world.nodes["b"].stopped
    assert world.holders() == ["a"]


def test_a_node_that_is_preparing_lets_go_first() -> None:
    world = World(spec("a"))
    world.held_back["a"] = lambda effect: isinstance(effect, effects.BindVip)
    world.start()
    world.run(0.1)
    world.give("a", events.StopAsked(world.now()))
    claim = world.claim()

    assert world.nodes["a"].stopped
    assert claim is not None
    assert claim.hold is Hold.FREE
    assert "P-stop" in world.rows("a")


def test_a_node_that_is_claiming_waits_for_what_is_on_its_way() -> None:
    """A claim that may still be applied is seen through; then it is released."""
    world = hands.serving()
    hands.keep(world, "b", "T3", "T5")
    world.kill("a")
    world.run(7)
    world.give("b", events.StopAsked(world.now()))

    assert world.role("b") is Role.CLAIMING

    hands.let(world, "b")
    hands.end(world, "b")
    world.run(0.5)

    assert world.nodes["b"].stopped
    assert world.rows("b")[-5:] == ["S-silent", "C-won", "P-stop", "Y-gone", "S-stop"]


def test_a_stop_while_etcd_is_away_ends_all_the_same() -> None:
    """The session cannot be closed in writing; it expires by itself."""
    world = hands.serving()
    world.cut.add("b")
    world.give("b", events.StopAsked(world.now()))
    world.run(0.2)

    assert world.nodes["b"].stopped


def test_a_stop_whose_closing_is_not_answered_ends_after_a_bound() -> None:
    world = hands.serving()
    hands.keep(world, "b", "T12")
    world.give("b", events.StopAsked(world.now()))
    world.run(4.5)

    assert not world.nodes["b"].stopped

    world.run(1)

    assert world.nodes["b"].stopped
    assert "session not closed" in hands.warned(world, "b")


def test_what_comes_after_the_end_changes_nothing() -> None:
    world = hands.serving()
    world.give("b", events.StopAsked(world.now()))
    world.run(0.1)
    said, before = len(world.log), world.nodes["b"]
    late: list[Event] = [events.Tick(world.now()), events.StopAsked(world.now())]
    for event in late:
        world.give("b", event)

    assert (world.nodes["b"], len(world.log)) == (before, said)


def test_a_second_machine_under_the_same_name_is_told_so_and_ends() -> None:
    """A13: two machines with one name; the one that comes later stops."""
    world = hands.serving()
    late = World(replace(spec("b"), store="another disk", incarnation="another"))
    late.etcd, late.at_ns = world.etcd, world.at_ns
    late.start()
    late.run(0.6)
    for _ in range(3):
        world.run(1)
        late.at_ns = world.at_ns
        kv = world.etcd.keys[hands.record_key(world, "b")]
        change = events.Change(kv.mod, kv, None)
        late.give("b", events.Watched(late.now(), late.etcd.head(), 0, (change,)))
        late.give("b", events.Tick(late.now()))

    assert late.nodes["b"].stopped
    assert "give each node its own name" in failures(late, "b")[-1]
    assert not world.nodes["b"].stopped


def test_a_stop_that_can_not_take_the_vip_off_ends_with_a_failure_and_frees_nothing() -> None:
    """Whoever stops a service waits for its end; the others take over when the session has been silent for its ttl."""
    world = hands.serving()
    hands.fails(world, "a", effects.UnbindVip, times=1000)
    world.give("a", events.StopAsked(world.now()))
    world.give("a", events.StopAsked(world.now()))
    drain_s = world.nodes["a"].spec.leases[0].drain_ns / NS_PER_S
    world.run(drain_s + 15 + 5 - 0.2)

    assert not world.nodes["a"].stopped
    assert world.holders() == []

    world.run(0.4)
    claim = world.claim()

    assert world.nodes["a"].stopped
    assert "not let go in time: l;" in failures(world, "a")[-1]
    assert claim is not None
    assert (claim.hold, claim.node) == (Hold.HELD, "a")

    world.run(8)

    assert world.holders() == ["b"]


def copy_of_b(world: World) -> World:
    """The same node as `b`, on the same etcd, with the same disk: a cloned machine."""
    late = World(replace(spec("b"), incarnation="another"))
    late.etcd, late.at_ns = world.etcd, world.at_ns
    return late


def test_a_copy_of_a_machine_that_runs_waits_and_says_why() -> None:
    """Same name, same store: an earlier process of this host would not renew any more."""
    world = hands.serving()
    late = copy_of_b(world)
    hands.keep(late, "b", "T1")
    late.start()
    world.run(1.5)
    late.at_ns = world.at_ns
    kv = world.etcd.keys[hands.record_key(world, "b")]
    late.give("b", events.Watched(late.now(), late.etcd.head(), 0, (events.Change(kv.mod, kv, None),)))
    late.give("b", events.Tick(late.now()))

    assert hands.warned(late, "b") == ["node name in use"]
    assert not late.nodes["b"].stopped


def test_two_nodes_with_one_name_put_their_record_again_once_a_renewal_only() -> None:
    world = hands.serving()
    other = records.NodeRecord("b", 99, "store-b")
    before = world.sent("b").count("T2")
    for _ in range(50):
        world.tell(world.etcd.put(records.node_key("b"), records.encode(other)))
        world.run(0.02)

    assert world.sent("b").count("T2") - before <= 4
