"""Which stores may take over (G2, T13): a change counts as made and as not made until it is known."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import effects, events, insync, machine, records
from leaseha.core.records import InsyncRecord
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from tests.core import hands
from tests.core.harness import World, spec

PRIORITIES = {"a": 100, "b": 50, "c": 10}
COPIED = LeaseSpec("l", PRIORITIES, digest="v.x", data=True, replicated=True)


def admitted(world: World) -> frozenset[str]:
    record = records.decode(InsyncRecord, world.etcd.keys[records.insync_key("l")].value)
    assert record is not None
    return record.stores


def report(world: World, *stores: str) -> None:
    token = world.state("a").token
    world.give("a", events.CopiesReported(world.now(), "l", frozenset(stores), token))


def test_where_nothing_is_replicated_every_healthy_node_is_admitted() -> None:
    world = hands.serving(*(spec(n) for n in "abc"))

    assert admitted(world) == {"store-a", "store-b", "store-c"}


def test_where_nothing_is_replicated_nobody_is_ever_removed() -> None:
    """Nothing can be lacking, and each change costs a write."""
    world = hands.serving()
    world.kill("b")
    world.run(9)

    assert admitted(world) == {"store-a", "store-b"}


def test_a_node_with_other_vips_is_not_admitted() -> None:
    world = hands.serving(spec("a"), spec("b", LeaseSpec("l", PRIORITIES, digest="other.x")))

    assert admitted(world) == {"store-a"}


def test_where_data_is_replicated_only_the_replication_admits() -> None:
    world = hands.serving(*(spec(n, COPIED) for n in "abc"))

    assert admitted(world) == {"store-a"}

    report(world, "store-b")

    assert admitted(world) == {"store-a", "store-b"}

    report(world, "store-c")

    assert admitted(world) == {"store-a", "store-c"}


def test_the_holders_own_store_always_belongs_to_the_set() -> None:
    world = hands.serving(spec("a", COPIED))
    report(world)

    assert admitted(world) == {"store-a"}


def test_while_a_change_is_unresolved_the_union_must_have_each_byte() -> None:
    """A2: the store being added may already take over, and one being removed still may."""
    world = hands.serving(*(spec(n, COPIED) for n in "abc"))
    report(world, "store-b")
    hands.keep(world, "a", "T13")
    report(world, "store-c")

    assert insync.must_have(world.nodes["a"], "l") == {"store-a", "store-b", "store-c"}

    hands.lose(world, "a", hands.kept(world, "a"))

    assert insync.must_have(world.nodes["a"], "l") == {"store-a", "store-b", "store-c"}

    world.run(2)

    assert insync.must_have(world.nodes["a"], "l") >= {"store-a", "store-b"}


def test_a_renewal_that_is_on_its_way_adds_no_store() -> None:
    world = hands.serving()
    hands.keep(world, "a")
    world.run(1.1)
    pending = world.nodes["a"].session.pending

    assert [insync.written(write, "l") for write in pending] == [frozenset()]
    assert insync.must_have(world.nodes["a"], "l") == {"store-a", "store-b"}


def test_before_anything_was_seen_no_store_is_known() -> None:
    assert insync.must_have(machine.initial(spec("a")), "l") == frozenset()


def test_a_missing_or_unreadable_set_is_not_written_anew() -> None:
    """B2: an operator has to say which data is right (`recover`)."""
    world = hands.serving()
    hands.erase(world, records.insync_key("l"))
    world.run(2)

    assert world.holders() == ["a"]
    assert records.insync_key("l") not in world.etcd.keys

    world.tell(world.etcd.put(records.insync_key("l"), "by hand"))
    world.run(2)

    assert world.etcd.keys[records.insync_key("l")].value == "by hand"


def test_a_node_that_is_not_admitted_does_not_take_over() -> None:
    """G2."""
    world = hands.serving(spec("a", COPIED), spec("b", COPIED))
    world.kill("a")
    world.run(20)

    assert world.holders() == []


def test_a_holder_whose_gate_is_not_open_yet_may_remove_a_member_that_does_not_answer() -> None:
    """Its gate opens only when every member has its token, or is none any more."""
    gated = replace(COPIED, resources=True)
    world = hands.serving(spec("a", gated), spec("b", gated))
    report(world, "store-b")
    world.held_back["b"] = lambda effect: type(effect).__name__ == "OpenGate"
    world.kill("a")
    world.run(9)
    assert world.role("b") is Role.PREPARING

    world.give("b", events.CopiesReported(world.now(), "l", frozenset(), world.state("b").token))

    assert admitted(world) == {"store-b"}
    assert insync.must_have(world.nodes["b"], "l") == {"store-b"}


def test_what_the_replication_of_an_earlier_holdership_had_copied_to_is_forgotten() -> None:
    """Else a node that gets its lease back admits a store that the holder between had removed (seed 41, G2)."""
    world = hands.serving(*(spec(n, COPIED) for n in "abc"))
    report(world, "store-b", "store-c")
    hands.keep(world, "a", "T2")
    world.run(9)
    assert world.holders() == ["b"]
    world.give("b", events.CopiesReported(world.now(), "l", frozenset({"store-a"}), world.state("b").token))
    assert admitted(world) == {"store-a", "store-b"}

    hands.let(world, "a")
    hands.keep(world, "b", "T2")
    world.run(20)

    assert world.holders() == ["a"]
    assert admitted(world) == {"store-a", "store-b"}


def test_only_a_holders_replication_is_heard() -> None:
    world = hands.serving(*(spec(n, COPIED) for n in "ab"))
    world.give("b", events.CopiesReported(world.now(), "l", frozenset({"store-a"}), 0))

    assert world.state("b").wanted is None


def found(world: World, name: str, store: str) -> None:
    world.give(name, events.StoreFound(world.now(), "l", store))


def told(world: World, name: str) -> records.NodeRecord:
    record = records.decode(records.NodeRecord, world.etcd.keys[records.node_key(name)].value)
    assert record is not None
    return record


def test_a_set_that_was_asked_for_counts_before_it_is_written() -> None:
    """It may be sent at any moment, and the replication must not hear of it later than that."""
    world = hands.serving(*(spec(n, COPIED) for n in "abc"))
    world.held_back["a"] = lambda effect: isinstance(effect, effects.Commit)
    world.run(1.1)
    report(world, "store-b")

    assert "T13" not in world.sent("a")
    assert insync.must_have(world.nodes["a"], "l") == {"store-a", "store-b"}


def test_what_was_copied_under_an_earlier_token_admits_nobody() -> None:
    world = hands.serving(*(spec(n, COPIED) for n in "ab"))
    token = world.state("a").token - 1
    world.give("a", events.CopiesReported(world.now(), "l", frozenset({"store-b"}), token))

    assert admitted(world) == {"store-a"}


def test_another_data_directory_is_another_store_and_no_member() -> None:
    """A13: its disk was replaced; what it had acknowledged is gone."""
    world = hands.serving(*(spec(n, COPIED) for n in "ab"))
    report(world, "store-b")
    found(world, "b", "new disk")
    world.run(1.1)
    assert told(world, "b").stores == {"l": "new disk"}

    world.kill("a")
    world.run(20)

    assert world.holders() == []


def test_a_node_without_its_data_directory_is_no_candidate() -> None:
    world = hands.serving(*(spec(n, COPIED) for n in "ab"))
    report(world, "store-b")
    found(world, "b", "")
    world.run(1.1)
    assert told(world, "b").stores is None

    world.kill("a")
    world.run(20)

    assert world.holders() == []


def test_a_new_lease_is_not_begun_before_the_data_directory_was_looked_at() -> None:
    world = World(spec("a", COPIED))
    world.started.add("a")
    world.give("a", events.Started(world.now()))
    world.run(3)
    assert records.insync_key("l") not in world.etcd.keys

    found(world, "a", "data-a")
    world.run(3)

    assert world.holders() == ["a"]
    assert admitted(world) == {"data-a"}


def test_a_node_tells_where_it_takes_copies_in() -> None:
    world = hands.serving(spec("a", replace(COPIED, peer_port=8001)))

    assert told(world, "a").peer_ports == {"l": 8001}
    assert told(world, "a").stores == {"l": "store-a"}


def test_the_holder_writes_no_set_while_it_does_not_know_its_own_store() -> None:
    world = hands.serving(spec("a", COPIED))
    found(world, "a", "")
    report(world, "store-b")

    assert admitted(world) == {"store-a"}


def test_what_the_replication_says_is_counted_also_when_it_comes_too_late() -> None:
    """Else it would wait for ever to hear that it was heard."""
    world = hands.serving(*(spec(n, COPIED) for n in "ab"))
    world.give("a", events.CopiesReported(world.now(), "l", frozenset({"store-b"}), 1, number=9))

    assert world.state("a").heard == 9
    assert world.state("a").wanted is None
