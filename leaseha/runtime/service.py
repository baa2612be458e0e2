"""What a node does for one lease: addresses, announcements, repository. Carries out, decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from leaseha.adapters import clock
from leaseha.adapters.fence import FenceDeadline
from leaseha.adapters.vip import DeadlinePassed, TooLittleLeft
from leaseha.core.effects import (
    Announce,
    BindVip,
    CloseGate,
    Extend,
    OpenGate,
    StartResources,
    StopResources,
    UnbindVip,
)
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import FenceError, OperationalError
from leaseha.runtime import probe
from leaseha.runtime.lane import LaneEffect
from leaseha.runtime.renewing import Renewal

if TYPE_CHECKING:
    from leaseha.adapters.announce import Announcer
    from leaseha.adapters.rtnl import IPAddress
    from leaseha.adapters.vip import VipBinder
    from leaseha.runtime.fencing import Fencing
    from leaseha.runtime.proving import Proof

BIND_TIMES: Final = 3
TOO_LATE: Final = (FenceDeadline, DeadlinePassed, TooLittleLeft)


class Repository(Protocol):
    """The part of the repository's process that a lease needs (leaseha.repository.control)."""

    async def serve(self, vips: Sequence[str], port: int, token: int, epoch: int, deadline: Instant) -> None:
        """Listen on the VIPs and open the gate under this token."""

    def extend(self, token: int, deadline: Instant) -> None:
        """Move the deadline."""

    async def stop(self, drain_s: float) -> None:
        """Close the gate; when this returns nothing can be acknowledged any more."""

    async def ensure_running(self) -> None:
        """The process is up and warm."""


class Guard(Protocol):
    """Who takes a lease down when this process cannot any more (leaseha.runtime.guarding)."""

    def arm(self, lease: str, token: int, deadline: Instant) -> None:
        """The lease is up, or is about to be, until then."""

    def disarm(self, lease: str) -> None:
        """It is down, or this process said that it cannot be."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one lease's service is made of."""

    lease: str
    vips: tuple[IPAddress, ...]
    binder: VipBinder
    announcer: Announcer
    repository: Repository | None
    port: int
    guard: Guard
    fencing: Fencing
    tls: bool = False
    """The repository's port speaks TLS."""
    proof: Proof | None = None


