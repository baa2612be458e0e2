"""How long a holder may serve, and how long a standby waits (design 4.3; G1, G3, A9)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leaseha.core import deadline
from leaseha.core.deadline import Written
from leaseha.core.values import NS_PER_S, Instant

TTLS = st.integers(min_value=1, max_value=3600 * NS_PER_S)
DRIFTS = st.integers(min_value=0, max_value=100_000)
MARGINS = st.integers(min_value=0, max_value=10 * NS_PER_S)
START = Instant(1000, 1005)


def test_a_holder_counts_its_ttl_less_the_drift_from_before_sending() -> None:
    """deadline = sent_at + ttl x (1 - drift)."""
    assert deadline.of_write(Written(START, 5 * NS_PER_S), 1000) == START.plus(4_995_000_000)


def test_a_standby_waits_the_ttl_with_the_drift_and_the_margin_from_receipt() -> None:
    """wait = received + ttl x (1 + drift) + margin."""
    assert deadline.of_wait(START, 5 * NS_PER_S, 1000, 7) == START.plus(5_005_000_007)


def test_a_cover_ends_before_whoever_waited_ttl_max_may_take() -> None:
    """A3: whoever finds the claim absent waits ttl_max, so the lease's own deadline must be over by then."""
    assert deadline.of_cover(START, 15 * NS_PER_S, 1000) == START.plus(14_985_000_000)


def test_a_raised_ttl_counts_only_when_proven() -> None:
    """A9: while the longer one is unresolved the shorter one may be what stands."""
    proven, raised = Written(START, 2 * NS_PER_S), Written(START.plus(1), 9 * NS_PER_S)

    assert deadline.of_session(proven, [raised], 0) == START.plus(2 * NS_PER_S)
    assert deadline.of_session(raised, [], 0) == START.plus(1 + 9 * NS_PER_S)


def test_a_lowered_ttl_counts_from_its_sending_on() -> None:
    """A9: the standby may already be counting with it."""
    proven, lowered = Written(START, 9 * NS_PER_S), Written(START.plus(NS_PER_S), 2 * NS_PER_S)

    assert deadline.of_session(proven, [lowered], 0) == START.plus(3 * NS_PER_S)


@given(TTLS, DRIFTS, MARGINS)
def test_whatever_the_rates_the_holder_is_done_before_a_standby_may_take(
    ttl_ns: int, drift_ppm: int, margin_ns: int
) -> None:
    """The slowest clock holds, the fastest waits, and both began at one moment of true time (G1)."""
    held, waited = deadline.held_ns(ttl_ns, drift_ppm), deadline.waited_ns(ttl_ns, drift_ppm, margin_ns)
    slow, fast = deadline.PPM - drift_ppm, deadline.PPM + drift_ppm

    assert held * fast <= waited * slow  # held / slow <= waited / fast, without fractions


@given(TTLS, st.lists(st.tuples(st.integers(min_value=0, max_value=NS_PER_S), TTLS), max_size=5))
def test_the_deadline_is_that_of_the_worst_write_that_may_stand(
    ttl_ns: int, pending: list[tuple[int, int]]
) -> None:
    writes = [Written(START.plus(later), ttl) for later, ttl in pending]
    until = deadline.of_session(Written(START, ttl_ns), writes, 1000)

    assert until == min(
        (deadline.of_write(w, 1000) for w in [Written(START, ttl_ns), *writes]), key=lambda at: at.boot_ns
    )
