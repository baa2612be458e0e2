"""Answers that are lost, late or double (G5): whatever was sent may be applied later still, or was already.

Each case is tried in both worlds: the transaction was applied, and it was not.
"""

from __future__ import annotations

import pytest

from leaseha.core import events, insync, records
from leaseha.core.effects import Commit
from leaseha.core.records import IntentRecord, Kind
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_MS, NS_PER_S, Committed, Refused, Unknown
from tests.core import hands
from tests.core.harness import World, spec

CLAIM = records.claim_key("l")


def test_a_transaction_that_was_executed_twice_is_known_by_its_nonce() -> None:
    """The second execution is refused, but the own record, read with it, has the nonce of this very write."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.run(1.1)
    renewal = hands.kept(world, "a")
    first, second = hands.apply(world, renewal, seen=False), hands.apply(world, renewal, seen=False)
    hands.answer(world, "a", renewal, second)

    assert (Committed, Refused) == (type(first), type(second))
    assert Role.HOLDER is world.role("a")
    assert world.nodes["a"].session.pending == ()
    assert hands.warned(world, "a") == []


def asks(world: World, kind: str, target: str, by: str = "admin") -> None:
    """Someone writes an intent for the token that is held."""
    token = world.etcd.keys[CLAIM].mod
    world.tell(world.etcd.put(records.intent_key("l"), records.encode(IntentRecord(kind, by, token, target))))


def in_doubt(world: World, name: str, what: str, applied: bool) -> Commit:
    """The newest `what` of a node was executed, or not, and its answer is lost; nobody sees anything by watch."""
    commit = hands.kept(world, name, what)
    if applied:
        hands.apply(world, commit, seen=False)
    hands.let(world, name)
    hands.lose(world, name, commit)
    return commit


@pytest.mark.parametrize("applied", [True, False])
def test_t1_with_unknown_outcome(applied: bool) -> None:
    """Registered once, under one session: the second attempt finds the nonce of the first, or commits."""
    world = World(spec("a"))
    world.blind.add("a")
    hands.keep(world, "a", "T1")
    world.start()
    in_doubt(world, "a", "T1", applied)
    world.run(0.5)

    assert world.holders() == ["a"]
    assert world.sent("a")[:2] == ["T1", "T1"]
    assert len([key for key in world.etcd.keys if key.startswith("sessions/")]) == 1


@pytest.mark.parametrize("applied", [True, False])
def test_t3_with_unknown_outcome(applied: bool) -> None:
    """The token of a take is the `mod` of the own record of the same transaction: one look settles it."""
    world = hands.serving()
    hands.keep(world, "b", "T3")
    world.kill("a")
    world.run(7)
    world.blind.add("b")
    in_doubt(world, "b", "T3", applied)
    world.run(0.5)

    assert world.holders() == ["b"]
    assert (1 if applied else 2) == world.sent("b").count("T3")
    assert world.state("b").token == world.etcd.keys[CLAIM].mod


def test_a_take_in_doubt_is_followed_by_renewals_alone() -> None:
    """One that commits kills what was unknown, one that is refused says what it was; nothing else is sent between."""
    world = hands.serving()
    hands.keep(world, "b", "T3")
    world.kill("a")
    world.run(7)
    world.cut.add("b")
    in_doubt(world, "b", "T3", applied=False)
    world.run(3)
    sent = world.sent("b")

    assert {"T2"} == set(sent[sent.index("T3") + 1 :])
    assert Role.CLAIMING is world.role("b")


@pytest.mark.parametrize("applied", [True, False])
def test_t9_with_unknown_outcome(applied: bool) -> None:
    """Handed over, or not: a second T9 is sent only when a renewal has killed the first."""
    world = hands.serving()
    hands.keep(world, "a", "T9")
    asks(world, Kind.SWITCHOVER, "b")
    world.blind.add("a")
    in_doubt(world, "a", "T9", applied)
    world.run(0.1)
    world.blind.remove("a")
    world.run(1.5)
    world.give("b", world.snapshot(0))
    world.run(0.2)

    assert world.holders() == ["b"]
    assert "Y-gone" in world.rows("a")
    assert (1 if applied else 2) == world.sent("a").count("T9")


def test_a_late_handover_can_not_be_applied_once_the_holder_serves_again() -> None:
    """A1: serve again only after a committed renewal that compared the claim; the barrier has then killed T9."""
    world = hands.serving()
    hands.keep(world, "a", "T9")
    asks(world, Kind.SWITCHOVER, "b")
    late = [hands.kept(world, "a", "T9")]
    world.kill("b")
    hands.lose(world, "a", late[0])
    for _ in range(200):
        world.run(0.1)
        if (commit := hands.kept(world, "a", "T9")) is not late[-1]:
            late.append(commit)
            hands.lose(world, "a", commit)
        if world.role("a") is Role.HOLDER:
            break

    assert "Y-resume" in world.rows("a")
    assert all(isinstance(hands.apply(world, commit), Refused) for commit in late)
    assert hands.claim(world).node == "a"


def test_nothing_is_served_between_an_unknown_handover_and_the_renewal_that_kills_it() -> None:
    """A1: the VIP stays off while T9 may still be applied."""
    world = hands.serving()
    hands.keep(world, "a", "T9", "T2")
    asks(world, Kind.SWITCHOVER, "b")
    hands.lose(world, "a", hands.kept(world, "a", "T9"))
    world.kill("b")
    world.run(2)

    assert Role.YIELDING is world.role("a")
    assert not world.state("a").up


def test_a_handover_whose_target_died_is_refused_and_the_holder_serves_again() -> None:
    """T9 compares the lease of the target's record: a dead or vanished session fails it."""
    world = hands.serving()
    world.blind.add("a")
    target = hands.record_key(world, "b")
    hands.keep(world, "a", "T9")
    asks(world, Kind.SWITCHOVER, "b")
    world.give("a", world.snapshot(0))
    commit = hands.kept(world, "a", "T9")
    world.kill("b")
    world.etcd.put(target, world.etcd.keys[target].value)
    hands.let(world, "a")
    hands.answer(world, "a", commit, hands.apply(world, commit))
    world.run(0.1)

    assert "Y-resume" in world.rows("a")
    assert world.holders() == ["a"]
    assert world.rows("a").count("H-switchover") == 1
    assert "came to nothing" in world.etcd.keys[records.intent_key("l")].value


