"""Foreign claims on VIPs that are held here: defended once this node is proven to be the holder, and never before.

RFC 5227 section 2.4 lets a host defend its address with one announcement, at most one in ten seconds. Here a claim
is first of all a question: am I the holder still? Only a renewal that was *begun* after the claim was heard answers it,
and only if it is committed: had another node taken the lease before, that renewal would have failed. Where none is
committed, the deadline passes and this node yields as ever; it has said nothing against the true holder meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from leaseha.adapters import clock, logs
from leaseha.core import deadline
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import OperationalError

DEFEND_INTERVAL_NS: Final = 10 * NS_PER_S
"""RFC 5227 section 1.1."""


def held_after(state: NodeState, lease: str, at: Instant) -> bool:
    """True: an own write that was begun at `at` or later, and looked at the lease's claim, is committed."""
    own, proven = state.leases[lease], state.session.proven
    if proven is None or not own.mine or own.cover is None:
        return False
    looked = deadline.of_cover(at, state.spec.ttl_max_ns, state.spec.drift_ppm)
    return proven.sent_at.left_ns(at) >= 0 and own.cover.left_ns(looked) >= 0


@dataclass(slots=True)
class Contest:
    """What was heard and done about one lease, since the start."""

    heard: int = 0
    defended: int = 0
    last: str = ""
    since: Instant | None = None
    """When the first claim was heard that is not defended against yet."""
    defended_at: Instant | None = None


class Defence:
    """Of one agent. `state()` is the node's; `announce(lease)` says once who has its VIPs, if it is held still."""

    def __init__(
        self,
        state: Callable[[], NodeState],
        announce: Callable[[str], Awaitable[object]],
        now: Callable[[], Instant] = clock.now,
    ) -> None:
        self._state = state
        self._announce = announce
        self._now = now
        self._contests: dict[str, Contest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, lease: str, why: str) -> None:
        """Another machine claims a VIP that is bound here."""
        contest = self._contests.setdefault(lease, Contest())
        contest.heard += 1
        contest.last = why
        contest.since = contest.since or self._now()
        logs.warning_line(lease, "foreign claim heard", why)

    def renewed(self, lease: str) -> None:
        """The lease's deadline has moved on: defend, if that proves what must be proven, and it is time."""
        contest = self._contests.get(lease)
        if contest is None or contest.since is None or not held_after(self._state(), lease, contest.since):
            return
        now, last = self._now(), contest.defended_at
        if last is not None and not last.plus(DEFEND_INTERVAL_NS).wait_over(now):
            return
        contest.since, contest.defended_at = None, now
        contest.defended += 1
        task = asyncio.get_running_loop().create_task(self._defend(lease, contest.last))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def dropped(self, lease: str) -> None:
        """It is not held here any more: what was not defended is another's to defend."""
        if contest := self._contests.get(lease):
            contest.since = None

    def told(self, lease: str) -> dict[str, Any] | None:
        """For `status`; None: nothing was heard."""
        contest = self._contests.get(lease)
        if contest is None:
            return None
        return {"heard": contest.heard, "defended": contest.defended, "last": contest.last}

    async def _defend(self, lease: str, why: str) -> None:
        try:
            await self._announce(lease)
        except OperationalError as error:
            logs.warning_line(lease, "foreign claim not defended", str(error))
        else:
            logs.warning_line(lease, "foreign claim defended", f"{why}; the lease is proven to be held here")
