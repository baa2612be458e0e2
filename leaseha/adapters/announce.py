"""Announcements: gratuitous ARP and unsolicited neighbour advertisements, so that neighbours learn our MAC.

What it does not promise: that a neighbour believes them (some drop gratuitous ARP), nor that one arrives: so
they are repeated, and neighbours asked (leaseha.runtime.proving). What it does: no frame is handed to the kernel
without the deadline checked immediately before it. A holder that was frozen in the middle of a burst and wakes must
not take the VIP back from its successor's neighbours. Between that check and the system call lie microseconds, for
which there is the fence.

Layouts: RFC 826, RFC 5227 section 3 (ARP announcement), RFC 4861 sections 4.4 and 7.2.6.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leaseha.adapters import clock
from leaseha.adapters.rtnl import IPAddress
from leaseha.core.values import Instant
from leaseha.errors import AnnounceError

ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2
IPPROTO_ICMPV6: Final = 58
NEIGHBOUR_SOLICITATION: Final = 135
NEIGHBOUR_ADVERTISEMENT: Final = 136
SOURCE_LINK_LAYER_ADDRESS: Final = 1
TARGET_LINK_LAYER_ADDRESS: Final = 2
_OVERRIDE: Final = 0x20000000
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
_SOLICITED_NODES: Final = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13]
_BROADCAST: Final = b"\xff" * 6
_ARP_HEAD: Final = struct.pack("!HHBB", 1, 0x0800, 6, 4)
_YIELD_EVERY: Final = 32
"""Frames after which other tasks of the loop get their turn."""
_GONE: Final = frozenset({errno.ENXIO, errno.ENODEV, errno.EBADF})


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the frames: handed to the kernel, refused by it (`why` says how), or held back as too late."""

    frames: int = 0
    refused: int = 0
    late: int = 0
    why: str = ""

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.frames + other.frames,
            self.refused + other.refused,
            self.late + other.late,
            other.why or self.why,
        )


def gratuitous_arp(mac: bytes, ip: ipaddress.IPv4Address, operation: int = ARP_REQUEST) -> bytes:
    """An Ethernet frame to everyone that says "`ip` is at `mac`": as a request (RFC 5227), or as a reply.

    Sender and target address are both `ip`. Caches are refreshed by either form; some devices obey but one.
    """
    target_mac = bytes(6) if operation == ARP_REQUEST else mac
    body = _ARP_HEAD + struct.pack("!H", operation) + mac + ip.packed + target_mac + ip.packed
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + body


def unsolicited_na(mac: bytes, ip: ipaddress.IPv6Address) -> bytes:
    """An Ethernet frame to all nodes (ff02::1) that says "`ip` is at `mac`", with the override flag."""
    body = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + ip.packed
    return _to_group(mac, ip, _ALL_NODES, body + struct.pack("!BB", TARGET_LINK_LAYER_ADDRESS, 1) + mac)


def arp_question(mac: bytes, ip: ipaddress.IPv4Address, witness: ipaddress.IPv4Address) -> bytes:
    """An Ethernet frame to everyone that asks `witness` for its hardware address, in the name of `ip` at `mac`.

    Whoever is asked takes down where `ip` is before it answers, and answers to `mac` alone (RFC 826).
    """
    body = _ARP_HEAD + struct.pack("!H", ARP_REQUEST) + mac + ip.packed + bytes(6) + witness.packed
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + body


def nd_question(mac: bytes, ip: ipaddress.IPv6Address, witness: ipaddress.IPv6Address) -> bytes:
    """The same as a neighbour solicitation, to the group that `witness` must be in (RFC 4861 section 7.2.2)."""
    group = ipaddress.IPv6Address(_SOLICITED_NODES + witness.packed[-3:])
    body = struct.pack("!BBHI", NEIGHBOUR_SOLICITATION, 0, 0, 0) + witness.packed
    return _to_group(mac, ip, group, body + struct.pack("!BB", SOURCE_LINK_LAYER_ADDRESS, 1) + mac)


def _to_group(mac: bytes, ip: ipaddress.IPv6Address, group: ipaddress.IPv6Address, body: bytes) -> bytes:
    """An Ethernet frame from `ip` to a multicast group, with an ICMPv6 `body` whose checksum is 0."""
    body = body[:2] + struct.pack("!H", icmpv6_checksum(ip, group, body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), IPPROTO_ICMPV6, 255) + ip.packed + group.packed
    # RFC 2464 section 7: 33:33 and the last four bytes of the group.
    return b"\x33\x33" + group.packed[-4:] + mac + struct.pack("!H", ETH_P_IPV6) + header + body


