"""The kernel fence of a running node: put up before anything is bound, or the reason why there is none.

Without it a node works as well, with address lifetimes alone: later by a second and a half, and it says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from leaseha.adapters import route
from leaseha.adapters.fence import FENCE_LATENESS_MS, Fence, FenceDeadline, available
from leaseha.adapters.vip import SLACK_FINER_FENCE_MS, SLACK_MS
from leaseha.config.durations import format_duration
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant
from leaseha.errors import FenceError
from leaseha.runtime.renewing import Renewals
from leaseha.runtime.severing import Severing

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress
    from leaseha.config import Config, LeaseConfig, SessionConfig

LAYER: Final = "kernel: nftables"
LIFETIMES: Final = "kernel: address lifetimes"
SHORT_TTL_PAST_MS: Final = 1000
"""How far the shortest lifetime may outlast the deadline of a ttl below 1 s: its margin without a fence is 2.3 s."""

SEVERED_S: Final = 1.0
"""How long the end of the process waits for the end of old connections."""

_log = logging.getLogger("leaseha.agent")


def interface_of(config: Config, lease: LeaseConfig) -> str:
    """Where the lease's VIPs go. Raises `VipError` if the kernel has no route to them."""
    return lease.interface or config.node.interface or route.facing(lease.vips[0].ip).interface


def unfenced(config: Config, why: str) -> str:
    """What the lack of a kernel fence means to an operator."""
    margin = format_duration(config.session.margin_ns)
    return f"no kernel fence: {why}; address lifetimes alone end a frozen holder, so standbys wait {margin} longer"


async def put_up(
    config: Config,
    warn: Callable[[str], None],
    why_not: Callable[[], str] = available,
    held: Mapping[IPAddress, Instant] | None = None,
) -> Fencing:
    """The fence for all VIPs of the configuration, closed; or, with a warning, none. Never raises for a lack of it.

    `held`: VIPs that stay open, and until when, since this process held them before it was replaced in place.
    """
    interfaces = dict.fromkeys(interface_of(config, lease) for lease in config.leases)
    vips = [vip.ip for lease in config.leases for vip in lease.vips]
    why, fence = why_not(), None
    if not why:
        try:
            fence = Fence(config.cluster, interfaces, vips, warn=warn)
            await fence.stand(held)
        except FenceError as error:
            why = str(error)
            if fence is not None:
                fence.end()
                fence = None
    if fence is None:
        warn(unfenced(config, why))
    return Fencing(fence, interfaces, why)


class Fencing:
    """The fence, if there is one, and what follows from that. Calls without a fence do nothing."""

    def __init__(self, fence: Fence | None, interfaces: Iterable[str], why: str = "") -> None:
        self._fence = fence
        self._why = why
        self._indexes = {name: _index(name) for name in interfaces}
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        """Why the last arming failed."""
        self.renewals = Renewals(self)
        """Of fence and address lifetimes, for all leases of the node."""
        self._severing = Severing()

    @property
    def stands(self) -> bool:
        """True: VIPs end by the millisecond."""
        return self._fence is not None

    @property
    def layers(self) -> tuple[str, ...]:
        """As `status` names them."""
        if self._fence is not None:
            return (f"{LAYER} (fails: {self._trouble})" if self._trouble else LAYER, LIFETIMES)
        return (f"{LIFETIMES} alone ({self._why})",)

    @property
    def slack_ms(self) -> int:
        """How far an address lifetime may reach past the deadline."""
        return SLACK_FINER_FENCE_MS if self._fence is not None else SLACK_MS

    @property
    def close_commands(self) -> tuple[str, ...]:
        """For the guard, which has no deadline to wait for."""
        return self._fence.close_commands if self._fence is not None else ()

    def margin_ns(self, session: SessionConfig) -> int:
        """What standbys are to add while this node holds."""
        if self._fence is None or session.margin_given:
            return session.margin_ns
        return FENCE_LATENESS_MS * NS_PER_MS

    def most_past_ms(self, session: SessionConfig) -> int | None:
        """How far the kernel's shortest lifetime may outlast the deadline; None: as far as any other."""
        return SHORT_TTL_PAST_MS if self._fence is None and session.ttl_ns < NS_PER_S else None

    async def arm(self, vips: Iterable[IPAddress], deadline: Instant) -> None:
        """Open until the deadline. Raises `FenceError`."""
        if self._fence is None:
            return
        try:
            await self._fence.arm(vips, deadline)
        except FenceDeadline:
            raise
        except FenceError as error:
            self._trouble = str(error)
            raise
        self._trouble = ""

    async def arm_all(self, due: Mapping[IPAddress, Instant]) -> Mapping[IPAddress, FenceError]:
        """Many, each until its own deadline: what failed, by VIP."""
        if self._fence is None:
            return {}
        errors = await self._fence.arm_all(due)
        failed = next((error for error in errors.values() if not isinstance(error, FenceDeadline)), None)
        self._trouble = str(failed) if failed is not None else "" if not errors else self._trouble
        return errors

    async def close(self, vips: Iterable[IPAddress]) -> None:
        """Close now. Raises `FenceError` when that is not proven."""
        if self._fence is not None:
            await self._fence.close(vips)

    def close_soon(self, vips: Iterable[IPAddress]) -> None:
        """The same, not waited for."""
        if self._fence is not None:
            self._fence.close_soon(vips)

    def off(self, lease: str, vips: Sequence[IPAddress], still: Callable[[], bool]) -> None:
        """They are unbound, and closed: what is left of connections to them ends, a moment later (`Severing.off`)."""
        if self._fence is not None:
            self._severing.off(lease, vips, still)

    def on_link(self, name: str, index: int) -> None:
        """An interface was found: a new one under a known name has lost its hook."""
        if self._fence is None or self._indexes.get(name, index) == index:
            return
        self._indexes[name] = index
        self._task = asyncio.get_running_loop().create_task(self._stand_again(self._fence, name))

    async def _stand_again(self, fence: Fence, name: str) -> None:
        try:
            await fence.stand()
            _log.warning("%s was made anew: the fence stands on it again", name)
        except FenceError as error:
            _log.error("%s was made anew, and the fence does not stand on it: %s", name, error)

    async def end(self, *, all_off: bool) -> None:
        """At the end of the process. `all_off`: no VIP is bound, so nothing needs a fence any more."""
        if self._fence is None:
            return
        await self._severing.settle(SEVERED_S)  # while it is closed
        try:
            if all_off:
                await self._fence.remove()
        except FenceError as error:
            _log.warning("the fence stays (%s in nftables), closed: %s", self._fence.table, error)
        self._fence.end()


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
