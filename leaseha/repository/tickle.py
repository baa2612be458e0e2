"""Tickle ACKs: a client that only waits for its answer learns at once that the server has moved.

A client whose request is complete sends nothing more, so it hears nothing of a dead server until its keep-alive does,
half a minute later. The new holder sends it an empty segment of that connection, with a sequence number that cannot be
right. The client's kernel answers with the right ones; here no socket knows the connection; and this kernel's RST ends
it. As CTDB does it. To a client that has moved already, or never was, it says nothing: whoever gets the segment for a
connection that lives answers with an ACK that changes nothing, else with an RST that nobody waits for.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_ACK: Final = 0x10
_WINDOW: Final = 1234
_TTL: Final = 64
_DONT_FRAGMENT: Final = 0x4000
_PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """One connection of a client: addresses as text, without scope."""

    client: str
    client_port: int
    vip: str
    port: int

    @property
    def sound(self) -> bool:
        """Two addresses of one family that belong to machines, two ports."""
        try:
            ends = [ipaddress.ip_address(self.client), ipaddress.ip_address(self.vip)]
        except ValueError:
            return False
        single = not any(one.is_multicast or one.is_unspecified for one in ends)
        ports = all(0 < port <= _PORT_MAX for port in (self.client_port, self.port))
        return single and ports and ends[0].version == ends[1].version


def segment(flow: Flow) -> bytes:
    """The whole packet, from the VIP to the client. Raises ValueError for what is no flow."""
    source, target = ipaddress.ip_address(flow.vip), ipaddress.ip_address(flow.client)
    if source.version != target.version:
        raise ValueError("two families")
    tcp = struct.pack("!HHIIBBHHH", flow.port, flow.client_port, 0, 0, 5 << 4, _ACK, _WINDOW, 0, 0)
    pseudo = source.packed + target.packed + struct.pack("!II", len(tcp), socket.IPPROTO_TCP)
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, _TTL)
    else:
        # The kernel fills in the header's own checksum.
        head = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, _DONT_FRAGMENT, _TTL, socket.IPPROTO_TCP, 0
        )
    return head + source.packed + target.packed + tcp


def checksum(content: bytes) -> int:
    """Of the internet: the complement of the sum of 16-bit words, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send_tickles(flows: Iterable[Flow], allowed: Callable[[], None]) -> int:
    """One segment for each flow; `allowed` is asked before each, and its exception ends it. How many were sent.

    Raises OSError: without CAP_NET_RAW nothing can be sent (PermissionError); a client that cannot be
    reached just now is passed over.
    """
    sent = 0
    sockets: dict[int, socket.socket] = {}
    try:
        for flow in flows:
            family = socket.AF_INET6 if ":" in flow.client else socket.AF_INET
            if family not in sockets:
                sockets[family] = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
                sockets[family].setblocking(False)
            packet = segment(flow)
            allowed()
            try:
                sockets[family].sendto(packet, (flow.client, 0))
                sent += 1
            except PermissionError:
                raise
            except OSError:
                continue
    finally:
        for sock in sockets.values():
            sock.close()
    return sent
