"""Which spans and log lines a move has, and who emits the root of its trace.

One rule for every kind of move: **the node that proves the claim emits the root, when the lease's service
answers there**, or when its attempt ends otherwise. All other spans, of whatever node, hang on the root's
id, which they know from the traceparent. docs/telemetry.md goes through the kinds.

Called on the agent's loop, by the executor; nothing here waits or decides.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from leaseha.adapters import clock, logs
from leaseha.adapters.telemetry.recorder import Telemetry
from leaseha.adapters.telemetry.spans import Moment, Status
from leaseha.core import records
from leaseha.core.effects import Commit, MoveEnded, Transitioned, Warned
from leaseha.core.trace import trace_id
from leaseha.core.values import NS_PER_MS, Instant, Outcome, Unknown

PHASES: Final[Mapping[str, str]] = {
    "StartResources": "resource.start",
    "BindVip": "bind",
    "OpenGate": "gate.open",
    "Announce": "announce",
    "CloseGate": "drain",
    "StopResources": "resource.stop",
    "UnbindVip": "unbind",
}
"""Effect to span name. An urgent `CloseGate` drains nothing: it is `gate.close`."""
PROVEN: Final = "announce.proven"
LOWERING: Final = frozenset({"CloseGate", "StopResources", "UnbindVip"})
MOMENTS_MAX: Final = 64
ROOTS_KEPT: Final = 256
_STEP_MAX_MS: Final = 10


class LeaseEffect(Protocol):
    """An effect on a lease that takes a while (`BindVip` and the like)."""

    @property
    def lease(self) -> str:
        """Its lease."""

    @property
    def trace(self) -> str:
        """The traceparent of the move it belongs to."""


class WallClock:
    """Instants as Unix times. Differences are exact; the anchor is renewed when the time of day was set."""

    def __init__(self, now: Callable[[], Instant], wall_ms: Callable[[], int]) -> None:
        self._now = now
        self._wall_ms = wall_ms
        self._wall_ns = wall_ms() * NS_PER_MS
        self._at = now()

    def ns(self, at: Instant) -> int:
        """The Unix time of an instant, in ns."""
        return self._wall_ns + at.boot_ns - self._at.boot_ns

    def check(self) -> None:
        """Anchor anew if the time of day has been set since."""
        now, wall_ms = self._now(), self._wall_ms()
        if abs(wall_ms - self.ns(now) // NS_PER_MS) > _STEP_MAX_MS:
            self._wall_ns, self._at = wall_ms * NS_PER_MS, now


@dataclass(slots=True)
class _Part:
    """This node's part in the move that a lease is in."""

    trace: str = ""
    last: Instant | None = None
    """Its latest transition here."""
    claimed_from: Instant | None = None
    """When this node saw that it may take, in the attempt that got the claim."""
    row: str = ""
    reason: str = ""
    token: int = 0
    lowered: bool = False
    """Something was taken down here in this move."""
    resumed: str = ""
    """The trace of the return, if the lease is served again under the claim that seemed to end."""
    off: Instant | None = None
    """Since when the VIP is off, on an orderly way down."""
    announced: Instant | None = None
    owes_root: bool = False
    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=MOMENTS_MAX))


