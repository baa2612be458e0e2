"""What a node has never seen, and whom a holder lets go to."""

from __future__ import annotations

from leaseha.core import events, records
from leaseha.core.effects import UnbindVip
from leaseha.core.records import IntentRecord, Kind
from leaseha.core.state import Role
from tests.core.harness import World, spec


def _handed_over_unseen(lag_after_s: float, moved_after_s: float) -> tuple[World, int]:
    """`c`, whose watch lags, does not see that `b` comes and is handed the lease; then `b`'s record vanishes."""
    world = World(spec("a"), spec("b"), spec("c"))
    world.start("a", "c")
    world.run(lag_after_s)
    world.blind.add("c")
    world.start("b")
    world.run(0.5)
    token = world.etcd.keys[records.claim_key("l")].mod
    intent = records.encode(IntentRecord(Kind.SWITCHOVER, "operator", token, "b"))
    world.tell(world.etcd.put(records.intent_key("l"), intent))
    world.run(moved_after_s)
    session = world.nodes["b"].session.id
    world.cut |= {"a", "b"}
    world.tell(world.etcd.delete(records.session_key(session)))
    return world, session


def test_a_session_never_seen_is_waited_for_from_the_first_look_that_misses_it() -> None:
    """G1, A4: its node may be inside its deadline; the absence was not there since the first snapshot."""
    world, _ = _handed_over_unseen(13.5, 0.5)
    world.run(4.0)

    assert world.claim().node == "b"
    assert world.role("b") is Role.HOLDER
    assert world.role("c") is Role.STANDBY


def test_a_session_that_only_a_refusal_named_is_not_taken_from_before_a_read_has_looked_for_it() -> None:
    """G1, A4: a refused transaction reads the claim, and not the record of the session that it names."""
    world, session = _handed_over_unseen(3, 5.9)
    world.run(1.5)

    assert session not in world.nodes["c"].view.sessions or world.role("c") is Role.STANDBY
    assert world.role("c") is Role.STANDBY


def test_an_ineligible_holder_does_not_let_go_into_nothing() -> None:
    """The other node became ineligible while this one was on its way down: a rebooting router ends no service."""
    world = World(spec("a"), spec("b"))
    world.start()
    world.run(1)
    world.held_back["a"] = lambda effect: isinstance(effect, UnbindVip)
    world.give("a", events.HealthChanged(world.now(), "l", 0, "gateway away"))
    world.run(0.3)
    world.give("b", events.HealthChanged(world.now(), "l", 0, "gateway away"))
    world.run(0.3)
    world.held_back.clear()
    for name, effect in world.kept:
        world.execute(name, effect)
    world.run(2)

    assert world.holders() == ["a"]
    assert "Y-resume" in world.rows("a")


def test_a_key_that_only_looks_like_history_is_passed_over() -> None:
    """Written by hand with thousands of digits, it must not stop a node."""
    world = World(spec("a"))
    world.etcd.put("leases/l/history/" + "9" * 5000, "{}")
    world.start()
    world.run(0.2)

    assert world.holders() == ["a"]
