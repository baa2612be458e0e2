"""The own session: which write may be the current record, and how long that lets us serve (the barrier rule)."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import events, records, session
from leaseha.core.deadline import Written
from leaseha.core.records import Life, SessionRecord
from leaseha.core.session import Found, OwnWrite, Phase, Session
from leaseha.core.values import NS_PER_S, Head, Instant, KeyValue, Txn
from tests.core import hands
from tests.core.harness import World, spec

T0 = Instant(100 * NS_PER_S, 100 * NS_PER_S)
TTL = 5 * NS_PER_S
KEY = records.session_key(7)


def own_write(sequence: int, ttl_ns: int = TTL, sent_at: Instant = T0, *, answered: bool = False) -> OwnWrite:
    return OwnWrite(
        100 + sequence,
        sequence,
        sent_at,
        ttl_ns,
        "T2",
        Txn((), (), ()),
        ("l",),
        (),
        Head(1, 1, 1),
        (),
        answered,
    )


def live(*pending: OwnWrite) -> Session:
    """Proven at mod 50 with sequence 3, and these writes without proof."""
    sequence = max([3, *(write.sequence for write in pending)])
    return Session(
        Phase.LIVE, 7, mod=50, sequence=sequence, ttl_ns=TTL, proven=Written(T0, TTL), pending=pending
    )


def record(sequence: int, incarnation: str = "inc", life: Life = Life.LIVE) -> KeyValue:
    value = records.encode(SessionRecord(life, "a", incarnation=incarnation, sequence=sequence))
    return KeyValue(KEY, value, 60, 40, 7)


def found(own: Session, kv: KeyValue) -> Found:
    return session.look(own, "inc", kv)[0]


def test_a_record_at_the_known_mod_is_the_same() -> None:
    assert found(live(own_write(4)), replace(record(3), mod=50)) is Found.SAME


def test_a_record_with_the_nonce_of_a_pending_write_is_that_write() -> None:
    """An unknown write was applied after all."""
    older, newer = own_write(4), own_write(5)

    assert session.look(live(older, newer), "inc", record(4)) == (Found.OURS, older)
    assert session.look(live(older, newer), "inc", record(5)) == (Found.OURS, newer)


def test_an_absent_record_is_gone() -> None:
    assert found(live(), KeyValue(KEY, "", 0)) is Found.GONE


def test_a_record_that_another_wrote_is_lost() -> None:
    """Dead, closed, unreadable, from another process or from our own future: stop (A12)."""
    assert found(live(), record(3, life=Life.DEAD)) is Found.LOST
    assert found(live(), record(3, life=Life.CLOSED)) is Found.LOST
    assert found(live(), KeyValue(KEY, "by hand", 60)) is Found.LOST
    assert found(live(own_write(4)), record(4, incarnation="another")) is Found.LOST
    assert found(live(own_write(4)), record(9)) is Found.LOST


def test_an_own_record_that_is_older_than_what_was_proven_means_that_etcd_went_back() -> None:
    """A8: own sequence gone back."""
    assert found(live(own_write(4)), record(2)) is Found.OLDER


def test_nothing_is_served_without_a_proven_write() -> None:
    """G5."""
    assert session.deadline_of(replace(live(), proven=None), 1000) is None


def test_the_deadline_is_the_earliest_over_all_writes_that_may_stand() -> None:
    """A9: a lowering counts from its sending, a raise when proven."""
    raised = own_write(4, 9 * NS_PER_S)
    lowered = own_write(5, 1 * NS_PER_S, T0.plus(NS_PER_S))

    assert session.deadline_of(live(raised), 0) == T0.plus(TTL)
    assert session.deadline_of(live(raised, lowered), 0) == T0.plus(2 * NS_PER_S)


def test_a_proven_write_kills_all_others() -> None:
    """The barrier rule: they compared an older mod, so none of them can ever be applied."""
    write = own_write(4, 2 * NS_PER_S)
    after = session.committed(live(write, own_write(5)), write, 61, T0.plus(9), NS_PER_S, NS_PER_S)

    assert after.pending == ()
    assert (after.mod, after.proven, after.attempt) == (61, Written(T0, 2 * NS_PER_S), 0)


def test_commits_are_steady_until_a_gap_begins_them_anew() -> None:
    """B14: a standby whose own commits were interrupted does not take the silence for the holder's."""
    own = live()
    for seconds, steady in [(0, 0), (1, 0), (2, 0), (9, 9), (10, 9)]:
        at = T0.plus(seconds * NS_PER_S)
        own = session.committed(own, own_write(4), 60, at, 3 * NS_PER_S, NS_PER_S)

        assert own.steady_since == T0.plus(steady * NS_PER_S)


def test_an_unknown_write_stays_among_those_that_may_stand() -> None:
    """Unknown is never refused."""
    own = session.sent(session.sent(live(), own_write(4)), own_write(5))
    asked = session.unknown(own, 104)

    assert [write.answered for write in asked.pending] == [True, False]
    assert session.waiting(asked) == own_write(5)
    assert session.waiting(session.unknown(asked, 105)) is None
    assert (own.attempt, own.sequence, own.sent_at) == (2, 5, T0)


def test_a_refused_write_is_forgotten() -> None:
    own = session.without(live(own_write(4), own_write(5)), 104)

    assert own.pending == (own_write(5),)


def test_a_lease_is_covered_while_a_write_that_concerns_it_may_be_applied() -> None:
    assert session.covered([own_write(4)], "l")
    assert not session.covered([own_write(4)], "m")


def test_what_changes_while_a_session_is_being_registered_is_told_after() -> None:
    """Else the others rank this node by what it was, and never give it its lease back (seed 11762)."""
    world = World(spec("a"))
    hands.keep(world, "a", "T1")
    world.give("a", events.HealthChanged(world.now(), "l", -15, ""))
    world.start()
    world.give("a", events.HealthChanged(world.now(), "l", 0, ""))
    hands.let(world, "a")
    hands.end(world, "a")
    world.run(2)
    record = records.decode(records.NodeRecord, world.etcd.keys[records.node_key("a")].value)

    assert record is not None
    assert record.priorities == {"l": 100}
