"""Answers for the nodes: a datagram to any of a host's addresses comes back with the host's name.

It answers from the address that was asked. The kernel takes the datagram in, and lets the answer out, only
while the host has that address: so an answer proves that the host held it when it answered. One process
serves all hosts, on sockets which the lab made in each of them.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from typing import Final

from leaseha.lab import kernel
from leaseha.lab.frames import RESPONDER_PORT
from leaseha.lab.loop import Loop

IP_PKTINFO: Final = 8
_IDLE_NS: Final = 1_000_000_000
_ROOM: Final = 64
_ANCILLARY: Final = 128


def listening_socket(family: int) -> socket.socket:
    """A socket for all addresses of the namespace of the calling thread."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.bind(("::", RESPONDER_PORT))
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        made.bind(("0.0.0.0", RESPONDER_PORT))
    made.setblocking(False)
    return made


def answer_all(listener: socket.socket, name: bytes) -> None:
    """Answer what has arrived."""
    while True:
        try:
            data, ancillary, _, sender = listener.recvmsg(_ROOM, _ANCILLARY)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error of an earlier answer; the datagrams behind it count
        for level, kind, info in ancillary:
            if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                control = struct.pack("=i4s4s", 0, info[8:12], bytes(4))
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                control = struct.pack("=16si", info[:16], 0)
            else:
                continue
            try:
                listener.sendmsg([data, name], [(level, kind, control)], 0, sender)
            except OSError:
                continue  # the address went meanwhile: then this host does not answer, which is the truth


def main() -> int:
    """The lab hands the sockets over, with the list of their hosts' names as the message."""
    loop = Loop()

    def adopt(names: list[str], fds: list[int]) -> None:
        for name, fd in zip(names, fds, strict=True):
            loop.on_readable(fd, functools.partial(answer_all, socket.socket(fileno=fd), name.encode()))

    loop.on_adopted(adopt)
    kernel.real_time()
    loop.run(_IDLE_NS, lambda _now_ns: None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
