"""From when a lease may be taken, and by whom first (design 4.3, T3 to T8): the waits, each to the tick."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leaseha.core import events, records, taking
from leaseha.core.records import ClaimRecord, Hold, InsyncRecord, Kind, Life, Record, SessionRecord
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft, Role, Way
from leaseha.core.values import NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec

TTL_WAIT_S = 5 * 1.001 + 1.5
TTL_MAX_WAIT_S = 15 * 1.001 + 1.5
OLD = 7
LIVE = SessionRecord(Life.LIVE, "x", "store-x", "inc-x", 1, 5 * NS_PER_S, 1500_000_000)
HELD = ClaimRecord(Hold.HELD, node="x", session=OLD)
FREE = ClaimRecord(Hold.FREE, node="x", from_node="x")


def found(claim: ClaimRecord, session: SessionRecord | None = None, *names: str) -> World:
    """Nodes (b alone, unless named) that start where these records already stand."""
    world = World(*(spec(name) for name in names or ("b",)))
    stores = frozenset({"store-x", "store-b", "store-c"})
    put(world, records.insync_key("l"), InsyncRecord(stores))
    if session is not None:
        put(world, records.session_key(OLD), session)
    put(world, records.claim_key("l"), claim)
    world.start()
    return world


def put(world: World, key: str, record: Record) -> None:
    world.tell(world.etcd.put(key, records.encode(record)))


def takes_after(world: World, seconds: float, row: str, name: str = "b") -> None:
    """The node claims, by this row, after this time and not before."""
    world.run(seconds - 0.2)

    assert row not in world.rows(name)

    world.run(0.3)

    assert row in world.rows(name)


def test_a_live_holder_that_is_silent_is_waited_for_as_long_as_its_record_says() -> None:
    """T3: ttl x (1 + drift) + margin from receipt."""
    world = found(HELD, LIVE)
    takes_after(world, TTL_WAIT_S, "S-silent")

    assert world.sent("b").count("T3") == 1
    assert world.holders() == ["b"]


def test_each_renewal_that_is_seen_begins_the_wait_anew() -> None:
    world = found(HELD, LIVE)
    world.run(4)
    put(world, records.session_key(OLD), replace(LIVE, sequence=2))
    takes_after(world, TTL_WAIT_S, "S-silent")


def test_a_record_that_was_never_seen_is_waited_for_ttl_max() -> None:
    """T8: it may have had any ttl."""
    world = found(HELD)
    takes_after(world, TTL_MAX_WAIT_S, "S-gone")

    assert world.holders() == ["b"]


def test_a_record_whose_deletion_was_watched_is_waited_for_by_its_own_ttl() -> None:
    """A4: from the first sight of its absence, whatever was waited before."""
    world = found(HELD, LIVE)
    world.run(4)
    hands.erase(world, records.session_key(OLD))
    takes_after(world, TTL_WAIT_S, "S-gone")
    tombstone = records.decode(SessionRecord, world.etcd.keys[records.session_key(OLD)].value)

    assert tombstone == replace(LIVE, life=Life.DEAD, by="b")


@pytest.mark.parametrize("deleted_again", [False, True])
def test_a_record_that_was_put_back_does_not_tell_how_long_its_holder_may_serve(deleted_again: bool) -> None:
    """Deleted by hand after the ttl was raised, and put back by a late T1 with the ttl of the start."""
    world = found(HELD, replace(LIVE, ttl_ns=15 * NS_PER_S))
    world.run(1)
    hands.erase(world, records.session_key(OLD))
    put(world, records.session_key(OLD), LIVE)
    if deleted_again:
        hands.erase(world, records.session_key(OLD))
    takes_after(world, TTL_MAX_WAIT_S, "S-gone" if deleted_again else "S-silent")


def test_a_lease_that_was_found_free_may_be_a_restored_one() -> None:
    """A8: *free* is believed at once only by who saw it become so."""
    takes_after(found(FREE), TTL_MAX_WAIT_S, "S-free")


def test_a_lease_that_is_seen_to_become_free_is_taken_at_once() -> None:
    world = found(HELD, LIVE)
    world.run(1)
    put(world, records.claim_key("l"), FREE)
    world.run(0.1)

    assert world.holders() == ["b"]


def test_what_a_guard_has_freed_was_no_release_but_a_failover_for_its_reason() -> None:
    """T12, then T5: nobody asked for this move, and the history says so."""
    world = found(HELD, LIVE)
    world.run(1)
    freed = replace(FREE, kind=Kind.FAILOVER, reason="the agent of x died")
    put(world, records.claim_key("l"), freed)
    world.run(0.1)
    claim = world.claim()

    assert world.holders() == ["b"]
    assert claim is not None
    assert (claim.kind, claim.reason, claim.from_node) == ("failover", "the agent of x died", "x")


def test_a_session_that_was_found_dead_is_waited_for_ttl_max() -> None:
    """T4."""
    takes_after(found(HELD, replace(LIVE, life=Life.DEAD)), TTL_MAX_WAIT_S, "S-ended")


@pytest.mark.parametrize("life", [Life.DEAD, Life.CLOSED])
def test_a_session_that_is_seen_to_end_is_over_at_once(life: Life) -> None:
    world = found(HELD, LIVE)
    world.run(1)
    put(world, records.session_key(OLD), replace(LIVE, life=life, by="c"))
    world.run(0.1)

    assert world.holders() == ["b"]
    assert "S-ended" in world.rows("b")


def test_a_lost_lease_is_waited_for_ttl_max() -> None:
    """T7: absence was written down; whoever held it may still serve under its cover."""
    takes_after(found(ClaimRecord(Hold.LOST, node="x")), TTL_MAX_WAIT_S, "S-lost")


def test_a_claim_that_vanishes_is_written_down_as_lost_and_waited_for() -> None:
    """A5: T6 first, then T7: absence never enters a taking compare of a claim."""
    world = found(HELD, LIVE)
    world.run(1)
    hands.erase(world, records.claim_key("l"))
    world.run(0.2)
    claim = world.claim()

    assert claim is not None
    assert claim.hold is Hold.LOST
    assert world.rows("b")[-2:] == ["S-absent", "C-noted"]

    takes_after(world, TTL_MAX_WAIT_S - 0.2, "S-lost")


def test_a_claim_that_cannot_be_read_is_somebodys() -> None:
    world = found(HELD, LIVE)
    world.tell(world.etcd.put(records.claim_key("l"), "by a later version"))
    world.run(40)

    assert world.role("b") is Role.STANDBY


def test_the_next_candidate_waits_its_rank_longer() -> None:
    """G3: rank k waits k x 50 ms more, so they do not race."""
    world = found(HELD, LIVE, "c", "b")
    ways = {name: taking.possible(Draft(world.nodes[name], world.now()), "l") for name in "bc"}
    first, second = ways["b"], ways["c"]
    assert first is not None
    assert second is not None

    assert second.at.boot_ns - first.at.boot_ns == 50_000_000
    assert (first.way, first.old) == (Way.T3, OLD)

    world.run(9)

    assert world.holders() == ["b"]
    assert "S-silent" not in world.rows("c")


def test_who_may_not_hold_does_not_take() -> None:
    """Priority 0 never holds."""
    world = World(spec("b", LeaseSpec("l", {"b": 0}, digest="v.x")))
    world.start()
    world.run(20)

    assert world.role("b") is Role.STANDBY
    assert taking.possible(Draft(world.nodes["b"], world.now()), "l") is None


def test_a_new_lease_is_not_waited_for() -> None:
    world = World(spec("b"))
    world.start()
    world.run(0.1)

    assert world.holders() == ["b"]


def test_a_standby_whose_own_commits_were_interrupted_gives_the_holder_one_renewal() -> None:
    """B14: the silence may be etcd's."""
    world = hands.serving()
    world.cut |= {"a", "b"}
    world.run(4)
    world.cut.clear()
    world.run(1.5)

    assert world.holders() == ["a"]
    assert "S-silent" not in world.rows("b")


def test_before_a_session_is_open_there_is_no_way_to_take() -> None:
    world = World(spec("b"))

    assert taking.possible(Draft(world.nodes["b"], world.now()), "l") is None

    world.held_back["b"] = lambda effect: type(effect).__name__ == "OpenSession"
    world.start()

    assert taking.possible(Draft(world.nodes["b"], world.now()), "l") is None
    assert not taking.due(Draft(world.nodes["b"], world.now()), "l", Way.T6)


def test_a_stopping_node_takes_nothing() -> None:
    world = found(HELD, LIVE)
    world.give("b", events.StopAsked(world.now()))
    world.run(9)

    assert world.rows("b") == ["S-stop"]
