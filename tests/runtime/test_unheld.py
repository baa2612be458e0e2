"""Why nobody holds a lease is said once it lasts, and once."""

import pytest

from leaseha.runtime.unheld import Unheld


@pytest.fixture
def unheld() -> Unheld:
    return Unheld()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ends of the lines."""
    return [record.getMessage().rpartition(": ")[2] for record in caplog.records]


def test_a_reason_that_passes_by_is_not_said(unheld, caplog):
    unheld.look({"a": "carrier lost"})
    unheld.look({})
    unheld.look({"a": "carrier lost"})

    assert said(caplog) == []


def test_a_reason_that_lasts_is_said_once(unheld, caplog):
    for _ in range(5):
        unheld.look({"a": "not in-sync"})

    assert said(caplog) == ["not in-sync"]


def test_another_reason_and_the_same_one_later_are_said_again(unheld, caplog):
    for reason in ("not in-sync", "carrier lost"):
        for _ in range(3):
            unheld.look({"a": reason})
    unheld.look({})
    for _ in range(3):
        unheld.look({"a": "carrier lost"})

    assert said(caplog) == ["not in-sync", "carrier lost", "carrier lost"]


def test_each_lease_is_named_in_its_line(unheld, caplog):
    for _ in range(2):
        unheld.look({"a": "x", "b": "y"})

    assert [record.leaseha["lease"] for record in caplog.records] == ["a", "b"]
