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
import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from leaseha.adapters import clock
from leaseha.adapters.rtnl import (
    IFA_F_DADFAILED,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_F_TENTATIVE,
    SCOPE_GLOBAL,
    SCOPE_HOST,
    Address,
    AddressSocket,
    IPAddress,
    RtnlError,
)
from leaseha.core.values import NS_PER_MS, Instant
from leaseha.errors import VipError

IFA_PROTO_LEASEHA: Final = 0x4C
"""'L'. The kernel uses 1 to 3; no other user space is known to use this."""
LABEL_MAX: Final = 15
KERNEL_LATENESS_MS: Final = 1300
"""The kernel looks for ended lifetimes at most once a second, and rounds that to seconds within 250 ms."""
SLACK_MS: Final = 200
"""How far a lifetime may reach past the deadline: with the kernel's lateness this makes a margin of 1.5 s."""
SLACK_FINER_FENCE_MS: Final = 999
"""The same where a fence of milliseconds is in force too: then no lifetime need end before the deadline."""
PUTTING_MS: Final = 20
"""What handing a lifetime to the kernel may take; `KERNEL_LATENESS_MS` has 50 ms to spare, and contains it."""
PUT_TIMES: Final = 2
_SHARED_LABEL: Final = re.compile(r"[^A-Za-z0-9_.-]")

_T = TypeVar("_T")


class DeadlinePassed(VipError):
    """The lease's deadline passed before or while the VIPs were bound; they are not bound now."""


class TooLittleLeft(VipError):
    """The deadline is so near that the kernel's shortest lifetime would outlast it, and the slack."""


