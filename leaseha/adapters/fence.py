"""The kernel fence: this node acts as a VIP only until the lease's deadline, whatever becomes of this process.

While the fence stands, a VIP is closed: nothing to it, nothing from it, no ARP and no advertisement for it
(leaseha.adapters.fence_rules says what exactly). `arm` opens it until a deadline, after which the kernel closes
it by itself, with this process frozen or dead. A crash leaves the fence standing; the next start replaces it.

Timeouts of the kernel are relative, so a process that is frozen between reading the clock and arming would open
a VIP for too long. Hence two sets in which a VIP must be, armed one after the other, each from its own reading of
the clock; and the clock is read again afterwards, when a passed deadline closes at once, and what took long is
armed anew with less. Only two freezes, one within each of two system calls of the same renewal, remain.

The kernel counts in jiffies (1 to 10 ms) and rounds down: an element ends up to two of them early. A timeout
below one jiffy would be none at all, and the VIP open for ever: so with less than `LEAST_LEFT_MS` it stays closed.

Jiffies run at the rate of CLOCK_MONOTONIC, which an NTP daemon may slow by up to 10 % to correct an offset: against
CLOCK_MONOTONIC_RAW that is seen from one arming to the next, and timeouts are that much shorter; where there was none
for long, as short as the slowest clock would need.

Not promised: that nobody else takes the tables away. `nft flush ruleset` does; the next arming puts them back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from leaseha import scheduling
from leaseha.adapters import clock, fence_rules
from leaseha.adapters.fence_rules import RANKS
from leaseha.adapters.nfset import Elements, ElementSocket, SetName, element_head
from leaseha.adapters.nft import Load, Nft, load_library
from leaseha.adapters.rtnl import IPAddress
from leaseha.adapters.vip import cluster_tag
from leaseha.core.deadline import PPM
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant
from leaseha.errors import FenceError

FENCE_LATENESS_MS: Final = 20
"""What the standbys' margin allows for an element that ends late: `ARM_SLACK_MS`, and jiffies that lag behind."""
ARM_SLACK_MS: Final = 8
"""How long it may take from reading the clock until the kernel has the element; slower is armed anew."""
LEAST_LEFT_MS: Final = 20
"""Two of the longest jiffies there are (100 Hz)."""
ARM_TRIES: Final = 4
ARM_MOST: Final = 64
"""VIPs from one reading of the clock to the next (1 ms): a busy machine may take several times as long for them."""
STAND_MS: Final = 250
"""How long what stays open is opened with a fence that is put up anew; a thousand VIPs are armed in 60 ms."""
SLOWEST_PPM: Final = 900_000
"""The kernel lets nobody slow its clocks further."""
CHUNK: Final = 250
"""VIPs in one transaction: their messages fit into a socket's default buffer."""

_T = TypeVar("_T")


class FenceDeadline(FenceError):
    """The deadline passed, or is too near, before or while the VIPs were armed: they are closed."""


class _TablesGone(FenceError):
    """Someone removed our tables."""


def available(load: Load = load_library) -> str:
    """Why no kernel fence can stand here; empty if one can. Changes nothing."""
    try:
        nft = Nft(load)
        try:
            nft.run(fence_rules.trial(f"leaseha_trial_{os.getpid()}"))
        finally:
            nft.close()
    except FenceError as error:
        return str(error)
    return ""


