"""A question that may be put to several members: the first answer counts.

For reads, grants and keepalives only: a second execution does no harm there (an unused etcd lease just
expires). Never for transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from leaseha.adapters.etcd.member import Attempt, Member, Ring
from leaseha.adapters.etcd.verdict import Proof
from leaseha.adapters.etcd.wire import CallFailed
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import StoreDenied, StoreUnavailable

Answer = TypeVar("Answer")

HEDGE_AFTER_S: Final = 0.1
"""A member that takes longer is not waited for alone: a stopped one then costs a tenth of a second."""

PAUSE_S: Final = 0.1
"""Between rounds, when every member failed at once (nothing listens)."""


async def first_answer(
    ring: Ring,
    send: Callable[[Member, float], Awaitable[Answer]],
    timeout_s: float,
    clock: Callable[[], Instant],
) -> Answer:
    """Put the question to one member after the other until one answers; `send` gets the seconds left.

    Raises:
        StoreUnavailable: nobody answered within `timeout_s`; names each endpoint and its last reason.
        StoreDenied: user, password or permission.
        CallFailed: the revision asked for is compacted.
    """
    end = clock().plus(int(timeout_s * NS_PER_S))
    running: dict[asyncio.Task[Answer], Attempt] = {}
    waiting = ring.order()
    try:
        while (left_s := end.left_ns(clock()) / NS_PER_S) > 0:
            if waiting:
                attempt = ring.attempt(waiting.pop(0))
                running[asyncio.ensure_future(_sent(send, attempt.member, left_s))] = attempt
            elif not running:
                await asyncio.sleep(min(PAUSE_S, left_s))
                waiting = ring.order()
                continue
            patience_s = min(left_s, HEDGE_AFTER_S) if waiting else left_s
            done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                attempt = running.pop(task)
                try:
                    answer = task.result()
                except CallFailed as error:
                    _judge(ring, attempt, error)
                else:
                    ring.answered(attempt)
                    return answer
        for attempt in running.values():
            ring.failed(attempt, "no answer in time")
    finally:
        for task in running:
            task.cancel()
    raise StoreUnavailable(f"no answer from etcd within {timeout_s:g} s ({ring.troubles()})")


async def _sent(send: Callable[[Member, float], Awaitable[Answer]], member: Member, left_s: float) -> Answer:
    return await send(member, left_s)


def _judge(ring: Ring, attempt: Attempt, error: CallFailed) -> None:
    """Go on to the next member, unless the answer is the same everywhere."""
    proof = error.verdict.proof
    if proof is Proof.DENIED:
        raise StoreDenied(f"{attempt.member.endpoint}: {error}") from None
    if proof in {Proof.COMPACTED, Proof.LEASE_MISSING}:
        ring.answered(attempt)
        raise error
    ring.failed(attempt, str(error))
