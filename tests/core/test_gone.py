"""Session records, claims and in-sync sets that vanish under the hands of whoever uses them (T14, A4, A5, B7)."""

from __future__ import annotations

import pytest

from leaseha.core import effects, events, records
from leaseha.core.records import IntentRecord, Kind, Life
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_S, LeaseMissing, Refused
from tests.core import hands
from tests.core.harness import World, spec

ONLY_A = LeaseSpec("l", {"a": 100, "b": 0}, digest="v.x")
CLAIM, INSYNC = records.claim_key("l"), records.insync_key("l")


def many(count: int) -> tuple[LeaseSpec, ...]:
    """Leases l0, l1, ... that a should have, and b may."""
    return tuple(LeaseSpec(f"l{i}", {"a": 100, "b": 50}, digest="v.x") for i in range(count))


def test_a_holder_whose_session_record_is_deleted_goes_on_under_a_new_one() -> None:
    """B7, T14: a hand or an expiry costs nothing while the deadline is not over; the token grows, nothing is cut."""
    world = hands.serving()
    before = world.state("a")
    hands.erase(world, hands.record_key(world, "a"))
    world.run(0.1)

    assert world.holders() == ["a"]
    assert "T14" in world.sent("a")
    assert world.state("a").token > before.token
    assert world.state("a").under == world.nodes["a"].session.id != before.under
    assert world.rows("a")[-1] == "P-up"


def test_a_vanished_own_record_is_found_by_a_refused_renewal_too() -> None:
    """A node that sees nothing by watch learns it from the failure branch, which reads the own record."""
    world = hands.serving()
    world.blind.add("a")
    hands.erase(world, hands.record_key(world, "a"))
    world.run(1.2)

    assert world.holders() == ["a"]
    assert "T14" in world.sent("a")


def test_a_put_under_a_missing_etcd_lease_counts_as_a_vanished_record() -> None:
    """etcd refuses the whole transaction before it writes anything."""
    world = hands.serving()
    world.blind.add("a")
    hands.keep(world, "a", "T2")
    world.run(1.1)
    renewal = hands.kept(world, "a")
    world.etcd.delete(hands.record_key(world, "a"))
    hands.answer(world, "a", renewal, LeaseMissing())
    world.run(0.1)

    assert "T14" in world.sent("a")
    assert world.holders() == ["a"]
    assert hands.warned(world, "a") == ["session gone"]


def test_t14_keeps_trying_when_no_session_can_be_opened_at_first() -> None:
    """It is asked for again in a while, still in place of the old one, until the deadline."""
    world = hands.serving()
    world.held_back["a"] = lambda e: isinstance(e, effects.OpenSession)
    hands.erase(world, hands.record_key(world, "a"))
    opening = [e for n, e in world.kept if isinstance(e, effects.OpenSession)][-1]
    world.give("a", events.SessionFailed(world.now(), opening.request + 1, "another"))
    world.give("a", events.SessionFailed(world.now(), opening.request, "no leader"))
    hands.let(world, "a")
    world.run(1)

    assert world.holders() == ["a"]
    assert "T14" in world.sent("a")


def test_a_holder_that_keeps_nothing_registers_anew() -> None:
    """Past the deadline there is nothing to re-establish: T1, and the claim under the old session is forgotten."""
    world = hands.serving(spec("a"))
    old = world.nodes["a"].session.id
    world.held_back["a"] = lambda e: isinstance(e, effects.OpenSession)
    hands.erase(world, hands.record_key(world, "a"))
    world.run(6)
    opening = [e for n, e in world.kept if isinstance(e, effects.OpenSession)][-1]
    hands.let(world, "a")
    world.execute("a", opening)
    world.run(0.2)

    assert "T14" not in world.sent("a")
    assert "H-deadline" in world.rows("a")
    assert Role.STANDBY is world.role("a")
    assert hands.claim(world).session == old

    world.run(20)

    assert world.holders() == ["a"]
    assert "S-gone" in world.rows("a")


def test_t14_keeps_at_most_a_batch_and_forgets_the_rest() -> None:
    """Batches of 60 (3 here): etcd takes 128 operations a transaction. What is not rewritten is not served any more."""
    leases = many(5)
    world = hands.serving(spec("a", *leases, batch_size=3), seconds=3)
    hands.keep(world, "a", "T14")
    hands.erase(world, hands.record_key(world, "a"))
    world.run(0.1)
    txn = hands.kept(world, "a", "T14").txn
    hands.end(world, "a")

    assert len(txn.compares) == 3 + 2
    assert sum("H-session" not in world.rows("a", lease.name) for lease in leases) == 3


