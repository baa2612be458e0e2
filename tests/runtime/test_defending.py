"""A foreign claim is defended when a renewal that was begun after it is committed; once in ten seconds at most."""

import asyncio
import logging

from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import AnnounceError
from leaseha.runtime.defending import DEFEND_INTERVAL_NS, Defence, held_after
from tests.core import hands
from tests.core.harness import World

CLAIM = "02:00:00:00:00:99 claims 192.0.2.50"


class Case:
    """A node that holds `l`, and its defence, called at each renewal as an agent does."""

    def __init__(self) -> None:
        self.world: World = hands.serving()
        self.announced: list[Instant] = []
        self.refused = ""
        self.defence = Defence(lambda: self.world.nodes["a"], self.announce, self.world.now)

    async def announce(self, lease: str) -> None:
        if self.refused:
            raise AnnounceError(self.refused)
        self.announced.append(self.world.now())

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 20)):
            before = self.world.nodes["a"].leases["l"].told
            self.world.run(0.05)
            if self.world.nodes["a"].leases["l"].told != before:
                self.defence.renewed("l")
            await asyncio.sleep(0)

    def told(self) -> tuple[int, int]:
        told = self.defence.told("l")
        assert told is not None
        assert told["last"] == CLAIM
        return told["heard"], told["defended"]


def test_a_claim_is_defended_by_the_next_renewal_that_was_begun_after_it_and_then_no_more(caplog):
    async def go() -> None:
        case = Case()
        assert case.defence.told("l") is None
        await case.run(2)
        case.defence.heard("l", CLAIM)
        assert case.announced == []
        await case.run(3)
        assert len(case.announced) == 1
        assert case.told() == (1, 1)

    asyncio.run(go())
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        f"foreign claim heard: {CLAIM}",
        f"foreign claim defended: {CLAIM}; the lease is proven to be held here",
    ]


def test_a_renewal_that_was_under_way_when_the_claim_was_heard_proves_nothing():
    async def go() -> None:
        case = Case()
        hands.keep(case.world, "a", "T2")
        await case.run(1)
        under_way = hands.kept(case.world, "a", "T2")
        case.world.run(0.001)
        case.defence.heard("l", CLAIM)
        outcome = hands.apply(case.world, under_way)
        hands.answer(case.world, "a", under_way, outcome)
        case.defence.renewed("l")
        await asyncio.sleep(0)
        assert case.announced == []

        hands.let(case.world, "a")
        await case.run(2)
        assert len(case.announced) == 1

    asyncio.run(go())


def test_without_a_renewal_nothing_is_said_and_the_node_yields_by_its_deadline():
    async def go() -> None:
        case = Case()
        hands.keep(case.world, "a")
        case.defence.heard("l", CLAIM)
        await case.run(10)
        assert case.announced == []
        assert "a" not in case.world.holders()
        assert case.told() == (1, 0)

    asyncio.run(go())


def test_a_claim_that_goes_on_is_defended_every_ten_seconds_and_never_more_often():
    async def go() -> None:
        case = Case()
        for _ in range(35):
            case.defence.heard("l", CLAIM)
            await case.run(1)
        gaps_ns = [b.boot_ns - a.boot_ns for a, b in zip(case.announced, case.announced[1:], strict=False)]
        assert len(gaps_ns) == 3
        assert all(DEFEND_INTERVAL_NS <= gap <= DEFEND_INTERVAL_NS + 2 * NS_PER_S for gap in gaps_ns)
        assert case.told() == (35, 4)

    asyncio.run(go())


def test_what_was_claimed_before_the_lease_went_is_not_defended_when_it_is_back():
    async def go() -> None:
        case = Case()
        case.defence.heard("l", CLAIM)
        case.defence.dropped("l")
        await case.run(3)
        assert case.announced == []

    asyncio.run(go())


def test_a_defence_that_cannot_be_sent_is_told(caplog):
    async def go() -> None:
        case = Case()
        case.refused = "no announcement could be sent on eth0: Network is down"
        case.defence.heard("l", CLAIM)
        await case.run(3)

    asyncio.run(go())
    assert "foreign claim not defended: no announcement could be sent on eth0: Network is down" in caplog.text


def test_a_node_that_does_not_hold_the_lease_has_not_held_it_after_anything():
    case = Case()
    assert held_after(case.world.nodes["a"], "l", Instant(0, 0))
    assert not held_after(case.world.nodes["b"], "l", Instant(0, 0))
