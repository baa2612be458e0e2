"""Notes when the kernel of each host gets a VIP and when it loses it, as told by rtnetlink.

One process listens on a socket in each host. Netlink has no time stamps: an instant is when this process,
which has real-time priority where that is granted, read the message.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from leaseha.lab import kernel
from leaseha.lab.loop import Loop
from leaseha.lab.recording import UNKNOWN, Kind, Recorder

_NEW, _DELETED, _GET = 20, 21, 22
_GROUPS: Final = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_DUMP_REQUEST: Final = 0x301
_ADDRESS, _LOCAL = 1, 2
_IDLE_NS: Final = 50_000_000


def listening_socket() -> socket.socket:
    """A netlink socket that hears of all addresses of the namespace of the calling thread."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.bind((0, _GROUPS))
    made.setblocking(False)
    return made


def changes(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """(there now, packed address) of each address message of a datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        if kind in {_NEW, _DELETED}:
            found = dict(_attributes(data, at + 24, at + length))
            if packed := found.get(_LOCAL) or found.get(_ADDRESS):
                yield kind == _NEW, packed
        at += (length + 3) & ~3


def _attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


class Monitor:
    """Knows which host has which VIP, and notes only what changes."""

    def __init__(self, recorder: Recorder, vips: list[bytes]) -> None:
        self._recorder = recorder
        self._subjects = {vip: at for at, vip in enumerate(vips)}
        self._bound: set[tuple[int, bytes]] = set()

    def ask(self, listener: socket.socket) -> None:
        """Ask for all addresses that are there; the answer comes like news."""
        body = struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)
        listener.send(struct.pack("=IHHII", 16 + len(body), _GET, _DUMP_REQUEST, 1, 0) + body)

    def receive(self, listener: socket.socket, who: int) -> None:
        """Note what has changed."""
        while True:
            try:
                data = listener.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                self._recorder.note(Kind.LOST, who, 0, 0, time.monotonic_ns())
                self.ask(listener)
                continue
            now_ns = time.monotonic_ns()
            for there, packed in changes(data):
                key = (who, packed)
                if packed in self._subjects and there != (key in self._bound):
                    self._bound.symmetric_difference_update({key})
                    kind = Kind.BOUND if there else Kind.UNBOUND
                    self._recorder.note(kind, who, self._subjects[packed], 0, now_ns)

    def beat(self, now_ns: int) -> None:
        """All that happened before this instant is noted."""
        self._recorder.note(Kind.READY, UNKNOWN, 0, 0, now_ns)


def main(arguments: str) -> int:
    """`arguments` is JSON: file, targets. The lab hands the sockets over, with the list of their `who` as the
    message.
    """
    options = json.loads(arguments)
    recorder = Recorder(Path(options["file"]))
    monitor = Monitor(recorder, [ipaddress.ip_address(one).packed for one in options["targets"]])
    loop = Loop(recorder)

    def adopt(hosts: list[int], fds: list[int]) -> None:
        for who, fd in zip(hosts, fds, strict=True):
            listener = socket.socket(fileno=fd)
            monitor.ask(listener)
            loop.on_readable(fd, functools.partial(monitor.receive, listener, who))

    loop.on_adopted(adopt)
    kernel.real_time()
    loop.run(_IDLE_NS, monitor.beat)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
