"""Asks many VIPs who has them, as a client on a host of its own would, and writes down who answers: frames by hand.

A VIP that answers is asked now and then. One that fell silent is asked at once when its address is announced (ARP),
then each `fast_ns` where it is said to be now, and each `slow_ns` where it was; the whole network is asked for its
address each `resolve_ns`. So 300 silent VIPs are followed to the millisecond without a flood of frames to nobody.
Beside that each node is asked for each VIP by its own MAC address in each `direct_ns`, which shows two that answer.

What answers is the kernel (ICMP echo), so nothing runs on the nodes for this. The instant of an answer is when the
client's kernel received it.
"""

from __future__ import annotations

import gc
import ipaddress
import json
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaseha.lab import kernel
from leaseha.lab.frames import ETH_P_IP, arp_request, checksum, parse_arp
from leaseha.lab.loop import Loop
from leaseha.lab.recording import SO_TIMESTAMPNS, UNKNOWN, Kind, Recorder, kernel_stamp_ns

PERIOD_NS: Final = 5_000_000
FAST_NS: Final = 10_000_000
SLOW_NS: Final = 100_000_000
RESOLVE_NS: Final = 300_000_000
CALM_NS: Final = 250_000_000
SILENT_NS: Final = 30_000_000
"""A question without an answer for so long: the VIP is silent."""
_ROOM: Final = 256
_ANCILLARY: Final = 64
_OUTGOING, _OTHER_HOST = 4, 3
_ICMP: Final = 1
_ECHO, _ECHO_REPLY = 8, 0
_AS_CLIENT, _DIRECT = 0x6C68, 0x6C69
"""Identifiers of the questions: who was asked because a client would have, and who because it is a node."""
_HEAD: Final = struct.Struct("!BBHHHBBH4s4s")
_RECEIVE_BYTES: Final = 8 << 20


@dataclass(slots=True)
class Target:
    """One VIP, and what a client knows of it. Mutable: that changes with each frame."""

    ip: ipaddress.IPv4Address
    question: bytes
    """For its MAC address, to everybody."""
    mac: bytes = b""
    moved: bool = False
    """Another MAC address was told since it answered last."""
    asked_ns: int = 0
    unanswered_ns: int = 0
    """When the first question since the last answer left; 0: all are answered."""
    resolved_ns: int = 0


def echo_body(mac: bytes, source: bytes, target: bytes, subject: int, identity: int = _AS_CLIENT) -> bytes:
    """An echo request from `mac` without its first six bytes, which say to whom; `subject` is its sequence number."""
    icmp = struct.pack("!BBHHH", _ECHO, 0, 0, identity, subject)
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    head = _HEAD.pack(0x45, 0, 20 + len(icmp), 0, 0x4000, 64, _ICMP, 0, source, target)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac + struct.pack("!H", ETH_P_IP) + head + icmp


def echo_answer(frame: bytes) -> tuple[bytes, int, bool] | None:
    """(MAC address, subject, asked directly) of an answer to an `echo_body`; None for any other frame."""
    if len(frame) < 42 or frame[14] != 0x45 or frame[23] != _ICMP or frame[34] != _ECHO_REPLY:
        return None
    identity, subject = struct.unpack_from("!HH", frame, 38)
    return (frame[6:12], subject, identity == _DIRECT) if identity in {_AS_CLIENT, _DIRECT} else None