@pytest.mark.parametrize("applied", [True, False])
def test_t10_with_unknown_outcome(applied: bool) -> None:
    """The claim names the target either way; it serves under the token that a committed transaction compared."""
    world = hands.serving()
    hands.keep(world, "b", "T10")
    asks(world, Kind.SWITCHOVER, "b")
    world.blind.add("b")
    in_doubt(world, "b", "T10", applied)

    assert world.holders() == []

    world.run(1)

    assert world.holders() == ["b"]
    assert world.state("b").token == world.etcd.keys[CLAIM].mod


@pytest.mark.parametrize("applied", [True, False])
def test_t11_with_unknown_outcome(applied: bool) -> None:
    """Free, or not yet: the release is sent again only if a renewal that compared the claim was applied."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a", "T11")
    world.give("a", events.StopAsked(world.now()))
    world.blind.add("a")
    in_doubt(world, "a", "T11", applied)
    world.run(1)

    assert world.nodes["a"].stopped
    assert (1 if applied else 2) == world.sent("a").count("T11")
    assert hands.claim(world).hold is records.Hold.FREE


def test_a_late_release_can_not_be_applied_once_a_renewal_is_proven() -> None:
    """The barrier again: a release that was overtaken frees nothing."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a", "T11")
    world.give("a", events.StopAsked(world.now()))
    late = hands.kept(world, "a", "T11")
    hands.let(world, "a")
    hands.keep(world, "a")
    hands.lose(world, "a", late)
    world.run(0.3)
    hands.end(world, "a")

    assert isinstance(hands.apply(world, late), Refused)


