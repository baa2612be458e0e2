"""The clocks of a simulated node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leaseha.core.values import Instant

PPM: Final = 1_000_000


@dataclass(slots=True)
class Clock:
    """Two clocks with rates and offsets of their own. The kernel's timers run at the rate of the first."""

    boot_offset_ns: int
    boot_ppm: int
    raw_offset_ns: int
    raw_ppm: int

    def read(self, true_ns: int) -> Instant:
        """Both clocks at a true moment."""
        boot_ns = self.boot_offset_ns + true_ns * (PPM + self.boot_ppm) // PPM
        return Instant(boot_ns, self.raw_offset_ns + true_ns * (PPM + self.raw_ppm) // PPM)

    def true_ns(self, at: Instant) -> int:
        """When the earlier of the two clocks reaches `at`."""
        boot_ns = (at.boot_ns - self.boot_offset_ns) * PPM // (PPM + self.boot_ppm)
        return min(boot_ns, (at.raw_ns - self.raw_offset_ns) * PPM // (PPM + self.raw_ppm))

    def lasts_ns(self, timeout_ns: int) -> int:
        """True time until a timer of the kernel ends."""
        return timeout_ns * PPM // (PPM + self.boot_ppm)
