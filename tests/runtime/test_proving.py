"""An announcement is proven by the first neighbour that confirms it, and repeated, in bounds, until one does."""

import asyncio
from ipaddress import ip_address

from leaseha.adapters.announce import Sent
from leaseha.core.values import Instant
from leaseha.runtime.neighbourhood import peers
from leaseha.runtime.proving import AGAIN_S, SELDOM_S, WITNESSES_MOST, Proof, Verdict
from tests.core import hands
from tests.core.harness import spec

VIP, SIX = ip_address("192.0.2.50"), ip_address("2001:db8::50")
GATEWAY, PEER, PEER6 = ip_address("192.0.2.1"), ip_address("192.0.2.3"), ip_address("2001:db8::3")
SINCE = Instant(0, 0)


class Case:
    """A proof in a time of its own, and the announcer that it uses; `late`: the deadline has passed."""

    def __init__(self, vips=(VIP,), witnesses=(GATEWAY, PEER)) -> None:
        self.now_s = 0.0
        self.bursts: list[float] = []
        self.asked: list[tuple] = []
        self.late = False
        self.verdicts: list[Verdict] = []
        self.proof = Proof("l", vips, self, lambda: witnesses, self.verdicts.append, self.pause)

    def run(self, *answers: tuple[float, object, object]) -> None:
        """To its end, with these answers: (when in s, VIP, witness)."""
        self.answers = sorted(answers, key=lambda answer: answer[0])
        asyncio.run(self.proof.run("trace", SINCE, lambda: None))

    async def pause(self, pause_s: float) -> None:
        self.now_s += pause_s
        while self.answers and self.answers[0][0] < self.now_s:
            _, vip, witness = self.answers.pop(0)
            self.proof.answered(vip, witness)

    async def burst(self, vips, deadline) -> Sent:
        self.bursts.append(round(self.now_s, 3))
        return Sent(late=1) if self.late else Sent(frames=1)

    async def ask(self, asked, deadline) -> Sent:
        self.asked.append(tuple(asked))
        return Sent(frames=len(asked))


def test_the_first_answer_proves_it_once_and_the_usual_repetitions_go_on():
    case = Case()
    case.run((0.01, VIP, PEER), (0.02, VIP, GATEWAY))

    (verdict,) = case.verdicts
    assert (verdict.lease, verdict.trace, verdict.since, verdict.by) == ("l", "trace", SINCE, PEER)
    assert tuple(case.bursts) == AGAIN_S
    assert case.asked == [((VIP, GATEWAY), (VIP, PEER))]
    told = case.proof.told()
    assert (told["proven"], told["by"], told["nobody_to_ask"]) == (True, str(PEER), [])


def test_without_an_answer_it_is_said_after_the_usual_series_and_announced_more_seldom_in_bounds():
    case = Case()
    case.run()

    (verdict,) = case.verdicts
    assert verdict.by is None
    assert verdict.asked == (GATEWAY, PEER)
    assert tuple(case.bursts) == AGAIN_S + SELDOM_S
    assert case.proof.told() == {
        "proven": False, "by": None, "after_ms": None,
        "asked": [str(GATEWAY), str(PEER)], "nobody_to_ask": [],
    }  # fmt: skip


def test_a_late_answer_ends_it():
    case = Case()
    case.run((21, VIP, GATEWAY))

    assert [verdict.by for verdict in case.verdicts] == [None, GATEWAY]
    assert case.bursts[-1] == 20


def test_where_nobody_can_be_asked_nothing_is_warned_of():
    case = Case(witnesses=(PEER6,))
    case.run()

    assert case.verdicts == []
    assert tuple(case.bursts) == AGAIN_S
    assert case.proof.told()["nobody_to_ask"] == [str(VIP)]


def test_each_vip_that_somebody_can_be_asked_about_must_be_confirmed():
    case = Case(vips=(VIP, SIX), witnesses=(GATEWAY, PEER6))
    case.run((0.01, SIX, PEER6), (0.3, VIP, GATEWAY))

    assert [verdict.by for verdict in case.verdicts] == [GATEWAY]
    assert case.asked == [
        ((VIP, GATEWAY), (SIX, PEER6)), ((VIP, GATEWAY),), ((VIP, GATEWAY),)
    ]  # fmt: skip


def test_an_answer_to_a_question_that_was_not_asked_proves_nothing():
    case = Case()
    case.run((0.01, VIP, ip_address("192.0.2.77")), (0.01, SIX, GATEWAY))

    assert [verdict.by for verdict in case.verdicts] == [None]


def test_a_holder_past_its_deadline_says_and_asks_nothing_more():
    case = Case()
    case.late = True
    case.run()

    assert len(case.bursts) == len(case.asked) == 1
    assert case.verdicts == []


def test_announcements_are_repeated_for_seconds_and_then_end():
    times = AGAIN_S + SELDOM_S
    assert list(times) == sorted(times)
    assert len(AGAIN_S) >= 4
    assert AGAIN_S[-1] <= 10
    assert SELDOM_S[-1] <= 60


def test_before_any_announcement_there_is_nothing_to_tell():
    assert Case().proof.told() is None


def test_a_few_witnesses_are_enough():
    case = Case(witnesses=[ip_address(f"192.0.2.{at}") for at in range(1, 20)])
    case.run((0.01, VIP, GATEWAY))

    assert len(case.asked[0]) == WITNESSES_MOST


def test_nodes_that_live_are_asked_and_silent_ones_are_not():
    world = hands.serving(
        *(spec(name, address=ip) for name, ip in (("a", ""), ("b", str(PEER)), ("c", "c.example")))
    )

    def asked() -> list[object]:
        return list(peers(world.nodes["a"], world.now()))

    assert asked() == [PEER]
    world.kill("b")
    world.run(10)
    assert asked() == []
