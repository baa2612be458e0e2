"""An agent's side of the kernel fence, in its steps: as `leaseha.adapters.fence` arms, frozen between any two of them.

A clock is read, what is left goes into the first set; the clock is read anew, the same for the second; then it is read
once more, and what has passed is closed. The kernel's timeouts are relative, so what counts is when a batch reaches
it. A batch that was sent reaches it also when its sender is frozen; a process that is killed ends after that.

One freeze (or one slow batch) may fall into the windows between a reading and its batch: the fence does not promise
more than that (docs/guarantees.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chaos.sim.clock import PPM
from chaos.sim.kernel import RANKS, Kernel
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant

if TYPE_CHECKING:
    from chaos.sim.node import Node

LEAST_LEFT_NS: Final = 20 * NS_PER_MS
SLACK: Final = (35, 100)
"""Of the margin: how long an arming may take from its reading of the clock."""
TRIES: Final = 4
SLOWEST_PPM: Final = 900_000
STEP_NS: Final = 200_000
"""A step is as long as that at most; shorter if the margin is small."""

Work = Generator[int, None, None]
"""Yields ns until it goes on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One lease to be opened until a deadline, and who hears whether it is."""

    until: Instant
    done: Callable[[bool], None]


class Fence:
    """Of one node; without one in its kernel everything that is asked is done at once. One thread, one job a time."""

    def __init__(self, node: Node, kernel: Kernel) -> None:
        self.node = node
        self._world = node.world
        self.kernel = kernel
        self._slack_ns = kernel.margin_ns * SLACK[0] // SLACK[1]
        self._jobs: deque[Work] = deque()
        self._work: Work | None = None
        self._due: dict[str, Asked] = {}
        self._collecting = False
        self._odd = False
        """Something fell into a window of this cycle already."""
        self._rate_ppm = SLOWEST_PPM
        self._rate_since = node.now()
        self._flying: list[Callable[[], None]] = []

    # What is asked

    def begin(self) -> None:
        """A new process puts the fence up: everything is closed."""
        self.ended()
        self.adopt()
        self.kernel.close(list(self.node.leases))

    def adopt(self) -> None:
        """The same in place of an older one, whose leases stay open."""
        self._jobs.clear()
        self._due.clear()
        self._work, self._collecting = None, False
        self._rate_ppm, self._rate_since = SLOWEST_PPM, self.node.now()

    def ended(self) -> None:
        """The process has ended: the system call that it was in is done."""
        for land in list(self._flying):
            land()

    def idle(self) -> bool:
        """Nothing is under way."""
        return self._work is None and not self._jobs

    def arm(self, lease: str, until: Instant, done: Callable[[bool], None]) -> None:
        """Open until a deadline; what is asked while the kernel is busy goes to it together."""
        if not self.kernel.fenced:
            done(not until.deadline_passed(self.node.now()))
            return
        before = self._due.get(lease)

        def both(ok: bool) -> None:
            if before is not None:
                before.done(ok)
            done(ok)

        self._due[lease] = Asked(until, both)
        if not self._collecting:
            self._collecting = True
            self._jobs.append(self._arming())
            self._go()

    def close(self, leases: Iterable[str]) -> None:
        """In its turn: after an arming that is under way."""
        gone = tuple(leases)
        for lease in gone:
            asked = self._due.pop(lease, None)
            if asked is not None:
                asked.done(True)  # what is bound now is bound behind a closed fence
        if self.kernel.fenced:
            self._jobs.append(self._closing(gone))
            self._go()

    # The thread

    def _go(self) -> None:
        if self._work is None and self._jobs:
            self._work = self._jobs.popleft()
            self._step(self._work)

    def _step(self, work: Work) -> None:
        if self._work is not work:
            return
        delay_ns = next(work, None)
        if delay_ns is None:
            self._work = None
            self._go()
        else:
            self.node.awake(delay_ns, lambda: self._step(work))

    def _closing(self, leases: tuple[str, ...]) -> Work:
        yield self._step_ns()
        self.kernel.close(leases)

    def _arming(self) -> Work:
        due, self._due = self._due, {}
        self._collecting = self._odd = False
        shorter_ns = 0
        for attempt in range(TRIES):
            lates_ns = []
            for rank in self.ranks():
                before = self.read(rank)
                yield from self._between_steps(inside=True)
                yield self._send(rank, self.timeouts(due, before, shorter_ns))
                lates_ns.append(-before.left_ns(self.node.now()) - shorter_ns)
                yield from self._between_steps(inside=False)
            if min(lates_ns) <= self._slack_ns:
                break
            shorter_ns += min(lates_ns) if attempt else 0
        else:
            self.end(due, list(due))
        self.check(due)
        for asked in due.values():
            asked.done(True)

    def ranks(self) -> tuple[str, ...]:
        """The sets, in the order in which they are armed."""
        return RANKS

    def read(self, _rank: str) -> Instant:
        """The clock, for the batch that follows."""
        return self.node.now()

    def check(self, due: dict[str, Asked]) -> None:
        """What is armed for a time that was already over when it was is closed again."""
        now = self.node.now()
        self.end(due, [lease for lease, asked in due.items() if asked.until.deadline_passed(now)])

    def timeouts(self, due: dict[str, Asked], before: Instant, shorter_ns: int) -> dict[str, int]:
        """What is left to each deadline, for who still has enough; the others are closed."""
        rate_ppm = self.rate(before)
        left = {
            lease: (asked.until.left_ns(before) - shorter_ns) * rate_ppm // PPM
            for lease, asked in due.items()
        }
        self.end(due, [lease for lease, left_ns in left.items() if left_ns < LEAST_LEFT_NS])
        return {lease: left[lease] // NS_PER_MS * NS_PER_MS for lease in due}

    def end(self, due: dict[str, Asked], leases: list[str]) -> None:
        """They are closed, and not armed any more."""
        if leases:
            self.kernel.close(leases)
        for lease in leases:
            due.pop(lease).done(False)

    def _send(self, rank: str, timeouts_ns: dict[str, int]) -> int:
        """On its way to the kernel, which nothing stops any more; how long the answer takes."""

        def land() -> None:
            if land in self._flying:
                self._flying.remove(land)
                self.kernel.put(rank, timeouts_ns)

        delay_ns = self._step_ns()
        self._flying.append(land)
        self._world.after(delay_ns, land)
        return delay_ns

    def _between_steps(self, *, inside: bool) -> Work:
        options = self._world.options
        if self._world.likely(options.freeze_arming) and not (inside and self._odd):
            self._odd = self._odd or inside
            self.node.freeze(self._world.between(NS_PER_MS, 3 * options.ttl_ns))
        elif self._world.likely(options.slow) and inside and not self._odd:
            self._odd = True
            yield self._world.between(0, 3 * self._slack_ns)
        yield self._step_ns()

    def _step_ns(self) -> int:
        return self._world.between(0, min(STEP_NS, self._slack_ns // 8))

    def rate(self, now: Instant) -> int:
        """How fast the kernel's timers run against the raw clock, at most as fast, in millionths."""
        raw_ns, boot_ns = now.raw_ns - self._rate_since.raw_ns, now.boot_ns - self._rate_since.boot_ns
        if raw_ns > 50 * NS_PER_MS:
            known = raw_ns < 10 * NS_PER_S
            self._rate_ppm = min(PPM, max(SLOWEST_PPM, boot_ns * PPM // raw_ns)) if known else SLOWEST_PPM
            self._rate_since = now
        return self._rate_ppm
