"""Health checks: asked regularly, counted, told when the verdict changes.

What it does not promise: to know at once. A fault is told `fall` failures in a row after it, an end of it
`rise` successes after that; a lost carrier is asked about the moment the kernel tells of it (which it may hold
back for a second itself), and counted alike.

Until there are that many answers the verdict is unknown (None), and unknown counts as healthy: a node that has
just started must not be weaker than one whose check fails, and `report` says that it is not known yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from leaseha.adapters.probes import Answer, CarrierProbe, PingProbe, Probe, Resolver, ScriptProbe, TcpProbe
from leaseha.errors import HealthError

EVERY_S: Final = 1.0
RISE: Final = 2
FALL: Final = 3


class Kind(StrEnum):
    """What a check asks."""

    CARRIER = "carrier"
    PING = "ping"
    TCP = "tcp"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One check of one lease.

    `target`: the interface (carrier), the host (ping), host and port (tcp), program and arguments (script).
    `weight` below 0 is added to the priority while the check fails, above 0 while it does not.
    """

    name: str
    kind: Kind
    target: tuple[str, ...]
    every_s: float = EVERY_S
    timeout_s: float | None = None
    """None: `every_s`."""
    rise: int = RISE
    fall: int = FALL
    weight: int = 0
    ineligible: bool = False


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Where a check stands, for people. `healthy` None: not known yet, which counts as healthy."""

    name: str
    kind: Kind
    healthy: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What all checks of a lease together do to this node: `penalty` is added to its priority, and
    `ineligible` says why it should not hold the lease (empty if it may).
    """

    penalty: int
    ineligible: str


@dataclass(slots=True)
class RiseFall:
    """Counts answers in a row: `rise` good ones make a verdict healthy, `fall` bad ones make it unhealthy."""

    rise: int
    fall: int
    healthy: bool | None = None
    last: bool | None = None
    row: int = 0

    def count(self, *, good: bool) -> bool:
        """Take one answer in; True if the verdict changed by it (the first verdict is a change)."""
        self.row = self.row + 1 if good == self.last else 1
        self.last = good
        if good == self.healthy or self.row < (self.rise if good else self.fall):
            return False
        self.healthy = good
        return True


def standing(specs: Sequence[CheckSpec], reports: Mapping[str, CheckReport]) -> Standing:
    """The sum of the effects of `specs`, by the verdicts in `reports` (by name; a missing one is unknown)."""
    penalty = 0
    why: list[str] = []
    for spec in specs:
        report = reports.get(spec.name)
        failing = report is not None and report.healthy is False
        if failing == (spec.weight < 0):
            penalty += spec.weight
        if report is not None and failing and spec.ineligible:
            why.append(f"check {spec.name} fails: {report.detail}")
    return Standing(penalty, "; ".join(why))


def probe_for(spec: CheckSpec, resolver: Resolver) -> Probe:
    """Raises `HealthError` if the target does not fit the kind."""
    try:
        match spec.kind:
            case Kind.CARRIER:
                (interface,) = spec.target
                return CarrierProbe(interface)
            case Kind.PING:
                (host,) = spec.target
                return PingProbe(host, resolver)
            case Kind.TCP:
                host, port = spec.target
                return TcpProbe(host, int(port), resolver)
            case Kind.SCRIPT:
                program, *arguments = spec.target
                return ScriptProbe([program, *arguments])
    except ValueError as error:
        raise HealthError(f"check {spec.name}: {spec.target} is no target for {spec.kind}") from error


@dataclass(slots=True)
class _Running:
    spec: CheckSpec
    probe: Probe
    counter: RiseFall
    detail: str = "not known yet, counts as healthy"
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    troubled: bool = False
    leases: list[str] = field(default_factory=list)
    """Which have just this check."""


