"""What runs in the kernel until a deadline, moved on at each proven renewal: of all leases of a node together.

A renewal is proven for all leases of the session at once, so that a thousand fences and lifetimes move: as one task,
one batch for the fence, one for the addresses. While the kernel is at it only the newest word of each lease waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from leaseha.core.values import Instant
from leaseha.errors import FenceError, OperationalError, fault

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress


TAKE_DOWN_FIRST_S: Final = 0.001
"""What the same step takes down must not wait behind renewals; those have most of a ttl."""


class Lifetimes(Protocol):
    """Addresses of leases on one interface (leaseha.adapters.vip)."""

    async def renew_all(self, due: Mapping[str, Instant]) -> Mapping[str, OperationalError]:
        """Let the VIPs of these leases live on; what failed, by lease."""


class Arming(Protocol):
    """The fence of a node, or that there is none (leaseha.runtime.fencing)."""

    async def arm_all(self, due: Mapping[IPAddress, Instant]) -> Mapping[IPAddress, FenceError]:
        """Open these VIPs on; what failed, by VIP."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """One lease. `until()` is its newest deadline, None when it is not up (any more); `failed` hears why not."""

    lease: str
    vips: Sequence[IPAddress]
    lifetimes: Lifetimes
    until: Callable[[], Instant | None]
    failed: Callable[[OperationalError], None]


class Renewals:
    """Carries them out, in the event loop; never two at a time."""

    def __init__(self, fence: Arming) -> None:
        self._fence = fence
        self._due: dict[str, Renewal] = {}
        self._task: asyncio.Task[None] | None = None

    def soon(self, renewal: Renewal) -> None:
        """With all others that are told in this turn of the loop, or while an earlier one is under way."""
        self._due[renewal.lease] = renewal
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def settle(self, timeout_s: float) -> bool:
        """Until all that was told is done, or could not be; False: not within the time."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)
        return self._task is None or self._task.done()

    async def _work(self) -> None:
        while self._due:
            await asyncio.sleep(TAKE_DOWN_FIRST_S)
            due, self._due = self._due, {}
            told = {one.lease: at for one in due.values() if (at := one.until()) is not None}
            try:
                await self._renew({lease: due[lease] for lease in told}, told)
            except Exception as error:  # noqa: BLE001 - a fault here would leave every lease to its old deadline
                why = OperationalError(fault(error))
                for lease in told:
                    due[lease].failed(why)

    async def _renew(self, due: Mapping[str, Renewal], told: Mapping[str, Instant]) -> None:
        errors: dict[str, OperationalError] = {}
        # First the fence: a lifetime that goes on behind a closed one does no harm.
        fenced = await self._fence.arm_all({ip: told[lease] for lease, one in due.items() for ip in one.vips})
        if fenced:
            for lease, one in due.items():
                if bad := next((fenced[ip] for ip in one.vips if ip in fenced), None):
                    errors[lease] = bad
        places: dict[Lifetimes, dict[str, Instant]] = {}
        for lease, one in due.items():
            if lease not in errors and one.until() is not None:  # taken down while the fence was asked
                places.setdefault(one.lifetimes, {})[lease] = told[lease]
        for lifetimes, leases in places.items():
            errors |= await lifetimes.renew_all(leases)
        for lease, error in errors.items():
            due[lease].failed(error)
