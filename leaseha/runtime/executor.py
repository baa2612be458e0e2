"""Effect to adapter call to result event. One `match`, and nothing that waits in it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from leaseha.adapters import clock
from leaseha.core import effects, events
from leaseha.core.effects import Effect
from leaseha.core.events import Change, Event
from leaseha.core.values import Head, Instant, KeyValue, Outcome, Txn, Unknown
from leaseha.errors import OperationalError, fault
from leaseha.runtime.lane import Lane, LaneEffect
from leaseha.runtime.service import Service
from leaseha.runtime.timers import Alarm

READ_TIMEOUT_S: Final = 3.0
GRANT_TIMEOUT_S: Final = 2.0
TELL_S: Final = 0.015
"""How long after the fact the log, the traces and the history on disk are told of it."""
_log = logging.getLogger("leaseha.agent")
Keys = tuple[Head, tuple[KeyValue, ...]]


class Store(Protocol):
    """etcd, as the executor needs it (leaseha.adapters.etcd)."""

    async def commit(self, txn: Txn, attempt: int, timeout_ns: int) -> Outcome:
        """Send once; never raises for an outcome."""

    async def read_all(self, timeout_s: float) -> Keys:
        """Everything under the prefix, linearizable. Raises `StoreError`."""

    async def grant(self, ttl_s: int, timeout_s: float) -> int:
        """A fresh etcd lease. Raises `StoreError`."""

    def keep_alive(self, session: int, every_s: float, doubted: Callable[[int], None]) -> None:
        """Keep an etcd lease alive until `release`."""

    def release(self, session: int) -> None:
        """Keep it alive no more, and revoke it, best effort."""

    def watch(
        self,
        from_revision: int,
        changed: Callable[[Head, tuple[Change, ...]], None],
        reread: Callable[[Head, tuple[KeyValue, ...]], None],
    ) -> None:
        """Watch the prefix from a revision on, instead of what was watched before."""


class Observer(Protocol):
    """Who is told of everything, and changes nothing: log, trace, history on disk."""

    def transitioned(self, effect: effects.Transitioned) -> None:
        """A row of the table fired."""

    def effect_ended(self, effect: LaneEffect, began: Instant, ok: bool, detail: str) -> None:
        """An effect on a lease ended."""

    def commit_ended(self, effect: effects.Commit, began: Instant, outcome: Outcome) -> None:
        """A transaction ended."""

    def move_ended(self, effect: effects.MoveEnded) -> None:
        """A lease's service answers here."""

    def warned(self, effect: effects.Warned) -> None:
        """Something that an operator should know."""


class Timekeeper(Protocol):
    """Who is told, at once and not a moment later, how late things were."""

    def rang(self, due: Instant, at: Instant) -> None:
        """The core was to be woken, and was."""

    def answered(self, began: Instant, at: Instant, outcome: Outcome) -> None:
        """Of a transaction that was sent at `began`; the core does not know of it yet."""


