"""The order of operations and what is remembered of them: turnstile, barrier, tail, operations."""

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from leaseha.repository import operations, tail
from leaseha.repository.barrier import Barrier
from leaseha.repository.operations import Changes, Operations
from leaseha.repository.paths import Address, Kind
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark
from leaseha.repository.turnstile import CrowdedError, Turnstile
from tests.repository.served import in_thread, until

SEVEN, EIGHT = Mark(0, 7), Mark(0, 8)


def obj(number: int) -> Address:
    return Address(("r",), Kind.DATA, f"{number:064x}")


def inside(manager: AbstractContextManager[None]) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(manager)
    return stack


def test_many_pass_together_and_one_alone():
    turnstile = Turnstile()
    with turnstile.shared(0), turnstile.shared(0), pytest.raises(CrowdedError), turnstile.alone(0.01):
        pass
    with turnstile.alone(0), pytest.raises(CrowdedError), turnstile.shared(0.01):
        pass
    with turnstile.alone(0), pytest.raises(CrowdedError), turnstile.alone(0.01):
        pass
    with turnstile.shared(0):
        pass


def test_whoever_wants_to_be_alone_holds_up_newcomers_and_comes_to_its_turn():
    turnstile = Turnstile()
    first = inside(turnstile.shared(0))
    was_alone = threading.Event()

    def alone() -> None:
        with turnstile.alone(10):
            was_alone.set()

    thread = in_thread(alone)

    def newcomer_waits() -> bool:
        try:
            with turnstile.shared(0):
                return False
        except CrowdedError:
            return True

    until(newcomer_waits, "newcomers wait")
    first.close()
    thread.join(10)
    assert was_alone.is_set()
    assert not newcomer_waits()


def test_an_index_waits_for_the_packs_before_it_and_not_for_those_after_it():
    barrier = Barrier()
    pack = inside(barrier.pack(0))
    with pytest.raises(CrowdedError), barrier.after_packs(0.01):
        pass
    entered = threading.Event()

    def index() -> None:
        with barrier.after_packs(10):
            entered.set()

    thread = in_thread(index)
    with barrier.pack(1):
        pack.close()
        thread.join(10)
        assert entered.is_set()


def test_a_tail_is_unknown_at_first_and_known_once_what_may_have_been_sent_is_confirmed():
    made = Tail()
    made.introduce(SEVEN, 3)
    made.confirm(SEVEN, 2)
    assert made.addresses() is None
    made.note(SEVEN, 4, obj(4))
    made.confirm(SEVEN, 3)

    assert made.addresses() == {obj(4)}
    made.confirm(EIGHT, 0)
    assert made.addresses() == frozenset()


def test_a_tail_that_grows_too_long_is_unknown_until_all_of_it_is_confirmed():
    made = Tail()
    made.settle()
    for number in range(tail.MOST + 1):
        made.note(SEVEN, number + 1, obj(number))

    assert made.addresses() is None
    made.confirm(SEVEN, tail.MOST)
    assert made.addresses() == {obj(tail.MOST)}


def test_confirmed_is_what_everything_up_to_it_has_reached():
    made = Operations(SEVEN, Tail())
    assert made.confirmed() == 0
    first, second, third = (made.begin(obj(number)) for number in range(3))
    made.done(second)
    made.done(third)
    assert made.confirmed() == 0
    made.done(first)

    assert made.confirmed() == 3


def test_what_is_in_doubt_stays_in_the_tail_until_the_same_object_is_done():
    noted = Tail()
    noted.settle()
    made = Operations(SEVEN, noted)
    made.doubt(made.begin(obj(1)))
    made.undone(made.begin(obj(2)))
    made.done(made.begin(obj(3)))

    assert made.doubtful() == {obj(1)}
    assert (made.confirmed(), noted.addresses()) == (0, {obj(1)})
    made.done(made.begin(obj(1)))
    assert (made.confirmed(), noted.addresses(), made.doubtful()) == (4, frozenset(), frozenset())


def test_numbers_go_on_under_the_same_token_and_begin_anew_under_another():
    first = Operations(SEVEN, Tail())
    for number in range(3):
        first.done(first.begin(obj(number)))
    again = Operations(SEVEN, Tail(), first)

    assert (again.confirmed(), again.begin(obj(4))) == (3, 4)
    assert Operations(EIGHT, Tail(), again).begin(obj(5)) == 1


@pytest.mark.parametrize("end", [Operations.done, Operations.doubt, Operations.undone])
def test_whoever_watches_hears_of_each_object_that_changed(end: Callable[[Operations, int], None]):
    made = Operations(SEVEN, Tail())
    seq = made.begin(obj(1))
    changes = made.watch()
    end(made, seq)

    assert changes.take() == {obj(1)}
    assert changes.take() == frozenset()
    made.unwatch(changes)
    made.done(made.begin(obj(2)))
    assert len(changes) == 0


def test_too_many_changes_mean_that_everything_must_be_compared():
    changes = Changes()
    for number in range(operations.CHANGES_MOST + 1):
        changes.add(obj(number))

    assert changes.take() is None
    assert changes.take() == frozenset()
