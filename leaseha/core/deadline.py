"""Deadline and wait arithmetic (design 4.3): how long a holder may serve, and how long a standby must wait.

Why it is safe: the record that a standby received was sent before it was received, so the holder's deadline,
counted from sending, is over before the standby's wait, counted from receipt, is. Only clock *rates* are
assumed to agree, within `drift_ppm`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leaseha.core import values
from leaseha.core.values import Instant

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Written:
    """When a write of the own record was sent, and the ttl (ns) that it carries."""

    sent_at: Instant
    ttl_ns: int


def held_ns(ttl_ns: int, drift_ppm: int) -> int:
    """What is left of a ttl for a holder whose clock may be slow: ttl x (1 - drift), ns, rounded down."""
    return ttl_ns * (PPM - drift_ppm) // PPM


def waited_ns(ttl_ns: int, drift_ppm: int, margin_ns: int) -> int:
    """How long a standby whose clock may be fast waits: ttl x (1 + drift) + margin, ns, rounded up."""
    return -(-ttl_ns * (PPM + drift_ppm) // PPM) + margin_ns


def of_write(write: Written, drift_ppm: int) -> Instant:
    """Until when this write alone would let its holder serve: counted from before it was sent."""
    return write.sent_at.plus(held_ns(write.ttl_ns, drift_ppm))


def of_session(proven: Written, pending: Iterable[Written], drift_ppm: int) -> Instant:
    """The earliest over every own write that may be the current record.

    So a longer ttl counts when it is proven, and a shorter one from its sending on.
    """
    least = of_write(proven, drift_ppm)
    for write in pending:
        least = values.earliest(least, of_write(write, drift_ppm))
    return least


def of_cover(sent_at: Instant, ttl_max_ns: int, drift_ppm: int) -> Instant:
    """Until when a transaction that compared or wrote a claim lets that lease be served.

    Whoever finds that claim's key absent waits `ttl_max` before it takes, so this must be over by then.
    """
    return sent_at.plus(held_ns(ttl_max_ns, drift_ppm))


def of_wait(since: Instant, ttl_ns: int, drift_ppm: int, margin_ns: int) -> Instant:
    """From when on a standby may take, having received at `since` the record that carries this ttl and margin."""
    return since.plus(waited_ns(ttl_ns, drift_ppm, margin_ns))
