"""Asks the service behind a VIP all the time, as a client would, as a process of its own in a client's network.

Not the address: that is answered for by the kernel, also after the death of the process that served on it. Here
each probe is a TCP connection and an HTTP request of its own; an answer counts as soon as its status line says
anything but 503 (the gate is closed). Nothing waits for the probes before it.
"""

from __future__ import annotations

import errno
import gc
import ipaddress
import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaseha.lab import kernel
from leaseha.lab.frames import Address
from leaseha.lab.loop import Loop
from leaseha.lab.recording import UNKNOWN, Kind, Recorder

GIVE_UP_NS: Final = 500_000_000
"""The kernel would repeat a lost SYN after 1 s, and add that to the gap."""
REQUEST: Final = b"HEAD /leaseha/config HTTP/1.1\r\nHost: leaseha\r\nConnection: close\r\n\r\n"
_STATUS_LINE: Final = b"HTTP/1.1 "
_CLOSED: Final = b"503"
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: a closed probe leaves no port in TIME_WAIT, of which there are too few for hundreds a second."""


@dataclass(slots=True)
class _Probe:
    connection: socket.socket
    number: int
    since_ns: int
    asked: bool = False


class ServiceProber:
    """Sends one probe a period; notes sends, and answers as those of `who` 0."""

    def __init__(self, recorder: Recorder, host: Address, port: int) -> None:
        self._recorder = recorder
        self._family = socket.AF_INET if host.version == 4 else socket.AF_INET6
        self._at = (str(host), port)
        self._number = 0
        self._waiting: dict[int, _Probe] = {}
        self._ready = select.epoll()

    def due(self, now_ns: int) -> None:
        """Ask once, and give up those that waited too long."""
        for probe in [one for one in self._waiting.values() if now_ns - one.since_ns > GIVE_UP_NS]:
            self._end(probe)
        self._number += 1
        self._recorder.note(Kind.SENT, UNKNOWN, 0, self._number, now_ns)
        connection = socket.socket(self._family, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if connection.connect_ex(self._at) not in {0, errno.EINPROGRESS}:
            connection.close()  # no route, no neighbour: a probe without an answer
            return
        self._waiting[connection.fileno()] = _Probe(connection, self._number, now_ns)
        self._ready.register(connection, select.EPOLLOUT)

    def receive(self) -> None:
        """Go on with all probes for which something has come."""
        for fd, _ in self._ready.poll(0):
            probe = self._waiting[fd]
            try:
                self._go_on(probe)
            except OSError:
                self._end(probe)  # refused, reset, unreachable

    def _go_on(self, probe: _Probe) -> None:
        if probe.asked:
            answer = probe.connection.recv(64)
            if answer.startswith(_STATUS_LINE) and not answer.startswith(_STATUS_LINE + _CLOSED):
                self._recorder.note(Kind.ANSWER, 0, 0, probe.number, time.monotonic_ns())
            self._end(probe)
            return
        probe.connection.send(REQUEST)
        probe.asked = True
        self._ready.modify(probe.connection, select.EPOLLIN)

    def _end(self, probe: _Probe) -> None:
        del self._waiting[probe.connection.fileno()]
        self._ready.unregister(probe.connection)
        probe.connection.close()

    def loop(self) -> Loop:
        """A loop that goes on with probes."""
        loop = Loop(self._recorder)
        loop.on_readable(self._ready.fileno(), self.receive)
        return loop


def main(arguments: str) -> int:
    """`arguments` is JSON: file, target, port, period_ns."""
    options = json.loads(arguments)
    recorder = Recorder(Path(options["file"]))
    prober = ServiceProber(recorder, ipaddress.ip_address(options["target"]), options["port"])
    loop = prober.loop()
    kernel.real_time()
    gc.disable()  # nothing here makes cycles, and a collection would be a late probe
    loop.run(options["period_ns"], prober.due)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
