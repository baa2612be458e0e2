"""Foreign claims on our VIPs, heard on a real cable."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from leaseha.adapters import clock
from leaseha.adapters.announce import Announcer, frames_for, gratuitous_arp, unsolicited_na
from leaseha.adapters.conflict import QUIET_NS, Claim, ConflictWatch, arp_claim, na_claim
from leaseha.errors import AnnounceError
from tests.adapters.wire import HERE, THERE, THERE_MAC, Wire, in_s

V4, V6 = IPv4Address("10.9.0.100"), IPv6Address("fd09::100")
MAC = bytes.fromhex(THERE_MAC.replace(":", ""))


def test_an_announcement_is_a_claim():
    assert {arp_claim(frame) for frame in frames_for(MAC, V4)} == {Claim(V4, THERE_MAC)}
    assert na_claim(unsolicited_na(MAC, V6)) == Claim(V6, THERE_MAC)


def test_an_advertisement_without_the_option_claims_for_its_sender():
    assert na_claim(unsolicited_na(MAC, V6)[:78]) == Claim(V6, THERE_MAC)


def test_a_probe_claims_nothing():
    assert arp_claim(gratuitous_arp(MAC, IPv4Address("0.0.0.0"))) is None


def test_an_advertisement_from_another_network_claims_nothing():
    frame = bytearray(unsolicited_na(MAC, V6))
    frame[21] = 254
    assert na_claim(bytes(frame)) is None


@pytest.mark.parametrize("parse", [arp_claim, na_claim])
def test_odd_and_cut_frames_claim_nothing_and_raise_nothing(parse):
    for frame in (*frames_for(MAC, V4), unsolicited_na(MAC, V6), bytes(100), b"\xff" * 100):
        for length in range(78):
            assert parse(frame[:length]) is None or len(frame[:length]) >= 42


class Claims(list[Claim]):
    """Writes down, and lets a test wait for the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def __call__(self, claim: Claim) -> None:
        self.append(claim)
        self.news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:
                self.news.clear()
                await self.news.wait()


def claim_there(wire: Wire, *ips: object) -> None:
    """Someone at the other end announces these."""

    def announce() -> None:
        announcer = Announcer(THERE)
        asyncio.run(announcer.burst(ips, lambda: in_s(30)))
        announcer.close()

    wire.there(announce)


@pytest.fixture
async def claims():
    return Claims()


@pytest.mark.netns
@pytest.mark.parametrize("many", [0, 300, 2500], ids=["alone", "among hundreds", "among thousands"])
async def test_a_foreign_claim_on_a_vip_is_told_and_nothing_else_is(wire, claims, many):
    watch = ConflictWatch(HERE, claims)
    watch.watch([V4, V6, *(ip_address(f"10.{100 + n // 250}.0.{n % 250 + 1}") for n in range(many))])
    own = Announcer(HERE)
    await own.burst([V4, V6], lambda: in_s(5))
    claim_there(wire, ip_address("10.9.0.2"), ip_address("fd09::2"), ip_address("fd10::100"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"some traffic", ("10.9.0.2", 9))
    claim_there(wire, V4, V6)
    await claims.until(2)
    assert set(claims) == {Claim(V4, THERE_MAC), Claim(V6, THERE_MAC)}
    assert len(claims) == 2  # the ARP claim came in both forms and is told once
    watch.close()
    own.close()


@pytest.mark.netns
async def test_a_claim_that_goes_on_is_told_again_when_it_was_quiet_long_enough(wire, claims):
    ahead_ns = 0
    watch = ConflictWatch(HERE, claims, now=lambda: clock.now().plus(ahead_ns))
    watch.watch([V6])
    claim_there(wire, V6)
    await claims.until(1)
    claim_there(wire, V6)
    ahead_ns = QUIET_NS
    await claims.until(1)
    claim_there(wire, V6)
    await claims.until(2)
    watch.close()


@pytest.mark.netns
async def test_other_hardware_addresses_of_this_machine_are_no_foreign_claim(wire, claims):
    asked: list[str] = []
    watch = ConflictWatch(HERE, claims, is_ours=lambda mac: not asked.append(mac))
    watch.watch([V4, V6])
    claim_there(wire, V4, V6)
    async with asyncio.timeout(10):
        while len(asked) < 3:
            await asyncio.sleep(0)
    assert asked == [THERE_MAC] * 3
    assert claims == []
    watch.close()


@pytest.mark.netns
async def test_what_is_listened_for_can_change_and_end(wire, claims):
    watch = ConflictWatch(HERE, claims)
    watch.watch([V4])
    claim_there(wire, V6)
    watch.watch([V6])
    claim_there(wire, V4)
    claim_there(wire, V6)
    await claims.until(1)
    watch.watch([])
    claim_there(wire, V4, V6)
    assert claims == [Claim(V6, THERE_MAC)]
    assert watch._ears == {}
    watch.close()


@pytest.mark.netns
async def test_an_interface_that_cannot_be_listened_on_is_named(wire, claims):
    with pytest.raises(AnnounceError, match="eth77"):
        ConflictWatch("eth77", claims).watch([V4])


@pytest.mark.netns
async def test_the_watch_survives_the_loss_of_the_carrier(wire, claims):
    watch = ConflictWatch(HERE, claims)
    watch.watch([V4])
    wire.carrier(False)
    wire.carrier(True)
    await asyncio.sleep(0)
    claim_there(wire, V4)
    await claims.until(1)
    watch.close()