class Fence:
    """The fence of one cluster in the network namespace in which it was made.

    `interfaces` are those on which VIPs are announced, `vips` all that are guarded; `warn` is told, in the event
    loop, what an operator should know; `now` is the clock, read in the fence's thread. Calls are carried out one
    after the other in that one thread, in the order in which they were made; after `timeout_s` without an answer
    they raise `FenceError` (unknown: what was armed before still ends at its own deadline). Raises `FenceError`
    where there is no libnftables or no nf_tables.
    """

    def __init__(
        self,
        cluster: str,
        interfaces: Iterable[str],
        vips: Iterable[IPAddress],
        *,
        warn: Callable[[str], None],
        now: Callable[[], Instant] = clock.now,
        timeout_s: float = 2.0,
        load: Load = load_library,
    ) -> None:
        self.table = fence_rules.table_name(cluster_tag(cluster))
        self._cluster = cluster
        self._interfaces = tuple(dict.fromkeys(interfaces))
        self._heads = {ip: element_head(ip.packed) for ip in vips}
        self._warn = warn
        self._now = now
        self._timeout_s = timeout_s
        self._said: list[str] = []
        self._standing = False
        self._armed: dict[IPAddress, Instant] = {}
        """Until when each VIP was last armed; known to the thread only."""
        self._rate_ppm = SLOWEST_PPM
        """How fast jiffies run against the raw clock, at most as fast; as last seen, over `_rate_since` to then."""
        self._rate_since = now()
        self._due: dict[IPAddress, Instant] = {}
        self._flushing: asyncio.Task[dict[IPAddress, FenceError]] | None = None
        self._flush_next: asyncio.Task[dict[IPAddress, FenceError]] | None = None
        # Made here and not in the thread: a socket belongs to the namespace of whoever makes it.
        self._nft = Nft(load)
        self._sets = ElementSocket()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fence", initializer=scheduling.follow)

    @property
    def close_commands(self) -> tuple[str, ...]:
        """nft commands that close every VIP, for whoever has no deadline to wait for."""
        return fence_rules.closing(self.table)

    async def stand(self, held: Mapping[IPAddress, Instant] | None = None) -> None:
        """Put the fence up instead of whatever an earlier run left, without a moment in between. Raises `FenceError`.

        Every VIP is closed, but for those that this fence has armed (to be called again when an interface was made
        anew, whose hook went with the old one), and those that this process `held`, until the deadline of each,
        before it was replaced in place: they are never closed meanwhile.
        """
        self._armed |= held or {}
        await self._call(self._stand)

    async def arm(self, vips: Iterable[IPAddress], deadline: Instant) -> None:
        """Open the VIPs until `deadline`, which may be earlier than the last one told; never closed meanwhile.

        What is asked for together, or while the kernel is busy, reaches it together. A VIP that is closed before
        its turn came stays closed. Raises `FenceDeadline` (they are closed) or `FenceError` (they are not open for
        longer than they were).
        """
        asked = tuple(vips)
        errors = await self.arm_all(dict.fromkeys(asked, deadline))
        if failed := next((errors[ip] for ip in asked if ip in errors), None):
            raise failed

    async def arm_all(self, due: Mapping[IPAddress, Instant]) -> dict[IPAddress, FenceError]:
        """The same for many, each until its own deadline: what `arm` would raise, by VIP."""
        self._due.update(due)
        if self._flush_next is None:
            self._flush_next = asyncio.create_task(self._flush(self._flushing))
        errors = await asyncio.shield(self._flush_next)
        return {ip: errors[ip] for ip in due if ip in errors} if errors else {}

    async def close(self, vips: Iterable[IPAddress]) -> None:
        """Close the VIPs at once, open or not. Raises `FenceError` when that is not proven."""
        await self._call(self._closing(vips))

    def close_soon(self, vips: Iterable[IPAddress]) -> None:
        """The same without waiting: the thread does it before anything that is asked for later."""
        self._thread.submit(self._closing(vips)).add_done_callback(lambda done: done.exception())

    async def remove(self) -> None:
        """Take the fence away: only when no VIP is bound any more. Raises `FenceError`."""
        await self._call(self._remove)

    def end(self) -> None:
        """End the thread and the sockets. The fence stands as it is, and closes by itself."""
        self._thread.submit(self._sets.close)
        self._thread.submit(self._nft.close)
        self._thread.shutdown(wait=False)

    def _closing(self, vips: Iterable[IPAddress]) -> Callable[[], None]:
        gone = tuple(vips)
        for ip in gone:
            self._due.pop(ip, None)
        return lambda: self._close(gone)

    async def _call(self, work: Callable[[], _T]) -> _T:
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            # Shielded: the thread goes on in any case, and a later call must wait for its turn.
            return await asyncio.wait_for(asyncio.shield(done), self._timeout_s)
        except TimeoutError:
            done.add_done_callback(_forget)
            raise FenceError(f"nf_tables did not answer within {self._timeout_s} s") from None
        finally:
            said, self._said = self._said, []
            for text in said:
                self._warn(text)

    async def _flush(
        self, before: asyncio.Task[dict[IPAddress, FenceError]] | None
    ) -> dict[IPAddress, FenceError]:
        """One flush at a time, and at most one more that waits and collects: a stall queues nothing up."""
        if before is not None:
            await asyncio.wait({before})
        due, self._due = self._due, {}
        self._flushing, self._flush_next = self._flush_next, None
        try:
            return await self._call(lambda: self._arm_all(due))
        except FenceError as error:
            return dict.fromkeys(due, error)

    # What follows runs in the thread.

    def _stand(self) -> None:
        there = [name for name in self._interfaces if _exists(name)]
        now = self._now()
        living = {ip: at for ip, at in self._armed.items() if _left_ms(at, now) >= LEAST_LEFT_MS}
        # Open at once, but for a moment only: how long, is for the two armings that follow. By the same reading of
        # the clock: after another one it might be less than a jiffy, which is for ever.
        opened = {ip: min(STAND_MS, _left_ms(at, now)) for ip, at in living.items()}
        self._nft.run(fence_rules.standing(self.table, self._cluster, there, self._heads, opened))
        self._standing = True
        for ip, error in self._arm_groups(living).items():
            self._said.append(f"{ip} is closed: {error}")

    def _put_back(self) -> None:
        self._said.append(f"the fence ({self.table} in nftables) was removed by someone else: put back")
        self._stand()

    def _remove(self) -> None:
        self._standing = False
        self._armed.clear()
        self._nft.run(fence_rules.removing(self.table))

    def _close(self, vips: Sequence[IPAddress]) -> None:
        for ip in vips:
            self._armed.pop(ip, None)
        if not self._standing:
            return
        for at in range(0, len(vips), CHUNK):
            code = self._sets.remove(self._elements(vips[at : at + CHUNK], RANKS))
            if code == errno.ENOENT:
                self._put_back()
            elif code:
                raise FenceError(f"the fence could not be closed: {os.strerror(code)}")

    def _arm_all(self, due: Mapping[IPAddress, Instant]) -> dict[IPAddress, FenceError]:
        if not self._standing:
            raise FenceError("the fence does not stand")
        if strange := [ip for ip in due if ip not in self._heads]:
            raise FenceError(f"{strange[0]} is not guarded by this fence")
        try:
            return self._arm_groups(due)
        except _TablesGone:
            self._put_back()
            return self._arm_groups(due)

    def _arm_groups(self, due: Mapping[IPAddress, Instant]) -> dict[IPAddress, FenceError]:
        errors: dict[IPAddress, FenceError] = {}
        # All leases of a node's session have one deadline, so they go to the kernel together.
        groups: dict[Instant, list[IPAddress]] = {}
        for ip, deadline in due.items():
            groups.setdefault(deadline, []).append(ip)
        for deadline, vips in groups.items():
            for at in range(0, len(vips), ARM_MOST):
                chunk = vips[at : at + ARM_MOST]
                try:
                    self._arm(chunk, deadline)
                except _TablesGone:
                    raise
                except FenceError as error:
                    errors.update(dict.fromkeys(chunk, error))
        return errors

    def _arm(self, vips: Sequence[IPAddress], deadline: Instant) -> None:
        shorter_ns = 0
        for attempt in range(ARM_TRIES):
            late_ns = min(self._arm_one(rank, vips, deadline, shorter_ns) for rank in RANKS)
            if late_ns <= ARM_SLACK_MS * NS_PER_MS:
                break
            # Once is chance; a kernel that goes on being slow gets less time, by as much as it takes.
            shorter_ns += late_ns if attempt else 0
        else:
            self._close(vips)
            raise FenceError(
                f"closed: nf_tables is slow by over {ARM_SLACK_MS} ms, {ARM_TRIES} times running"
            )
        # A timeout is relative: had this process been frozen since the clock was read, it would begin now.
        if deadline.deadline_passed(self._now()):
            self._close(vips)
            raise FenceDeadline("the deadline passed while the fence was armed")
        self._armed.update(dict.fromkeys(vips, deadline))

    def _arm_one(self, rank: str, vips: Sequence[IPAddress], deadline: Instant, shorter_ns: int) -> int:
        """Into one of the two sets; by how many ns that may let it end too late."""
        wanted = self._elements(vips, (rank,))
        before, code = self._now(), errno.ENOENT
        # Twice: before Linux 6.4 an element may end between its addition and its removal in one transaction.
        for _ in range(2):
            before = self._now()
            left_ms = (deadline.left_ns(before) - shorter_ns) * self._rate(before) // PPM // NS_PER_MS
            if left_ms < LEAST_LEFT_MS:
                self._close(vips)
                raise FenceDeadline(f"closed: {left_ms} ms are left to the deadline, too few")
            code = self._sets.put(wanted, left_ms)
            if code != errno.ENOENT:
                break
        if code == errno.ENOENT:
            raise _TablesGone(f"{self.table} is not there")
        if code:
            raise FenceError(f"the fence could not be armed: {os.strerror(code)}")
        return -before.left_ns(self._now()) - shorter_ns

    def _rate(self, now: Instant) -> int:
        """In millionths; looked at over 50 ms to 10 s, so that it is neither noise nor history."""
        raw_ns, boot_ns = now.raw_ns - self._rate_since.raw_ns, now.boot_ns - self._rate_since.boot_ns
        if raw_ns > 50 * NS_PER_MS:
            known = raw_ns < 10 * NS_PER_S
            self._rate_ppm = min(PPM, max(SLOWEST_PPM, boot_ns * PPM // raw_ns)) if known else SLOWEST_PPM
            self._rate_since = now
        return self._rate_ppm

    def _elements(self, vips: Iterable[IPAddress], ranks: Iterable[str]) -> Elements:
        wanted: dict[SetName, list[bytes]] = {}
        for version in (4, 6):
            heads = [self._heads[ip] for ip in vips if ip.version == version and ip in self._heads]
            if heads:
                for rank in ranks:
                    for place in fence_rules.places(self.table, rank, version):
                        wanted[place] = heads
        return wanted


def _left_ms(deadline: Instant, now: Instant) -> int:
    return deadline.left_ns(now) // NS_PER_MS


def _exists(interface: str) -> bool:
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


def _forget(done: asyncio.Future[_T]) -> None:
    """The caller was told "unknown" already; a late error must not be reported as never retrieved."""
    if not done.cancelled():
        done.exception()