class Sweeper:
    """Asks, and notes answers (`ANSWER`; `number` 1: asked directly) and announcements (`ANNOUNCED`) by MAC address
    and place in the list.
    """

    def __init__(
        self,
        recorder: Recorder,
        wire: tuple[socket.socket, socket.socket],
        me: tuple[bytes, ipaddress.IPv4Address],
        targets: list[ipaddress.IPv4Address],
        nodes: list[bytes],
    ) -> None:
        """`wire`: packet sockets for IPv4 and ARP; `me`: own MAC address and address."""
        self._recorder = recorder
        self._ip_wire, self._arp_wire = wire
        mac, source = me
        self._who = {node: at for at, node in enumerate(nodes)}
        self._nodes = nodes
        self._targets = [Target(one, arp_request(mac, source, one)) for one in targets]
        self._echoes = [echo_body(mac, source.packed, one.packed, at) for at, one in enumerate(targets)]
        self._direct = [
            echo_body(mac, source.packed, one.packed, at, _DIRECT) for at, one in enumerate(targets)
        ]
        self._subjects = {one: at for at, one in enumerate(targets)}
        self._direct_at = 0
        self._began_ns = 0
        self.direct_ns = 0
        for one in wire:
            one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            one.setblocking(False)

    def due(self, now_ns: int) -> None:
        """Ask all whose time has come."""
        for subject, target in enumerate(self._targets):
            self._look_at(subject, target, now_ns)
        if self.direct_ns:
            self._began_ns = self._began_ns or now_ns
            total = len(self._targets) * len(self._nodes)
            wanted = (now_ns - self._began_ns) * total // self.direct_ns
            # Never more than two periods' worth at once: what was missed is not made up for.
            self._direct_at = max(self._direct_at, wanted - max(1, 2 * PERIOD_NS * total // self.direct_ns))
            for at in range(self._direct_at, wanted):
                subject, node = divmod(at % total, len(self._nodes))
                self._send(self._nodes[node] + self._direct[subject])
            self._direct_at = wanted
        self._recorder.note(Kind.SENT, UNKNOWN, 0, 0, now_ns)

    def _look_at(self, subject: int, target: Target, now_ns: int) -> None:
        silent = not target.mac or (target.unanswered_ns and now_ns - target.unanswered_ns > SILENT_NS)
        if not silent:
            every_ns = CALM_NS
        else:
            if now_ns - target.resolved_ns >= RESOLVE_NS:
                target.resolved_ns = now_ns
                self._send(target.question)
            every_ns = FAST_NS if target.moved else SLOW_NS
        if target.mac and now_ns - target.asked_ns >= every_ns:
            self._ask(subject, target, now_ns)

    def _ask(self, subject: int, target: Target, now_ns: int) -> None:
        target.asked_ns = now_ns
        target.unanswered_ns = target.unanswered_ns or now_ns
        self._send(target.mac + self._echoes[subject])

    def _send(self, frame: bytes) -> None:
        try:
            self._ip_wire.send(frame)
        except OSError:
            return  # the cable is out, or a buffer is full: a question without an answer

    def heard(self) -> None:
        """Note the answers that have arrived."""
        while (got := _received(self._ip_wire)) is not None:
            found = echo_answer(got[0])
            if found is None or found[1] >= len(self._targets):
                continue
            mac, subject, direct = found
            target = self._targets[subject]
            if not direct and mac == target.mac:
                target.unanswered_ns, target.moved = 0, False
            self._recorder.note(Kind.ANSWER, self._who.get(mac, UNKNOWN), subject, int(direct), got[1])

    def told(self) -> None:
        """Learn MAC addresses as a neighbour cache does: from answers to all questions, and from announcements."""
        while (got := _received(self._arp_wire)) is not None:
            found = parse_arp(got[0])
            if found is None or not isinstance(found.address, ipaddress.IPv4Address):
                continue
            subject = self._subjects.get(found.address)
            if subject is None:
                continue
            if found.unasked:
                self._recorder.note(Kind.ANNOUNCED, self._who.get(found.mac, UNKNOWN), subject, 0, got[1])
            target = self._targets[subject]
            if found.mac != target.mac:
                target.mac, target.moved = found.mac, True
                self._ask(subject, target, got[1])


def _received(wire: socket.socket) -> tuple[bytes, int] | None:
    """The next frame that is for this host, and its instant; None when there is none."""
    while True:
        try:
            frame, ancillary, _, sender = wire.recvmsg(_ROOM, _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError:
            continue  # the interface went down, or up again
        if sender[2] not in {_OUTGOING, _OTHER_HOST}:
            return frame, kernel_stamp_ns(ancillary)


def main(arguments: str) -> int:
    """`arguments` is JSON: file, targets, macs (of each `who`), ip_fd and arp_fd (packet sockets), mac and source
    (the client's own), direct_ns (0: no node is asked directly).
    """
    options = json.loads(arguments)
    recorder = Recorder(Path(options["file"]))
    wire = socket.socket(fileno=options["ip_fd"]), socket.socket(fileno=options["arp_fd"])
    sweeper = Sweeper(
        recorder,
        wire,
        (bytes.fromhex(options["mac"]), ipaddress.IPv4Address(options["source"])),
        [ipaddress.IPv4Address(one) for one in options["targets"]],
        [bytes.fromhex(one) for one in options["macs"]],
    )
    sweeper.direct_ns = options["direct_ns"]
    loop = Loop(recorder)
    loop.on_readable(wire[0].fileno(), sweeper.heard)
    loop.on_readable(wire[1].fileno(), sweeper.told)
    kernel.real_time()
    gc.disable()  # nothing here makes cycles, and a collection would be a late question
    loop.run(PERIOD_NS, sweeper.due)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
