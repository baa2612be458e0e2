"""Whole moves, from the first start to a stop."""

from __future__ import annotations

from leaseha.core import events
from leaseha.core.state import Role
from tests.core.harness import World, spec


def test_a_first_node_takes_a_new_lease_at_once() -> None:
    """Nobody has ever held it, so there is nothing to wait for."""
    world = World(spec("a"))
    world.start()
    world.run(0.1)

    assert world.holders() == ["a"]
    assert world.rows("a") == ["S-absent", "C-noted", "S-free", "C-won", "P-up"]


def test_a_dead_holder_is_replaced_after_its_ttl_and_margin() -> None:
    """The standby waits for ttl x (1 + drift) + margin from the last record it received."""
    world = World(spec("a"), spec("b"))
    world.start()
    world.run(3)
    world.kill("a")
    world.run(6.3)

    assert world.holders() == []

    world.run(1.5)

    assert world.holders() == ["b"]


def test_the_better_node_gets_its_lease_back_after_the_hold_down() -> None:
    """A failback is asked for by the better node, and the holder hands over."""
    world = World(spec("b"), spec("a"))
    world.start("b")
    world.run(1)
    world.start("a")
    world.run(2)

    assert world.holders() == ["b"]

    world.run(4)

    assert world.holders() == ["a"]
    assert world.rows("b")[-2:] == ["H-failback", "Y-gone"]


def test_a_stop_is_a_release() -> None:
    """The standby takes over at once, without waiting for a ttl."""
    world = World(spec("a"), spec("b"))
    world.start()
    world.run(2)
    world.give("a", events.StopAsked(world.now()))
    world.run(0.1)

    assert Role.STOPPED is world.role("a")
    assert world.nodes["a"].stopped
    assert world.holders() == ["b"]
