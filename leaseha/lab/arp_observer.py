"""Asks the whole network who has the VIPs, by ARP and neighbour solicitation, and notes every MAC that
answers, and every announcement that nobody asked for.

It lives on a host of its own: its questions and the answers must not freshen the neighbour cache of a client.
"""

from __future__ import annotations

import functools
import gc
import ipaddress
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from leaseha.lab import kernel
from leaseha.lab.frames import (
    Address,
    Advertised,
    arp_request,
    neighbour_solicitation,
    parse_advertisement,
    parse_arp,
)
from leaseha.lab.loop import Loop
from leaseha.lab.recording import SO_TIMESTAMPNS, UNKNOWN, Kind, Recorder, kernel_stamp_ns

_ROOM: Final = 2048
_ANCILLARY: Final = 64
_OUTGOING: Final = 4
_OTHER_HOST: Final = 3
Parser = Callable[[bytes], Advertised | None]


class Observer:
    """Sends one question for each VIP a period; notes answers and announcements."""

    def __init__(self, recorder: Recorder, questions: list[tuple[socket.socket, bytes]]) -> None:
        self._recorder = recorder
        self._questions = questions
        self._number = 0
        self.subjects: dict[Address, int] = {}
        self.who: dict[bytes, int] = {}

    def due(self, now_ns: int) -> None:
        """Ask once."""
        self._number += 1
        for subject, (sender, frame) in enumerate(self._questions):
            try:
                sender.send(frame)
            except OSError:
                continue  # the cable is out: nobody was asked
            self._recorder.note(Kind.SENT, UNKNOWN, subject, self._number, now_ns)

    def receive(self, receiver: socket.socket, parse: Parser) -> None:
        """Note what has arrived."""
        while True:
            try:
                frame, ancillary, _, sender = receiver.recvmsg(_ROOM, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # the interface went down
            found = parse(frame) if sender[2] not in {_OUTGOING, _OTHER_HOST} else None
            if found is not None and found.address in self.subjects:
                kind = Kind.ANNOUNCED if found.unasked else Kind.ANSWER
                who = self.who.get(found.mac, UNKNOWN)
                stamp_ns = kernel_stamp_ns(ancillary)
                self._recorder.note(kind, who, self.subjects[found.address], self._number, stamp_ns)


def _question(options: dict[str, Any], target: Address) -> bytes:
    mac = bytes.fromhex(options["mac"])
    sources = [ipaddress.ip_address(one) for one in options["sources"]]
    if isinstance(target, ipaddress.IPv4Address):
        return arp_request(mac, next(s for s in sources if isinstance(s, ipaddress.IPv4Address)), target)
    return neighbour_solicitation(
        mac, next(s for s in sources if isinstance(s, ipaddress.IPv6Address)), target
    )


def main(arguments: str) -> int:
    """`arguments` is JSON: file, targets, macs (of each `who`), arp_fd and nd_fd (packet sockets), mac and
    sources (the observer's own), period_ns.
    """
    options = json.loads(arguments)
    recorder = Recorder(Path(options["file"]))
    senders = {4: socket.socket(fileno=options["arp_fd"]), 6: socket.socket(fileno=options["nd_fd"])}
    targets: list[Address] = [ipaddress.ip_address(one) for one in options["targets"]]
    observer = Observer(recorder, [(senders[one.version], _question(options, one)) for one in targets])
    observer.subjects = {target: at for at, target in enumerate(targets)}
    observer.who = {bytes.fromhex(mac): at for at, mac in enumerate(options["macs"])}
    loop = Loop(recorder)
    parsers: dict[int, Parser] = {4: parse_arp, 6: parse_advertisement}
    for version, receiver in senders.items():
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.setblocking(False)
        loop.on_readable(receiver.fileno(), functools.partial(observer.receive, receiver, parsers[version]))
    kernel.real_time()
    gc.disable()  # nothing here makes cycles, and a collection would be a late question
    loop.run(options["period_ns"], observer.due)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