@pytest.mark.parametrize("applied", [True, False])
def test_t13_with_unknown_outcome(applied: bool) -> None:
    """A2: until it is settled, both the set that stands and the one that may stand count for acknowledgements."""
    lease = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", data=True, replicated=True)
    world = hands.serving(spec("a", lease), spec("b", lease))
    hands.keep(world, "a", "T13")
    world.give("a", events.CopiesReported(world.now(), "l", frozenset({"store-b"}), world.state("a").token))
    world.blind.add("a")
    in_doubt(world, "a", "T13", applied)

    assert frozenset({"store-a", "store-b"}) == insync.must_have(world.nodes["a"], "l")

    world.run(1)

    assert world.holders() == ["a"]
    assert (1 if applied else 2) == world.sent("a").count("T13")
    admitted = records.decode(records.InsyncRecord, world.etcd.keys[records.insync_key("l")].value)
    assert admitted is not None
    assert admitted.stores == {"store-a", "store-b"}


def test_a_late_change_of_the_in_sync_set_can_not_be_applied_after_another() -> None:
    """A2: "add B", late, must not bring back a store that was removed since and lacks what was acknowledged."""
    lease = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", data=True, replicated=True)
    world = hands.serving(spec("a", lease), spec("b", lease))
    hands.keep(world, "a", "T13")
    world.give("a", events.CopiesReported(world.now(), "l", frozenset({"store-b"}), world.state("a").token))
    late = hands.kept(world, "a", "T13")
    hands.let(world, "a")
    world.give("a", events.CopiesReported(world.now(), "l", frozenset(), world.state("a").token))
    hands.lose(world, "a", late)
    world.run(1)

    assert isinstance(hands.apply(world, late), Refused)
    assert frozenset({"store-a"}) == insync.must_have(world.nodes["a"], "l")


