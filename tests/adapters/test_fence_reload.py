"""The kernel fence from one program of a process to the next."""

import asyncio

import pytest

from leaseha.adapters import clock
from leaseha.adapters.fence import Fence
from leaseha.core.values import NS_PER_MS
from tests.adapters.asking import ping, pinging
from tests.adapters.test_fence import BOTH, OTHER, V4, V6
from tests.adapters.wire import HERE, in_s, until

pytestmark = pytest.mark.netns


async def test_a_fence_that_another_process_takes_over_loses_no_packet_and_ends_with_its_deadline(
    wire, binder, warned
):
    old = Fence("cluster-a", [HERE], BOTH, warn=warned.append)
    await old.stand()
    await binder.bind("backups", BOTH, in_s(60))
    await old.arm(BOTH, in_s(60))
    assert await asyncio.to_thread(lambda: wire.there(lambda: ping(V4, 3)))
    with pinging(wire, V4) as pinger:
        for _ in range(20):
            new = Fence("cluster-a", [HERE], (*BOTH, OTHER), warn=warned.append)
            await new.stand({V4: in_s(2)})
            count = len(pinger.sent)
            await until(lambda count=count: len(pinger.sent) > count + 3, 5, "asked a few times")
            old.end()
            old = new
    assert pinger.lost() == []
    assert warned == []
    assert not await asyncio.to_thread(lambda: wire.there(lambda: ping(V6, 1))), "what was not held is closed"
    await until(lambda: not wire.there(lambda: ping(V4, 1)), 5, "it is closed after its deadline")
    await old.remove()
    old.end()


async def test_a_freeze_while_the_fence_is_put_up_leaves_nothing_open(wire, binder, warned):
    frozen_ms = 0

    def now():
        nonlocal frozen_ms
        frozen_ms += 150
        return clock.now().plus(frozen_ms * NS_PER_MS)

    fence = Fence("cluster-a", [HERE], BOTH, warn=warned.append, now=now)
    await binder.bind("backups", BOTH, in_s(60))
    await fence.stand({V4: clock.now().plus(400 * NS_PER_MS)})

    assert [text for text in warned if "is closed" in text]
    assert not await asyncio.to_thread(lambda: wire.there(lambda: ping(V4, 1)))
    await fence.remove()
    fence.end()
