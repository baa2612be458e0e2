"""Hears others claim a VIP that is bound here: ARP of theirs for it, neighbour advertisements for it.

What it does not promise: to hear a claim that is not sent our way (a switch passes on broadcasts, and unicast
only to its receiver). A claim says that a neighbour may now be misled, or that this node is not the holder any more:
which of the two, only the lease says (leaseha.runtime.defending).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from leaseha.adapters import clock
from leaseha.adapters.announce import (
    ETH_P_ARP,
    ETH_P_IPV6,
    IPPROTO_ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    TARGET_LINK_LAYER_ADDRESS,
)
from leaseha.adapters.ear import Ear, byte_is, word_is_one_of
from leaseha.adapters.rtnl import IPAddress
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import AnnounceError

QUIET_NS: Final = NS_PER_S
"""The same claim by the same machine is told once in this time: two that defend must not make a storm."""
_REMEMBERED: Final = 1024
_ETHERNET, _IPV6_HEADER = 14, 40


@dataclass(frozen=True, slots=True)
class Claim:
    """A frame that says "`ip` is at `mac`" (`02:00:...`)."""

    ip: IPAddress
    mac: str


def arp_claim(frame: bytes) -> Claim | None:
    """What an Ethernet frame with ARP in it claims; None for a probe (sender 0.0.0.0) and for anything odd."""
    if len(frame) < _ETHERNET + 28 or frame[14:20] != struct.pack("!HHBB", 1, 0x0800, 6, 4):
        return None
    ip = ipaddress.IPv4Address(frame[28:32])
    return None if ip.is_unspecified else Claim(ip, frame[22:28].hex(":"))


def na_claim(frame: bytes) -> Claim | None:
    """What an Ethernet frame with a neighbour advertisement in it claims; None for anything else."""
    icmp = _ETHERNET + _IPV6_HEADER
    # Hop limit 255: it cannot have come from another network (RFC 4861 section 7.1.2).
    if len(frame) < icmp + 24 or frame[20] != IPPROTO_ICMPV6 or frame[21] != 255:
        return None
    if frame[icmp] != NEIGHBOUR_ADVERTISEMENT:
        return None
    ip = ipaddress.IPv6Address(frame[icmp + 8 : icmp + 24])
    at = icmp + 24
    while at + 8 <= len(frame) and frame[at + 1]:
        if frame[at] == TARGET_LINK_LAYER_ADDRESS:
            return Claim(ip, frame[at + 2 : at + 8].hex(":"))
        at += 8 * frame[at + 1]
    return Claim(ip, frame[6:12].hex(":"))


def arp_filter(vips: Collection[ipaddress.IPv4Address]) -> bytes:
    """Pass ARP whose sender address is one of `vips`."""
    return word_is_one_of(28, [int(ip) for ip in vips])


def na_filter(vips: Collection[ipaddress.IPv6Address]) -> bytes:
    """Pass neighbour advertisements whose target may be one of `vips` (its last 32 bits are)."""
    icmp = _ETHERNET + _IPV6_HEADER
    return (
        byte_is(20, IPPROTO_ICMPV6)
        + byte_is(icmp, NEIGHBOUR_ADVERTISEMENT)
        + word_is_one_of(icmp + 20, sorted({int(ip) & 0xFFFFFFFF for ip in vips}))
    )


class ConflictWatch:
    """Listens on one interface while there are VIPs to listen for, and tells of foreign claims on them.

    `on_claim` is called in the event loop. `is_ours(mac)` may name more hardware addresses of this machine than
    the interface's own: with two interfaces on one network the kernel answers on either.
    """

    def __init__(
        self,
        interface: str,
        on_claim: Callable[[Claim], None],
        *,
        is_ours: Callable[[str], bool] = lambda _: False,
        now: Callable[[], Instant] = clock.now,
    ) -> None:
        self.interface = interface
        self._on_claim = on_claim
        self._is_ours = is_ours
        self._now = now
        self._vips: frozenset[IPAddress] = frozenset()
        self._ears: dict[int, Ear] = {}
        self._told: dict[Claim, Instant] = {}

    def watch(self, vips: Collection[IPAddress]) -> None:
        """From now on listen for claims on exactly these. To be called again after the interface was made anew.

        Raises `AnnounceError` when that is not possible.
        """
        self._vips = frozenset(vips)
        four = [ip for ip in self._vips if isinstance(ip, ipaddress.IPv4Address)]
        six = [ip for ip in self._vips if isinstance(ip, ipaddress.IPv6Address)]
        try:
            self._listen(ETH_P_ARP, arp_filter(four) if four else b"", arp_claim)
            self._listen(ETH_P_IPV6, na_filter(six) if six else b"", na_claim)
        except OSError as error:
            self.close()
            raise AnnounceError(f"cannot listen for claims on {self.interface}: {error.strerror}") from error

    def close(self) -> None:
        """Listen no more."""
        for protocol in tuple(self._ears):
            self._end(protocol)

    def _listen(self, protocol: int, program: bytes, parse: Callable[[bytes], Claim | None]) -> None:
        self._end(protocol)
        if not program:
            return

        def heard(frame: bytes, _: bool) -> None:
            claim = parse(frame)
            if claim is not None and claim.ip in self._vips and not self._is_own(protocol, claim.mac):
                self._tell(claim)

        self._ears[protocol] = Ear(self.interface, protocol, program, heard)

    def _end(self, protocol: int) -> None:
        old = self._ears.pop(protocol, None)
        if old is not None:
            old.close()

    def _is_own(self, protocol: int, mac: str) -> bool:
        return self._ears[protocol].mac.hex(":") == mac or self._is_ours(mac)

    def _tell(self, claim: Claim) -> None:
        now = self._now()
        last = self._told.get(claim)
        if last is not None and not last.plus(QUIET_NS).wait_over(now):
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[claim] = now
        self._on_claim(claim)
