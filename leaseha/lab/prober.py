"""Asks the VIPs all the time, as a process of its own, and writes down who answers.

Two ways to ask. As a client: plain datagrams through the client's own routing and neighbour cache, which
is never flushed, being part of what a client sees. Directly: the same datagram as a frame to each node's
own MAC address, whatever address resolution says, which asks every node "would you answer?".

The instant of an answer is when the kernel received it, so that a late prober is not an early answer.
"""

from __future__ import annotations

import functools
import gc
import ipaddress
import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaseha.lab import kernel
from leaseha.lab.frames import RESPONDER_PORT, Address, parse_probe, probe, udp_frame
from leaseha.lab.loop import Loop
from leaseha.lab.recording import SO_TIMESTAMPNS, UNKNOWN, Kind, Recorder, kernel_stamp_ns

_ROOM: Final = 128
_ANCILLARY: Final = 64


@dataclass(frozen=True, slots=True)
class Direct:
    """What a direct prober needs to write frames: a packet socket, its own addresses, the nodes' MACs."""

    sender: socket.socket
    mac: bytes
    sources: tuple[Address, ...]
    nodes: tuple[bytes, ...]


class Prober:
    """Sends one probe for each VIP (and each node, if direct) a period; notes sends and answers."""

    def __init__(self, recorder: Recorder, targets: list[Address], names: list[str]) -> None:
        self._recorder = recorder
        self._targets = targets
        self._who = {name: at for at, name in enumerate(names)}
        self._sockets: dict[int, socket.socket] = {}
        self._number = 0
        self.direct: Direct | None = None

    def listen(self, receiver: socket.socket) -> None:
        """Use this datagram socket for its address family."""
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.setblocking(False)
        self._sockets[4 if receiver.family == socket.AF_INET else 6] = receiver

    def due(self, now_ns: int) -> None:
        """Ask once."""
        self._number += 1
        for subject, target in enumerate(self._targets):
            data = probe(subject, self._number)
            if self.direct is not None:
                self._send_frames(self.direct, target, data)
            else:
                self._send(self._sockets[target.version], target, data)
            self._recorder.note(Kind.SENT, UNKNOWN, subject, self._number, now_ns)

    @staticmethod
    def _send(sender: socket.socket, target: Address, data: bytes) -> None:
        try:
            sender.sendto(data, (str(target), RESPONDER_PORT))
        except OSError:
            return  # unreachable, or an ICMP error of an earlier probe: a probe without an answer

    def _send_frames(self, direct: Direct, target: Address, data: bytes) -> None:
        source = next(one for one in direct.sources if one.version == target.version)
        ports = (self._sockets[target.version].getsockname()[1], RESPONDER_PORT)
        for node in direct.nodes:
            frame = udp_frame(direct.mac, node, source, target, ports, data)
            try:
                direct.sender.send(frame)
            except OSError:
                continue  # the cable is out, or a buffer is full: a probe without an answer

    def receive(self, receiver: socket.socket) -> None:
        """Note what has arrived."""
        while True:
            try:
                data, ancillary, _, _ = receiver.recvmsg(_ROOM, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier probe
            parsed = parse_probe(data)
            if parsed is not None:
                subject, number, name = parsed
                stamp_ns = kernel_stamp_ns(ancillary)
                self._recorder.note(Kind.ANSWER, self._who.get(name, UNKNOWN), subject, number, stamp_ns)

    def loop(self) -> Loop:
        """A loop that receives on all sockets."""
        loop = Loop(self._recorder)
        for receiver in self._sockets.values():
            loop.on_readable(receiver.fileno(), functools.partial(self.receive, receiver))
        return loop


def _direct(options: dict[str, Any]) -> Direct:
    return Direct(
        sender=socket.socket(fileno=options["packet_fd"]),
        mac=bytes.fromhex(options["mac"]),
        sources=tuple(ipaddress.ip_address(one) for one in options["sources"]),
        nodes=tuple(bytes.fromhex(one) for one in options["nodes"]),
    )


def main(arguments: str) -> int:
    """`arguments` is JSON: file, targets, names (index = `who`), fds, period_ns; for a direct one also
    packet_fd, mac, sources, nodes.
    """
    options = json.loads(arguments)
    recorder = Recorder(Path(options["file"]))
    prober = Prober(recorder, [ipaddress.ip_address(one) for one in options["targets"]], options["names"])
    for fd in options["fds"]:
        prober.listen(socket.socket(fileno=fd))
    if "packet_fd" in options:
        prober.direct = _direct(options)
    loop = prober.loop()
    kernel.real_time()
    gc.disable()  # nothing here makes cycles, and a collection would be a late probe
    loop.run(options["period_ns"], prober.due)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
