"""What a node has seen of each key, and since when: the ground that waits are counted on (design 4.3)."""

from __future__ import annotations

import pytest

from leaseha.core import records, view
from leaseha.core.events import Change
from leaseha.core.records import (
    ClaimRecord,
    HistoryRecord,
    Hold,
    InsyncRecord,
    IntentRecord,
    Life,
    NodeRecord,
    Record,
    SessionRecord,
)
from leaseha.core.values import NS_PER_S, Instant, KeyValue

T0 = Instant(100 * NS_PER_S, 100 * NS_PER_S)
WALL_MS = 1_000_000
CLAIM = records.claim_key("l")
OLD = records.session_key(7)
LIVE = SessionRecord(Life.LIVE, "a", ttl_ns=5, margin_ns=6)


def t(seconds: float) -> Instant:
    return T0.plus(int(seconds * NS_PER_S))


def kv(key: str, record: Record | None, mod: int, lease: int = 0) -> KeyValue:
    return KeyValue(key, records.encode(record) if record else "", mod, mod, lease)


def look(*keys: KeyValue, revision: int = 10) -> view.View:
    return view.first_look(T0, WALL_MS, revision, keys)


def gone(key: str, revision: int, before: KeyValue | None = None) -> Change:
    return Change(revision, KeyValue(key, "", 0), before)


def test_a_first_look_believes_nothing_to_have_just_become_so() -> None:
    """A8: it may be at a restored snapshot, so *free* and *dead* are not watched."""
    seen = look(kv(CLAIM, ClaimRecord(Hold.FREE), 5)).claim("l")

    assert seen.record == ClaimRecord(Hold.FREE)
    assert (seen.at, seen.mod, seen.known_at, seen.watched) == (T0, 5, 10, False)


def test_what_was_never_seen_is_absent_since_the_first_look() -> None:
    """A4: a wait for an absent key begins at the first sight of its absence."""
    found = look()

    for seen in (found.session(7), found.claim("l"), found.insync("l"), found.intent("l")):
        assert (seen.record, seen.mod, seen.at) == (None, 0, T0)
    assert found.past("l") == {}


def test_the_same_state_again_keeps_the_moment_of_its_first_receipt() -> None:
    """B5: equal mod keeps the older receipt, or a wait would never end."""
    first = look(kv(OLD, LIVE, 5))
    again = view.with_snapshot(first, t(3), WALL_MS, 12, [kv(OLD, LIVE, 5)], broken=False)

    assert again.session(7).at == T0
    assert again.session(7).known_at == 12


def test_a_newer_state_starts_anew() -> None:
    seen = view.with_reads(look(kv(OLD, LIVE, 5)), t(3), 12, [kv(OLD, LIVE, 11)]).session(7)

    assert (seen.at, seen.mod, seen.known_at) == (t(3), 11, 12)


def test_a_read_that_is_older_than_what_is_known_changes_nothing() -> None:
    """Answers may overtake each other."""
    known = view.with_changes(
        look(), t(1), WALL_MS, [Change(20, kv(CLAIM, ClaimRecord(Hold.LOST), 20), None)]
    )
    late = view.with_reads(known, t(2), 15, [kv(CLAIM, ClaimRecord(Hold.FREE), 14)])

    assert late.claim("l") == known.claim("l")


def test_a_watch_proves_how_a_state_that_was_read_before_came_about() -> None:
    """The read was faster than the watch; the moment of receipt is the read's."""
    read = view.with_reads(look(), t(1), 12, [kv(CLAIM, ClaimRecord(Hold.FREE), 12)])
    told = view.with_changes(read, t(2), WALL_MS, [Change(12, kv(CLAIM, ClaimRecord(Hold.FREE), 12), None)])

    assert not read.claim("l").watched
    assert told.claim("l").watched
    assert told.claim("l").at == t(1)


def test_a_watched_deletion_remembers_what_stood_there() -> None:
    """A4: its ttl is known then, and the wait need not be ttl_max."""
    before = kv(OLD, LIVE, 5)
    seen = view.with_changes(look(before), t(1), WALL_MS, [gone(OLD, 11, before)]).session(7)

    assert (seen.record, seen.mod, seen.at, seen.last, seen.watched) == (None, 0, t(1), LIVE, True)


def test_a_deletion_that_was_read_remembers_nothing_until_the_watch_tells() -> None:
    before = kv(OLD, LIVE, 5)
    read = view.with_reads(look(before), t(1), 12, [KeyValue(OLD, "", 0)])
    told = view.with_changes(read, t(2), WALL_MS, [gone(OLD, 12, before)])

    assert read.session(7).last is None
    assert told.session(7).last == LIVE
    assert told.session(7).at == t(1)


def test_a_deletion_without_the_value_before_it_remembers_nothing() -> None:
    seen = view.with_changes(look(kv(OLD, LIVE, 5)), t(1), WALL_MS, [gone(OLD, 11)]).session(7)

    assert seen.last is None