def test_an_own_write_is_known_to_be_applied_by_watch_before_its_answer_comes() -> None:
    """The answer, when it comes at last, is old news."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.run(1.1)
    renewal = hands.kept(world, "a")
    outcome = hands.apply(world, renewal)

    assert world.nodes["a"].session.pending == ()

    before = world.nodes["a"]
    hands.answer(world, "a", renewal, outcome)

    assert before.session == world.nodes["a"].session


def test_a_deadline_counts_from_the_sending_of_the_write_that_was_applied() -> None:
    """G5: of three attempts without answer the first was applied: its time counts, not that of the last."""
    world = hands.serving(spec("a"))
    world.blind.add("a")
    hands.keep(world, "a")
    world.run(1.05)
    first, sent_at = hands.kept(world, "a"), world.at_ns
    hands.apply(world, first, seen=False)
    world.run(1.4)
    last = hands.kept(world, "a")
    hands.answer(world, "a", last, hands.apply(world, last))

    proven = world.nodes["a"].session.proven
    assert first is not last
    assert proven is not None
    assert abs(proven.sent_at.boot_ns - sent_at) <= 60 * NS_PER_MS


def test_more_writes_without_answer_than_the_bound_give_the_session_up() -> None:
    """Bounds on everything: so many unresolved writes are far more than an election of etcd takes."""
    world = hands.serving(spec("a"), spec("b"))
    since = world.at_ns
    world.cut.add("b")
    while "session given up" not in hands.warned(world, "b"):
        world.run(0.5)

    assert 60 * NS_PER_S < world.at_ns - since < 150 * NS_PER_S

    first = world.nodes["b"].session.id
    world.cut.remove("b")
    world.run(3)

    assert world.nodes["b"].session.id not in (0, first)


@pytest.mark.parametrize(("ttl_ms", "period_ms", "away_s"), [(300, 60, 1.2), (300, 60, 3.4), (200, 40, 3.4)])
def test_after_an_election_of_etcd_the_holder_goes_on_under_its_session(
    ttl_ms: int, period_ms: int, away_s: float
) -> None:
    """At a short ttl it is off meanwhile; then its claim stands, and it is as fast as who would take it."""
    ns = {"ttl_ns": ttl_ms * NS_PER_MS, "renew_every_ns": period_ms * NS_PER_MS, "ttl_max_ns": 3 * NS_PER_S}
    world = hands.serving(spec("a", **ns), spec("b", **ns))
    before = world.nodes["a"].session.id
    world.cut |= {"a", "b"}
    world.run(away_s)
    assert world.holders() == []

    world.cut.clear()
    world.run(0.2)

    assert world.holders() == ["a"]
    assert world.nodes["a"].session.id == before
    assert "session given up" not in hands.warned(world, "a")


@pytest.mark.parametrize("period_ms", [20, 100, 1000])
def test_the_session_is_not_given_up_inside_its_deadline(period_ms: int) -> None:
    """However often it renews: within the deadline nothing happens (design 4.6)."""
    world = hands.serving(spec("a", renew_every_ns=period_ms * NS_PER_MS))
    world.cut.add("a")
    world.run(3.5)

    assert world.holders() == ["a"]
    assert hands.warned(world, "a") == []


def test_a_claim_that_was_moved_by_hand_does_not_stop_the_renewals_of_others() -> None:
    """With T9 in doubt: the own record, read with the refusal, shows that it was not T9 that moved the claim."""
    leases = tuple(LeaseSpec(name, {"a": 100, "b": 50}, digest="v.x") for name in ("l", "m"))
    world = hands.serving(spec("a", *leases), spec("b", *leases))
    world.blind.add("a")
    hands.keep(world, "a", "T9")
    asks(world, Kind.SWITCHOVER, "b")
    world.give("a", world.snapshot(0))
    in_doubt(world, "a", "T9", applied=False)
    world.etcd.put(CLAIM, world.etcd.keys[CLAIM].value)
    world.run(0.3)

    assert "Y-taken" in world.rows("a")

    world.run(6)

    assert Role.HOLDER is world.role("a", "m")
    assert "H-deadline" not in world.rows("a", "m")


def test_a_refused_handover_is_followed_by_a_proven_renewal_before_anything_is_served() -> None:
    """A1, the uniform rule: whatever is known of T9, a later write that compared the claim is proven first."""
    world = hands.serving()
    hands.keep(world, "a", "T9", "T2")
    asks(world, Kind.SWITCHOVER, "b")
    handover = hands.kept(world, "a", "T9")
    target = hands.record_key(world, "b")
    world.kill("b")
    world.tell(world.etcd.delete(target))
    hands.answer(world, "a", handover, hands.apply(world, handover))
    world.run(0.5)

    assert world.role("a") is Role.YIELDING
    assert not world.state("a").up

    hands.end(world, "a")

    assert world.holders() == ["a"]


def test_after_a_stall_of_etcd_the_holder_has_one_renewals_time_before_it_is_declared_dead() -> None:
    """B14, G8: a silence in which a standby could not write either may be etcd's, not the holder's."""
    world = hands.serving()
    world.cut |= {"a", "b"}
    world.run(10)
    world.cut.discard("b")
    world.run(0.9)
    world.cut.discard("a")
    world.run(3)

    assert "T3" not in world.sent("b")
    assert world.holders() == ["a"]


def test_the_answer_to_what_was_settled_by_other_means_is_old_news() -> None:
    world = hands.serving()
    before = world.nodes["a"].session
    for request in (0, 987_654):
        world.give("a", events.TxnDone(world.now(), request, Unknown("late")))

    assert world.nodes["a"].session == before
    assert world.holders() == ["a"]
