"""A step looks at what an event concerns; a node that holds nothing renews seldom until something is to happen."""

from __future__ import annotations

from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Commit
from leaseha.core.records import ClaimRecord, Hold, IntentRecord, Kind, Life, SessionRecord
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.upkeep import KEPT_NS
from leaseha.core.values import NS_PER_MS, NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec

QUICK = {
    "ttl_ns": 300 * NS_PER_MS,
    "renew_every_ns": 60 * NS_PER_MS,
    "ttl_max_ns": 3 * NS_PER_S,
    "margin_ns": 20 * NS_PER_MS,
}


def quick(*leases: LeaseSpec) -> World:
    """Node a holds, b stands by, at a ttl of 300 ms."""
    return hands.serving(spec("a", *leases, **QUICK), spec("b", *leases, **QUICK), seconds=5)


def sent(world: World, name: str, seconds: float) -> list[str]:
    """What a node sends meanwhile."""
    before = len(world.log)
    world.run(seconds)
    return [e.what for n, e in world.log[before:] if n == name and isinstance(e, Commit)]


def ask(world: World, target: str) -> None:
    """An operator asks for a switchover."""
    kv = world.etcd.keys[records.claim_key("l")]
    intent = IntentRecord(Kind.SWITCHOVER, "admin", kv.mod, target)
    world.tell(world.etcd.put(records.intent_key("l"), records.encode(intent)))


def test_a_standby_renews_seldom_and_says_for_how_long_that_is_good() -> None:
    world = quick()

    assert len(sent(world, "a", 3)) > 40
    assert len(sent(world, "b", 3)) <= 7

    record = records.decode(SessionRecord, world.etcd.keys[hands.record_key(world, "b")].value)
    assert record is not None
    assert record.ttl_ns == 1500 * NS_PER_MS


def test_a_standby_hurries_once_its_holder_has_been_quiet_for_half_of_the_ttl() -> None:
    """So it knows whether etcd answers itself, before it calls another one silent."""
    world = quick()
    world.kill("a")

    assert sent(world, "b", 0.13).count("T2") <= 1
    assert sent(world, "b", 0.17).count("T2") >= 2

    world.run(0.2)

    assert world.role("b") is Role.HOLDER


def test_who_was_cut_off_from_etcd_lets_the_holder_renew_first() -> None:
    world = quick()
    world.cut |= {"a", "b"}
    world.run(0.28)
    world.cut.clear()
    world.run(1)

    assert world.role("a") is Role.HOLDER
    assert "S-silent" not in world.rows("b")


def test_a_holder_goes_down_for_a_switchover_once_its_target_has_shown_that_it_lives() -> None:
    world = quick()
    hands.keep(world, "b", "T2")
    ask(world, "b")

    assert world.role("a") is Role.HOLDER

    renewal = hands.kept(world, "b", "T2")
    hands.let(world, "b")
    hands.answer(world, "b", renewal, hands.apply(world, renewal))

    assert world.role("b") is Role.HOLDER


def test_a_holder_serves_on_where_the_target_died_a_moment_ago_and_says_why() -> None:
    world = quick()
    world.kill("b")
    ask(world, "b")
    world.run(3)

    assert world.role("a") is Role.HOLDER
    assert "H-switchover" not in world.rows("a")
    answered = records.decode(IntentRecord, world.etcd.keys[records.intent_key("l")].value)
    assert answered is not None
    assert "silent" in answered.answer


def test_a_standby_rests_again_when_what_was_asked_for_is_done() -> None:
    """The intent of a failback stands for as long as its asker lives, and is for a claim that stands no more."""
    lease = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", hold_down_ns=NS_PER_S)
    world = quick(lease)
    world.give("a", events.HealthChanged(world.now(), "l", 0, "no gateway"))
    world.run(1)
    assert world.role("b") is Role.HOLDER
    world.give("a", events.HealthChanged(world.now(), "l", 0, ""))
    world.run(3)
    assert world.role("a") is Role.HOLDER
    assert records.intent_key("l") in world.etcd.keys

    assert len(sent(world, "b", 3)) <= 8