class Executor:
    """Carries out effects; results go to `give` as events. `stopped(failure)` is called when the core is done."""

    def __init__(
        self,
        store: Store,
        services: Mapping[str, Service],
        observer: Observer,
        give: Callable[[Event], None],
        stopped: Callable[[str], None],
        times: Timekeeper | None = None,
    ) -> None:
        """`times` learns how late things were, as they happen."""
        self._store = store
        self._times = times
        self._services = services
        self._observer = observer
        self._give = give
        self._stopped = stopped
        self._alarm = Alarm(lambda at: give(events.Tick(at)), self._rang)
        self._watch_of = 0
        self._began: dict[tuple[str, int], Instant] = {}
        self._lanes = {name: Lane(self._act(service), self._ended) for name, service in services.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._untold: deque[Callable[[], None]] = deque()

    def execute(self, effect: Effect) -> None:
        """Begin to carry out one effect; returns at once."""
        match effect:
            case effects.WakeAt(at):
                self._alarm.set(at)
            case effects.Commit():
                self._spawn(self._commit(effect))
            case effects.Extend():
                self._services[effect.lease].extend(effect)
            case effects.Transitioned():
                self._transitioned(effect)
            case effects.MoveEnded():
                self._tell(lambda: self._observer.move_ended(effect))
            case effects.Warned():
                self._tell(lambda: self._observer.warned(effect))
            case effects.ReadAll(request, restart_watch):
                self._watch_of = request if restart_watch else self._watch_of
                self._spawn(self._read_all(request, restart_watch=restart_watch))
            case effects.OpenSession(request, ttl_s):
                self._spawn(self._open_session(request, ttl_s))
            case effects.CloseSession(session):
                self._store.release(session)
            case effects.Stopped(failure):
                self._alarm.stop()
                self._stopped(failure)
            case _:
                self._lanes[effect.lease].put(effect)

    def keep_alive(self, session: int, ttl_s: int) -> None:
        """Go on with the etcd lease of a session that was handed over."""
        self._store.keep_alive(session, ttl_s / 3, self._doubted)

    async def settle(self, timeout_s: float) -> None:
        """Wait for what is under way, bounded; for an orderly end."""
        self._alarm.stop()
        self._tell_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def _rang(self, due: Instant, at: Instant) -> None:
        if self._times is not None:
            self._times.rang(due, at)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _transitioned(self, effect: effects.Transitioned) -> None:
        if effect.role_to == "FENCED":
            # Before anything else gets to it: a frame that is about to be sent must find no deadline.
            self._services[effect.lease].give_up()
        self._tell(lambda: self._observer.transitioned(effect))

    def _tell(self, observing: Callable[[], None]) -> None:
        """A moment later, in order: what is to be done comes first, and a line of the log takes as long as a step."""
        self._untold.append(observing)
        if len(self._untold) == 1:
            asyncio.get_running_loop().call_later(TELL_S, self._tell_all)

    def told_all(self) -> bool:
        """Nothing is left to tell."""
        return not self._untold

    def _tell_all(self) -> None:
        """Whoever watches may fail, and changes nothing by that (G7)."""
        while self._untold:
            observing = self._untold.popleft()
            try:
                observing()
            except Exception as error:  # noqa: BLE001 - telemetry must not break the step that it tells of
                _log.error("log or trace incomplete: %s", fault(error))

    def _act(self, service: Service) -> Callable[[LaneEffect], Awaitable[None]]:
        async def act(effect: LaneEffect) -> None:
            self._began[effect.lease, effect.serial] = clock.now()
            await service.act(effect)

        return act

    def _ended(self, effect: LaneEffect, ok: bool, detail: str) -> None:
        at = clock.now()
        began = self._began.pop((effect.lease, effect.serial), at)
        self._tell(lambda: self._observer.effect_ended(effect, began, ok, detail))
        self._give(events.EffectDone(at, effect.lease, type(effect).__name__, effect.serial, ok, detail))

    def answered(self, lease: str, serial: int, ok: bool) -> None:
        """A service's first answer."""
        self._give(events.FirstAnswer(clock.now(), lease, serial, ok))

    async def _commit(self, effect: effects.Commit) -> None:
        began = clock.now()
        try:
            outcome = await self._store.commit(effect.txn, effect.attempt, effect.timeout_ns)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing proves that it was not applied
            outcome = Unknown(fault(error))
        at = clock.now()
        if self._times is not None:
            self._times.answered(began, at, outcome)
        self._tell(lambda: self._observer.commit_ended(effect, began, outcome))
        self._give(events.TxnDone(at, effect.request, outcome))

    async def _open_session(self, request: int, ttl_s: int) -> None:
        try:
            session = await self._store.grant(ttl_s, GRANT_TIMEOUT_S)
        except OperationalError as error:
            self._give(events.SessionFailed(clock.now(), request, str(error)))
            return
        except Exception as error:  # noqa: BLE001 - unanswered, the node would wait for its session for ever
            self._give(events.SessionFailed(clock.now(), request, fault(error)))
            return
        self.keep_alive(session, ttl_s)
        self._give(events.SessionOpened(clock.now(), request, session))

    def _doubted(self, session: int) -> None:
        self._give(events.SessionDoubted(clock.now(), session))

    async def _read_all(self, request: int, *, restart_watch: bool) -> None:
        try:
            head, keys = await self._store.read_all(READ_TIMEOUT_S)
        except OperationalError as error:
            self._give(events.ReadFailed(clock.now(), request, str(error)))
            return
        except Exception as error:  # noqa: BLE001 - unanswered, the node would never read again
            self._give(events.ReadFailed(clock.now(), request, fault(error)))
            return
        self._give(events.Snapshot(clock.now(), request, head, clock.wall_ms(), keys))
        if restart_watch and request == self._watch_of:  # else the core has begun anew meanwhile
            self._store.watch(head.revision + 1, self._changed, self._reread)

    def _changed(self, head: Head, changes: tuple[Change, ...]) -> None:
        self._give(events.Watched(clock.now(), head, clock.wall_ms(), changes))

    def _reread(self, head: Head, keys: tuple[KeyValue, ...]) -> None:
        """The watch's history was compacted away: this is what stands now."""
        self._give(events.Snapshot(clock.now(), 0, head, clock.wall_ms(), keys))
