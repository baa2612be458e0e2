"""How near a renewal came to its deadline, and what made it late: timers, etcd's answers, the collector's pauses.

Numbers for `status` and for one line in the log when a deadline passes; nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from leaseha.core.effects import Commit, MoveEnded, Transitioned, Warned
from leaseha.core.session import Phase, Session, deadline_of
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_MS, NS_PER_S, Committed, Instant, Outcome
from leaseha.runtime.executor import Observer
from leaseha.runtime.lane import LaneEffect

WINDOW_NS: Final = 30 * NS_PER_S
"""The worst of one to two of these is remembered."""


class Worst:
    """The largest of the numbers of the last while."""

    def __init__(self) -> None:
        self._began: Instant | None = None
        self._before = self._now = 0.0

    def note(self, value: float, at: Instant) -> None:
        """One more."""
        self._turn(at)
        self._now = max(self._now, value)

    def worst(self, at: Instant) -> float:
        """0 if there was none."""
        self._turn(at)
        return max(self._before, self._now)

    def _turn(self, at: Instant) -> None:
        passed_ns = at.boot_ns - self._began.boot_ns if self._began is not None else WINDOW_NS
        if passed_ns >= WINDOW_NS:
            self._before = self._now if passed_ns < 2 * WINDOW_NS else 0.0
            self._began, self._now = at, 0.0


class Pace:
    """What was late, of late."""

    def __init__(self) -> None:
        self.timer_ns = Worst()
        """How long after its moment the core was woken."""
        self.answer_ns = Worst()
        """From before a transaction was sent until its answer was in our hands."""
        self.pause_ns = Worst()
        """How long the collector of garbage held everything up."""
        self.used = Worst()
        """The part of its time that a proven renewal had used when the next one was proven; 1: all of it."""

        self.last_timer_ns = 0
        """Of the last waking."""

        self.state: Callable[[], NodeState] | None = None
        """The node's, of now."""

    def rang(self, due: Instant, at: Instant) -> None:
        """The alarm of the core."""
        self.last_timer_ns = -due.left_ns(at)
        self.timer_ns.note(self.last_timer_ns, at)

    def answered(self, began: Instant, at: Instant, outcome: Outcome) -> None:
        """A transaction, sent at `began`."""
        if self.state is None or not isinstance(outcome, Committed):
            return
        self.answer_ns.note(at.boot_ns - began.boot_ns, at)
        state = self.state()
        own, until = state.session, deadline_of(state.session, state.spec.drift_ppm)
        if own.phase is Phase.LIVE and until is not None and own.proven is not None:
            whole_ns = until.boot_ns - own.proven.sent_at.boot_ns
            self.used.note(1 - until.left_ns(at) / max(whole_ns, 1), at)

    def told(self, at: Instant) -> dict[str, Any]:
        """For `status`."""
        return {
            "renewal_used": round(self.used.worst(at), 3),
            "timer_late_ms": _ms(self.timer_ns.worst(at)),
            "etcd_answer_ms": _ms(self.answer_ns.worst(at)),
            "gc_pause_ms": _ms(self.pause_ns.worst(at)),
        }


class Paced:
    """An observer in front of another, which learns all the same."""

    def __init__(
        self,
        inner: Observer,
        pace: Pace,
        warn: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._pace = pace
        self._warn = warn

    def transitioned(self, effect: Transitioned) -> None:
        """A row of the table fired."""
        self._inner.transitioned(effect)
        if effect.row.endswith("-deadline"):
            self._warn(self._why_late(effect.at))

    def effect_ended(self, effect: LaneEffect, began: Instant, ok: bool, detail: str) -> None:
        """An effect on a lease ended."""
        self._inner.effect_ended(effect, began, ok, detail)

    def commit_ended(self, effect: Commit, began: Instant, outcome: Outcome) -> None:
        """A transaction ended."""
        self._inner.commit_ended(effect, began, outcome)

    def move_ended(self, effect: MoveEnded) -> None:
        """A lease's service answers here."""
        self._inner.move_ended(effect)

    def warned(self, effect: Warned) -> None:
        """Something that an operator should know."""
        self._inner.warned(effect)

    def _why_late(self, at: Instant) -> str:
        """Who was late: it is etcd if we had sent in time, and we if not."""
        own = self._pace.state().session if self._pace.state is not None else Session()
        sent = [at.boot_ns - write.sent_at.boot_ns for write in own.pending]
        proven = f"{_ms(at.boot_ns - own.proven.sent_at.boot_ns):g} ms ago" if own.proven else "never"
        waits = f"{len(sent)} without an answer, for {_ms(max(sent)):g} ms" if sent else "none was sent since"
        told = self._pace.told(at)
        return (
            f"a deadline passed: the last proven renewal was sent {proven}, {waits}; this was noticed "
            f"{_ms(self._pace.last_timer_ns):g} ms late; of late timers rang up to {told['timer_late_ms']:g} ms late, "
            f"etcd answered within {told['etcd_answer_ms']:g} ms, the collector paused for {told['gc_pause_ms']:g} ms"
        )


def _ms(duration_ns: float) -> float:
    return round(duration_ns / NS_PER_MS, 1)
