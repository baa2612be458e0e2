"""Instants by two clocks: each side errs towards safety (design 4.3, A18)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.core.values import Instant, earliest

NS = st.integers(min_value=0, max_value=10**19)
INSTANTS = st.builds(Instant, NS, NS)


@pytest.mark.parametrize(("boot", "raw"), [(10, 0), (0, 10), (10, 10)])
def test_a_deadline_has_passed_when_either_clock_says_so(boot: int, raw: int) -> None:
    assert Instant(10, 10).deadline_passed(Instant(boot, raw))
    assert not Instant(10, 10).deadline_passed(Instant(9, 9))


@pytest.mark.parametrize(("boot", "raw"), [(10, 9), (9, 10), (9, 9)])
def test_a_wait_is_over_only_when_both_clocks_say_so(boot: int, raw: int) -> None:
    assert not Instant(10, 10).wait_over(Instant(boot, raw))
    assert Instant(10, 10).wait_over(Instant(10, 10))


@given(INSTANTS, INSTANTS)
def test_a_deadline_is_never_later_than_a_wait_to_the_same_instant(end: Instant, now: Instant) -> None:
    assert end.deadline_passed(now) == (end.left_ns(now) <= 0)
    assert end.wait_over(now) == (end.wait_left_ns(now) <= 0)
    assert end.deadline_passed(now) or not end.wait_over(now)


@given(INSTANTS, INSTANTS, INSTANTS)
def test_the_earliest_deadline_has_passed_as_soon_as_any_has(
    one: Instant, other: Instant, now: Instant
) -> None:
    passed = one.deadline_passed(now) or other.deadline_passed(now)

    assert earliest(one, other).deadline_passed(now) == passed


@given(INSTANTS, st.integers(min_value=-(10**12), max_value=10**12))
def test_both_clocks_move_by_the_same(at: Instant, ns: int) -> None:
    later = at.plus(ns)

    assert (later.boot_ns - at.boot_ns, later.raw_ns - at.raw_ns) == (ns, ns)
