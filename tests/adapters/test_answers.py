"""A neighbour that is asked in the name of a VIP answers to its bearer alone, on a real cable."""

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from pyroute2 import IPRoute

from leaseha.adapters import route
from leaseha.adapters.announce import (
    Announcer,
    Sent,
    arp_question,
    frames_for,
    nd_question,
    question,
    unsolicited_na,
)
from leaseha.adapters.answers import Answers, arp_answer, na_answer
from leaseha.adapters.fence import Fence, available
from leaseha.errors import AnnounceError
from tests.adapters.wire import HERE, HERE_MAC, THERE, Wire, in_s

MAC = bytes.fromhex("02000000000a")
V4, V6 = IPv4Address("10.9.0.100"), IPv6Address("fd09::100")
PEER4, PEER6 = IPv4Address("10.9.0.2"), IPv6Address("fd09::2")
ARP_FRAME = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a 0a090064 000000000000 0a090002"
# Checksum by hand: fd09+0100 (source) + ff02+0001+ff00+0002 (group) + 0020 (length) + 003a (ICMPv6) + 8700
# + fd09+0002 (target) + 0101+0200+000a (option) = 4837e; 837e+4 = 8382; ~8382 = 7c7d.
ND_FRAME = (
    "3333ff000002 02000000000a 86dd 60000000 0020 3a ff"
    "fd090000000000000000000000000100 ff0200000000000000000001ff000002"
    "87 00 7c7d 00000000 fd090000000000000000000000000002 01 01 02000000000a"
)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [(arp_question(MAC, V4, PEER4), ARP_FRAME), (nd_question(MAC, V6, PEER6), ND_FRAME)],
    ids=["ARP", "ND"],
)
def test_a_question_is_what_the_rfc_says_to_the_bit(frame, expected):
    assert frame.hex() == expected.replace(" ", "")


def test_nobody_is_asked_for_an_address_of_the_other_kind():
    with pytest.raises(ValueError, match="cannot be asked"):
        question(MAC, V4, PEER6)


@pytest.mark.parametrize("parse", [arp_answer, na_answer])
def test_announcements_questions_and_cut_frames_answer_nothing(parse):
    frames = (
        *frames_for(MAC, V4),
        unsolicited_na(MAC, V6),
        arp_question(MAC, V4, PEER4),
        nd_question(MAC, V6, PEER6),
    )
    for frame in (*frames, bytes(100), b"\xff" * 100):
        for length in range(len(frame) + 1):
            assert parse(frame[:length]) is None


@pytest.mark.netns
@pytest.mark.parametrize(("vip", "peer"), [(V4, PEER4), (V6, PEER6)], ids=str)
async def test_who_is_asked_answers_and_knows_then_where_the_vip_is(wire: Wire, vip, peer):
    wire.address("add", str(vip), vip.max_prefixlen, **({"flags": 2} if vip.version == 6 else {}))
    told: asyncio.Queue = asyncio.Queue()
    answers = Answers(HERE, lambda *answer: told.put_nowait(answer))
    announcer = Announcer(HERE)
    try:
        assert await announcer.ask([(vip, peer)], lambda: in_s(5)) == Sent(frames=1)
        async with asyncio.timeout(10):
            while await told.get() != (vip, peer):
                pass
        assert wire.neighbour(str(vip)) == HERE_MAC
    finally:
        answers.close()
        announcer.close()


@pytest.mark.netns
@pytest.mark.parametrize("until", [lambda: in_s(-0.001), lambda: None], ids=["passed", "not held any more"])
async def test_nobody_is_asked_past_the_deadline(wire: Wire, until):
    announcer = Announcer(HERE)
    assert await announcer.ask([(V4, PEER4), (V6, PEER6)], until) == Sent(late=2)
    announcer.close()


@pytest.mark.netns
@pytest.mark.parametrize(("vip", "peer"), [(V4, PEER4), (V6, PEER6)], ids=str)
async def test_a_question_passes_an_open_fence_and_no_closed_one(wire: Wire, vip, peer):
    if why := available():
        pytest.skip(f"no fence here (Debian package libnftables1): {why}")
    wire.address("add", str(vip), vip.max_prefixlen, **({"flags": 2} if vip.version == 6 else {}))
    told: asyncio.Queue = asyncio.Queue()
    answers, announcer = Answers(HERE, lambda *answer: told.put_nowait(answer)), Announcer(HERE)
    fence = Fence("proof", [HERE], [vip], warn=print)
    await fence.stand()
    with pytest.raises(AnnounceError, match="could be sent"):
        await announcer.ask([(vip, peer)], lambda: in_s(5))
    await fence.arm([vip], in_s(5))
    await announcer.ask([(vip, peer)], lambda: in_s(5))
    async with asyncio.timeout(10):
        while await told.get() != (vip, peer):
            pass
    await fence.close([vip])
    with pytest.raises(AnnounceError, match="could be sent"):
        await announcer.ask([(vip, peer)], lambda: in_s(5))
    await fence.remove()
    fence.end()
    answers.close()
    announcer.close()


@pytest.mark.netns
async def test_what_is_sent_to_everyone_is_no_answer(wire: Wire):
    told: list[object] = []
    answers = Answers(HERE, lambda *answer: told.append(answer))

    def talk() -> None:
        announcer = Announcer(THERE)
        asyncio.run(announcer.burst([V4, V6], lambda: in_s(5)))
        announcer.close()

    wire.there(talk)
    announcer = Announcer(HERE)
    heard = asyncio.Event()
    marked = Answers(HERE, lambda *_: heard.set())
    await announcer.ask([(IPv4Address("10.9.0.1"), PEER4)], lambda: in_s(5))
    async with asyncio.timeout(10):
        await heard.wait()
        while not told:
            await asyncio.sleep(0)
    assert told == [(IPv4Address("10.9.0.1"), PEER4)]
    for one in (answers, marked, announcer):
        one.close()


@pytest.mark.netns
async def test_an_interface_that_cannot_be_listened_on_is_named(wire: Wire):
    with pytest.raises(AnnounceError, match="eth77"):
        Answers("eth77", lambda *_: None)


@pytest.mark.netns
def test_the_gateway_of_an_interface_is_that_of_its_default_route(wire: Wire):
    assert route.gateway(HERE, 4) is None
    assert route.gateway(HERE, 6) is None
    for peer in (PEER4, PEER6):
        wire.here(lambda peer=peer: _default(str(peer)))
    assert wire.here(lambda: route.gateway(HERE, 4)) == PEER4
    assert wire.here(lambda: route.gateway(HERE, 6)) == PEER6
    assert wire.here(lambda: route.gateway("lo", 4)) is None
    assert route.gateway("eth77", 4) is None


def _default(gateway: str) -> None:
    family = 2 if ip_address(gateway).version == 4 else 10
    with IPRoute() as kernel:
        kernel.route(
            "add", dst="default", gateway=gateway, family=family, oif=kernel.link_lookup(ifname=HERE)[0]
        )
