"""Announcements of a simulated node: bursts at moments of a schedule, the clock read immediately before each frame.

Where there is a fence a freeze may fall between that reading and the frame: it passes the fence then, or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chaos.sim.kernel import Kernel
from leaseha.core.values import NS_PER_MS

if TYPE_CHECKING:
    from chaos.sim.node import Node

AGAIN_NS: Final = tuple(ms * NS_PER_MS for ms in (50, 200, 1000, 3000, 8000))
BURST: Final = 2
WINDOW_NS: Final = 20_000


class Announcer:
    """Of one node, for all its leases."""

    def __init__(self, node: Node, kernel: Kernel) -> None:
        self._node = node
        self._world = node.world
        self._kernel = kernel
        self._serials: dict[str, int] = {}

    def announce(self, lease: str) -> None:
        """Now, and again at the moments of the schedule, instead of what was going on."""
        serial = self._serials[lease] = self._serials.get(lease, 0) + 1
        self._burst(lease, serial)
        for at_ns in AGAIN_NS:
            self._node.awake(at_ns, lambda: self._burst(lease, serial))

    def quiet(self, lease: str) -> None:
        """No more of them."""
        self._serials[lease] = self._serials.get(lease, 0) + 1

    def _burst(self, lease: str, serial: int) -> None:
        self._frame(lease, serial)
        for number in range(1, BURST):
            self._node.awake(number * WINDOW_NS, lambda: self._frame(lease, serial))

    def _frame(self, lease: str, serial: int) -> None:
        if self._serials[lease] != serial or not self.may_send(lease):
            return
        if not self._kernel.fenced:
            self._kernel.send(lease)
            return
        self._node.awake(WINDOW_NS // 2, lambda: self._kernel.send(lease))
        if self._world.likely(self._world.options.freeze_frames):
            self._node.freeze(self._world.between(NS_PER_MS, 3 * self._world.options.ttl_ns))

    def may_send(self, lease: str) -> bool:
        """By the newest word on the deadline, and a clock that is read now."""
        until = self._node.told.get(lease)
        return until is not None and not until.deadline_passed(self._node.now())