def test_others_are_told_of_a_stop_before_anything_goes_down() -> None:
    """The one that takes over is awake by then."""
    world = quick()
    hands.keep(world, "a", "T2")
    world.give("a", events.StopAsked(world.now()))

    assert world.role("a") is Role.HOLDER

    told = hands.kept(world, "a", "T2")
    hands.let(world, "a")
    before = len(world.log)
    outcome, changes = world.etcd.txn(told.txn)
    world.give("b", events.Watched(world.now(), world.etcd.head(), 0, tuple(changes)))

    assert [e.what for n, e in world.log[before:] if n == "b" and isinstance(e, Commit)] == ["T2"]

    hands.answer(world, "a", told, outcome)

    assert world.nodes["a"].stopped
    assert world.role("b") is Role.HOLDER


def test_a_stop_waits_a_moment_for_a_standby_to_show_that_it_is_awake() -> None:
    """Its next write takes the lease: it must not have to wait for the answer to a renewal that is under way."""
    world = quick()
    hands.keep(world, "b", "T2")
    world.give("a", events.StopAsked(world.now()))

    assert world.role("a") is Role.HOLDER

    renewal = hands.kept(world, "b", "T2")
    hands.let(world, "b")
    hands.answer(world, "b", renewal, hands.apply(world, renewal))

    assert world.nodes["a"].stopped
    assert world.role("b") is Role.HOLDER


def test_a_stop_does_not_wait_long_for_a_standby_that_is_not_awake() -> None:
    world = quick()
    world.kill("b")
    world.give("a", events.StopAsked(world.now()))

    assert world.role("a") is Role.HOLDER

    world.run(0.12)

    assert world.nodes["a"].stopped


def test_a_stop_does_not_wait_for_others_where_nothing_can_be_told() -> None:
    world = quick()
    world.cut.add("a")
    world.give("a", events.StopAsked(world.now()))
    world.run(0.15)

    assert world.role("a") is not Role.HOLDER


def test_keys_of_no_known_kind_concern_nobody() -> None:
    world = quick()
    before = world.nodes["a"]
    world.tell(world.etcd.put("notes/of/someone", "x"))

    assert world.nodes["a"].leases == before.leases


def test_an_ended_session_that_a_claim_names_is_kept() -> None:
    """Whoever takes that lease compares the record."""
    world = quick()
    record = SessionRecord(Life.DEAD, "x", by="b")
    for session in (77, 78):
        world.tell(world.etcd.put(records.session_key(session), records.encode(record)))
    claim = ClaimRecord(Hold.HELD, node="x", session=77)
    world.tell(world.etcd.put(records.claim_key("other"), records.encode(claim)))
    world.at_ns += KEPT_NS
    world.run(2)

    assert records.session_key(77) in world.etcd.keys
    assert records.session_key(78) not in world.etcd.keys


def test_leases_of_two_dead_holders_are_taken_by_transactions_of_their_own() -> None:
    """T4 compares one ended session."""
    leases = tuple(
        LeaseSpec(name, {"a": 100, "b": 50}, digest="v.x", failback=False) for name in ("l", "m", "n")
    )
    world = quick(*leases)
    world.dead.add("a")
    world.blind.add("b")
    for session, name in ((81, "l"), (82, "m")):
        world.etcd.put(records.session_key(session), records.encode(SessionRecord(Life.DEAD, "x", by="y")))
        claim = ClaimRecord(Hold.HELD, node="x", session=session)
        world.etcd.put(records.claim_key(name), records.encode(claim))
    world.etcd.put(records.claim_key("n"), records.encode(ClaimRecord(Hold.FREE)))
    world.blind.discard("b")
    world.give("b", world.snapshot(0))
    world.run(4)

    takes = [e for n, e in world.log if n == "b" and isinstance(e, Commit) and e.what == "T4"]
    assert [take.txn.compares[1].key for take in takes] == [
        records.session_key(81),
        records.session_key(82),
    ]
    assert all(world.role("b", name) is Role.HOLDER for name in ("l", "m", "n"))


def test_the_echo_of_an_own_renewal_changes_nothing() -> None:
    world = quick()
    node = world.nodes["a"]
    key = records.session_key(node.session.id)
    echo = events.Change(node.session.mod, world.etcd.keys[key], None)
    after = machine.step(node, events.Watched(world.now(), world.etcd.head(), 0, (echo,)))

    assert after == (node, ())
    assert not any(isinstance(e, effects.WakeAt) for e in after[1])
