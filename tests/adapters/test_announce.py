"""Announcements: their bytes, what a neighbour's kernel makes of them, and that none comes too late."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from pyroute2 import IPRoute

from leaseha.adapters import clock
from leaseha.adapters.announce import (
    ARP_REPLY,
    Announcer,
    Sent,
    frames_for,
    gratuitous_arp,
    internet_checksum,
    unsolicited_na,
)
from leaseha.core.values import Instant
from leaseha.errors import AnnounceError
from tests.adapters.wire import HERE, HERE_MAC, THERE, Wire, in_s

MAC = bytes.fromhex("02000000000a")
V4, V6 = IPv4Address("10.9.0.100"), IPv6Address("fd09::100")
ARP_REQUEST_FRAME = (
    "ffffffffffff 02000000000a 0806"  # Ethernet: to everyone, ARP
    "0001 0800 06 04 0001"  # Ethernet, IPv4, lengths, request
    "02000000000a 0a090064"  # sender
    "000000000000 0a090064"  # target
)
ARP_REPLY_FRAME = (
    "ffffffffffff 02000000000a 0806 0001 0800 06 04 0002 02000000000a 0a090064 02000000000a 0a090064"
)
# Checksum by hand: fd09+0100 (source) + ff02+0001 (group) + 0020 (length) + 003a (ICMPv6) + 8800 + 2000
# + fd09+0100 (target) + 0201+0200+000a (option) = 3a77a; a77a+3 = a77d; ~a77d = 5882.
NA_FRAME = (
    "333300000001 02000000000a 86dd"
    "60000000 0020 3a ff"  # version 6, 32 bytes of payload, ICMPv6, hop limit 255
    "fd090000000000000000000000000100"
    "ff020000000000000000000000000001"
    "88 00 5882 20000000"  # advertisement, checksum, override
    "fd090000000000000000000000000100"
    "02 01 02000000000a"  # target's link-layer address
)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (gratuitous_arp(MAC, V4), ARP_REQUEST_FRAME),
        (gratuitous_arp(MAC, V4, ARP_REPLY), ARP_REPLY_FRAME),
        (unsolicited_na(MAC, V6), NA_FRAME),
    ],
    ids=["request", "reply", "advertisement"],
)
def test_a_frame_is_what_the_rfc_says_to_the_bit(frame, expected):
    assert frame.hex() == expected.replace(" ", "")


def test_the_checksum_is_that_of_rfc_1071s_example():
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert internet_checksum(b"\xff") == 0x00FF


class Ear:
    """A packet socket at the other end of the cable: what really was on the wire."""

    def __init__(self, wire: Wire) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            made.bind((THERE, 3))
            return made

        self.socket = wire.there(listen)
        self.socket.settimeout(10)

    def first(self) -> bytes:
        """The next announcement of V4; waits for it, at most 10 s for each other frame."""
        while (frame := self.socket.recv(256)) not in frames_for(MAC, V4):
            pass
        return frame

    def waiting(self, ips: tuple = (V4, V6)) -> list[bytes]:
        """Announcements that came since the last look."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                frame, where = self.socket.recvfrom(256)
                if where[2] != 4 and any(frame in frames_for(MAC, ip) for ip in ips):
                    found.append(frame)
        except BlockingIOError:
            return found


@pytest.fixture
def ear(wire: Wire):
    made = Ear(wire)
    yield made
    made.socket.close()


@pytest.fixture
async def announcer(wire: Wire):
    made = Announcer(HERE)
    yield made
    made.close()


def believe(wire: Wire, ip: str, mac: str) -> None:
    """Let the neighbour there believe that `ip` is at `mac`, as after a conversation with an old holder."""

    def add() -> None:
        with IPRoute() as kernel:
            kernel.neigh(
                "replace", dst=ip, lladdr=mac, ifindex=kernel.link_lookup(ifname=THERE)[0], state="stale"
            )

    wire.there(add)
    assert wire.neighbour(ip) == mac


@pytest.mark.netns
@pytest.mark.parametrize("ip", [V4, V6], ids=str)
async def test_an_announcement_moves_a_neighbours_cache_to_the_new_holder(wire, announcer, ip):
    believe(wire, str(ip), "02:00:00:00:00:99")
    sent = await announcer.burst([ip], lambda: in_s(5))
    assert sent == Sent(frames=2 if ip.version == 4 else 1)
    assert wire.neighbour(str(ip)) == HERE_MAC


@pytest.mark.netns
@pytest.mark.parametrize("form", [0, 1], ids=["request", "reply"])
def test_either_form_of_gratuitous_arp_suffices_for_linux(wire, form):
    believe(wire, str(V4), "02:00:00:00:00:99")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((HERE, 0))
        sock.send(frames_for(MAC, V4)[form])
    assert wire.neighbour(str(V4)) == HERE_MAC


@pytest.mark.netns
async def test_each_burst_has_every_vip(announcer, ear):
    for _ in range(3):
        assert await announcer.burst([V4, V6], lambda: in_s(5)) == Sent(frames=3)
    assert len(ear.waiting()) == 9


