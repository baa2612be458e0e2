"""A lease's service goes by the newest word on its deadline, whatever the effects before it carry."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from leaseha.adapters import clock
from leaseha.adapters.vip import DeadlinePassed
from leaseha.core.effects import Announce, BindVip, Extend
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import OperationalError
from leaseha.runtime.fencing import Fencing
from leaseha.runtime.service import Parts, Service
from tests.core import hands

VIP = ip_address("192.0.2.1")


class Binder:
    """Notes until when it was told to bind; `slow`: what happens before it answers."""

    def __init__(self) -> None:
        self.until: list[Instant] = []
        self.slow: Callable[[], None] = lambda: None

    async def bind(self, lease, vips, until) -> None:
        self.until.append(until)
        self.slow()

    async def renew_all(self, due) -> dict:
        """Not looked at here."""
        return {}


class Guard:
    """Notes until when it was told that something is up."""

    def __init__(self) -> None:
        self.until: list[Instant] = []

    def arm(self, lease, token, deadline) -> None:
        self.until.append(deadline)

    def disarm(self, lease) -> None:
        """Not looked at here."""


def made() -> tuple[Service, Binder]:
    """A service without a repository, and its binder."""
    binder = Binder()
    unfenced = Fencing(None, (), "not in this test")
    parts = Parts("l", (VIP,), binder, None, None, 0, Guard(), unfenced)  # type: ignore[arg-type]
    return Service(parts, lambda *_: None, lambda *_: None, lambda *_: None), binder


@pytest.mark.parametrize("left_s", [2, 20])
def test_an_effect_that_waited_does_not_undo_a_deadline_that_was_moved_meanwhile(left_s):
    async def go() -> None:
        service, binder = made()
        before, moved = clock.now().plus(10 * NS_PER_S), clock.now().plus(left_s * NS_PER_S)
        service.extend(Extend("l", 7, before))
        service.extend(Extend("l", 7, moved))  # a shorter ttl was sent, or a renewal proven

        await service.act(BindVip("l", 1, before, ""))

        assert (service.deadline, binder.until) == (moved, [moved])

    asyncio.run(go())


def test_nothing_is_bound_once_the_shorter_deadline_has_passed():
    async def go() -> None:
        service, binder = made()
        now = clock.now()
        service.extend(Extend("l", 7, now.plus(-NS_PER_S)))

        with pytest.raises(OperationalError, match="deadline passed"):
            await service.act(BindVip("l", 1, now.plus(10 * NS_PER_S), ""))
        assert binder.until == []

    asyncio.run(go())


def test_an_effect_without_any_word_before_it_is_the_newest_word():
    async def go() -> None:
        service, binder = made()
        until = clock.now().plus(10 * NS_PER_S)

        await service.act(BindVip("l", 1, until, ""))

        assert binder.until == [until]

    asyncio.run(go())


def test_a_bind_that_waits_among_hundreds_is_no_reason_for_the_guard_to_kill():
    async def go() -> None:
        service, binder = made()
        before, moved = clock.now().plus(10 * NS_PER_S), clock.now().plus(20 * NS_PER_S)
        service.extend(Extend("l", 7, before))
        binder.slow = lambda: service.extend(Extend("l", 7, moved))

        await service.act(BindVip("l", 1, before, ""))

        assert service.parts.guard.until == [before, moved]

    asyncio.run(go())


def test_a_bind_whose_turn_came_too_late_goes_by_the_newer_word():
    async def go() -> None:
        service, binder = made()
        before, moved = clock.now().plus(10 * NS_PER_S), clock.now().plus(20 * NS_PER_S)
        service.extend(Extend("l", 7, before))

        def late() -> None:
            if len(binder.until) == 1:
                service.extend(Extend("l", 7, moved))
                raise DeadlinePassed("its turn came too late")

        binder.slow = late

        await service.act(BindVip("l", 1, before, ""))

        assert binder.until == [before, moved]

    asyncio.run(go())


def test_a_bind_that_is_too_late_for_the_newest_word_fails():
    async def go() -> None:
        service, binder = made()

        def late() -> None:
            raise DeadlinePassed("its turn came too late")

        binder.slow = late
        with pytest.raises(DeadlinePassed):
            await service.act(BindVip("l", 1, clock.now().plus(10 * NS_PER_S), ""))
        assert len(binder.until) == 1

    asyncio.run(go())


def test_the_core_tells_each_deadline_that_an_effect_carries_in_the_same_step():
    """That is what the service relies on: what was told last is never older than what waits in its queue."""
    world = hands.serving()
    world.run(3)
    carrying = 0
    for node in world.nodes:
        words = [e for name, e in world.log if name == node and isinstance(e, Extend | BindVip | Announce)]
        for at, word in enumerate(words):
            if not isinstance(word, Extend):
                carrying += 1
                last = [e.deadline for e in words[:at] if isinstance(e, Extend)][-1:]
                following = [e.deadline for e in words[at:] if isinstance(e, Extend)][:1]
                assert word.deadline in (*last, *following)
    assert carrying
