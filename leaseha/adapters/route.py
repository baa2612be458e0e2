"""Which interface and address of this machine face a given address: asked of the kernel's routing table."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from leaseha.adapters.rtnl import IPAddress
from leaseha.errors import VipError


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
