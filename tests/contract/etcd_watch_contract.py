"""What leaseha relies on in etcd's watches; a part of `etcd_contract`."""

from __future__ import annotations

import itertools

from leaseha.core.events import Change
from leaseha.core.values import Committed, Compare, Delete, KeyValue, Put, Target, Txn
from tests.contract.etcd_subject import (
    EXPIRY_SLACK_S,
    Compacted,
    Subject,
    flat,
    keys,
    put,
    revision,
    seen_until,
)


class WatchContract:
    """Each test gets a fresh `subject`."""

    async def test_a_watch_tells_every_change_from_a_revision_on_with_the_value_before(
        self, subject: Subject
    ):
        lease = await subject.grant(30)
        await put(subject, "a", "0")
        first = await put(subject, "a", "1", lease)
        second = await put(subject, "b", "2")
        await subject.delete("a")
        watching = await subject.watch(first)
        last = await put(subject, "a", "3")
        changes = flat(await seen_until(watching, last))
        a0, a1 = KeyValue("a", "0", first - 1, first - 1), KeyValue("a", "1", first, first - 1, lease)
        assert changes == [
            Change(first, a1, a0),
            Change(second, KeyValue("b", "2", second, second), None),
            Change(second + 1, KeyValue("a", "", 0), a1),
            Change(last, KeyValue("a", "3", last, last), None),
        ]
        await watching.close()

    async def test_all_changes_of_one_revision_come_together(self, subject: Subject):
        start = await revision(subject)
        watching = await subject.watch(start + 1)
        names = [f"k{n}" for n in range(40)]
        outcome = await subject.txn(Txn((), tuple(Put(name, "v") for name in names), ()))
        assert isinstance(outcome, Committed)
        last = await put(subject, "k0", "w")
        batches = await seen_until(watching, last)
        assert [change.now.key for change in batches[0].changes if change.revision == start + 1] == names
        for one, other in itertools.pairwise(batches):
            assert one.changes[-1].revision < other.changes[0].revision
        for batch in batches:
            assert batch.head.revision >= batch.changes[-1].revision
        await watching.close()

    async def test_a_late_watch_tells_the_same_as_one_from_the_start(self, subject: Subject):
        start = await revision(subject)
        early = await subject.watch(start + 1)
        last = start
        for n in range(20):
            last = await put(subject, f"k{n % 3}", str(n))
        late = await subject.watch(start + 1)
        told = flat(await seen_until(early, last))
        assert flat(await seen_until(late, last)) == told
        assert [change.revision for change in told] == list(range(start + 1, last + 1))
        await early.close()
        await late.close()

    async def test_a_watch_from_a_future_revision_starts_there(self, subject: Subject):
        start = await revision(subject)
        watching = await subject.watch(start + 2)
        await put(subject, "a", "unseen")
        last = await put(subject, "a", "seen")
        assert [change.revision for change in flat(await seen_until(watching, last))] == [last]
        await watching.close()

    async def test_changes_that_were_refused_or_void_are_not_told(self, subject: Subject):
        start = await put(subject, "a")
        watching = await subject.watch(start + 1)
        await subject.txn(Txn((Compare("a", Target.MOD, 1),), (Put("a", "x"),), ()))
        await subject.txn(Txn((), (Delete("none"),), ()))
        last = await put(subject, "b")
        assert [change.now.key for change in flat(await seen_until(watching, last))] == ["b"]
        await watching.close()

    async def test_an_expired_lease_is_told_as_deletions_with_the_values_before(self, subject: Subject):
        lease = await subject.grant(subject.min_ttl_s)
        mod = await put(subject, "a", "mine", lease)
        watching = await subject.watch(mod + 1)
        await subject.advance(subject.min_ttl_s + EXPIRY_SLACK_S)
        (change,) = flat(await seen_until(watching, mod + 1))
        assert change == Change(mod + 1, KeyValue("a", "", 0), KeyValue("a", "mine", mod, mod, lease))
        await watching.close()

    async def test_a_watch_from_a_compacted_revision_says_so(self, subject: Subject):
        first = await put(subject, "a", "1")
        await put(subject, "a", "2")
        last = await put(subject, "a", "3")
        await subject.compact(last)
        watching = await subject.watch(first)
        assert await watching.next() == Compacted(last)
        await watching.close()
        assert (await keys(subject))["a"].value == "3"

    async def test_a_watch_that_runs_or_starts_after_the_compaction_is_not_touched_by_it(
        self, subject: Subject
    ):
        start = await put(subject, "a", "1")
        running = await subject.watch(start + 1)
        before = await put(subject, "a", "2")
        assert flat(await seen_until(running, before))
        await subject.compact(before)
        fresh = await subject.watch(before + 1)
        last = await put(subject, "a", "3")
        assert [change.revision for change in flat(await seen_until(running, last))] == [last]
        assert [change.revision for change in flat(await seen_until(fresh, last))] == [last]
        await running.close()
        await fresh.close()
