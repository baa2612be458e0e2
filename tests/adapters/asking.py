"""What a machine at the other end of the cable gets out of a VIP: answers to pings, connections, frames."""

import itertools
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from leaseha.adapters import clock
from leaseha.adapters.announce import internet_checksum
from leaseha.core.values import NS_PER_S, Instant
from tests.adapters.wire import HERE_MAC, THERE, THERE_MAC, Wire

ETH_P_ALL = 3


def family_of(ip: object) -> int:
    return socket.AF_INET6 if ":" in str(ip) else socket.AF_INET


def icmp_socket(ip: object) -> socket.socket:
    family = family_of(ip)
    made = socket.socket(family, socket.SOCK_RAW, 58 if family == socket.AF_INET6 else 1)
    made.connect((str(ip), 0))
    return made


def echo(ip: object, number: int) -> bytes:
    """An echo request; the kernel fills in the checksum of ICMPv6."""
    kind = 128 if ":" in str(ip) else 8
    body = struct.pack("!BBHHH", kind, 0, 0, 77, number & 0xFFFF)
    return body if kind == 128 else body[:2] + struct.pack("!H", internet_checksum(body)) + body[4:]


def echo_reply(ip: object, packet: bytes) -> int | None:
    body, kind = (packet, 129) if ":" in str(ip) else (packet[20:], 0)
    return struct.unpack_from("!H", body, 6)[0] if body[:1] == bytes((kind,)) else None


class Pinger:
    """Pings an address all the time, every `every_s`; knows when each request was sent and answered (boot ns)."""

    def __init__(self, ip: object, every_s: float = 0.001) -> None:
        self.sent: dict[int, int] = {}
        self.answered: dict[int, int] = {}
        self._ip = ip
        self._every_s = every_s
        self._over = threading.Event()
        self._socket = icmp_socket(ip)

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            self.sent[number] = clock.now().boot_ns
            # Refused at once, where nobody answers ARP any more.
            with suppress(OSError):
                self._socket.send(echo(self._ip, number))
            until = time.monotonic() + self._every_s
            while (left := until - time.monotonic()) > 0:
                self._listen(left)

    def finish(self) -> None:
        """Send no more, and hear what is still on its way."""
        self._over.set()

    def _listen(self, for_s: float) -> None:
        if not select.select([self._socket], [], [], for_s)[0]:
            return
        with suppress(OSError):
            heard = echo_reply(self._ip, self._socket.recv(2048))
            if heard is not None:
                self.answered.setdefault(heard, clock.now().boot_ns)

    def lost(self) -> list[int]:
        """Requests without an answer, but for the last few, whose answers were not waited for."""
        return [one for one in sorted(self.sent)[:-5] if one not in self.answered]

    def last_answer_ns(self) -> int:
        return max(self.answered.values())


@contextmanager
def pinging(wire: Wire, ip: object, every_s: float = 0.001) -> Iterator[Pinger]:
    """From there to here, for as long as the block lasts."""
    made: Pinger = wire.there(lambda: Pinger(ip, every_s))
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.finish()
        thread.join()


def ping(ip: object, for_s: float = 0.4) -> bool:
    """From where this is called: an answer within `for_s`."""
    with icmp_socket(ip) as asking:
        asking.settimeout(for_s)
        end = time.monotonic() + for_s
        with suppress(OSError):
            while time.monotonic() < end:
                asking.send(echo(ip, 1))
                if echo_reply(ip, asking.recv(2048)) == 1:
                    return True
    return False


def connects(ip: object, port: int, for_s: float = 0.4) -> bool:
    """From where this is called: a TCP connection within `for_s`."""
    with suppress(OSError):
        socket.create_connection((str(ip), port), timeout=for_s).close()
        return True
    return False


def datagram(ip: object, port: int, for_s: float = 0.4) -> bool:
    """From where this is called: a UDP datagram comes back within `for_s`."""
    with socket.socket(family_of(ip), socket.SOCK_DGRAM) as asking, suppress(OSError):
        asking.settimeout(for_s)
        asking.sendto(b"hello", (str(ip), port))
        return asking.recv(100) == b"hello"
    return False


@contextmanager
def serving(ip: object) -> Iterator[int]:
    """TCP (the kernel accepts) and UDP (echoed) on any address here; the port."""
    family = family_of(ip)
    with (
        socket.socket(family, socket.SOCK_STREAM) as stream,
        socket.socket(family, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind(("", 0))
        stream.listen(50)
        port = stream.getsockname()[1]
        # The answer must come from the address that was asked: so it is bound, whether it is here or not.
        datagrams.setsockopt(
            *((socket.IPPROTO_IPV6, 78) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 15)), 1
        )
        datagrams.bind((str(ip), port))
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                if select.select([datagrams], [], [], 0.05)[0]:
                    with suppress(OSError):
                        data, peer = datagrams.recvfrom(100)
                        datagrams.sendto(data, peer)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield port
        finally:
            over.set()
            thread.join()


class Ear:
    """A packet socket there: what really was on the wire."""

    def __init__(self, wire: Wire) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind((THERE, ETH_P_ALL))
            return made

        self._socket = wire.there(listen)
        self._socket.setblocking(False)

    def heard(self) -> list[bytes]:
        """Frames since the last time, from here only."""
        frames = []
        with suppress(BlockingIOError):
            while True:
                frame, where = self._socket.recvfrom(2048)
                if where[2] != socket.PACKET_OUTGOING:
                    frames.append(frame)
        return frames

    def close(self) -> None:
        self._socket.close()


CHILD = """
import asyncio, sys
from ipaddress import ip_address
from leaseha.adapters import clock
from leaseha.adapters.fence import Fence
async def main():
    vips = [ip_address(one) for one in sys.argv[2:]]
    fence = Fence("cluster-a", ["v0"], vips, warn=sys.stderr.write)
    await fence.stand()
    deadline = clock.now().plus(int(sys.argv[1]) * 10**6)
    await fence.arm(vips, deadline)
    sys.stdout.write(f"{deadline.boot_ns} {deadline.raw_ns}\\n")
    sys.stdout.flush()
    await asyncio.sleep(60)
asyncio.run(main())
"""


def armed_child(for_ms: int, vips: tuple[object, ...]) -> tuple[subprocess.Popen[bytes], Instant]:
    """Another process, whose fence is open for `for_ms`; it, and the deadline."""
    command = [sys.executable, "-c", CHILD, str(for_ms), *map(str, vips)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    boot, raw = child.stdout.readline().split()
    return child, Instant(int(boot), int(raw))


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    child.stdout.close()


def ipv4_frame(source: object) -> bytes:
    """A datagram to the discard port there, as a frame of our own making."""
    header = bytes.fromhex("4500001c00000000401100000000000000000000")
    header = header[:12] + source.packed + ip_address("10.9.0.2").packed
    mac = bytes.fromhex((THERE_MAC + HERE_MAC).replace(":", ""))
    return mac + b"\x08\x00" + header + bytes.fromhex("1000000900080000")


class Clock:
    """The clock, except for the readings of which `behind` tells how old they are by the time they are used."""

    def __init__(self) -> None:
        self.behind: dict[int, int] = {}
        self._readings = itertools.count(1)

    def __call__(self) -> Instant:
        return clock.now().plus(-self.behind.get(next(self._readings), 0))

    def frozen_after(self, *readings: int) -> None:
        """From here on count readings anew; after each of these the process stands still for 10 s."""
        self._readings = itertools.count(1)
        self.behind = dict.fromkeys(readings, 10 * NS_PER_S)