def of_return(trace: str, at: Instant) -> str:
    """The traceparent for a lease that is served again where it was, though `trace` had begun to tell its end.

    That end is still to come, and whoever brings it about emits the root of `trace`.
    """
    digest = hashlib.sha256(f"leaseha return\0{trace}\0{at.boot_ns}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


class MoveRecorder:
    """Tells log and trace what happens to the leases; the executor's observer."""

    def __init__(
        self,
        telemetry: Telemetry,
        now: Callable[[], Instant] = clock.now,
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self._telemetry = telemetry
        self._now = now
        self._wall = WallClock(now, wall_ms)
        self._parts: dict[str, _Part] = {}
        self._rooted: deque[str] = deque(maxlen=ROOTS_KEPT)

    def transitioned(self, effect: Transitioned) -> None:
        """A row of the table fired: its log line, and the span that it ends."""
        logs.transition_line(effect)
        part = self._part(effect)
        part.moments.append(
            Moment(effect.row, self._wall.ns(effect.at), {"reason": effect.reason, "detail": effect.detail})
        )
        if part.off is not None:
            self._phase(effect.lease, "hand_over", effect.trace, part.off, effect.at)
            part.off = None
        if effect.token > part.token:
            # The token grows at ownership changes only: with this row the claim was proven to be ours.
            part.token, part.owes_root, part.lowered, part.resumed = effect.token, True, False, ""
            part.claimed_from = part.last or effect.at
            self._phase(effect.lease, "claim", effect.trace, part.claimed_from, effect.at)
        part.row, part.reason, part.last = effect.row, effect.reason, effect.at

    def effect_ended(self, effect: LeaseEffect, began: Instant, ok: bool, detail: str) -> None:
        """An effect on a lease ended, now."""
        ended = self._now()
        urgent = getattr(effect, "urgent", False)
        kind = type(effect).__name__
        name = "gate.close" if kind == "CloseGate" and urgent else PHASES.get(kind, kind)
        part = self._parts.setdefault(effect.lease, _Part(trace=effect.trace))
        trace = effect.trace
        if part.trace == trace:
            if kind in LOWERING:
                part.lowered, part.resumed = True, ""
            elif part.lowered and not part.resumed:
                part.resumed = of_return(trace, began)
            trace = part.resumed or trace
        self._phase(effect.lease, name, trace, began, ended, ok=ok, detail=detail)
        if ok and name == "unbind" and not urgent:
            part.off = ended
        elif ok and name == "announce":
            part.announced = ended

    def commit_ended(self, effect: Commit, began: Instant, outcome: Outcome) -> None:
        """A transaction ended; only one without an answer is worth a line, and few want to read it."""
        if isinstance(outcome, Unknown):
            took_ms = (self._now().boot_ns - began.boot_ns) / NS_PER_MS
            logs.unknown_line(effect.what, effect.attempt, took_ms, outcome.why)

    def move_ended(self, effect: MoveEnded) -> None:
        """The service answers here: the last spans of the move, its root, and the line that sums it up."""
        part = self._parts.setdefault(effect.lease, _Part(trace=effect.trace))
        history = records.decode(records.HistoryRecord, effect.history)
        gap_ms = history.gap_ms if history is not None else -1
        began = part.claimed_from or part.last or effect.at
        start = effect.at.plus(-gap_ms * NS_PER_MS) if gap_ms >= 0 else began
        trace = part.resumed or effect.trace
        if part.resumed:
            self._span(effect.lease, "resume", effect.trace, start, effect.at, links=(trace,))
        elif began.boot_ns > start.boot_ns:
            self._span(effect.lease, "detect", trace, start, began)
        if part.announced is not None:
            self._span(effect.lease, "first_answer", trace, part.announced, effect.at)
            part.announced = None
        attributes: dict[str, object] = {"leaseha.gap_ms": gap_ms if gap_ms >= 0 else None}
        kind = "takeover"
        if history is not None:
            kind = history.kind or kind
            attributes |= {
                "leaseha.kind": kind,
                "leaseha.reason": history.reason,
                "leaseha.from_node": history.from_node,
                "leaseha.to_node": history.to_node,
                "leaseha.token": history.token,
            }
            logs.move_line(effect.lease, history)
        self._root(effect.lease, part, "resume" if part.resumed else kind, start, effect.at, attributes)

    def proven(
        self, lease: str, trace: str, since: Instant, at: Instant, by: str, asked: Sequence[str]
    ) -> None:
        """A neighbour (`by`) has confirmed where the VIPs are; or, with no `by`, none of those who were asked has."""
        part = self._parts.get(lease, _Part())
        trace = part.resumed if part.trace == trace and part.resumed else trace
        if by:
            self._phase(lease, PROVEN, trace, since, at, detail=f"by {by}")
            return
        why = f"asked {', '.join(asked)}: nobody has confirmed that the VIP is here"
        logs.warning_line(lease, "announcement unproven", why)
        self._span(lease, PROVEN, trace, since, at, ok=False, detail=why)

    def warned(self, effect: Warned) -> None:
        """Something that an operator should know."""
        logs.warning_line(effect.lease, effect.what, effect.detail)

    def finish(self) -> None:
        """The agent ends: emit the roots that are still owed. Call it before `Telemetry.close`."""
        for lease, part in self._parts.items():
            if part.owes_root:
                self._failed(lease, part, self._now(), "the agent ended before the service answered")

    def _part(self, effect: Transitioned) -> _Part:
        """The part that this transition belongs to; with another trace, another move has begun."""
        part = self._parts.get(effect.lease)
        if part is not None and part.trace == effect.trace:
            return part
        if part is not None and part.owes_root:
            self._failed(effect.lease, part, effect.at, effect.reason)
        self._wall.check()
        token = part.token if part is not None else 0
        made = self._parts[effect.lease] = _Part(trace=effect.trace, token=token)
        return made

    def _phase(
        self,
        lease: str,
        name: str,
        trace: str,
        start: Instant,
        end: Instant,
        *,
        ok: bool = True,
        detail: str = "",
    ) -> None:
        """One part of a move: a log line and a span."""
        logs.phase_line(
            lease, name, (end.boot_ns - start.boot_ns) / NS_PER_MS, trace_id(trace), detail, ok=ok
        )
        self._span(lease, name, trace, start, end, ok=ok, detail=detail)

    def _span(
        self,
        lease: str,
        name: str,
        trace: str,
        start: Instant,
        end: Instant,
        *,
        ok: bool = True,
        detail: str = "",
        links: Sequence[str] = (),
    ) -> None:
        part = self._parts.get(lease, _Part())
        self._telemetry.span(
            name,
            trace,
            self._wall.ns(start),
            self._wall.ns(end),
            {
                "leaseha.lease": lease,
                "leaseha.token": part.token or None,
                "leaseha.row": part.row or None,
                "leaseha.reason": part.reason or None,
                "leaseha.detail": detail or None,
            },
            Status.OK if ok else Status.ERROR,
            "" if ok else detail,
            links=links,
        )

    def _failed(self, lease: str, part: _Part, at: Instant, why: str) -> None:
        """A takeover that got the claim, but never an answer."""
        attributes = {"leaseha.reason": part.reason, "leaseha.token": part.token}
        self._root(lease, part, "takeover", part.claimed_from or at, at, attributes, Status.ERROR, why)

    def _root(
        self,
        lease: str,
        part: _Part,
        kind: str,
        start: Instant,
        end: Instant,
        attributes: Mapping[str, object],
        status: Status = Status.OK,
        message: str = "",
    ) -> None:
        part.owes_root = False
        trace, start_ns = part.resumed or part.trace, self._wall.ns(start)
        # A move may end twice here, when its announcement had to be made again: one root is enough.
        emit = self._telemetry.span if trace in self._rooted else self._telemetry.root
        self._rooted.append(trace)
        emit(
            f"leaseha.{kind}",
            trace,
            start_ns,
            self._wall.ns(end),
            {"leaseha.lease": lease, "leaseha.row": part.row or None, **attributes},
            status,
            message,
            moments=[moment for moment in part.moments if moment.at_ns >= start_ns],
            links=(part.trace,) if part.resumed else (),
        )
