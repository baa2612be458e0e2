"""Hears what neighbours answer to questions that were asked in the name of a VIP (`Announcer.ask`).

Such an answer is sent to one hardware address alone. That it comes here says two things: who answers has taken down
that the VIP is at this address (RFC 826: before it answers; with IPv6 it looks the VIP up in its cache to answer at
all), and every switch in between forwards the address to here.

What it does not say: that others on the network believe it too, nor that it stays so.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from leaseha.adapters.announce import (
    ARP_REPLY,
    ETH_P_ARP,
    ETH_P_IPV6,
    IPPROTO_ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
)
from leaseha.adapters.ear import Ear, byte_is, half_is, passed
from leaseha.adapters.rtnl import IPAddress
from leaseha.errors import AnnounceError

Answer = tuple[IPAddress, IPAddress]
"""The VIP, and the witness: who answered."""
_ETHERNET, _IPV6_HEADER = 14, 40
_ICMP: Final = _ETHERNET + _IPV6_HEADER


def arp_answer(frame: bytes) -> Answer | None:
    """What an ARP reply to this machine answers; None for anything else."""
    if len(frame) < _ETHERNET + 28 or frame[14:22] != struct.pack("!HHBBH", 1, 0x0800, 6, 4, ARP_REPLY):
        return None
    vip, witness = ipaddress.IPv4Address(frame[38:42]), ipaddress.IPv4Address(frame[28:32])
    return None if frame[32:38] != frame[:6] or vip == witness else (vip, witness)


def na_answer(frame: bytes) -> Answer | None:
    """The same of a neighbour advertisement."""
    # Hop limit 255: it cannot have come from another network (RFC 4861 section 7.1.2).
    if len(frame) < _ICMP + 24 or frame[20] != IPPROTO_ICMPV6 or frame[21] != 255:
        return None
    vip = ipaddress.IPv6Address(frame[38:54])
    if frame[_ICMP] != NEIGHBOUR_ADVERTISEMENT or vip.is_multicast:
        return None
    return vip, ipaddress.IPv6Address(frame[_ICMP + 8 : _ICMP + 24])


class Answers:
    """Listens on one interface until closed; `on_answer(vip, witness)` is called in the event loop.

    Answers to questions of others on this machine are told too. Raises `AnnounceError`.
    """

    def __init__(self, interface: str, on_answer: Callable[[IPAddress, IPAddress], None]) -> None:
        self._on_answer = on_answer
        self._ears: list[Ear] = []
        replies = half_is(20, ARP_REPLY) + passed()
        advertisements = byte_is(20, IPPROTO_ICMPV6) + byte_is(_ICMP, NEIGHBOUR_ADVERTISEMENT) + passed()
        try:
            self._ears.append(Ear(interface, ETH_P_ARP, replies, self._to(arp_answer)))
            self._ears.append(Ear(interface, ETH_P_IPV6, advertisements, self._to(na_answer)))
        except OSError as error:
            self.close()
            raise AnnounceError(f"cannot listen for answers on {interface}: {error.strerror}") from error

    def close(self) -> None:
        """Listen no more."""
        for ear in self._ears:
            ear.close()

    def _to(self, parse: Callable[[bytes], Answer | None]) -> Callable[[bytes, bool], None]:
        def heard(frame: bytes, to_us: bool) -> None:
            if to_us and (answer := parse(frame)) is not None:
                self._on_answer(*answer)

        return heard
