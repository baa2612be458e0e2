"""Watches interfaces and addresses of one network namespace: carrier lost, VIP removed by someone.

What it does not promise: every single change. The kernel drops notifications when they are not read in time;
that is noticed and told as `on_gap`, and the links are read anew: what was missed is looked up, not lost.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from leaseha.adapters.rtnl import IFA_PROTO, RTM_NEWADDR, IPAddress
from leaseha.adapters.vip import IFA_PROTO_LEASEHA

_GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
_RETRY_S: Final = 0.2
_OWN_MARK: Final = struct.pack("=HHB", 5, IFA_PROTO, IFA_PROTO_LEASEHA)
"""The attribute that says who put an address there, as it stands in a message."""
_Parser = Callable[[bytes, int, int], Any]


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it. `carrier`: frames can pass, at this end of the cable."""

    name: str
    index: int
    up: bool
    carrier: bool
    operstate: str
    mac: str


@dataclass(frozen=True, slots=True)
class AddressChange:
    """An address came to (`present`) or went from an interface. Refreshes of VIPs by leaseha are not told."""

    ip: IPAddress
    interface: str
    present: bool


class Listener(Protocol):
    """Who wants to know. Called in the event loop, must return at once."""

    def on_link(self, link: Link) -> None:
        """This link was found at the start, or changed."""

    def on_link_gone(self, name: str) -> None:
        """The interface does not exist any more."""

    def on_address(self, change: AddressChange) -> None:
        """An address came or went."""

    def on_gap(self) -> None:
        """Changes may have been missed: look at what matters yourself. `on_link` follows for every link."""


class LinkWatch:
    """Tells a `Listener` about links and addresses, from `run()` until that is cancelled.

    `buffer_bytes` is the socket's receive buffer; what does not fit while the process is away is a gap.
    """

    def __init__(self, listener: Listener, *, buffer_bytes: int = 1 << 20) -> None:
        self._listener = listener
        self._buffer_bytes = buffer_bytes
        self._links: dict[int, Link] = {}
        self.ready = asyncio.Event()
        """Set while changes are being listened to."""

    def link(self, name: str) -> Link | None:
        """The interface as last seen; None if there is none of that name."""
        return next((link for link in self._links.values() if link.name == name), None)

    async def run(self) -> None:
        """Watch until cancelled. An overflow or a broken socket is a gap, followed by a fresh start."""
        # Late, and in the task that waits anyway: pyroute2 costs half a second of a start.
        from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError

        gap = False
        while True:
            try:
                await self._watch_once(gap=gap)
            except (OSError, NetlinkError, NetlinkDecodeError) as error:
                # After an overflow at once, since the kernel is sound; else not in a tight loop.
                if getattr(error, "errno", 0) != errno.ENOBUFS:
                    await asyncio.sleep(_RETRY_S)
            finally:
                self.ready.clear()
            gap = True

    async def _watch_once(self, *, gap: bool) -> None:
        from pyroute2 import AsyncIPRoute

        # Two sockets: a question's answer on the first one would end the stream of events.
        monitor, asker = AsyncIPRoute(rcvbuf=self._buffer_bytes), AsyncIPRoute()
        try:
            _skip_own_refreshes(monitor.marshal)
            # First listen, then look: a change between the two is told twice rather than never.
            await monitor.bind(groups=_GROUPS)
            if gap:
                self._listener.on_gap()
            self._replace_links([link async for link in _links(asker)])
            self.ready.set()
            while True:
                # get() ends after each batch, and at once after one of which every message was skipped.
                async for message in monitor.get():
                    self._tell(message)
        finally:
            monitor.close()
            asker.close()

    def _replace_links(self, links: list[Link]) -> None:
        gone = [old.name for index, old in self._links.items() if index not in {link.index for link in links}]
        self._links = {link.index: link for link in links}
        for name in gone:
            self._listener.on_link_gone(name)
        for link in links:
            self._listener.on_link(link)

    def _tell(self, message: Any) -> None:
        event = message.get("event")
        if event == "RTM_NEWLINK":
            # The kernel also tells of statistics, of bridge ports (another family): only news are passed on.
            if message["family"] == 0 and self._links.get(message["index"]) != (link := _link(message)):
                self._links[link.index] = link
                self._listener.on_link(link)
        elif event == "RTM_DELLINK" and message["family"] == 0:
            old = self._links.pop(message["index"], None)
            if old is not None:
                self._listener.on_link_gone(old.name)
        elif event in {"RTM_NEWADDR", "RTM_DELADDR"}:
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            known = self._links.get(message["index"])
            if text:
                name = known.name if known else f"interface {message['index']}"
                change = AddressChange(ipaddress.ip_address(text), name, present=event == "RTM_NEWADDR")
                self._listener.on_address(change)


def _skip_own_refreshes(marshal: Any) -> None:
    """Drop what our own renewals echo before it is decoded: that costs 35 us each, several times a second."""
    plain: Callable[[int, int, int], _Parser] = marshal.get_parser

    def get_parser(kind: int, flags: int, sequence: int) -> _Parser:
        parse = plain(kind, flags, sequence)
        if kind != RTM_NEWADDR:
            return parse
        return lambda data, at, length: (
            None if _OWN_MARK in data[at : at + length] else parse(data, at, length)
        )

    marshal.get_parser = get_parser


async def _links(asker: Any) -> AsyncIterator[Link]:
    async for message in await asker.get_links():
        yield _link(message)


def _link(message: Any) -> Link:
    return Link(
        name=message.get_attr("IFLA_IFNAME") or "",
        index=message["index"],
        up=bool(message["flags"] & _IFF_UP),
        carrier=bool(message["flags"] & _IFF_LOWER_UP),
        operstate=message.get_attr("IFLA_OPERSTATE") or "UNKNOWN",
        mac=message.get_attr("IFLA_ADDRESS") or "",
    )
