"""What leases ask of a thread goes together where it is alike, in order for each lease, each with its own answer."""

import asyncio
from collections.abc import Mapping

import pytest

from leaseha.adapters.turns import MOST, Turns
from leaseha.errors import VipError


class Thread:
    """Notes what was done together; waits while it is stalled."""

    def __init__(self) -> None:
        self.done: list[tuple[str, list[str]]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def run(self, work):
        await self.go_on.wait()
        return work()

    def bind(self, wanted: Mapping[str, int]) -> dict[str, int]:
        self.done.append(("bind", list(wanted)))
        return {lease: number * 2 for lease, number in wanted.items()}

    def unbind(self, wanted: Mapping[str, int]) -> dict[str, VipError | None]:
        self.done.append(("unbind", list(wanted)))
        return {lease: VipError(lease) if number < 0 else None for lease, number in wanted.items()}

    def broken(self, wanted: Mapping[str, int]) -> dict[str, int]:
        raise ZeroDivisionError


async def test_what_is_alike_goes_together_and_each_hears_its_own_answer():
    thread = Thread()
    turns = Turns(thread.run)
    answers = await asyncio.gather(*(turns.ask(thread.bind, f"l{at}", at) for at in range(10)))

    assert answers == [2 * at for at in range(10)]
    assert thread.done == [("bind", [f"l{at}" for at in range(10)])]


async def test_no_turn_is_longer_than_what_something_urgent_may_wait():
    thread = Thread()
    turns = Turns(thread.run)
    await asyncio.gather(*(turns.ask(thread.bind, f"l{at}", at) for at in range(2 * MOST + 1)))

    assert [len(leases) for _, leases in thread.done] == [MOST, MOST, 1]


async def test_a_lease_is_never_overtaken_by_itself():
    thread = Thread()
    turns = Turns(thread.run)
    asked = [
        (thread.bind, "a"),
        (thread.unbind, "a"),
        (thread.bind, "b"),
        (thread.bind, "a"),
        (thread.unbind, "b"),
    ]
    await asyncio.gather(*(turns.ask(work, lease, 1) for work, lease in asked))

    assert thread.done == [("bind", ["a", "b"]), ("unbind", ["a", "b"]), ("bind", ["a"])]


async def test_what_was_asked_and_given_up_is_done_before_what_follows():
    thread = Thread()
    thread.go_on.clear()
    turns = Turns(thread.run)
    given_up = asyncio.create_task(turns.ask(thread.bind, "a", 1))
    await asyncio.sleep(0)
    given_up.cancel()
    follows = asyncio.create_task(turns.ask(thread.unbind, "a", 1))
    await asyncio.sleep(0)
    thread.go_on.set()
    await follows

    assert thread.done == [("bind", ["a"]), ("unbind", ["a"])]


async def test_a_failure_is_that_of_its_lease_and_a_fault_is_that_of_all():
    thread = Thread()
    turns = Turns(thread.run)
    answers = await asyncio.gather(
        turns.ask(thread.unbind, "a", 1), turns.ask(thread.unbind, "b", -1), return_exceptions=True
    )
    assert answers[0] is None
    assert isinstance(answers[1], VipError)
    with pytest.raises(ZeroDivisionError):
        await turns.ask(thread.broken, "a", 1)