@pytest.mark.netns
@pytest.mark.parametrize("until", [lambda: in_s(-0.001), lambda: None], ids=["passed", "not held any more"])
async def test_nothing_is_sent_past_the_deadline(announcer, ear, until):
    assert await announcer.burst([V4, V6], until) == Sent(late=3)
    assert ear.waiting() == []


@pytest.mark.netns
@pytest.mark.parametrize("clocks", [(True, False), (False, True)], ids=["boot clock", "raw clock"])
async def test_the_clock_is_read_before_each_frame_and_either_clock_ends_the_burst(wire, ear, clocks):
    frames = itertools.count(1)
    start = clock.now()

    def now() -> Instant:
        late = 10**10 if next(frames) > 4 else 0
        return Instant(start.boot_ns + late * clocks[0], start.raw_ns + late * clocks[1])

    announcer = Announcer(HERE, now=now)
    sent = await announcer.burst([V4, V6], lambda: start.plus(10**9))
    sent += await announcer.burst([V4, V6], lambda: start.plus(10**9))
    announcer.close()
    assert sent == Sent(frames=4, late=2)
    assert len(ear.waiting()) == 4


@pytest.mark.netns
async def test_the_deadline_is_asked_anew_before_each_frame(announcer, ear):
    left = iter([in_s(60), in_s(60), in_s(60), None])
    assert await announcer.burst([V4, V6, V4], lambda: next(left)) == Sent(frames=3, late=2)


@pytest.mark.netns
def test_a_holder_that_is_frozen_in_its_burst_and_woken_sends_no_frame_more(wire, ear):
    deadline = in_s(3)
    code = (
        "import asyncio\n"
        "from ipaddress import ip_address\n"
        "from leaseha.adapters.announce import Announcer\n"
        "from leaseha.core.values import Instant\n"
        f"deadline = Instant({deadline.boot_ns}, {deadline.raw_ns})\n"
        f"announcer = Announcer({HERE!r})\n"
        f"vips = [ip_address('{V4}'), ip_address('{V6}')] * 50\n"
        "async def announce():\n"
        "    while not (sent := await announcer.burst(vips, lambda: deadline)).late:\n"
        "        await asyncio.sleep(0.001)\n"
        "    return sent\n"
        "print(asyncio.run(announce()))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        ear.first()
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        while not deadline.deadline_passed(clock.now()):
            # waits for a fact: the deadline has passed
            time.sleep(0.01)
        ear.waiting()
        os.kill(child.pid, signal.SIGCONT)
        said = child.communicate(timeout=30)[0].decode()
    finally:
        child.kill()
        child.wait()
    assert ear.waiting() == []
    assert "late=" in said
    assert "late=0" not in said


@pytest.mark.netns
async def test_a_new_hardware_address_is_noticed(wire, announcer, ear):
    await announcer.burst([V4], lambda: in_s(5))

    def change() -> None:
        with IPRoute() as kernel:
            kernel.link("set", index=kernel.link_lookup(ifname=HERE)[0], address="02:00:00:00:00:0c")

    wire.here(change)
    believe(wire, str(V4), "02:00:00:00:00:99")
    await announcer.burst([V4], lambda: in_s(5))
    assert wire.neighbour(str(V4)) == "02:00:00:00:00:0c"


@pytest.mark.netns
async def test_an_interface_that_was_made_anew_is_announced_on_again(wire, announcer):
    def remake() -> None:
        with IPRoute() as kernel:
            kernel.link("del", index=kernel.link_lookup(ifname=HERE)[0])
            kernel.link("add", kind="veth", ifname=HERE, peer={"ifname": "v2"})
            for name in (HERE, "v2"):
                kernel.link("set", index=kernel.link_lookup(ifname=name)[0], state="up")

    await announcer.burst([V4], lambda: in_s(5))
    wire.here(remake)
    assert await announcer.burst([V4], lambda: in_s(5)) == Sent(frames=2)


@pytest.mark.netns
async def test_a_thousand_vips_are_announced_in_milliseconds(announcer):
    many = [ip_address(f"10.{100 + n // 250}.0.{n % 250 + 1}") for n in range(1000)]
    start = time.monotonic()
    sent = await announcer.burst(many, lambda: in_s(60))
    print(f"2,000 frames in {1000 * (time.monotonic() - start):.0f} ms")
    assert sent.frames == 2000


@pytest.mark.netns
async def test_an_interface_that_cannot_be_announced_on_is_named(wire):
    with pytest.raises(AnnounceError, match="eth77"):
        await Announcer("eth77").burst([V4], lambda: in_s(5))

    def down() -> None:
        with IPRoute() as kernel:
            kernel.link("set", index=kernel.link_lookup(ifname=HERE)[0], state="down")

    wire.here(down)
    with pytest.raises(AnnounceError, match=f"no announcement could be sent on {HERE}: Network is down"):
        await Announcer(HERE).burst([V4], lambda: in_s(5))
