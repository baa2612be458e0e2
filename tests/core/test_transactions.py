"""T1 to T14 and ask: exactly the compares, puts and reads of design 4.2."""

from __future__ import annotations

import pytest

from leaseha.core import records, transactions
from leaseha.core.records import (
    ClaimRecord,
    Hold,
    InsyncRecord,
    IntentRecord,
    Life,
    NodeRecord,
    SessionRecord,
)
from leaseha.core.transactions import Absent, Admitting, Letting, Own, Taking
from leaseha.core.values import Compare, Delete, Put, Target, Txn

ME, OLD, NEW = 10, 20, 30
RECORD = SessionRecord(Life.LIVE, "me", "store-me", "inc", 4, 5, 6)
OLD_RECORD = SessionRecord(Life.LIVE, "old", "store-old", "inc-old", 9, 5, 6)
NODE = NodeRecord("me", ME, "store-me")
OWN = Own(ME, 100, RECORD)
MINE = records.session_key(ME)
OWN_COMPARE = Compare(MINE, Target.MOD, 100)
OWN_PUT = Put(MINE, records.encode(RECORD), ME)
HELD = ClaimRecord(Hold.HELD, node="me", session=ME)
FREE = ClaimRecord(Hold.FREE, from_node="me")
ITEMS = [Taking("l", 7, 8, HELD), Taking("m", 17, 18, HELD)]
SEEN = (
    Compare("leases/l/claim", Target.MOD, 7),
    Compare("leases/l/insync", Target.MOD, 8),
    Compare("leases/m/claim", Target.MOD, 17),
    Compare("leases/m/insync", Target.MOD, 18),
)
HELD_PUTS = (
    Put("leases/l/claim", records.encode(HELD)),
    Put("leases/m/claim", records.encode(HELD)),
)
OLD_KEY = records.session_key(OLD)
DEAD_PUT = Put(
    OLD_KEY, records.encode(SessionRecord(Life.DEAD, "old", "store-old", "inc-old", 9, 5, 6, "me"))
)


def check(txn: Txn, compares: tuple[Compare, ...], puts: tuple[Put | Delete, ...]) -> None:
    """The compares and puts as tabled; the failure branch reads the own record first, then all compared keys."""
    assert txn.compares == compares
    assert txn.puts == puts
    assert txn.reads[0] == MINE
    assert sorted(txn.reads) == sorted({MINE, *(compare.key for compare in compares)})


def test_t1_registers_under_an_id_that_was_never_used() -> None:
    txn = transactions.t1_register(ME, RECORD, NODE)
    node_put = Put("nodes/me", records.encode(NODE), ME)

    check(txn, (Compare(MINE, Target.CREATE, 0),), (OWN_PUT, node_put))


def test_t2_renews_and_compares_a_slice_of_own_claims_while_notes_ride_along() -> None:
    txn = transactions.t2_renew(OWN, [("l", 7), ("m", 17)], [Delete("x")])

    check(txn, (OWN_COMPARE, SEEN[0], SEEN[2]), (OWN_PUT, Delete("x")))


def test_t3_takes_from_a_silent_holder_and_declares_it_dead() -> None:
    txn = transactions.t3_take_silent(OWN, OLD, 55, OLD_RECORD, ITEMS)

    check(txn, (OWN_COMPARE, Compare(OLD_KEY, Target.MOD, 55), *SEEN), (OWN_PUT, DEAD_PUT, *HELD_PUTS))


def test_t4_takes_what_an_ended_session_held() -> None:
    txn = transactions.t4_take_others(OWN, OLD, 55, ITEMS)

    check(txn, (OWN_COMPARE, Compare(OLD_KEY, Target.MOD, 55), *SEEN), (OWN_PUT, *HELD_PUTS))


@pytest.mark.parametrize("take", [transactions.t5_take_free, transactions.t7_take_lost])
def test_t5_and_t7_take_free_and_lost_leases_as_they_were_seen(take) -> None:
    """A5: a taking compare of a claim is on its mod, never on its absence."""
    check(take(OWN, ITEMS), (OWN_COMPARE, *SEEN), (OWN_PUT, *HELD_PUTS))


def test_t6_writes_an_absent_claim_down_as_lost() -> None:
    txn = transactions.t6_write_absent_down(OWN, [Absent("l", new=False, epoch=3, store="store-me")])
    lost = ClaimRecord(Hold.LOST, node="me", epoch=3)

    check(
        txn,
        (OWN_COMPARE, Compare("leases/l/claim", Target.CREATE, 0)),
        (OWN_PUT, Put("leases/l/claim", records.encode(lost))),
    )