def test_a_key_missing_from_a_snapshot_is_absent_from_then_on() -> None:
    """For each kind of key; what was already absent keeps its first sight of absence."""
    keys = [
        kv(OLD, LIVE, 5),
        kv(CLAIM, ClaimRecord(Hold.FREE), 5),
        kv(records.insync_key("l"), InsyncRecord(frozenset()), 5),
        kv(records.intent_key("l"), IntentRecord("failback", "a", 5), 5),
        kv(records.node_key("a"), NodeRecord("a", 7, "s"), 5),
    ]
    after = view.with_snapshot(look(*keys), t(1), WALL_MS, 12, [], broken=False)
    later = view.with_snapshot(after, t(2), WALL_MS, 13, [], broken=False)

    for seen in (after.session(7), after.claim("l"), after.insync("l"), after.intent("l"), after.nodes["a"]):
        assert (seen.mod, seen.at, seen.watched) == (0, t(1), False)
    assert later.claim("l").at == t(1)


def test_a_snapshot_does_not_undo_what_came_after_its_revision() -> None:
    known = view.with_changes(
        look(), t(1), WALL_MS, [Change(20, kv(CLAIM, ClaimRecord(Hold.FREE), 20), None)]
    )
    after = view.with_snapshot(known, t(2), WALL_MS, 15, [], broken=False)

    assert after.claim("l") == known.claim("l")
    assert after.revision == 20


def test_after_a_broken_watch_each_absence_begins_anew() -> None:
    """A key may have come and gone meanwhile (A5), so nothing is known of it before this look."""
    before = kv(OLD, LIVE, 5)
    known = view.with_changes(look(before), t(1), WALL_MS, [gone(OLD, 11, before)])
    after = view.with_snapshot(known, t(2), WALL_MS, 15, [], broken=True)

    assert (after.session(7).at, after.session(7).last) == (t(2), None)
    assert after.claim("never seen").at == t(2)


def test_a_record_that_cannot_be_read_is_there_all_the_same() -> None:
    seen = look(KeyValue(CLAIM, "by hand", 5)).claim("l")

    assert (seen.record, seen.mod) == (None, 5)


@pytest.mark.parametrize("key", ["", "notes", "leases/l/other", "sessions/zz"])
def test_foreign_keys_are_passed_over(key: str) -> None:
    assert look(KeyValue(key, "x", 5)) == look()


def test_only_sessions_that_say_live_are_live() -> None:
    dead = SessionRecord(Life.DEAD, "b", by="a")
    keys = [kv(OLD, LIVE, 5), kv(records.session_key(8), dead, 5), KeyValue(records.session_key(9), "?", 5)]

    assert list(look(*keys).live_sessions()) == [(7, LIVE)]


def test_history_is_dated_by_its_age_on_the_wall_clock() -> None:
    """The flap budget outlives a restart (G8): entries from before it count with their age."""
    entry = HistoryRecord(9, "failback", "r", "a", "b", WALL_MS - 4000, "")
    found = look(kv(records.history_key("l", 9), entry, 9))

    assert found.past("l")[9].at == t(-4)
    assert found.past("l")[9].record == entry


def test_an_entry_of_history_from_a_clock_that_is_ahead_counts_from_now() -> None:
    entry = HistoryRecord(9, "failback", "r", "a", "b", WALL_MS + 4000, "")

    assert look(kv(records.history_key("l", 9), entry, 9)).past("l")[9].at == T0


def test_history_keeps_its_place_in_time_when_a_wall_clock_is_set() -> None:
    """An hour ahead would free the flap budget, G8."""
    key = records.history_key("l", 9)
    entry = HistoryRecord(9, "failback", "r", "a", "b", WALL_MS - 4000, "")
    again = kv(key, HistoryRecord(9, "failback", "answered", "a", "b", WALL_MS - 4000, ""), 12)
    found = view.with_snapshot(look(kv(key, entry, 9)), t(1), WALL_MS + 3_600_000, 20, [again], broken=False)

    assert found.past("l")[9].at == t(-4)
    assert found.past("l")[9].record.reason == "answered"


def test_history_that_is_dropped_or_unreadable_is_forgotten() -> None:
    key = records.history_key("l", 9)
    found = look(kv(key, HistoryRecord(9, "first", "", "", "a", WALL_MS, ""), 9))

    assert view.with_changes(found, t(1), WALL_MS, [gone(key, 11)]).past("l") == {}
    assert view.with_reads(found, t(1), 12, [KeyValue(key, "by hand", 12)]).past("l") == {}


def test_wall_time_is_told_from_the_last_event_that_knew_it() -> None:
    found = view.with_changes(look(), t(1), WALL_MS + 1007, [])

    assert found.wall_ms_at(t(3)) == WALL_MS + 3007
    assert found.wall_ms_at(t(0)) == WALL_MS + 7


def test_what_one_wrote_oneself_was_seen_to_become_so() -> None:
    seen = view.with_own(look(), t(1), 12, [kv(CLAIM, ClaimRecord(Hold.FREE), 12)]).claim("l")

    assert seen.watched
    assert seen.at == t(1)


def test_no_view_is_changed_in_place() -> None:
    first = look(kv(CLAIM, ClaimRecord(Hold.FREE), 5))
    before = repr(first)
    view.with_changes(first, t(1), WALL_MS, [gone(CLAIM, 11)])
    view.with_snapshot(first, t(1), WALL_MS, 12, [], broken=True)

    assert repr(first) == before