class Service:
    """One lease's service. `answered(lease, serial, ok)` is called once for each announcement, `broken(lease, why)`
    when the VIP does not work here any more, `warn(lease, text)` for what an operator should know.
    """

    def __init__(
        self,
        parts: Parts,
        answered: Callable[[str, int, bool], None],
        warn: Callable[[str, str], None],
        broken: Callable[[str, str], None],
    ) -> None:
        self.parts = parts
        self.deadline: Instant | None = None
        """The newest that was told; None while nothing may be served."""
        self.bound = False
        self.serving = False
        """Announced, and not asked to end yet: what it is made of must answer."""
        self._armed = False
        """The guard knows of it."""
        self._token = 0
        self._bound_at: Instant | None = None
        """Bound, and not announced yet."""
        self._answered = answered
        self._warn = warn
        self._broken = broken
        self._asking: asyncio.Task[None] | None = None
        self._repeating: asyncio.Task[None] | None = None
        self._renewal = Renewal(
            parts.lease,
            parts.vips,
            parts.binder,
            lambda: self.deadline if self.bound else None,
            self._not_renewed,
        )

    def adopt(self, vips: Sequence[IPAddress], token: int, deadline: Instant) -> None:
        """These VIPs are up, from before this process was replaced in place."""
        self._token, self.deadline, self.bound, self._armed = token, deadline, True, True
        self.serving = True
        self.parts.binder.adopt(self.parts.lease, vips)

    async def settle(self, timeout_s: float) -> bool:
        """Until the kernel was told the newest deadline, or could not be; False: not within the time."""
        return await self.parts.fencing.renewals.settle(timeout_s)

    async def act(self, effect: LaneEffect) -> None:
        """Carry out one effect. Raises `OperationalError` if it is not, or not provably, done."""
        match effect:
            case StartResources():
                self._token = effect.token
                if self.parts.repository is not None:
                    await self.parts.repository.ensure_running()
            case BindVip():
                await self._bind(effect)
            case OpenGate():
                await self._open_gate(effect)
            case Announce():
                await self._announce(effect)
            case CloseGate():
                self.serving = False
                if self.parts.repository is not None:
                    await self.parts.repository.stop(effect.drain_ns / NS_PER_S)
            case StopResources():
                self._quiet()
            case UnbindVip():
                await self._unbind()

    def extend(self, effect: Extend) -> None:
        """A renewal is proven (or a shorter ttl was sent): move every deadline that runs without us."""
        self.deadline, self._token = effect.deadline, effect.token
        if self._armed:  # already while its addresses are being bound: that may take its time among hundreds
            self.parts.guard.arm(self.parts.lease, effect.token, effect.deadline)
        if self.parts.repository is not None:
            self.parts.repository.extend(effect.token, effect.deadline)
        if self.bound:
            self.parts.fencing.renewals.soon(self._renewal)

    async def take_down(self) -> None:
        """At the end of the process, whatever may be up: gate and addresses off. Raises as `act` does."""
        try:
            if self.parts.repository is not None:
                await self.parts.repository.stop(0.0)
        finally:
            await self._unbind()

    def give_up(self) -> None:
        """Nothing may be served from now on (the frames that are still to come are not sent)."""
        self.deadline = None
        self.parts.fencing.close_soon(self.parts.vips)

    def _until(self, told: Instant) -> Instant:
        """The newest word on the deadline; raises when it has passed.

        An effect waits its turn, while an `Extend` of the same step or of a later one has been heard at once: what
        the effect carries is never newer, and after a shorter ttl it is too late.
        """
        if self.deadline is None:
            self.deadline = told
        if self.deadline.deadline_passed(clock.now()):
            raise OperationalError("the deadline passed before it could be done")
        return self.deadline

    async def _bind(self, effect: BindVip) -> None:
        until = self._until(effect.deadline)
        self._armed = True
        self.parts.guard.arm(self.parts.lease, self._token, until)
        for again in range(BIND_TIMES - 1, -1, -1):
            error = await self._put_up(until)
            if error is None:
                break
            newest = self.deadline
            if not again or newest is None or newest == until or not isinstance(error, TOO_LATE):
                raise error
            # Among hundreds its turn may come when the word that it came with is over, and a newer one is known.
            until = self._until(newest)
        self.bound, self._bound_at = True, clock.now()
        if self.deadline is not None and self.deadline != until:  # moved on while the kernel was asked
            self.parts.fencing.renewals.soon(self._renewal)

    async def _put_up(self, until: Instant) -> OperationalError | None:
        """Fence and addresses, until then; what went wrong with one of them."""
        failed: OperationalError | None = None
        # Side by side: an address behind a closed fence answers nobody, and what fails is taken down whole.
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.parts.fencing.arm(self.parts.vips, until))
                both.create_task(self.parts.binder.bind(self.parts.lease, self.parts.vips, until))
        except* OperationalError as errors:
            failed = next(one for one in errors.exceptions if isinstance(one, OperationalError))
        return failed

    def _not_renewed(self, error: OperationalError) -> None:
        what = "fence" if isinstance(error, FenceError) else "address lifetime"
        self._warn(self.parts.lease, f"{what} not renewed: {error}")
        if isinstance(error, FenceError) and not isinstance(error, FenceDeadline):
            # What was armed ends by itself; a lease that cannot be fenced here is for another node.
            self._broken(self.parts.lease, f"the kernel fence fails: {error}")

    async def _open_gate(self, effect: OpenGate) -> None:
        if self.parts.repository is None:
            return
        # What is not running takes a while to start: the word that it serves until is read after that.
        await self.parts.repository.ensure_running()
        until = self._until(effect.deadline)
        vips = [str(vip) for vip in self.parts.vips]
        await self.parts.repository.serve(vips, self.parts.port, effect.token, effect.epoch, until)
        newest = self.deadline
        if newest is not None and newest != until:
            self.parts.repository.extend(effect.token, newest)

    async def _announce(self, effect: Announce) -> None:
        self._until(effect.deadline)
        self._quiet()
        sent = await self.parts.announcer.burst(self.parts.vips, lambda: self.deadline)
        if sent.late:
            raise OperationalError("the deadline passed before it could be announced")
        self.serving = True
        loop = asyncio.get_running_loop()
        if self.parts.proof is not None:
            self._repeating = loop.create_task(self._repeat(self.parts.proof, effect.trace, self._bound_at))
        self._bound_at = None
        self._asking = loop.create_task(self._ask(effect.serial))

    async def _repeat(self, proof: Proof, trace: str, since: Instant | None) -> None:
        try:
            await proof.run(trace, since, lambda: self.deadline if self.bound else None)
        except OperationalError as error:
            self._warn(self.parts.lease, f"announcement not repeated: {error}")

    async def _ask(self, serial: int) -> None:
        """Ask for the first answer, as a client would, and report it."""
        ok = True
        if self.parts.repository is not None:
            ok = await probe.repository_answers(
                str(self.parts.vips[0]), self.parts.port, lambda: self.bound, tls=self.parts.tls
            )
        else:
            try:
                facts = await self.parts.binder.present(self.parts.lease)
                ok = all(fact.present and not fact.fault for fact in facts)
            except OperationalError as error:
                self._warn(self.parts.lease, str(error))
                ok = False
        self._answered(self.parts.lease, serial, ok)

    async def _unbind(self) -> None:
        self.bound = self.serving = False
        self.deadline = None
        self._quiet()
        try:
            # The fence closes first, but a stalled one must not keep the address up.
            async with asyncio.TaskGroup() as both:
                closed = both.create_task(self._close())
                both.create_task(self.parts.binder.unbind(self.parts.lease, self.parts.vips))
        except* OperationalError as errors:
            raise OperationalError(str(errors.exceptions[0])) from errors
        finally:
            # Also when the kernel refused: that was told, and this process is not late with it.
            self._armed = False
            self.parts.guard.disarm(self.parts.lease)
        if closed.result():
            self.parts.fencing.off(self.parts.lease, self.parts.vips, lambda: self.deadline is None)

    async def _close(self) -> bool:
        """True unless a fence may still be open."""
        try:
            await self.parts.fencing.close(self.parts.vips)
        except FenceError as error:
            # It ends by itself; and what is unbound answers nobody.
            self._warn(self.parts.lease, f"fence not closed before its end: {error}")
            return False
        return True

    def _quiet(self) -> None:
        """End what runs beside: repeated announcements, the question for the first answer."""
        for task in (self._repeating, self._asking):
            if task is not None:
                task.cancel()