def test_t6_writes_a_new_lease_down_as_free_with_its_first_insync_set() -> None:
    txn = transactions.t6_write_absent_down(OWN, [Absent("l", new=True, epoch=1, store="store-me", at_ms=3)])
    free = ClaimRecord(Hold.FREE, node="me")
    first = InsyncRecord(frozenset({"store-me"}), {"store-me": "me"}, 3)

    check(
        txn,
        (
            OWN_COMPARE,
            Compare("leases/l/claim", Target.CREATE, 0),
            Compare("leases/l/insync", Target.CREATE, 0),
        ),
        (
            OWN_PUT,
            Put("leases/l/claim", records.encode(free)),
            Put("leases/l/insync", records.encode(first)),
        ),
    )


def test_t8_takes_when_the_holders_record_is_gone_and_leaves_a_tombstone() -> None:
    txn = transactions.t8_take_gone(OWN, OLD, OLD_RECORD, ITEMS)

    check(txn, (OWN_COMPARE, Compare(OLD_KEY, Target.CREATE, 0), *SEEN), (OWN_PUT, DEAD_PUT, *HELD_PUTS))


def test_t9_hands_over_only_to_a_session_that_is_alive() -> None:
    """A7: a live record hangs on its own session; dead, closed and gone ones do not."""
    claim = ClaimRecord(Hold.HELD, node="old", session=OLD)
    txn = transactions.t9_hand_over(OWN, Letting("l", 7, 8, claim), OLD)

    check(
        txn,
        (OWN_COMPARE, SEEN[0], Compare(OLD_KEY, Target.LEASE, OLD), SEEN[1]),
        (OWN_PUT, Put("leases/l/claim", records.encode(claim))),
    )


def test_t10_is_a_renewal_that_compares_the_claim_handed_over() -> None:
    txn = transactions.t10_accept(OWN, [("l", 7)], [Delete("x")])

    assert txn == transactions.t2_renew(OWN, [("l", 7)], [Delete("x")])


def test_t11_releases_each_lease_against_its_token() -> None:
    txn = transactions.t11_release(OWN, [Letting("l", 7, 0, FREE), Letting("m", 17, 0, FREE)])
    puts = (Put("leases/l/claim", records.encode(FREE)), Put("leases/m/claim", records.encode(FREE)))

    check(txn, (OWN_COMPARE, SEEN[0], SEEN[2]), (OWN_PUT, *puts))


def test_t12_closes_the_session_with_its_claims_and_hangs_the_record_on_nothing() -> None:
    """A11: closing changes the session record, so nothing that was sent before can be applied after."""
    txn = transactions.t12_close(ME, 100, RECORD, [Letting("l", 7, 0, FREE)])
    closed = SessionRecord(Life.CLOSED, "me", "store-me", "inc", 4, 5, 6, "me")

    check(
        txn,
        (OWN_COMPARE, SEEN[0]),
        (Put(MINE, records.encode(closed)), Put("leases/l/claim", records.encode(FREE))),
    )


def test_t13_changes_the_insync_set_against_the_token_and_the_set_that_stood() -> None:
    """A2: a late change must not be applied after another one."""
    txn = transactions.t13_change_insync(OWN, [Admitting("l", 7, 8, frozenset({"s"}), {"s": "me"}, 3)])
    put = Put("leases/l/insync", records.encode(InsyncRecord(frozenset({"s"}), {"s": "me"}, 3)))

    check(txn, (OWN_COMPARE, SEEN[0], SEEN[1]), (OWN_PUT, put))


def test_t14_reestablishes_under_a_new_session_and_rewrites_each_kept_claim() -> None:
    """B7: both the vanished record and the new one must be absent; the same id is never created again."""
    claim = ClaimRecord(Hold.HELD, node="me", session=NEW)
    node = NodeRecord("me", NEW, "store-me")
    txn = transactions.t14_reestablish(ME, NEW, RECORD, node, [Letting("l", 7, 0, claim)])
    fresh = records.session_key(NEW)

    assert txn.compares == (Compare(MINE, Target.CREATE, 0), Compare(fresh, Target.CREATE, 0), SEEN[0])
    assert txn.puts == (
        Put(fresh, records.encode(RECORD), NEW),
        Put("nodes/me", records.encode(node), NEW),
        Put("leases/l/claim", records.encode(claim)),
    )
    assert txn.reads == (fresh, MINE, "leases/l/claim")


def test_an_intent_for_failback_hangs_on_the_asker_and_names_the_token() -> None:
    intent = IntentRecord("failback", "me", 7, "me")
    txn = transactions.ask_for_failback(OWN, "l", 7, intent)

    check(txn, (OWN_COMPARE, SEEN[0]), (OWN_PUT, Put("leases/l/intent", records.encode(intent), ME)))
