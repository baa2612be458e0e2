"""The few Ethernet frames that the lab's instruments send and understand, packed by hand.

Written apart from the product's own announcements on purpose: who judges them must not share their faults.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
RESPONDER_PORT: Final = 7707
_ARP_HEAD: Final = b"\x00\x01\x08\x00\x06\x04"
_UDP, _ICMPV6 = 17, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_PROBE: Final = struct.Struct("!2sBxI")
_MAGIC: Final = b"lh"
_BROADCAST: Final = b"\xff" * 6


class Advertised(NamedTuple):
    """`mac` says that it has `address`; asked for, or of its own accord."""

    address: Address
    mac: bytes
    unasked: bool


def probe(subject: int, number: int) -> bytes:
    """What a prober asks a responder."""
    return _PROBE.pack(_MAGIC, subject, number)


def parse_probe(data: bytes) -> tuple[int, int, str] | None:
    """(subject, number, name of the answering host) of an answer."""
    if len(data) < _PROBE.size or data[:2] != _MAGIC:
        return None
    _, subject, number = _PROBE.unpack_from(data)
    return subject, number, data[_PROBE.size :].decode(errors="replace")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv6_sum(source: Address, target: Address, kind: int, body: bytes) -> int:
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), kind)
    return checksum(pseudo + body) or 0xFFFF


def _ipv6(source: Address, target: Address, kind: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 0x60000000, len(body), kind, 255) + source.packed + target.packed + body


def arp_request(mac: bytes, sender: ipaddress.IPv4Address, wanted: ipaddress.IPv4Address) -> bytes:
    """Who has `wanted`? To everybody."""
    body = _ARP_HEAD + b"\x00\x01" + mac + sender.packed + bytes(6) + wanted.packed
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + body


def parse_arp(frame: bytes) -> Advertised | None:
    """A reply, or a gratuitous request or reply; None for all others."""
    if len(frame) < 42 or frame[12:20] != struct.pack("!H", ETH_P_ARP) + _ARP_HEAD:
        return None
    operation = frame[21]
    mac, sender, wanted = frame[22:28], frame[28:32], frame[38:42]
    gratuitous = sender == wanted
    if operation != 2 and not gratuitous:
        return None
    return Advertised(ipaddress.IPv4Address(sender), mac, gratuitous)


def neighbour_solicitation(mac: bytes, sender: ipaddress.IPv6Address, wanted: ipaddress.IPv6Address) -> bytes:
    """Who has `wanted`? To its solicited-node group (RFC 4861)."""
    tail = wanted.packed[13:]
    group = ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + tail)
    head = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0)
    body = head + wanted.packed + b"\x01\x01" + mac
    total = _ipv6_sum(sender, group, _ICMPV6, body)
    body = body[:2] + struct.pack("!H", total) + body[4:]
    ethernet = b"\x33\x33\xff" + tail + mac + struct.pack("!H", ETH_P_IPV6)
    return ethernet + _ipv6(sender, group, _ICMPV6, body)


def parse_advertisement(frame: bytes) -> Advertised | None:
    """A neighbour advertisement; None for all other IPv6."""
    if len(frame) < 78 or frame[20] != _ICMPV6 or frame[54] != _ADVERTISEMENT:
        return None
    solicited = bool(frame[58] & 0x40)
    options = frame[78:]
    mac = options[2:8] if options[:2] == b"\x02\x01" else frame[6:12]
    return Advertised(ipaddress.IPv6Address(frame[62:78]), mac, not solicited)


def udp_frame(
    mac: bytes, to_mac: bytes, source: Address, target: Address, ports: tuple[int, int], data: bytes
) -> bytes:
    """A datagram to one machine, whatever address resolution says. `ports` are (source, target)."""
    length = 8 + len(data)
    if target.version == 6:
        udp = struct.pack("!HHHH", *ports, length, 0) + data
        udp = udp[:6] + struct.pack("!H", _ipv6_sum(source, target, _UDP, udp)) + data
        return to_mac + mac + struct.pack("!H", ETH_P_IPV6) + _ipv6(source, target, _UDP, udp)
    udp = struct.pack("!HHHH", *ports, length, 0) + data
    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, _UDP, 0) + source.packed + target.packed
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return to_mac + mac + struct.pack("!H", ETH_P_IP) + head + udp
