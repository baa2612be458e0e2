"""What does not answer through its VIP makes a holder ineligible, after the tolerance and for the hold-down."""

from leaseha.core.values import NS_PER_S, Instant
from leaseha.runtime.datapath import Verdict


def at(seconds: float) -> Instant:
    return Instant(int(seconds * NS_PER_S), int(seconds * NS_PER_S))


def made() -> Verdict:
    """3 s of tolerance, 30 s of hold-down."""
    return Verdict(3 * NS_PER_S, 30 * NS_PER_S)


def broken() -> Verdict:
    """One that was served, did not answer from second 0 to 3, and is served still."""
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.served("no answer", at(3))
    return verdict


def test_a_fault_counts_when_it_has_lasted_for_the_tolerance():
    verdict = made()
    for second in (0, 1, 2):
        verdict.served("no answer", at(second))
        assert verdict.broken == ""
    verdict.served("no answer at all", at(3))
    assert verdict.broken == "no answer at all"


def test_one_good_answer_within_the_tolerance_begins_it_anew():
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.served("", at(1))
    verdict.served("no answer", at(2))
    verdict.served("no answer", at(4))
    assert verdict.broken == ""


def test_a_tolerance_of_zero_takes_the_first_fault_for_good():
    verdict = Verdict(0, NS_PER_S)
    verdict.served("no answer", at(0))
    assert verdict.broken == "no answer"


def test_a_holder_that_stays_is_trusted_again_when_it_has_answered_for_the_tolerance():
    verdict = broken()
    verdict.served("", at(4))
    assert verdict.broken
    verdict.served("", at(7))
    assert verdict.broken == ""


def test_a_node_that_let_go_for_it_is_not_trusted_before_the_hold_down_is_over():
    verdict = broken()
    for second in (4, 10, 33.9):
        verdict.idle(at(second))
        assert verdict.broken == "no answer"
    verdict.idle(at(34))
    assert verdict.broken == ""


def test_serving_again_meanwhile_begins_the_hold_down_anew():
    verdict = broken()
    verdict.idle(at(4))
    verdict.served("no answer", at(20))
    verdict.idle(at(30))
    verdict.idle(at(40))
    assert verdict.broken == "no answer"


def test_what_is_not_served_here_is_no_fault():
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.idle(at(1))
    verdict.served("no answer", at(5))
    assert verdict.broken == ""