def test_a_refused_t14_is_not_repeated_in_a_busy_loop() -> None:
    """Someone declared the vanished session dead: T14 can not succeed, and the deadline ends the attempts."""
    world = hands.serving()
    world.blind.add("a")
    key = hands.record_key(world, "a")
    world.etcd.delete(key)
    world.etcd.put(key, "someone's")
    world.etcd.delete(key)
    hands.keep(world, "a", "T14")
    world.run(1.2)
    world.etcd.put(key, "someone's")
    hands.let(world, "a")
    hands.end(world, "a")
    world.run(6)

    assert 2 <= world.sent("a").count("T14") < 40
    assert "H-deadline" in world.rows("a")
    assert [what for what in world.sent("a") if what != "T2"][-1] == "T1"


def test_t14_whose_claim_was_taken_meanwhile_serves_nothing() -> None:
    """T14 compares every claim that it keeps: one that moved is lost, and stopped at once."""
    world = hands.serving()
    hands.keep(world, "a", "T14")
    hands.erase(world, hands.record_key(world, "a"))
    world.etcd.put(CLAIM, world.etcd.keys[CLAIM].value)
    outcome = hands.end(world, "a")

    assert isinstance(outcome, Refused)
    assert world.rows("a")[-2:] == ["H-taken", "F-off"]


@pytest.mark.parametrize("applied", [True, False])
def test_t14_with_unknown_outcome(applied: bool) -> None:
    """The next attempt's failure branch shows the nonce of the first; or there was none, and the second commits."""
    world = hands.serving()
    hands.keep(world, "a", "T14")
    hands.erase(world, hands.record_key(world, "a"))
    lost = hands.kept(world, "a", "T14")
    if applied:
        hands.apply(world, lost, seen=False)
    hands.let(world, "a")
    world.blind.add("a")
    hands.lose(world, "a", lost)
    world.run(0.3)

    assert world.holders() == ["a"]
    assert world.etcd.keys[CLAIM].mod == world.state("a").token
    assert world.sent("a").count("T14") == 2


def test_a_claim_handed_to_the_old_session_is_not_served_under_the_new_one() -> None:
    """The hole that a model found in 59,892 runs: others see that claim's session gone, wait, and take."""
    world = hands.serving()
    hands.keep(world, "b", "T10")
    token, old = world.state("a").token, world.nodes["b"].session.id
    intent = IntentRecord(Kind.SWITCHOVER, "admin", token, "b")
    world.tell(world.etcd.put(records.intent_key("l"), records.encode(intent)))
    world.run(0.1)
    hands.let(world, "b")
    hands.erase(world, hands.record_key(world, "b"))
    world.run(1)

    assert hands.claim(world).session == old
    assert world.nodes["b"].session.id != old
    assert world.holders() == []

    world.run(8)

    assert world.holders() == ["a"]
    assert "S-gone" in world.rows("a")


def test_a_deleted_claim_stops_its_holder_and_is_written_down_as_lost() -> None:
    """A5: absence is never taken; it becomes a record, which is waited for (T6, then T7 after ttl_max)."""
    world = hands.serving()
    hands.erase(world, CLAIM)

    assert "H-taken" in world.rows("a")

    world.run(16)

    assert world.holders() == []
    assert hands.claim(world).hold is records.Hold.LOST

    world.run(2)

    assert world.holders() == ["a"]
    assert "S-lost" in world.rows("a")


def test_a_lost_claim_keeps_the_epoch_of_the_one_that_vanished() -> None:
    """G6: a token of a lower epoch would be refused by every repository that has seen the higher one."""
    world = hands.serving(spec("a"), spec("b"))
    value = records.ClaimRecord(records.Hold.FREE, epoch=4)
    world.tell(world.etcd.put(CLAIM, records.encode(value)))
    hands.erase(world, CLAIM)
    world.run(0.3)

    assert hands.claim(world).epoch == 4


def test_a_lease_all_of_whose_keys_vanish_is_not_a_new_one() -> None:
    """G1: under a holder that was cut off, "new" would make it free, and free is taken at once."""
    world = hands.serving()
    world.cut.add("a")
    gone = [key for key in world.etcd.keys if key.startswith("leases/")]
    hands.erase(world, hands.record_key(world, "a"), *gone)
    world.run(2)

    assert world.holders() == ["a"]
    assert "S-free" not in world.rows("b")


def test_a_note_that_hung_on_a_vanished_session_is_not_sent_under_the_next() -> None:
    """An answer to an intent hangs on the session: after T14 it would name an etcd lease that is no more."""
    world = hands.serving()
    hands.keep(world, "a", "T2")
    world.run(1.1)
    intent = IntentRecord(Kind.SWITCHOVER, "admin", world.state("a").token, "nobody")
    world.tell(world.etcd.put(records.intent_key("l"), records.encode(intent)))
    world.etcd.leases.discard(world.nodes["a"].session.id)
    hands.let(world, "a")
    hands.erase(world, hands.record_key(world, "a"))
    world.run(3)

    assert world.holders() == ["a"]
    assert world.sent("a").count("T14") == 1
    assert hands.warned(world, "a") == ["session gone"]


