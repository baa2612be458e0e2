"""What the kernel of a simulated node does by itself: addresses end, a fence closes, whoever is frozen or dead.

A node answers for a lease while its address is bound and, where there is a fence, while the lease is in both of the
fence's two sets. The history tells when that begins and ends (`present`, `absent`), and the same of the address alone
(`bound`, `unbound`). Timeouts of the sets are relative and run on the kernel's own clock; so the model knows no
deadline here, only what it was told, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from chaos.sim.clock import PPM, Clock
from chaos.sim.world import World
from leaseha.core.values import NS_PER_MS

RANKS: Final = ("one", "two")
LIFETIME_PAST_NS: Final = 1500 * NS_PER_MS
"""By so much an address may outlast its deadline where a fence ends it by the millisecond."""
EARLY_NS: Final = 8 * NS_PER_MS
"""Two jiffies of the slowest usual kernel: an element may end so much too early."""
LATENESS: Final = (7, 10)
"""How much of the margin an address lifetime uses as a rule; `latest` lets it use all."""
FENCE_LATENESS: Final = (6, 10)
"""The same of the end of an element; the rest of the margin is for the arming."""


class Kernel:
    """Of one node. `margin_ns` is what others wait for its sake; `gone` hears that an address went by itself."""

    wanted: tuple[str, ...] = RANKS
    """The sets that a packet must match."""
    egress = True
    """Frames of the node itself pass the fence as well."""

    def __init__(
        self,
        world: World,
        name: str,
        clock: Clock,
        *,
        fenced: bool,
        margin_ns: int,
        gone: Callable[[str, str], None],
    ) -> None:
        self._world = world
        self._name = name
        self._clock = clock
        self.fenced = fenced
        self.margin_ns = margin_ns * PPM // (PPM + world.options.drift_ppm)
        self._gone = gone
        self._addresses: dict[str, int] = {}
        """Lease -> true time at which its address ends."""
        self._elements: dict[tuple[str, str], int] = {}
        """(set, lease) -> true time at which it ends."""
        self._present: set[str] = set()

    # Addresses

    def bound(self, lease: str) -> bool:
        """Its address is on the interface."""
        return lease in self._addresses

    def bind(self, lease: str, until_ns: int) -> None:
        """Until `until_ns` of true time and a little longer; also the way to let it live on."""
        if self.fenced:
            late_ns = self._world.between(0, LIFETIME_PAST_NS)
        elif self._world.options.latest:
            late_ns = self.margin_ns
        else:
            late_ns = self._world.between(0, self.margin_ns * LATENESS[0] // LATENESS[1])
        if lease not in self._addresses:
            self._world.history.add(self._world.now_ns, "bound", self._name, lease)
        ends_ns = until_ns + late_ns
        self._addresses[lease] = ends_ns
        self._look(lease)

        def expire() -> None:
            if self._addresses.get(lease) == ends_ns and self.unbind(lease):
                self._gone(lease, "its lifetime ended")

        self._world.after(ends_ns - self._world.now_ns, expire)

    def unbind(self, lease: str) -> bool:
        """The address goes; False if it was not there."""
        if self._addresses.pop(lease, None) is None:
            return False
        self._world.history.add(self._world.now_ns, "unbound", self._name, lease)
        self._look(lease)
        return True

    # The fence

    def put(self, rank: str, timeouts_ns: dict[str, int]) -> None:
        """Leases into one of the sets, for so long from now on; instead of what was left to them."""
        for lease, timeout_ns in timeouts_ns.items():
            self.put_one(rank, lease, timeout_ns)

    def put_one(self, rank: str, lease: str, timeout_ns: int) -> None:
        """The same of one lease."""
        world = self._world
        most_ns = self.margin_ns * FENCE_LATENESS[0] // FENCE_LATENESS[1]
        late_ns = most_ns if world.options.latest else world.between(-EARLY_NS, most_ns)
        ends_ns = world.now_ns + max(0, self._clock.lasts_ns(timeout_ns) + late_ns)
        self._elements[rank, lease] = ends_ns
        self._look(lease)

        def expire() -> None:
            if self._elements.get((rank, lease)) == ends_ns:
                del self._elements[rank, lease]
                self._look(lease)

        world.after(ends_ns - world.now_ns, expire)

    def living(self, rank: str, lease: str) -> bool:
        """The element is there."""
        return (rank, lease) in self._elements

    def close(self, leases: Iterable[str]) -> None:
        """Out of both sets, at once."""
        for lease in leases:
            for rank in RANKS:
                self._elements.pop((rank, lease), None)
            self._look(lease)

    # What the others see

    def opened(self, lease: str) -> bool:
        """Packets pass: there is no fence, or the lease is in every set."""
        return not self.fenced or all((rank, lease) in self._elements for rank in self.wanted)

    def answers(self, lease: str) -> bool:
        """To ARP, and to clients."""
        return lease in self._addresses and self.opened(lease)

    def send(self, lease: str) -> None:
        """A frame that announces the address comes from the node: on the wire, if the fence lets it."""
        if self.opened(lease) or not self.egress:
            self._world.history.add(self._world.now_ns, "frame", self._name, lease)

    def _look(self, lease: str) -> None:
        answers = self.answers(lease)
        if answers == (lease in self._present):
            return
        if answers:
            self._present.add(lease)
        else:
            self._present.discard(lease)
        self._world.history.add(self._world.now_ns, "present" if answers else "absent", self._name, lease)