class Checks:
    """Runs the checks of all leases of a node, each in a task of its own, from `start()` to `stop()`.

    A check that several leases have alike, name included, is one: its target is asked once for all of them.

    `on_change(lease, check, healthy, detail)` is called in the event loop when a verdict changes, the first one
    included; `warn(text)` when a check cannot be asked on this machine. A check never overlaps itself.
    """

    def __init__(
        self,
        checks: Mapping[str, Sequence[CheckSpec]],
        on_change: Callable[[str, str, bool, str], None],
        *,
        warn: Callable[[str], None],
        resolver: Resolver | None = None,
    ) -> None:
        self._resolver = resolver or Resolver()
        self._on_change = on_change
        self._warn = warn
        self._tasks: list[asyncio.Task[None]] = []
        self._shared: dict[CheckSpec, _Running] = {}
        self._running: dict[str, dict[str, _Running]] = {
            lease: {spec.name: self._made(lease, spec) for spec in specs} for lease, specs in checks.items()
        }

    def _made(self, lease: str, spec: CheckSpec) -> _Running:
        if spec not in self._shared:
            counter = RiseFall(spec.rise, spec.fall)
            self._shared[spec] = _Running(spec, probe_for(spec, self._resolver), counter)
        self._shared[spec].leases.append(lease)
        return self._shared[spec]

    def start(self) -> None:
        """Begin to ask. First questions are spread over a period, so that scripts do not start all at once."""
        for number, check in enumerate(self._shared.values()):
            delay_s = check.spec.every_s * number / len(self._shared)
            work = self._run(check, delay_s)
            self._tasks.append(asyncio.create_task(work, name=f"check {check.spec.name}"))

    async def stop(self) -> None:
        """End everything, running scripts included."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    def nudge(self, interface: str) -> None:
        """The kernel told of a change of this interface: ask about its carrier now."""
        for check in self._shared.values():
            if check.spec.kind is Kind.CARRIER and interface in check.spec.target:
                check.nudge.set()

    def report(self, lease: str) -> tuple[CheckReport, ...]:
        """Where each check of the lease stands."""
        return tuple(
            CheckReport(check.spec.name, check.spec.kind, check.counter.healthy, check.detail)
            for check in self._running.get(lease, {}).values()
        )

    def standing(self, lease: str) -> Standing:
        """What the lease's checks do to this node now."""
        specs = [check.spec for check in self._running.get(lease, {}).values()]
        return standing(specs, {report.name: report for report in self.report(lease)})

    async def _run(self, check: _Running, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            # The period counts from question to question, not from an answer.
            period = asyncio.create_task(asyncio.sleep(check.spec.every_s))
            try:
                self._take(check, await self._ask(check))
                while not period.done():
                    if await _nudged(check.nudge, period):
                        self._take_early(check, await self._ask(check))
            finally:
                period.cancel()

    async def _ask(self, check: _Running) -> Answer:
        spec = check.spec
        timeout_s = spec.every_s if spec.timeout_s is None else spec.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await check.probe.ask()
        except TimeoutError:
            return Answer(
                healthy=False, detail=f"no answer from {' '.join(spec.target)} within {timeout_s:g} s"
            )

    def _take_early(self, check: _Running, answer: Answer) -> None:
        """The kernel tells several times of one change: only news count before their time."""
        if answer.healthy != check.counter.last:
            self._take(check, answer)

    def _take(self, check: _Running, answer: Answer) -> None:
        check.detail = answer.detail
        if answer.healthy is None:
            if not check.troubled:
                others = f" and {len(check.leases) - 1} more" if len(check.leases) > 1 else ""
                self._warn(f"check {check.spec.name} of {check.leases[0]}{others}: {answer.detail}")
            check.troubled = True
            return
        check.troubled = False
        if check.counter.count(good=answer.healthy):
            for lease in check.leases:
                self._on_change(lease, check.spec.name, answer.healthy, answer.detail)


async def _nudged(nudge: asyncio.Event, period: asyncio.Task[None]) -> bool:
    """Until the nudge (True, and it is taken back) or the end of the period."""
    waiting = asyncio.create_task(nudge.wait())
    try:
        await asyncio.wait({waiting, period}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    given = nudge.is_set()
    nudge.clear()
    return given