@dataclass(frozen=True, slots=True)
class VipFact:
    """What the kernel says of one VIP. `fault` names what keeps it from working, empty if nothing does."""

    ip: IPAddress
    present: bool
    valid_s: int
    fault: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What was found at start: our leftovers, now removed, and configured VIPs that someone else put up."""

    removed: tuple[Address, ...]
    foreign: tuple[Address, ...]


def label_for(interface: str, lease: str) -> str:
    """`<interface>:<lease>`, the address label that `ifconfig` shows: 15 characters are all the kernel takes.

    Past that the lease's name is cut and ends in a hash of itself, so that two long names stay apart.
    """
    clean = _SHARED_LABEL.sub("_", lease)
    room = LABEL_MAX - len(interface.encode()) - 1
    if len(clean) <= room and clean == lease:
        return f"{interface}:{clean}"
    if room < 1:
        return interface[:LABEL_MAX]
    digest = hashlib.blake2s(lease.encode(), digest_size=4).hexdigest()[: min(4, room)]
    return f"{interface}:{clean[: room - len(digest)]}{digest}"


def lifetime_s(remaining_ms: int, slack_ms: int = SLACK_MS) -> int:
    """Whole seconds of `valid_lft` for a deadline that is `remaining_ms` away: at least 1, and (but for that
    minimum) never more than `slack_ms` past the deadline. The kernel adds up to `KERNEL_LATENESS_MS`.
    """
    return max(1, (remaining_ms + slack_ms) // 1000)


def cluster_tag(cluster: str) -> int:
    """A number for the cluster, 1 to 2**31 - 1, worn by its addresses as their metric."""
    return int.from_bytes(hashlib.blake2s(cluster.encode(), digest_size=4).digest(), "big") % 0x7FFFFFFF + 1


def fault_of(address: Address) -> str:
    """Why this address does not work although it is there; empty if it does."""
    if address.flags & IFA_F_DADFAILED:
        return f"{address.ip} is in use by another machine (duplicate address detection failed)"
    if address.flags & IFA_F_TENTATIVE:
        return f"{address.ip} is still tentative, the kernel does not answer for it"
    return ""


class VipBinder:
    """Binds and unbinds the VIPs of leases on one interface of the network namespace in which it was made.

    `cluster` names whose addresses these are; `warn` is told, in the event loop, what an operator should know;
    `now` is the clock, read in the binder's thread. No lifetime is begun that would reach further than
    `most_past_ms` past the deadline (None: `slack_ms`; more where the margin is made for more). Calls are
    carried out one after the other in that one thread, in the order in which they were made, so that a stalled
    kernel never stalls the agent; after `timeout_s` without an answer they raise `VipError` (unknown).
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
        self._tag = cluster_tag(cluster)
        self._warn = warn
        self._slack_ms = slack_ms
        self._most_past_ms = slack_ms if most_past_ms is None else most_past_ms
        self._now = now
        self._timeout_s = timeout_s
        self._said: list[str] = []
        self._bound: dict[str, tuple[IPAddress, ...]] = {}
        self._renewals: dict[str, Instant] = {}
        self._flushing: asyncio.Task[dict[str, VipError]] | None = None
        self._flush_next: asyncio.Task[dict[str, VipError]] | None = None
        # Made here and not in the thread: a socket belongs to the namespace of whoever makes it.
        self._kernel = AddressSocket(timeout_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"vip-{interface}")

    def adopt(self, lease: str, vips: Sequence[IPAddress]) -> None:
        """These are bound already, by this process before it was replaced in place."""
        self._bound[lease] = tuple(vips)

    async def bind(self, lease: str, vips: Sequence[IPAddress], deadline: Instant) -> None:
        """Put the VIPs on the interface until `deadline`; they are there and work when this returns.

        What is there already is refreshed. Raises `DeadlinePassed`, `TooLittleLeft`, or `VipError` when any
        VIP could not be bound (the others are then taken off again, as far as that can be done).
        """
        self._bound[lease] = tuple(vips)
        try:
            await self._call(lambda: self._bind(lease, vips, deadline))
        except VipError:
            self._bound.pop(lease, None)
            raise

    async def renew(self, lease: str, deadline: Instant) -> None:
        """Let the VIPs of a bound lease live until `deadline`, which may be earlier than the last one.

        They are never absent meanwhile; one that was removed by hand is put back. Renewals of several leases
        that are asked for together, or while the kernel is busy, reach it together. A lease that is not bound
        (any more) is left alone; and so is one with too little left for a lifetime, which the lifetime that it
        has ends in time. Raises `DeadlinePassed` (the VIPs are removed) or `VipError`.
        """
        self._renewals[lease] = deadline
        if self._flush_next is None:
            self._flush_next = asyncio.create_task(self._renew_all(self._flushing))
        errors = await asyncio.shield(self._flush_next)
        if lease in errors:
            raise errors[lease]

    async def unbind(self, lease: str, vips: Sequence[IPAddress]) -> None:
        """Take the VIPs off; when this returns they were read back and are on no interface any more.

        Raises `VipError` when that is not proven: one of them may still be answered for.
        """
        self._bound.pop(lease, None)
        self._renewals.pop(lease, None)
        await self._call(lambda: self._unbind(vips))

    async def present(self, lease: str) -> tuple[VipFact, ...]:
        """What the kernel says of each VIP that `bind` was asked for. Raises `VipError`."""
        vips = self._bound.get(lease, ())
        return await self._call(lambda: self._facts(vips))

    async def missing(self) -> dict[str, tuple[IPAddress, ...]]:
        """For each bound lease the VIPs that are not there, or do not work: someone else was at it.

        Only leases that miss some. To be asked when the kernel tells of a removed address, and now and then.
        Raises `VipError`.
        """
        bound = dict(self._bound)
        facts = await self._call(lambda: {lease: self._facts(vips) for lease, vips in bound.items()})
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
        return await self._call(lambda: self._sweep(vips, kept))

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
            said, self._said = self._said, []
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

    # What follows runs in the thread.

    def _bind(self, lease: str, vips: Sequence[IPAddress], deadline: Instant) -> None:
        index = self._index()
        wanted = [self._wanted(lease, ip, index) for ip in vips]
        self._clear_the_way(wanted, index)
        try:
            self._put(wanted, deadline)
            self._check(vips)
        except VipError:
            self._kernel.delete(wanted)
            raise

    def _clear_the_way(self, wanted: Sequence[Address], index: int) -> None:
        """Remove what a refresh would not mend; refuse, with nothing changed, what is not ours to remove."""
        places = {one.ip for one in wanted}
        there = [one for one in self._kernel.addresses() if one.ip in places]
        for one in there:
            if not self._is_ours(one) and not (one.whole and one.index == index):
                # It would be answered for after we let go too; and on a network's mask other addresses hang.
                raise VipError(
                    f"{one.ip}/{one.prefix_length} is on {_name(one.index)}, not put there by leaseha: "
                    f"a VIP belongs to leaseha alone, remove it from the network configuration"
                )
        for one in there:
            if not self._is_ours(one):
                self._said.append(
                    f"{one.ip} was on {self.interface} already, not put there by leaseha: taken over"
                )
        # Of an address that is there the kernel would keep scope, flags and label as its first owner chose.
        self._kernel.delete([one for one in there if not any(_same_kind(one, want) for want in wanted)])

    def _renew(self, due: Mapping[str, Instant]) -> dict[str, VipError]:
        errors: dict[str, VipError] = {}
        index = self._index()
        # Leases with one deadline, as all leases of a node's session have, go to the kernel together.
        groups: dict[Instant, list[str]] = {}
        for lease, deadline in due.items():
            if lease in self._bound:
                groups.setdefault(deadline, []).append(lease)
        for deadline, leases in groups.items():
            wanted = [self._wanted(lease, ip, index) for lease in leases for ip in self._bound.get(lease, ())]
            try:
                self._put(wanted, deadline)
            except TooLittleLeft:
                continue
            except DeadlinePassed as passed:
                self._kernel.delete(wanted)
                errors.update(dict.fromkeys(leases, passed))
            except VipError as error:
                errors.update(dict.fromkeys(leases, error))
        return errors

    def _put(self, wanted: Sequence[Address], deadline: Instant) -> None:
        """The clock is read here, last: whoever asked may have waited for this thread, or been frozen."""
        for _ in range(PUT_TIMES):
            left_ms = self._left_ms(deadline)
            valid_s = lifetime_s(left_ms, self._slack_ms)
            if self._outlasts(valid_s, left_ms):
                raise TooLittleLeft(f"{left_ms} ms to the deadline are too little for an address lifetime")
            codes = self._kernel.replace([_living(one, valid_s) for one in wanted])
            # A lifetime is relative: had this process been frozen since the clock was read, it would begin now.
            if not self._outlasts(valid_s, self._left_ms(deadline) + PUTTING_MS):
                break
        else:
            raise DeadlinePassed(
                f"{self.interface}: held up each time that an address lifetime was to be set"
            )
        for one, code in zip(wanted, codes, strict=True):
            if code:
                raise VipError(f"cannot bind {one.ip} on {self.interface}: {_explain(code, one)}")

    def _left_ms(self, deadline: Instant) -> int:
        left_ms = deadline.left_ns(self._now()) // NS_PER_MS
        if left_ms <= 0:
            raise DeadlinePassed(f"the deadline passed {-left_ms} ms ago, {self.interface} gets no VIP")
        return left_ms

    def _outlasts(self, valid_s: int, left_ms: int) -> bool:
        return valid_s * 1000 > left_ms + self._most_past_ms

    def _check(self, vips: Sequence[IPAddress]) -> None:
        for fact in self._facts(vips):
            if not fact.present:
                raise VipError(f"{fact.ip} was bound on {self.interface} and is not there")
            if fact.fault:
                raise VipError(fact.fault)

    def _unbind(self, vips: Sequence[IPAddress]) -> None:
        places = frozenset(vips)
        found = [one for one in self._kernel.addresses() if one.ip in places]
        gone = [
            one for one in found if self._is_ours(one) or (one.whole and _name(one.index) == self.interface)
        ]
        for one in gone:
            if not self._is_ours(one):
                self._said.append(f"{one.ip} on {self.interface} was not put there by leaseha: removed")
        for one, code in zip(gone, self._kernel.delete(gone), strict=True):
            # Gone already: its lifetime ended at this very moment, or someone else was quicker.
            if code not in {0, errno.EADDRNOTAVAIL, errno.ENODEV}:
                raise VipError(f"cannot take {one.ip} off {_name(one.index)}: {_explain(code, one)}")
        for one in self._kernel.addresses():
            if one.ip in places:
                raise VipError(
                    f"{one.ip}/{one.prefix_length} is still on {_name(one.index)}, not put there by leaseha: "
                    f"remove it from the network configuration"
                )

    def _facts(self, vips: Sequence[IPAddress]) -> tuple[VipFact, ...]:
        index = self._index()
        there = {one.ip: one for one in self._kernel.addresses() if one.index == index and one.whole}
        return tuple(
            VipFact(ip, present=True, valid_s=there[ip].valid_s, fault=fault_of(there[ip]))
            if ip in there
            else VipFact(ip, present=False, valid_s=0, fault="")
            for ip in vips
        )

    def _sweep(self, configured: frozenset[IPAddress], kept: frozenset[IPAddress]) -> Swept:
        found = [one for one in self._kernel.addresses() if one.ip not in kept]
        ours = tuple(
            one
            for one in found
            if self._is_ours(one) or (one.proto == IFA_PROTO_LEASEHA and one.ip in configured)
        )
        self._kernel.delete(ours)
        after = self._kernel.addresses()
        for one in ours:
            if any(left.ip == one.ip and left.index == one.index for left in after):
                raise VipError(f"cannot remove the leftover {one.ip} from {_name(one.index)}")
        foreign = tuple(one for one in after if one.ip in configured and one.ip not in kept)
        return Swept(removed=ours, foreign=foreign)

    def _is_ours(self, one: Address) -> bool:
        return one.priority == self._tag and one.proto in {IFA_PROTO_LEASEHA, 0}

    def _wanted(self, lease: str, ip: IPAddress, index: int) -> Address:
        if ip.version == 4:
            scope, flags, label = SCOPE_HOST, IFA_F_NOPREFIXROUTE, label_for(self.interface, lease)
        else:
            scope, flags, label = SCOPE_GLOBAL, IFA_F_NOPREFIXROUTE | IFA_F_NODAD, ""
        return Address(ip, ip.max_prefixlen, index, scope, flags, label, IFA_PROTO_LEASEHA, self._tag)

    def _index(self) -> int:
        try:
            return socket.if_nametoindex(self.interface)
        except OSError as error:
            raise VipError(f"interface {self.interface} does not exist: {error.strerror}") from error


def _living(one: Address, valid_s: int) -> Address:
    # IPv4 would ignore preferred 0 as a protection, and `ip addr` would call it deprecated for nothing.
    return replace(one, valid_s=valid_s, preferred_s=valid_s if one.ip.version == 4 else 0)


def _same_kind(there: Address, wanted: Address) -> bool:
    """What a refresh would not change is right already."""
    return (
        there.ip == wanted.ip
        and there.index == wanted.index
        and there.scope == wanted.scope
        and there.label == wanted.label
        and there.flags & IFA_F_NOPREFIXROUTE != 0
        and not fault_of(there)
    )


def _explain(code: int, one: Address) -> str:
    if code in {errno.EPERM, errno.EACCES} and one.ip.version == 6:
        return f"{os.strerror(code)} (needs CAP_NET_ADMIN, and IPv6 switched on: sysctl disable_ipv6 = 0)"
    if code == errno.EPERM:
        return f"{os.strerror(code)} (needs CAP_NET_ADMIN)"
    return os.strerror(code)


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _forget(done: asyncio.Future[_T]) -> None:
    """The caller was told "unknown" already; a late error must not be reported as never retrieved."""
    if not done.cancelled():
        done.exception()