def icmpv6_checksum(source: ipaddress.IPv6Address, target: ipaddress.IPv6Address, body: bytes) -> int:
    """The checksum of an ICMPv6 `body` whose own checksum field is 0 (RFC 4443 section 2.3)."""
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), IPPROTO_ICMPV6)
    return internet_checksum(pseudo + body)


def internet_checksum(data: bytes) -> int:
    """RFC 1071: the one's complement of the one's complement sum of 16-bit words."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frames_for(mac: bytes, ip: IPAddress) -> tuple[bytes, ...]:
    """All frames of one announcement of one VIP."""
    if isinstance(ip, ipaddress.IPv4Address):
        return gratuitous_arp(mac, ip), gratuitous_arp(mac, ip, ARP_REPLY)
    return (unsolicited_na(mac, ip),)


def question(mac: bytes, ip: IPAddress, witness: IPAddress) -> bytes:
    """A frame that asks `witness`, of the same IP version, in the name of `ip`."""
    if isinstance(ip, ipaddress.IPv4Address) and isinstance(witness, ipaddress.IPv4Address):
        return arp_question(mac, ip, witness)
    if isinstance(ip, ipaddress.IPv6Address) and isinstance(witness, ipaddress.IPv6Address):
        return nd_question(mac, ip, witness)
    raise ValueError(f"{witness} cannot be asked for {ip}")


class Announcer:
    """Sends announcements on one Ethernet interface of the network namespace in which it is first used.

    `now` is the clock, read once before each frame.
    """

    def __init__(self, interface: str, *, now: Callable[[], Instant] = clock.now) -> None:
        self.interface = interface
        self._now = now
        self._socket: socket.socket | None = None

    async def burst(self, vips: Sequence[IPAddress], deadline: Callable[[], Instant | None]) -> Sent:
        """One announcement of each VIP, now; may be cancelled at any time.

        `deadline` is asked anew before each frame, since it moves with each renewal: None means that the lease is
        not held any more. The first frame that would be too late ends it. Raises `AnnounceError` when nothing
        at all could be sent.
        """
        mac = self._mac()
        return await self._send_all([frame for ip in vips for frame in frames_for(mac, ip)], deadline)

    async def ask(
        self, asked: Sequence[tuple[IPAddress, IPAddress]], deadline: Callable[[], Instant | None]
    ) -> Sent:
        """In the name of each VIP, ask a witness for its address, now: (VIP, witness). The rest as for `burst`."""
        mac = self._mac()
        return await self._send_all([question(mac, ip, witness) for ip, witness in asked], deadline)

    async def _send_all(self, frames: Sequence[bytes], deadline: Callable[[], Instant | None]) -> Sent:
        """The one way to the wire: no frame leaves without a look at the clock before it."""
        total = Sent()
        for number, frame in enumerate(frames, 1):
            until = deadline()
            # Nothing may come between this reading of the clock and the sending.
            if until is None or until.deadline_passed(self._now()):
                total += Sent(late=len(frames) - number + 1)
                break
            total += self._send(frame)
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if total.refused and not total.frames:
            raise AnnounceError(f"no announcement could be sent on {self.interface}: {total.why}")
        return total

    def close(self) -> None:
        """End the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, frame: bytes) -> Sent:
        if self._socket is None:
            return Sent(refused=1, why="closed")
        try:
            self._socket.send(frame)
        except OSError as error:
            # Also what a fence in the kernel answers (ENOBUFS), and a cable that is out (ENETDOWN).
            return Sent(refused=1, why=os.strerror(error.errno or 0))
        return Sent(frames=1)

    def _mac(self) -> bytes:
        """Asked each time: a bond or an administrator may have changed it."""
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = self._open()
                _, _, _, _, mac = self._socket.getsockname()
            except OSError as error:
                self.close()
                if error.errno not in _GONE:
                    raise AnnounceError(
                        f"cannot announce on {self.interface}: {self._explain(error)}"
                    ) from error
                continue
            if len(mac) == 6:
                return bytes(mac)
            # The interface was removed and made again under the same name: this socket is bound to the old one.
            self.close()
        raise AnnounceError(
            f"cannot announce on {self.interface}: it is gone, or it is no Ethernet interface"
        )

    def _open(self) -> socket.socket:
        # Protocol 0: it sends only; anything else would queue up every frame of the network here.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            made.setblocking(False)
            made.bind((self.interface, 0))
        except OSError:
            made.close()
            raise
        return made

    @staticmethod
    def _explain(error: OSError) -> str:
        if error.errno in {errno.EPERM, errno.EACCES}:
            return f"{os.strerror(error.errno)} (needs CAP_NET_RAW)"
        return os.strerror(error.errno or 0)
