"""What leaseha relies on in etcd, as tests that the real etcd and the simulator's fake must both pass.

How to use it: write a `Subject` around the store and a test class that inherits `EtcdContract` and gives a
fixture `subject` (a fresh store, or a fresh prefix of one) for each test::

    class TestFakeEtcd(EtcdContract):
        @pytest.fixture
        def subject(self):
            return FakeSubject()

Everything is awaited, so that one suite fits a synchronous fake and a real server. `advance` is virtual time
for the fake and real waiting for the server, so TTLs are the smallest that the store grants.
"""

from __future__ import annotations

import pytest

from leaseha.core.values import (
    Committed,
    Compare,
    Delete,
    KeyValue,
    LeaseMissing,
    Put,
    Refused,
    Target,
    Txn,
    Unknown,
)
from tests.contract.etcd_subject import (
    EXPIRY_SLACK_S,
    Batch,
    Compacted,
    Subject,
    Watching,
    flat,
    holds,
    keys,
    put,
    revision,
    seen_until,
)
from tests.contract.etcd_watch_contract import WatchContract

__all__ = ["Batch", "Compacted", "EtcdContract", "LeaderChangeContract", "Subject", "Watching"]

NO_SUCH_LEASE = 0x1234_5678_9ABC


class EtcdContract(WatchContract):
    """The suite. Each test gets a fresh `subject`; the store's revision need not start at 1."""

    # --- compares -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("target", list(Target))
    async def test_an_absent_key_has_0_for_every_target(self, subject: Subject, target: Target):
        assert await holds(subject, Compare("a", target, 0))
        assert not await holds(subject, Compare("a", target, 1))

    async def test_a_deleted_key_compares_as_an_absent_one(self, subject: Subject):
        await put(subject, "a")
        await subject.delete("a")
        assert await holds(subject, *(Compare("a", target, 0) for target in Target))

    async def test_mod_grows_with_each_write_and_create_stays(self, subject: Subject):
        first = await put(subject, "a")
        second = await put(subject, "a", "w")
        assert second == first + 1
        assert await holds(subject, Compare("a", Target.MOD, second), Compare("a", Target.CREATE, first))
        assert not await holds(subject, Compare("a", Target.MOD, first))
        assert not await holds(subject, Compare("a", Target.CREATE, second))

    async def test_create_starts_anew_after_a_deletion(self, subject: Subject):
        await put(subject, "a")
        await subject.delete("a")
        again = await put(subject, "a")
        assert await holds(subject, Compare("a", Target.CREATE, again))

    async def test_the_lease_target_is_the_lease_of_the_last_write(self, subject: Subject):
        lease = await subject.grant(30)
        other = await subject.grant(30)
        await put(subject, "a", lease=lease)
        assert await holds(subject, Compare("a", Target.LEASE, lease))
        assert not await holds(subject, Compare("a", Target.LEASE, 0))
        await put(subject, "a", lease=other)
        assert await holds(subject, Compare("a", Target.LEASE, other))
        await put(subject, "a")
        assert await holds(subject, Compare("a", Target.LEASE, 0))

    async def test_all_compares_must_hold(self, subject: Subject):
        mod = await put(subject, "a")
        good, bad = Compare("a", Target.MOD, mod), Compare("b", Target.MOD, 7)
        for compares in ((good, bad), (bad, good)):
            outcome = await subject.txn(Txn(compares, (Put("c", "no"),), ()))
            assert isinstance(outcome, Refused)
        assert "c" not in await keys(subject)

    # --- transactions ---------------------------------------------------------------------------------

    async def test_a_committed_transaction_writes_all_its_keys_at_one_revision(self, subject: Subject):
        before = await revision(subject)
        outcome = await subject.txn(Txn((), (Put("a", "1"), Put("b", "2")), ()))
        assert isinstance(outcome, Committed)
        assert outcome.head.revision == before + 1
        found = await keys(subject)
        assert {k: (kv.value, kv.mod, kv.create, kv.lease) for k, kv in found.items()} == {
            "a": ("1", before + 1, before + 1, 0),
            "b": ("2", before + 1, before + 1, 0),
        }

    async def test_puts_and_deletions_of_one_transaction_share_their_revision(self, subject: Subject):
        await put(subject, "old")
        outcome = await subject.txn(Txn((), (Delete("old"), Put("new", "n")), ()))
        assert isinstance(outcome, Committed)
        found = await keys(subject)
        assert set(found) == {"new"}
        assert found["new"].mod == outcome.head.revision

    async def test_a_refused_transaction_writes_nothing_and_keeps_the_revision(self, subject: Subject):
        before = await put(subject, "a")
        outcome = await subject.txn(Txn((Compare("a", Target.MOD, 1),), (Put("b", "x"), Delete("a")), ()))
        assert isinstance(outcome, Refused)
        assert outcome.head.revision == before
        assert (await keys(subject))["a"].value == "v"

    async def test_a_refused_transaction_reads_what_was_asked_in_that_order_absent_keys_too(
        self, subject: Subject
    ):
        lease = await subject.grant(30)
        mod = await put(subject, "b", "beta", lease)
        outcome = await subject.txn(Txn((Compare("b", Target.MOD, 1),), (), ("none", "b")))
        assert isinstance(outcome, Refused)
        assert outcome.reads == (KeyValue("none", "", 0), KeyValue("b", "beta", mod, mod, lease))

    async def test_a_transaction_without_writes_keeps_the_revision(self, subject: Subject):
        before = await put(subject, "a")
        outcome = await subject.txn(Txn((), (), ()))
        assert isinstance(outcome, Committed)
        assert outcome.head.revision == before

    async def test_deleting_an_absent_key_keeps_the_revision(self, subject: Subject):
        before = await put(subject, "a")
        outcome = await subject.txn(Txn((), (Delete("none"),), ()))
        assert isinstance(outcome, Committed)
        assert outcome.head.revision == before
        await subject.delete("none")
        assert await revision(subject) == before

    async def test_the_same_key_twice_in_one_transaction_is_turned_away_unwritten(self, subject: Subject):
        """etcd answers INVALID_ARGUMENT "duplicate key given in txn request" before it looks at a compare."""
        before = await put(subject, "a")
        for puts in ((Put("b", "1"), Put("b", "2")), (Put("a", "1"), Delete("a"))):
            outcome = await subject.txn(Txn((), puts, ()))
            assert isinstance(outcome, Unknown)
            assert "duplicate key" in outcome.why
        assert await revision(subject) == before

    async def test_values_come_back_as_they_were_written(self, subject: Subject):
        text = '{"why": "Größe ≥ 1", "empty": ""}'
        await put(subject, "a", text)
        await put(subject, "empty", "")
        found = await keys(subject)
        assert found["a"].value == text
        assert found["empty"].value == ""
        assert found["empty"].mod > 0

    async def test_heads_name_one_cluster_and_never_go_back(self, subject: Subject):
        heads = []
        for n in range(5):
            outcome = await subject.txn(Txn((), (Put("a", str(n)),), ()))
            assert isinstance(outcome, Committed)
            heads.append(outcome.head)
        heads.append((await subject.read_all())[0])
        assert len({head.cluster_id for head in heads}) == 1
        assert heads[0].cluster_id != 0
        assert heads == sorted(heads, key=lambda head: (head.raft_term, head.revision))

    async def test_all_keys_are_read_in_order_at_one_revision(self, subject: Subject):
        last = 0
        for name in ("c", "a/2", "b", "a/1"):
            last = await put(subject, name)
        head, found = await subject.read_all()
        assert [kv.key for kv in found] == ["a/1", "a/2", "b", "c"]
        assert head.revision == last

    # --- leases ---------------------------------------------------------------------------------------

    async def test_granting_keeping_alive_and_revoking_an_unused_lease_keep_the_revision(
        self, subject: Subject
    ):
        before = await revision(subject)
        lease = await subject.grant(30)
        assert lease > 0
        assert await subject.keepalive(lease) == 30
        await subject.revoke(lease)
        assert await revision(subject) == before

    async def test_lease_ids_differ(self, subject: Subject):
        ids = [await subject.grant(30) for _ in range(5)]
        assert len(set(ids)) == 5

    async def test_an_unknown_lease_has_no_time_left_and_is_revoked_without_error(self, subject: Subject):
        assert await subject.keepalive(NO_SUCH_LEASE) <= 0
        await subject.revoke(NO_SUCH_LEASE)
        lease = await subject.grant(30)
        await subject.revoke(lease)
        assert await subject.keepalive(lease) <= 0

    async def test_a_put_under_an_unknown_lease_writes_nothing_at_all(self, subject: Subject):
        before = await revision(subject)
        outcome = await subject.txn(Txn((), (Put("a", "1"), Put("b", "2", NO_SUCH_LEASE)), ()))
        assert isinstance(outcome, LeaseMissing)
        assert await keys(subject) == {}
        assert await revision(subject) == before

    async def test_a_compare_that_fails_is_told_before_a_missing_lease(self, subject: Subject):
        outcome = await subject.txn(
            Txn((Compare("a", Target.MOD, 1),), (Put("b", "2", NO_SUCH_LEASE),), ("a",))
        )
        assert isinstance(outcome, Refused)

    async def test_revoking_deletes_all_keys_of_that_lease_at_one_revision(self, subject: Subject):
        lease = await subject.grant(30)
        await put(subject, "a", lease=lease)
        await put(subject, "b", lease=lease)
        before = await put(subject, "c")
        watching = await subject.watch(before + 1)
        await subject.revoke(lease)
        assert set(await keys(subject)) == {"c"}
        assert await revision(subject) == before + 1
        changes = flat(await seen_until(watching, before + 1))
        assert sorted(change.now.key for change in changes) == ["a", "b"]
        assert {change.now.mod for change in changes} == {0}
        await watching.close()

    async def test_a_put_under_another_lease_or_none_detaches_from_the_first(self, subject: Subject):
        first = await subject.grant(30)
        second = await subject.grant(30)
        await put(subject, "a", lease=first)
        await put(subject, "b", lease=first)
        await put(subject, "a", lease=second)
        await put(subject, "b")
        before = await revision(subject)
        await subject.revoke(first)
        found = await keys(subject)
        assert (found["a"].lease, found["b"].lease) == (second, 0)
        assert await revision(subject) == before
        await subject.revoke(second)
        assert set(await keys(subject)) == {"b"}

    async def test_a_deleted_key_is_detached_from_its_lease(self, subject: Subject):
        lease = await subject.grant(30)
        await put(subject, "a", lease=lease)
        await subject.delete("a")
        await put(subject, "a", "again")
        await subject.revoke(lease)
        assert (await keys(subject))["a"].value == "again"

    async def test_a_lease_lives_for_its_ttl_and_ends_soon_after(self, subject: Subject):
        ttl = subject.min_ttl_s
        lease = await subject.grant(ttl)
        await put(subject, "a", lease=lease)
        await put(subject, "b", lease=lease)
        before = await revision(subject)
        await subject.advance(ttl - 0.7)
        assert set(await keys(subject)) == {"a", "b"}
        await subject.advance(0.7 + EXPIRY_SLACK_S)
        assert await keys(subject) == {}
        assert await revision(subject) == before + 1
        assert await subject.keepalive(lease) <= 0
        outcome = await subject.txn(Txn((), (Put("a", "x", lease),), ()))
        assert isinstance(outcome, LeaseMissing)

    async def test_keeping_alive_counts_the_ttl_anew_and_writing_does_not(self, subject: Subject):
        ttl = subject.min_ttl_s
        kept = await subject.grant(ttl)
        only_written = await subject.grant(ttl)
        await put(subject, "kept", lease=kept)
        steps = 4
        for _ in range(steps):
            await subject.txn(Txn((), (Put("written", "w", only_written),), ()))
            await subject.advance((ttl + EXPIRY_SLACK_S) / steps)
            assert await subject.keepalive(kept) == ttl
        assert set(await keys(subject)) == {"kept"}


class LeaderChangeContract:
    """For a store of several members, or a fake that can pretend."""

    async def test_after_a_leader_change_every_lease_has_its_full_ttl_again(self, subject: Subject):
        ttl = subject.min_ttl_s + 2
        lease = await subject.grant(ttl)
        before = await put(subject, "a", lease=lease)
        await subject.advance(ttl - 1.2)
        await subject.leader_change()
        await subject.advance(EXPIRY_SLACK_S + 0.9)
        assert set(await keys(subject)) == {"a"}, "would be gone if the TTL had run on"
        assert await revision(subject) == before, "a leader change writes nothing"
        await subject.advance(ttl + EXPIRY_SLACK_S)
        assert await keys(subject) == {}
