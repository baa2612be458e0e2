"""Which interface and address of this machine face a given address: asked of the kernel's routing table."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from leaseha.adapters.rtnl import IPAddress, attributes
from leaseha.errors import VipError

_FAR: Final = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}
"""Addresses that nobody has (RFC 5737, RFC 3849): the way to them is that to anywhere."""
_GETROUTE, _NEWROUTE, _REQUEST = 26, 24, 0x1
_DST, _OIF, _GATEWAY = 1, 4, 5
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ANSWER_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Facing:
    """The way to an address: the interface, and the source address that the kernel would choose."""

    interface: str
    source: IPAddress | None


def facing(ip: IPAddress) -> Facing:
    """The kernel's route to `ip`. Blocks for some milliseconds. Raises `VipError` where there is none."""
    from pyroute2 import (
        IPRoute,
    )  # late: half a second of a start, and only needed where nothing is configured
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as kernel:
        try:
            routes = list(kernel.route("get", dst=str(ip)))
            index = next(value for route in routes if (value := route.get_attr("RTA_OIF")) is not None)
            source = next(
                (value for route in routes if (value := route.get_attr("RTA_PREFSRC")) is not None), None
            )
            interface = str(kernel.get_links(index)[0].get_attr("IFLA_IFNAME"))
        except (NetlinkError, StopIteration, IndexError) as error:
            message = f"there is no route to {ip}: set node.interface, or give this machine an address of its network"
            raise VipError(message) from error
    if interface == "lo":
        raise VipError(f"{ip} is an address of this machine already: remove it, or set node.interface")
    return Facing(interface, ipaddress.ip_address(source) if source is not None else None)


def gateway(interface: str, version: int) -> IPAddress | None:
    """Through whom `interface` reaches everything else, by IP version (4 or 6); None: nobody, or not known.

    One question to the kernel, of microseconds: by hand, since this is asked while a move is going on.
    """
    far = _FAR[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(_ANSWER_S)
            body = _ROUTE.pack(family, 8 * len(far.packed), 0, 0, 0, 0, 0, 0, 0)
            body += struct.pack("=HH", 4 + len(far.packed), _DST) + far.packed
            body += struct.pack("=HHI", 8, _OIF, index)
            kernel.sendto(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body, (0, 0))
            answer = kernel.recv(8192)
    except OSError:
        return None
    length, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NEWROUTE:
        return None
    found = dict(attributes(answer, _HEADER.size + _ROUTE.size, length))
    if found.get(_OIF, b"") != struct.pack("=I", index) or _GATEWAY not in found:
        return None
    return ipaddress.ip_address(found[_GATEWAY])