def test_an_unreadable_session_record_is_not_a_session_that_ended() -> None:
    """A later version may write what this one can not read: it is someone's, and waited for like the unknown."""
    world = hands.serving()
    world.kill("a")
    key = hands.record_key(world, "a")
    world.tell(world.etcd.put(key, '{"life":"hibernating"}', world.nodes["a"].session.id))
    world.run(16)

    assert "S-ended" not in world.rows("b")
    assert world.holders() == []

    world.run(2)

    assert world.holders() == ["b"]


def test_a_registration_under_a_missing_etcd_lease_asks_for_another_session() -> None:
    """T1: the etcd lease expired before it was used."""
    world = World(spec("a"))
    hands.keep(world, "a", "T1")
    world.start()
    world.etcd.leases.clear()
    hands.let(world, "a")
    hands.end(world, "a")
    world.run(0.5)

    assert world.holders() == ["a"]
    assert world.sent("a").count("T1") == 2


def test_a_record_under_the_own_id_that_is_not_the_own_gives_the_session_up() -> None:
    """T1 refused by a record of someone else: that session is not ours."""
    world = World(spec("a"))
    hands.keep(world, "a", "T1")
    world.start()
    first = world.nodes["a"].session.id
    world.etcd.put(records.session_key(first), "someone's", first)
    hands.let(world, "a")
    hands.end(world, "a")
    world.run(0.5)

    assert world.holders() == ["a"]
    assert world.nodes["a"].session.id != first


def test_a_session_that_comes_late_is_closed_again() -> None:
    """Asked for, given up, granted after all: nobody would keep it alive or use it."""
    world = hands.serving(spec("a"))
    world.give("a", events.SessionOpened(world.now(), 999, 555))

    assert ("a", effects.CloseSession(555)) in world.log


def test_a_doubt_of_the_keepalive_only_asks_for_a_renewal() -> None:
    """etcd has confirmed revoked leases and revoked live ones: it proves nothing."""
    world = hands.serving(spec("a"))
    sent = len(world.sent("a"))
    world.give("a", events.SessionDoubted(world.now(), 12345))

    assert sent == len(world.sent("a"))

    world.give("a", events.SessionDoubted(world.now(), world.nodes["a"].session.id))

    assert world.sent("a")[sent:] == ["T2"]
    assert world.holders() == ["a"]


def test_the_wait_for_a_vanished_holder_starts_at_the_first_sight_of_absence() -> None:
    """A4: what the holder wrote last was perhaps never seen; ttl as in the record whose deletion was watched."""
    world = hands.serving()
    world.kill("a")
    world.run(4)
    hands.erase(world, hands.record_key(world, "a"))
    world.run(6.4)

    assert world.holders() == []

    world.run(0.3)

    assert world.holders() == ["b"]
    assert "S-gone" in world.rows("b")


def test_absence_whose_beginning_nobody_watched_is_waited_for_in_full() -> None:
    """A4: the ttl of the last record is unknown, so `ttl_max` from the first sight counts (seen by a read)."""
    world = hands.serving()
    world.kill("a")
    world.run(1)
    world.etcd.delete(hands.record_key(world, "a"))
    world.give("b", events.Snapshot(world.now(), 0, world.etcd.head(), 0, tuple(world.etcd.keys.values())))
    seen = world.at_ns
    world.run(16)

    assert world.holders() == []

    world.run(1.5)

    assert world.holders() == ["b"]
    assert world.at_ns - seen > 16.5 * NS_PER_S


def test_a_session_that_ended_long_ago_is_forgotten_once_no_claim_names_it() -> None:
    """B15: *dead* and *closed* hang on nothing, so that they outlive a batch of takes; an hour later they go."""
    world = hands.serving()
    dead = hands.record_key(world, "a")
    world.kill("a")
    world.run(8)
    record = records.decode(records.SessionRecord, world.etcd.keys[dead].value)

    assert record is not None
    assert record.life is Life.DEAD

    world.run(3590, step_ms=2500)

    assert dead in world.etcd.keys

    world.run(20, step_ms=1000)

    assert dead not in world.etcd.keys
    assert world.holders() == ["b"]


def test_a_session_that_ended_is_kept_while_a_claim_names_it() -> None:
    """Who takes that claim compares the record."""
    world = hands.serving(spec("a", ONLY_A), spec("b", ONLY_A))
    dead = hands.record_key(world, "a")
    world.kill("a")
    ended = records.SessionRecord(Life.CLOSED, "a", "store-a", "inc-a", 1)
    world.tell(world.etcd.put(dead, records.encode(ended)))
    world.run(3700, step_ms=2500)

    assert dead in world.etcd.keys
