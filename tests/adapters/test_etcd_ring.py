"""Which member is asked next."""

from dataclasses import dataclass

import pytest

from leaseha.adapters.etcd.member import Ring
from leaseha.errors import InvariantBroken


@dataclass
class Node:
    endpoint: str
    away: bool = False
    trouble: str = ""

    def cut_off(self):
        return self.away


@pytest.fixture
def ring():
    return Ring([Node("a"), Node("b"), Node("c")])


def names(ring, *attempts):
    return "".join(ring.take(attempt).member.endpoint for attempt in attempts)


def test_first_attempts_stick_to_one_member(ring):
    assert names(ring, 0, 0, 0) == "aaa"


def test_each_further_attempt_goes_to_the_next_member(ring):
    assert names(ring, 0, 1, 2, 3) == "abca"


def test_a_member_without_a_connection_is_passed_by(ring):
    ring.members[1].away = True
    assert names(ring, 0, 1, 2) == "aca"


def test_without_any_connection_the_turn_is_kept(ring):
    for member in ring.members:
        member.away = True
    assert names(ring, 0, 1, 2) == "abc"


def test_a_member_that_fails_loses_its_place(ring):
    ring.failed(ring.take(0), "no answer in time")
    assert names(ring, 0) == "b"
    assert ring.members[0].trouble == "no answer in time"


def test_the_member_that_answers_the_newest_attempt_is_stuck_to(ring):
    ring.take(0)
    ring.answered(ring.take(1))
    assert names(ring, 0) == "b"


def test_the_late_answer_of_a_slow_member_does_not_bring_it_back(ring):
    slow = ring.take(0)
    ring.answered(ring.take(1))
    ring.answered(slow)
    assert names(ring, 0) == "b"


def test_the_late_failure_of_an_old_attempt_takes_no_place(ring):
    old = ring.take(0)
    ring.answered(ring.take(0))
    ring.failed(old, "no answer in time")
    assert names(ring, 0) == "a"


def test_an_attempt_after_a_failure_does_not_skip_a_member(ring):
    ring.failed(ring.take(0), "refused")
    assert names(ring, 1) == "b"


def test_a_failure_elsewhere_does_not_move_the_current_member(ring):
    first = ring.take(0)
    ring.failed(ring.take(1), "refused")
    ring.answered(first)
    assert names(ring, 0) == "a"


def test_an_answer_clears_the_trouble(ring):
    ring.failed(ring.take(0), "refused")
    ring.answered(ring.take(2))
    ring.answered(ring.take(2))
    ring.answered(ring.take(2))
    assert "refused" not in ring.troubles()


def test_a_single_member_gets_every_attempt():
    ring = Ring([Node("a")])
    ring.failed(ring.take(0), "refused")
    assert names(ring, 0, 1, 2) == "aaa"


def test_a_client_without_an_endpoint_is_a_fault_of_the_caller():
    with pytest.raises(InvariantBroken):
        Ring([])
