"""The data path as a condition of holding: addresses with good flags, on a link that is up, and an answer through them.

Asked by the holder itself, at each lease's own pace, beside everything else: no renewal waits for it. What fails for
longer than the tolerance makes the node ineligible: it yields to a healthier candidate, and stays where there is none.

What it does not promise: that a client elsewhere is heard; that is for checks. A node that let go for its data path
cannot try it as a standby, so it stays ineligible for the hold-down: two nodes with the same fault do not toss the
lease to and fro faster than that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from leaseha.adapters import clock
from leaseha.adapters.probes import CarrierProbe
from leaseha.config import LeaseConfig
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import OperationalError
from leaseha.runtime import probe
from leaseha.runtime.service import Service

AT_ONCE_MAX: Final = 32
"""So many questions at a time, however many leases there are."""
ROUND_S: Final = 5.0
"""A round that takes longer is broken off; what it learned counts, what it did not is not held against anyone."""

_log = logging.getLogger("leaseha.health")


@dataclass(slots=True)
class Verdict:
    """Where one lease's data path stands. `broken` says why the node should not hold it; empty: it may."""

    tolerance_ns: int
    hold_down_ns: int
    broken: str = ""
    _turned: Instant | None = None
    """Since when what is seen differs from the verdict, without a break."""
    _left: Instant | None = None
    """When the lease was first seen not to be served here any more."""

    def served(self, why: str, at: Instant) -> None:
        """The lease is served here, and this is wrong with it (empty: nothing)."""
        self._left = None
        if bool(why) == bool(self.broken):
            self._turned = None
            return
        if self._turned is None:
            self._turned = at
        if -self._turned.left_ns(at) >= self.tolerance_ns:
            self.broken, self._turned = why, None

    def idle(self, at: Instant) -> None:
        """It is not served here: nothing can be seen, and an old fault counts until the hold-down is over."""
        self._turned = None
        if not self.broken:
            return
        if self._left is None:
            self._left = at
        if -self._left.left_ns(at) >= self.hold_down_ns:
            self.broken, self._left = "", None


class DataPath:
    """Looks at every lease that is served here; `broken(lease, why)` is told when a verdict changes."""

    def __init__(
        self,
        leases: Sequence[LeaseConfig],
        services: Mapping[str, Service],
        broken: Callable[[str, str], None],
        round_s: float = ROUND_S,
    ) -> None:
        self._round_s = round_s
        self._services = services
        self._broken = broken
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._paces: dict[int, list[str]] = {}
        self._verdicts: dict[str, Verdict] = {}
        for lease in leases:
            if lease.path_every_ns:
                self._paces.setdefault(lease.path_every_ns, []).append(lease.name)
                self._verdicts[lease.name] = Verdict(lease.path_tolerance_ns, lease.hold_down_ns)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as paces:
            for every_ns, names in self._paces.items():
                paces.create_task(self._keep_looking(every_ns / NS_PER_S, names))

    async def _keep_looking(self, every_s: float, names: list[str]) -> None:
        while True:
            period = asyncio.create_task(asyncio.sleep(every_s))
            try:
                await self.look(names)
                await period
            finally:
                period.cancel()

    async def look(self, names: list[str]) -> None:
        """Once at all of these."""
        served = [name for name in names if self._services[name].serving]
        wrong: dict[str, str] = {}
        try:
            async with asyncio.timeout(self._round_s):
                await self._learn(served, wrong)
        except TimeoutError:
            _log.warning("the data path could not be looked at: not within %g s", self._round_s)
        at = clock.now()
        for name in names:
            verdict = self._verdicts[name]
            before = verdict.broken
            if not self._services[name].serving:
                verdict.idle(at)
            elif name in wrong:
                verdict.served(wrong[name], at)
            if bool(verdict.broken) != bool(before):
                self._say(name, verdict)
                self._broken(name, verdict.broken)

    async def _learn(self, served: Sequence[str], wrong: dict[str, str]) -> None:
        """What is wrong, by lease, empty where nothing is; leases of which nothing was learned are left out."""
        asked: list[str] = []
        for binder in {self._services[name].parts.binder for name in served}:
            mine = [name for name in served if self._services[name].parts.binder is binder]
            link = await CarrierProbe(binder.interface).ask()
            if link.healthy is False:
                wrong |= dict.fromkeys(mine, link.detail)
                continue
            try:
                missing = await binder.missing()
            except OperationalError as error:
                # The kernel was not asked, or did not answer: that says nothing about the path.
                _log.warning("the data path of %s could not be looked at: %s", binder.interface, error)
                continue
            for name in mine:
                if name in missing:
                    vips = ", ".join(str(ip) for ip in missing[name])
                    wrong[name] = f"{vips} is not on {binder.interface}, or does not work"
                elif self._services[name].parts.repository is None:
                    wrong[name] = ""
                else:
                    asked.append(name)
        await asyncio.gather(*(self._listen_to(name, wrong) for name in asked))

    async def _listen_to(self, name: str, wrong: dict[str, str]) -> None:
        # Told at once: of hundreds that hang, those that were asked before the round was broken off count.
        wrong[name] = await self._silent(name)

    async def _silent(self, name: str) -> str:
        """Why the lease's repository does not answer through its VIPs; empty if it does."""
        parts = self._services[name].parts
        for vip in parts.vips:
            async with self._turns:
                if not await probe.answers_once(str(vip), parts.port, tls=parts.tls):
                    return f"the repository does not answer through {vip}, port {parts.port}"
        return ""

    @staticmethod
    def _say(lease: str, verdict: Verdict) -> None:
        extra = {"leaseha": {"lease": lease}}
        if verdict.broken:
            _log.warning("the data path fails: %s", verdict.broken, extra=extra)
        else:
            _log.info("the data path is trusted again", extra=extra)
