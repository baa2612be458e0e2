"""Addresses of leases on one interface, as the kernel has them: put, refreshed, taken off, looked at; many at once.

What it does not do: wait, or know a loop. It is used by one thread, that of `leaseha.adapters.vip`, which says what
all of this is for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

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
PUT_TIMES: Final = 3
PUT_MOST: Final = 32
"""Leases from one reading of the clock to the next: their addresses take 1 ms, and 10 on a machine that is too busy."""
_SHARED_LABEL: Final = re.compile(r"[^A-Za-z0-9_.-]")


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """VIPs of one lease, up to a deadline."""

    vips: tuple[IPAddress, ...]
    deadline: Instant


class VipKernel:
    """The addresses of one interface, in the network namespace of the thread that makes it. See `VipBinder`.

    What fails for one lease is its answer, and stops no other.
    """

    def __init__(
        self,
        interface: str,
        cluster: str,
        now: Callable[[], Instant],
        slack_ms: int,
        most_past_ms: int,
        timeout_s: float,
    ) -> None:
        self.interface = interface
        self.said: list[str] = []
        """What an operator should know."""
        self._tag = cluster_tag(cluster)
        self._now = now
        self._slack_ms = slack_ms
        self._most_past_ms = most_past_ms
        self._socket = AddressSocket(timeout_s)

    def close(self) -> None:
        """End the socket."""
        self._socket.close()

    def bind(self, wanted: Mapping[str, Wanted]) -> dict[str, VipError | None]:
        """See `VipBinder.bind`; by lease. Raises `VipError` when there is no interface."""
        index = self._index()
        answers: dict[str, VipError | None] = dict.fromkeys(wanted)
        places = {lease: self._places(lease, one.vips, index) for lease, one in wanted.items()}
        there = self._there(ip for one in wanted.values() for ip in one.vips)
        stale: list[Address] = []
        for lease, addresses in places.items():
            try:
                stale += self._in_the_way(addresses, there, index)
            except VipError as error:
                answers[lease] = error
        self._socket.delete(stale)
        clear = [lease for lease in wanted if answers[lease] is None]
        answers |= self._put_groups({one: (wanted[one].deadline, places[one]) for one in clear})
        there = self._there(ip for one in clear for ip in wanted[one].vips)
        for lease in clear:
            answers[lease] = answers[lease] or self._lacks(wanted[lease].vips, there, index)
        self._socket.delete([one for lease in clear if answers[lease] for one in places[lease]])
        return answers

    def renew(self, wanted: Mapping[str, Wanted]) -> dict[str, VipError]:
        """See `VipBinder.renew`; what failed, by lease. Raises `VipError` when there is no interface."""
        index = self._index()
        places = {
            lease: (one.deadline, self._places(lease, one.vips, index)) for lease, one in wanted.items()
        }
        failed = {lease: error for lease, error in self._put_groups(places).items() if error is not None}
        late = [lease for lease, error in failed.items() if isinstance(error, DeadlinePassed)]
        self._socket.delete([one for lease in late for one in places[lease][1]])
        return {lease: error for lease, error in failed.items() if not isinstance(error, TooLittleLeft)}

    def unbind(self, wanted: Mapping[str, Sequence[IPAddress]]) -> dict[str, VipError | None]:
        """See `VipBinder.unbind`; by lease."""
        there = self._there(ip for vips in wanted.values() for ip in vips)
        gone = [
            one
            for ones in there.values()
            for one in ones
            if self._is_ours(one) or (one.whole and _name(one.index) == self.interface)
        ]
        for one in gone:
            if not self._is_ours(one):
                self.said.append(f"{one.ip} on {self.interface} was not put there by leaseha: removed")
        refused = {
            one.ip: f"cannot take {one.ip} off {_name(one.index)}: {_explain(code, one)}"
            for one, code in zip(gone, self._socket.delete(gone), strict=True)
            # Gone already: its lifetime ended at this very moment, or someone else was quicker.
            if code not in {0, errno.EADDRNOTAVAIL, errno.ENODEV}
        }
        left = {
            ip: f"{ip}/{ones[0].prefix_length} is still on {_name(ones[0].index)}, not put there by leaseha: "
            f"remove it from the network configuration"
            for ip, ones in self._there(ip for vips in wanted.values() for ip in vips).items()
        }
        troubles = left | refused
        return {
            lease: next((VipError(troubles[ip]) for ip in vips if ip in troubles), None)
            for lease, vips in wanted.items()
        }

    def facts(self, wanted: Mapping[str, Sequence[IPAddress]]) -> dict[str, tuple[VipFact, ...]]:
        """What there is of the VIPs of each lease. Raises `VipError` when there is no interface."""
        index = self._index()
        there = self._there(ip for vips in wanted.values() for ip in vips)
        return {lease: self._facts(vips, there, index) for lease, vips in wanted.items()}

    def sweep(self, configured: frozenset[IPAddress], kept: frozenset[IPAddress]) -> Swept:
        """See `VipBinder.sweep_leftovers`. Raises `VipError`."""
        found = [one for one in self._socket.addresses() if one.ip not in kept]
        ours = tuple(
            one
            for one in found
            if self._is_ours(one) or (one.proto == IFA_PROTO_LEASEHA and one.ip in configured)
        )
        self._socket.delete(ours)
        after = self._socket.addresses()
        left = {(one.ip, one.index) for one in after}
        for one in ours:
            if (one.ip, one.index) in left:
                raise VipError(f"cannot remove the leftover {one.ip} from {_name(one.index)}")
        foreign = tuple(one for one in after if one.ip in configured and one.ip not in kept)
        return Swept(removed=ours, foreign=foreign)

    def _there(self, vips: Iterable[IPAddress]) -> dict[IPAddress, list[Address]]:
        """Where these VIPs are, on any interface, in any form."""
        places = frozenset(ip.packed for ip in vips)
        found: dict[IPAddress, list[Address]] = {}
        for one in self._socket.addresses(places) if places else ():
            found.setdefault(one.ip, []).append(one)
        return found

    def _in_the_way(
        self, wanted: Sequence[Address], there: Mapping[IPAddress, Sequence[Address]], index: int
    ) -> list[Address]:
        """What a refresh would not mend; refuses what is not ours to remove."""
        stale: list[Address] = []
        taken: list[str] = []
        for want in wanted:
            for one in there.get(want.ip, ()):
                if not self._is_ours(one) and not (one.whole and one.index == index):
                    # It would be answered for after we let go too; and on a network's mask other addresses hang.
                    raise VipError(
                        f"{one.ip}/{one.prefix_length} is on {_name(one.index)}, not put there by leaseha: "
                        f"a VIP belongs to leaseha alone, remove it from the network configuration"
                    )
                if not self._is_ours(one):
                    taken.append(
                        f"{one.ip} was on {self.interface} already, not put there by leaseha: taken over"
                    )
                # Of an address that is there the kernel would keep scope, flags and label as its first owner chose.
                if not _same_kind(one, want):
                    stale.append(one)
        self.said += taken
        return stale

    def _put_groups(
        self, wanted: Mapping[str, tuple[Instant, Sequence[Address]]]
    ) -> dict[str, VipError | None]:
        """Leases with one deadline, as all leases of a node's session have, go to the kernel together."""
        answers: dict[str, VipError | None] = dict.fromkeys(wanted)
        groups: dict[Instant, list[str]] = {}
        for lease, (deadline, _) in wanted.items():
            groups.setdefault(deadline, []).append(lease)
        for deadline, group in groups.items():
            for at in range(0, len(group), PUT_MOST):
                leases = group[at : at + PUT_MOST]
                answers.update(self._put_some({lease: wanted[lease][1] for lease in leases}, deadline))
        return answers

    def _put_some(
        self, wanted: Mapping[str, Sequence[Address]], deadline: Instant
    ) -> dict[str, VipError | None]:
        answers: dict[str, VipError | None] = dict.fromkeys(wanted)
        addresses = [one for ones in wanted.values() for one in ones]
        try:
            codes = self._put(addresses, deadline)
        except VipError as error:
            return dict.fromkeys(wanted, error)
        refused = {one.ip: (code, one) for one, code in zip(addresses, codes, strict=True) if code}
        for lease, ones in wanted.items() if refused else ():
            if bad := next((refused[one.ip] for one in ones if one.ip in refused), None):
                why = f"cannot bind {bad[1].ip} on {self.interface}: {_explain(*bad)}"
                answers[lease] = VipError(why)
        return answers

    def _put(self, wanted: Sequence[Address], deadline: Instant) -> tuple[int, ...]:
        """The errno of each. The clock is read here, last: whoever asked may have waited for this thread."""
        for _ in range(PUT_TIMES):
            left_ms = self._left_ms(deadline)
            valid_s = lifetime_s(left_ms, self._slack_ms)
            if self._outlasts(valid_s, left_ms):
                raise TooLittleLeft(f"{left_ms} ms to the deadline are too little for an address lifetime")
            codes = self._socket.replace([_living(one, valid_s) for one in wanted])
            # A lifetime is relative: had this process been frozen since the clock was read, it would begin now.
            if not self._outlasts(valid_s, self._left_ms(deadline) + PUTTING_MS):
                return codes
        raise DeadlinePassed(f"{self.interface}: held up each time that an address lifetime was to be set")

    def _left_ms(self, deadline: Instant) -> int:
        left_ms = deadline.left_ns(self._now()) // NS_PER_MS
        if left_ms <= 0:
            raise DeadlinePassed(f"the deadline passed {-left_ms} ms ago, {self.interface} gets no VIP")
        return left_ms

    def _outlasts(self, valid_s: int, left_ms: int) -> bool:
        return valid_s * 1000 > left_ms + self._most_past_ms

    def _lacks(
        self, vips: Sequence[IPAddress], there: Mapping[IPAddress, Sequence[Address]], index: int
    ) -> VipError | None:
        for fact in self._facts(vips, there, index):
            if not fact.present:
                return VipError(f"{fact.ip} was bound on {self.interface} and is not there")
            if fact.fault:
                return VipError(fact.fault)
        return None

    def _facts(
        self, vips: Sequence[IPAddress], there: Mapping[IPAddress, Sequence[Address]], index: int
    ) -> tuple[VipFact, ...]:
        found = []
        for ip in vips:
            one = next((one for one in there.get(ip, ()) if one.index == index and one.whole), None)
            found.append(
                VipFact(ip, present=False, valid_s=0, fault="")
                if one is None
                else VipFact(ip, present=True, valid_s=one.valid_s, fault=fault_of(one))
            )
        return tuple(found)

    def _is_ours(self, one: Address) -> bool:
        return one.priority == self._tag and one.proto in {IFA_PROTO_LEASEHA, 0}

    def _places(self, lease: str, vips: Iterable[IPAddress], index: int) -> list[Address]:
        label = label_for(self.interface, lease)
        made = []
        for ip in vips:
            if ip.version == 4:
                scope, flags, worn = SCOPE_HOST, IFA_F_NOPREFIXROUTE, label
            else:
                scope, flags, worn = SCOPE_GLOBAL, IFA_F_NOPREFIXROUTE | IFA_F_NODAD, ""
            length = ip.max_prefixlen
            made.append(Address(ip, length, index, scope, flags, worn, IFA_PROTO_LEASEHA, self._tag))
        return made

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
