"""The log says when etcd stops answering, now and then while that lasts, and when it is back; no more than that."""

import logging

import pytest

from leaseha.core.values import NS_PER_S, Instant
from leaseha.runtime.reach import AGAIN_NS, PATIENCE_NS, Reach


class Hand:
    """A clock that is set by hand, in ns."""

    def __init__(self) -> None:
        self.at_ns = 0

    def __call__(self) -> Instant:
        return Instant(self.at_ns, self.at_ns)


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def reach(clock: Hand) -> Reach:
    return Reach("http://one:2379, http://two:2379", clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_first_failure_is_said_at_once_with_endpoints_and_reason(reach, caplog):
    reach.failed("refused")

    assert lines(caplog) == [
        "etcd (http://one:2379, http://two:2379) has given no answer yet, trying on: refused"
    ]


def test_a_failure_right_after_an_answer_is_not_worth_a_line(reach, clock, caplog):
    reach.answered()
    clock.at_ns = PATIENCE_NS - 1
    reach.failed("slow")

    assert lines(caplog) == []


def test_a_lasting_failure_is_said_once_in_a_while(reach, clock, caplog):
    reach.answered()
    for clock.at_ns in range(PATIENCE_NS, PATIENCE_NS + 2 * AGAIN_NS, NS_PER_S // 2):
        reach.failed("cut off")

    assert [line.partition(", trying")[0].rpartition(" for ")[2] for line in lines(caplog)] == [
        "1.0 s",
        "31.0 s",
    ]


def test_the_return_is_said_with_its_length_and_only_if_the_absence_was(reach, clock, caplog):
    reach.answered()
    reach.answered()
    clock.at_ns = 5 * NS_PER_S
    reach.failed("cut off")
    clock.at_ns = 7 * NS_PER_S
    reach.answered()
    reach.answered()

    assert lines(caplog)[1:] == ["etcd answers again after 7.0 s"]


def test_the_first_answer_of_all_has_no_length(reach, caplog):
    reach.failed("refused")
    reach.answered()

    assert lines(caplog)[1:] == ["etcd answers again"]
