"""The only place in the package where time is read.

What it does not promise: that the two clocks of an `Instant` were read at the same moment. They are read
one after the other, so the younger value is at most as late as a preemption between two system calls.
A holder reads before sending and a standby after receiving, so that either order is on the safe side.
"""

from __future__ import annotations

import time

from leaseha.core.values import Instant


def now() -> Instant:
    """This moment by CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW, in ns since the machine's boot."""
    return Instant(
        boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        raw_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW),
    )


def wall_ms() -> int:
    """The time of day in ms since 1970, for people and traces. No decision may rest on it."""
    return time.time_ns() // 1_000_000
