"""VIPs on an interface: bound for as long as the lease's deadline is away, and proven gone when unbound.

What it does not promise: that nobody answers on the VIP from the deadline on. The kernel takes an address
off at the end of its lifetime by itself, with this process frozen or dead, but it counts whole seconds and
comes up to `KERNEL_LATENESS_MS` late; a standby's margin must contain that, unless a finer fence is in force.

A VIP is never chosen as a source address: IPv4 has `scope host` and /32, IPv6 `preferred_lft` 0 and /128 (a
node without any other global IPv6 address would still use it). ARP and neighbour solicitations are answered
all the same.

Every address carries `IFA_PROTO` (ours) and the cluster's tag as its metric, which has no effect on a whole
address: so leftovers are known for certain, and two clusters on one host leave each other's addresses alone.
Kernels before 5.18 keep the tag only, which then is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from leaseha import scheduling
from leaseha.adapters import clock
from leaseha.adapters.rtnl import IPAddress, RtnlError
from leaseha.adapters.turns import Turns
from leaseha.adapters.vip_kernel import (
    IFA_PROTO_LEASEHA,
    KERNEL_LATENESS_MS,
    LABEL_MAX,
    SLACK_FINER_FENCE_MS,
    SLACK_MS,
    DeadlinePassed,
    Swept,
    TooLittleLeft,
    VipFact,
    VipKernel,
    Wanted,
    cluster_tag,
    fault_of,
    label_for,
    lifetime_s,
)
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant
from leaseha.errors import VipError

__all__ = [
    "IFA_PROTO_LEASEHA",
    "KERNEL_LATENESS_MS",
    "LABEL_MAX",
    "SLACK_FINER_FENCE_MS",
    "SLACK_MS",
    "DeadlinePassed",
    "Swept",
    "TooLittleLeft",
    "VipBinder",
    "VipFact",
    "cluster_tag",
    "fault_of",
    "label_for",
    "lifetime_s",
]

_T = TypeVar("_T")
HANDED_MS: Final = 20
"""A lifetime may begin so much later than it was asked for, and be a second shorter for it."""


@dataclass(frozen=True, slots=True)
class _Lifetime:
    """One that the kernel was given: whole seconds, for a deadline that may be much nearer."""

    since: Instant
    valid_s: int
    deadline: Instant

    def will_do(self, wanted: _Lifetime) -> bool:
        """True while less than half of it is used up and it reaches as far as is wanted: with a finer fence in
        force and a ttl below a second most renewals need no word with the kernel.
        """
        age_ns = -self.since.left_ns(wanted.since)
        left_ns = self.valid_s * NS_PER_S - age_ns
        later = wanted.deadline.left_ns(self.deadline) >= 0
        return (
            later
            and 2 * age_ns < self.valid_s * NS_PER_S
            and wanted.deadline.left_ns(wanted.since) <= left_ns
        )


class VipBinder:
    """Binds and unbinds the VIPs of leases on one interface of the network namespace in which it was made.

    `cluster` names whose addresses these are; `warn` is told, in the event loop, what an operator should know;
    `now` is the clock, read in the binder's thread. No lifetime is begun that would reach further than
    `most_past_ms` past the deadline (None: `slack_ms`; more where the margin is made for more). Calls are
    carried out one after the other in one thread, for each lease in the order in which they were made (what several
    leases ask for meanwhile goes together), so that a stalled kernel never stalls the agent; after `timeout_s`
    without an answer they raise `VipError` (unknown).
    """

    def __init__(
        self,
        interface: str,
        cluster: str,
        *,
        warn: Callable[[str], None],
        slack_ms: int = SLACK_MS,
        most_past_ms: int | None = None,
        now: Callable[[], Instant] = clock.now,
        timeout_s: float = 2.0,
    ) -> None:
        self.interface = interface
        self._warn = warn
        self._timeout_s = timeout_s
        self._bound: dict[str, tuple[IPAddress, ...]] = {}
        self._slack_ms = slack_ms
        self._lasting: dict[str, _Lifetime] = {}
        self._renewals: dict[str, Instant] = {}
        self._flushing: asyncio.Task[dict[str, VipError]] | None = None
        self._flush_next: asyncio.Task[dict[str, VipError]] | None = None
        # Made here and not in the thread: a socket belongs to the namespace of whoever makes it.
        most_ms = slack_ms if most_past_ms is None else most_past_ms
        self._kernel = VipKernel(interface, cluster, now, slack_ms, most_ms, timeout_s)
        self._turns = Turns(self._call)
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix=f"vip-{interface}", initializer=scheduling.follow
        )

    def adopt(self, lease: str, vips: Sequence[IPAddress]) -> None:
        """These are bound already, by this process before it was replaced in place."""
        self._bound[lease] = tuple(vips)

    async def bind(self, lease: str, vips: Sequence[IPAddress], deadline: Instant) -> None:
        """Put the VIPs on the interface until `deadline`; they are there and work when this returns.

        What is there already is refreshed. Raises `DeadlinePassed`, `TooLittleLeft`, or `VipError` when any
        VIP could not be bound (the others are then taken off again, as far as that can be done).
        """
        self._bound[lease] = tuple(vips)
        lifetime = self._lifetime(deadline)
        try:
            await self._turns.ask(self._kernel.bind, lease, Wanted(tuple(vips), deadline))
        except VipError:
            self._bound.pop(lease, None)
            raise
        self._lasting[lease] = lifetime

    async def renew(self, lease: str, deadline: Instant) -> None:
        """Let the VIPs of a bound lease live until `deadline`, which may be earlier than the last one.

        They are never absent meanwhile; one that was removed by hand is put back. Renewals of several leases
        that are asked for together, or while the kernel is busy, reach it together. A lease that is not bound
        (any more) is left alone; and so is one with too little left for a lifetime, which the lifetime that it
        has ends in time. Raises `DeadlinePassed` (the VIPs are removed) or `VipError`.
        """
        if error := (await self.renew_all({lease: deadline})).get(lease):
            raise error

    async def renew_all(self, due: Mapping[str, Instant]) -> dict[str, VipError]:
        """The same for many, each until its own deadline: what `renew` would raise, by lease."""
        wanted = {lease: self._lifetime(deadline) for lease, deadline in due.items()}
        asked = {
            lease: due[lease] for lease, lifetime in wanted.items() if not self._will_do(lease, lifetime)
        }
        if not asked:
            return {}
        self._renewals.update(asked)
        if self._flush_next is None:
            self._flush_next = asyncio.create_task(self._renew_all(self._flushing))
        errors = await asyncio.shield(self._flush_next)
        for lease in asked:
            if lease in errors:
                self._lasting.pop(lease, None)
            elif lease in self._bound:
                self._lasting[lease] = wanted[lease]
        return {lease: errors[lease] for lease in asked if lease in errors} if errors else {}

    def _lifetime(self, deadline: Instant) -> _Lifetime:
        now = clock.now()
        left_ms = deadline.left_ns(now) // NS_PER_MS - HANDED_MS
        return _Lifetime(now, lifetime_s(left_ms, self._slack_ms), deadline)

    def _will_do(self, lease: str, wanted: _Lifetime) -> bool:
        lasting = self._lasting.get(lease)
        return lasting is not None and lasting.will_do(wanted)

    async def unbind(self, lease: str, vips: Sequence[IPAddress]) -> None:
        """Take the VIPs off; when this returns they were read back and are on no interface any more.

        Raises `VipError` when that is not proven: one of them may still be answered for.
        """
        self._bound.pop(lease, None)
        self._lasting.pop(lease, None)
        self._renewals.pop(lease, None)
        await self._turns.ask(self._kernel.unbind, lease, tuple(vips))

    async def present(self, lease: str) -> tuple[VipFact, ...]:
        """What the kernel says of each VIP that `bind` was asked for. Raises `VipError`."""
        vips = self._bound.get(lease, ())
        return await self._turns.ask(self._kernel.facts, lease, vips)

    async def missing(self) -> dict[str, tuple[IPAddress, ...]]:
        """For each bound lease the VIPs that are not there, or do not work: someone else was at it.

        Only leases that miss some. To be asked when the kernel tells of a removed address, and now and then.
        Raises `VipError`.
        """
        bound = dict(self._bound)
        facts = await self._call(lambda: self._kernel.facts(bound))
        lost = {
            lease: tuple(fact.ip for fact in found if not fact.present or fact.fault)
            for lease, found in facts.items()
            if lease in self._bound  # not unbound meanwhile
        }
        return {lease: vips for lease, vips in lost.items() if vips}

    async def sweep_leftovers(self, configured: Iterable[IPAddress], keep: Iterable[IPAddress] = ()) -> Swept:
        """Remove what an earlier run of this node left on any interface: our `IFA_PROTO` together with the
        cluster's tag or a configured VIP, but for those to `keep`. Addresses of others are kept and named. Raises
        `VipError`.
        """
        vips, kept = frozenset(configured), frozenset(keep)
        return await self._call(lambda: self._kernel.sweep(vips, kept))

    def close(self) -> None:
        """End the thread and the socket. Bound addresses stay until their lifetime ends."""
        self._thread.submit(self._kernel.close)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], _T]) -> _T:
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            # Shielded: the thread goes on in any case, and a later call must wait for its turn.
            return await asyncio.wait_for(asyncio.shield(done), self._timeout_s)
        except TimeoutError:
            done.add_done_callback(_forget)
            message = f"the kernel did not answer for {self.interface} within {self._timeout_s} s"
            raise VipError(message) from None
        except RtnlError as error:
            raise VipError(f"addresses of {self.interface}: {error}") from error
        finally:
            said, self._kernel.said = self._kernel.said, []
            for text in said:
                self._warn(text)

    async def _renew_all(self, before: asyncio.Task[dict[str, VipError]] | None) -> dict[str, VipError]:
        """One flush at a time, and at most one more that waits and collects: a stall queues nothing up."""
        if before is not None:
            await asyncio.wait({before})
        due, self._renewals = self._renewals, {}
        self._flushing, self._flush_next = self._flush_next, None
        try:
            return await self._call(lambda: self._renew(due))
        except VipError as error:
            return dict.fromkeys(due, error)

    def _renew(self, due: Mapping[str, Instant]) -> dict[str, VipError]:
        """In the thread: what has been unbound since is left alone."""
        bound = dict(self._bound)
        return self._kernel.renew(
            {lease: Wanted(bound[lease], deadline) for lease, deadline in due.items() if lease in bound}
        )


def _forget(done: asyncio.Future[_T]) -> None:
    """The caller was told "unknown" already; a late error must not be reported as never retrieved."""
    if not done.cancelled():
        done.exception()
