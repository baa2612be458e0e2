"""Whose confirmation counts while words cross on their way."""

import threading

from leaseha.repository.members import Members, Membership, PeerAddress, read_members
from leaseha.repository.tokens import Mark


def membership() -> tuple[Membership, list[tuple[frozenset[str], int]]]:
    told: list[tuple[frozenset[str], int]] = []
    made = Membership("a", lambda stores, why, number: told.append((stores, number)))
    made.begin(Mark(0, 7))
    return made, told


def said(*stores: str, wants: int = 0) -> Members:
    return Members("a", frozenset(stores), wants=wants)


def test_every_other_store_that_may_be_in_the_set_counts():
    made, _ = membership()
    made.hear(said("a", "b", "c"))

    assert made.required() == {"b", "c"}


def test_one_that_is_asked_out_counts_until_the_agent_says_that_it_is_out():
    made, told = membership()
    made.hear(said("a", "b"))
    made.drop(["b"], "dead")

    assert [stores for stores, _ in told] == [{"a"}]
    assert made.required() == {"b"}
    made.hear(said("a", wants=told[0][1]))
    assert made.required() == set()


def test_one_that_is_asked_in_counts_at_once_and_whatever_crosses():
    made, told = membership()
    made.hear(said("a"))
    made.add("b", "level")

    assert made.required() == {"b"}
    made.hear(said("a"))  # said before the agent heard
    made.hear(said("a", wants=told[0][1]))  # heard, not yet written
    assert made.required() == {"b"}


def test_one_that_was_asked_in_and_out_again_counts_until_the_agent_has_heard_the_latter():
    made, told = membership()
    made.hear(said("a"))
    made.add("b", "level")
    made.drop(["b"], "dead")
    (_, first), (_, second) = told

    made.hear(said("a"))
    assert made.required() == {"b"}
    made.hear(said("a", wants=first))
    assert made.required() == {"b"}
    made.hear(said("a", "b", wants=second))  # T13 that adds it is unresolved
    assert made.required() == {"b"}
    made.hear(said("a", wants=second))
    assert made.required() == set()


def test_nothing_is_asked_for_twice():
    made, told = membership()
    made.hear(said("a", "b", "c"))
    made.drop(["b"], "dead")
    made.drop(["b"], "dead")
    made.drop(["c"], "dead")

    assert [stores for stores, _ in told] == [{"a", "c"}, {"a"}]


def test_what_was_asked_under_another_token_counts_no_more():
    made, _ = membership()
    made.hear(said("a"))
    made.add("b", "level")
    made.begin(Mark(0, 7))
    assert made.required() == {"b"}
    made.begin(Mark(0, 8))

    assert made.required() == set()


def test_a_wait_ends_with_the_word_that_it_waits_for():
    made, _ = membership()
    made.hear(said("a", "b"))
    threading.Timer(0.05, made.hear, [said("a")]).start()

    assert made.wait_until(lambda required: not required, 10, lambda: None)
    assert not made.wait_until(bool, 0, lambda: None)


def test_words_survive_the_wire_between_agent_and_process():
    members = Members("a", frozenset({"a", "b"}), (PeerAddress("b", "node2", "::1", 8001, False),), 2, 99)

    assert read_members(members.message()) == members
