"""An operator names the store that goes on (`transactions.accept_loss`): who takes over, who does not."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import insync, records, transactions
from leaseha.core.records import ClaimRecord, Hold, InsyncRecord, NodeRecord
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft
from leaseha.core.transactions import Recovering
from leaseha.core.values import Outcome, Put, Refused
from tests.core import hands
from tests.core.harness import World, spec

COPIED = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", data=True, replicated=True)
WORD = "loss accepted by ops: b goes on without a"
TTL_MAX_WAIT_S = 15 * 1.001 + 1.5


def alone() -> World:
    """a holds with one copy; it dies, and b, which has not all, does not take it."""
    world = hands.serving(spec("a", COPIED), spec("b", COPIED))
    world.kill("a")
    world.run(20)
    assert world.holders() == []
    return world


def mod(world: World, key: str) -> int:
    kv = world.etcd.keys.get(key)
    return kv.mod if kv is not None else 0


def accept(world: World, store: str = "store-b") -> Outcome:
    """What `leaseha recover` writes, against what stands now."""
    claim = hands.claim(world)
    lost = ClaimRecord(Hold.LOST, "ops", reason=WORD, from_node=claim.node, epoch=claim.epoch)
    item = Recovering(
        "l",
        mod(world, records.claim_key("l")),
        mod(world, records.insync_key("l")),
        lost,
        InsyncRecord(frozenset({store}), {store: "b"}, 1, WORD),
        claim.session,
        mod(world, records.session_key(claim.session)),
        [(name, mod(world, records.node_key(name))) for name in "ab"],
    )
    outcome, changes = world.etcd.txn(transactions.accept_loss(item))
    world.tell(changes)
    return outcome


def test_the_named_store_takes_over_after_ttl_max_and_says_whose_word_it_was() -> None:
    world = alone()
    accept(world)
    world.run(TTL_MAX_WAIT_S - 0.2)
    assert world.holders() == []

    world.run(1)

    assert world.holders() == ["b"]
    assert hands.claim(world).reason == WORD
    assert hands.claim(world).from_node == "a"
    assert hands.warned(world, "b") == ["taken with a loss that was accepted"]
    line = list(world.nodes["b"].view.past("l").values())[-1].record
    assert (line.reason, line.from_node, line.to_node) == (WORD, "a", "b")


def test_the_move_after_that_says_it_no_more() -> None:
    world = alone()
    accept(world)
    world.run(20)
    again = Draft(world.nodes["b"], world.now())
    assert again.view.insync("l").record.accepted == WORD

    assert insync.accepted_loss(again, "l") == ""


def test_a_holder_of_before_that_wakes_up_finds_its_claim_taken() -> None:
    """It was only slow: its renewals hang in the network, and come after the word."""
    world = hands.serving(spec("a", COPIED), spec("b", COPIED))
    hands.keep(world, "a")
    world.run(1)
    late = hands.kept(world, "a", "T2")
    world.run(6)
    accept(world)

    assert isinstance(hands.apply(world, late), Refused)
    hands.let(world, "a")
    world.run(20)
    assert world.holders() == ["b"]


def test_a_node_that_came_back_while_the_operator_was_asked_makes_the_word_void() -> None:
    world = alone()
    told = NodeRecord("a", 99, "store-a")
    claim = hands.claim(world)
    item = Recovering(
        "l", mod(world, records.claim_key("l")), mod(world, records.insync_key("l")), claim,
        InsyncRecord(frozenset({"store-b"})), 0, 0, [("a", mod(world, records.node_key("a")))],
    )  # fmt: skip
    world.tell(world.etcd.put(records.node_key("a"), records.encode(told)))

    outcome, _ = world.etcd.txn(transactions.accept_loss(item))

    assert isinstance(outcome, Refused)


def test_a_set_that_is_put_without_its_claim_is_no_accepted_loss() -> None:
    world = alone()
    record = InsyncRecord(frozenset({"store-b"}), accepted=WORD)
    world.tell(world.etcd.put(records.insync_key("l"), records.encode(record)))
    world.run(20)

    assert world.holders() == ["b"]
    assert "silent" in hands.claim(world).reason


def test_a_set_remembers_the_nodes_that_are_away() -> None:
    world = hands.serving()
    world.kill("b")
    world.tell(world.etcd.delete(records.node_key("b")))
    draft = Draft(world.nodes["a"], world.now())

    assert insync.nodes_of(draft, "l", frozenset({"store-a", "store-b", "store-x"})) == {
        "store-a": "a",
        "store-b": "b",
    }


def test_without_a_set_only_who_runs_is_known() -> None:
    world = hands.serving()
    view = replace(world.nodes["a"].view, insyncs={})
    draft = Draft(replace(world.nodes["a"], view=view), world.now())

    assert insync.nodes_of(draft, "l", frozenset({"store-b"})) == {"store-b": "b"}
    assert insync.accepted_loss(draft, "l") == ""


def test_the_words_of_accept_loss_compare_all_that_was_seen() -> None:
    claim, record = ClaimRecord(Hold.LOST, "ops"), InsyncRecord(frozenset({"s"}))
    txn = transactions.accept_loss(Recovering("l", 4, 5, claim, record, 0x2A, 6, [("a", 0)]))

    assert [(one.key, one.value) for one in txn.compares] == [
        ("leases/l/claim", 4),
        ("leases/l/insync", 5),
        (records.session_key(0x2A), 6),
        ("nodes/a", 0),
    ]
    assert txn.puts == (
        Put("leases/l/claim", records.encode(claim)),
        Put("leases/l/insync", records.encode(record)),
    )
