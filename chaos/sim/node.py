"""One simulated node: the real core, and an executor that keeps the contract of its effects in virtual time.

Its address is answered from `BindVip` until `UnbindVip` or the end of its lifetime in the kernel, which goes on
when the process is frozen or dead. The repository is a process of its own and minds its own deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from chaos.sim.etcd import Compacted
from chaos.sim.world import World
from leaseha.core import effects, events, insync, machine, records
from leaseha.core.effects import Effect
from leaseha.core.events import Event
from leaseha.core.session import Phase
from leaseha.core.spec import NodeSpec
from leaseha.core.state import NodeState, Role
from leaseha.core.values import NS_PER_MS, Instant, Outcome, Put, Txn, Unknown

PPM: Final = 1_000_000
LATENESS: Final = (7, 10)
"""How much of the margin the kernel uses as a rule; `latest` lets it use all that a fast clock waits for."""
Make = Callable[[Instant], Event]


@dataclass(slots=True)
class Clock:
    """Two clocks with rates and offsets of their own."""

    boot_offset_ns: int
    boot_ppm: int
    raw_offset_ns: int
    raw_ppm: int

    def read(self, true_ns: int) -> Instant:
        """Both clocks at a true moment."""
        boot_ns = self.boot_offset_ns + true_ns * (PPM + self.boot_ppm) // PPM
        return Instant(boot_ns, self.raw_offset_ns + true_ns * (PPM + self.raw_ppm) // PPM)

    def true_ns(self, at: Instant) -> int:
        """When the earlier of the two clocks reaches `at`."""
        boot_ns = (at.boot_ns - self.boot_offset_ns) * PPM // (PPM + self.boot_ppm)
        return min(boot_ns, (at.raw_ns - self.raw_offset_ns) * PPM // (PPM + self.raw_ppm))


@dataclass(slots=True)
class Kernel:
    """One lease's address on one node."""

    bound: bool = False
    ends_ns: int = 0
    """True time at which the kernel takes it off."""


@dataclass(slots=True)
class Lane:
    """Effects of one lease in order; `running` is the number of the one under way."""

    queue: deque[Effect] = field(default_factory=deque)
    running: Effect | None = None
    number: int = 0


class Node:
    """A node by name. `spec(incarnation)` makes what its process is told at each start."""

    def __init__(self, world: World, name: str, clock: Clock, spec: Callable[[str], NodeSpec]) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self._spec = spec
        self.alive = False
        self.frozen = False
        self.stopped = False
        self.starts = 0
        self.state: NodeState = machine.initial(spec("none"))
        self.kernel = {lease.name: Kernel() for lease in self.state.spec.leases}
        self.told: dict[str, Instant] = {}
        self.gate: dict[str, tuple[int, Instant]] = {}
        self._lanes: dict[str, Lane] = {}
        self._todo: deque[Effect] = deque()
        self._inbox: deque[Make] = deque()
        self._wake: Instant | None = None
        self._watch_from = 0
        self._watch_due = False
        self.watch_broken = False
        self._closed: set[int] = set()
        """Sessions that are kept alive no more."""
        world.watchers.append(self._watch_soon)

    # Life and death

    def start(self) -> None:
        """A new process: sees nothing, removes what an older one left."""
        self.starts += 1
        self.alive, self.frozen, self.stopped = True, False, False
        self.state = machine.initial(self._spec(f"{self.name}#{self.starts}"))
        self._lanes = {lease.name: Lane() for lease in self.state.spec.leases}
        self._todo.clear()
        self._inbox.clear()
        self._wake, self._watch_from = None, 0
        for lease in self.kernel:
            self._off(lease)
        self.give(events.Started)

    def kill(self) -> None:
        """SIGKILL to all processes; the kernel keeps the address to the end of its lifetime."""
        self.world.history.add(self.world.now_ns, "died", self.name)
        self.alive = False
        self.told.clear()
        self.gate.clear()

    def freeze(self, duration_ns: int) -> None:
        """SIGSTOP to the agent, at whatever step it is."""
        if not self.frozen:
            self.frozen = True
            start = self.starts
            self.world.after(duration_ns, lambda: self.thaw(start))

    def thaw(self, start: int | None = None) -> None:
        """SIGCONT: goes on where it was."""
        if self.frozen and (start is None or start == self.starts):
            self.frozen = False
            self._run()

    # Events in, effects out

    def now(self) -> Instant:
        """What its clocks say."""
        return self.clock.read(self.world.now_ns)

    def give(self, make: Make) -> None:
        """An event, stamped when it is handled."""
        if self.alive and not self.stopped:
            self._inbox.append(make)
            self._run()

    def later(self, delay_ns: int, make: Make) -> None:
        """The same after a while, for this process only."""
        start = self.starts

        def arrive() -> None:
            if start == self.starts:
                self.give(make)

        self.world.after(delay_ns, arrive)

    def _run(self) -> None:
        while self.alive and not self.frozen:
            if self._todo:
                effect = self._todo.popleft()
                self._execute(effect)
            elif self._inbox and not self.stopped:
                self.state, wanted = machine.step(self.state, self._inbox.popleft()(self.now()))
                self._todo.extend(wanted)
            else:
                return
            if self.world.likely(self.world.options.freeze_steps):
                self.freeze(self.world.between(1, 3 * self.world.options.ttl_ns))

    def _execute(self, effect: Effect) -> None:
        match effect:
            case effects.WakeAt(at):
                self._set_wake(at)
            case effects.Commit():
                self._commit(effect)
            case effects.ReadAll(request, restart_watch):
                self._read(request, restart_watch=restart_watch)
            case effects.OpenSession(request, ttl_s):
                self._open(request, ttl_s)
            case effects.CloseSession(session):
                self._closed.add(session)
                self.world.ask(self.name, lambda: self.world.etcd.revoke(session))
            case effects.Extend(lease, token, deadline):
                self._extend(lease, token, deadline)
            case effects.Stopped():
                self.stopped = True
            case effects.Transitioned() | effects.MoveEnded() | effects.Warned():
                pass
            case _:
                self._enqueue(effect)

    def _set_wake(self, at: Instant) -> None:
        self._wake = at
        due_ns = self.clock.true_ns(at) - self.world.now_ns
        start = self.starts

        def ring() -> None:
            if start == self.starts and self._wake == at:
                self._wake = None
                self.give(events.Tick)

        self.world.after(due_ns + self.world.between(0, NS_PER_MS), ring)

    # etcd

    def _commit(self, effect: effects.Commit) -> None:
        self._note_sending(effect.txn)
        answered = False
        start = self.starts

        def answer(outcome: Outcome) -> None:
            nonlocal answered
            if not answered and start == self.starts:
                answered = True
                self.give(lambda at: events.TxnDone(at, effect.request, outcome))

        self.world.commit(self.name, effect.txn, effect.what, answer)
        self.world.after(effect.timeout_ns, lambda: answer(Unknown("timeout")))

    def _note_sending(self, txn: Txn) -> None:
        for put in txn.puts:
            if isinstance(put, Put) and put.key.startswith(records.SESSIONS):
                record = records.decode(records.SessionRecord, put.value)
                if record is not None and record.node == self.name and put.lease:
                    key = (put.lease, record.incarnation, record.sequence)
                    self.world.sent.setdefault(key, self.world.now_ns)

    def _read(self, request: int, *, restart_watch: bool) -> None:
        start = self.starts

        def look() -> None:
            if start != self.starts:
                return
            head, keys = self.world.etcd.read_all()
            if restart_watch:
                self._watch_from = head.revision + 1
                self.watch_broken = False
            wall_ms = self.world.now_ns // NS_PER_MS
            self.later(self.world.delay_ns(), lambda at: events.Snapshot(at, request, head, wall_ms, keys))

        if not self.world.ask(self.name, look):
            self.later(300 * NS_PER_MS, lambda at: events.ReadFailed(at, request, "no answer"))

    def _open(self, request: int, ttl_s: int) -> None:
        start = self.starts

        def grant() -> None:
            session = self.world.etcd.grant(ttl_s, self.world.now_ns)
            if start == self.starts:
                self.later(self.world.delay_ns(), lambda at: events.SessionOpened(at, request, session))
                self._keep_alive(session, start, ttl_s)

        if not self.world.ask(self.name, grant):
            self.later(300 * NS_PER_MS, lambda at: events.SessionFailed(at, request, "no answer"))

    def _keep_alive(self, session: int, start: int, ttl_s: int) -> None:
        def again() -> None:
            if start != self.starts or not self.alive or session in self._closed:
                return
            if not self.frozen and not (self.name in self.world.unkept and not self.world.healed):
                self.world.ask(self.name, ask)
            self.world.after(ttl_s * 333 * NS_PER_MS, again)

        def ask() -> None:
            if not self.world.etcd.keepalive(session, self.world.now_ns) and start == self.starts:
                self.give(lambda at: events.SessionDoubted(at, session))

        self.world.after(ttl_s * 333 * NS_PER_MS, again)

    def _watch_soon(self) -> None:
        if self.alive and self._watch_from and not self._watch_due:
            self._watch_due = True
            lag_ns = self.world.between(NS_PER_MS // 10, self.world.options.watch_lag_ns)
            self.world.after(max(lag_ns, self.world.delay_ns()), self._watch)

    def _watch(self) -> None:
        self._watch_due = False
        world = self.world
        if not self.alive or not self._watch_from or self.watch_broken:
            return
        away = self.name in world.cut_watch or self.name in world.cut_replies
        if (away and not world.healed) or world.now_ns < world.no_leader_until_ns:
            self._watch_due = True
            world.after(world.between(50 * NS_PER_MS, 500 * NS_PER_MS), self._watch)
            return
        wall_ms = world.now_ns // NS_PER_MS
        try:
            entries = world.etcd.since(self._watch_from)
        except Compacted:
            self.reread()
            return
        if entries:
            self._watch_from = entries[-1][0] + 1
            changes = tuple(change for _, some in entries for change in some)
            head = world.etcd.head()
            self.give(lambda at: events.Watched(at, head, wall_ms, changes))

    def reread(self) -> None:
        """The history that the watch needs is compacted away: read everything, and watch from there."""
        head, keys = self.world.etcd.read_all()
        self._watch_from = head.revision + 1
        wall_ms = self.world.now_ns // NS_PER_MS
        self.give(lambda at: events.Snapshot(at, 0, head, wall_ms, keys))

    # Addresses and repository

    def _enqueue(self, effect: Effect) -> None:
        lane = self._lanes[effect.lease]  # type: ignore[union-attr]  # what is left has a lease
        if getattr(effect, "urgent", False):
            given_up = [queued for queued in lane.queue if not getattr(queued, "urgent", False)]
            lane.queue = deque(queued for queued in lane.queue if getattr(queued, "urgent", False))
            if lane.running is not None and not getattr(lane.running, "urgent", False):
                given_up.append(lane.running)
                lane.running = None
                lane.number += 1
            for queued in given_up:
                self._report(queued, ok=False)
        lane.queue.append(effect)
        self._next(effect.lease)  # type: ignore[union-attr]  # as above

    def _next(self, lease: str) -> None:
        lane = self._lanes[lease]
        if lane.running is not None or not lane.queue:
            return
        lane.running = lane.queue.popleft()
        lane.number += 1
        number, start, effect = lane.number, self.starts, lane.running
        slow = self.world.likely(self.world.options.slow)
        delay_ns = self.world.between(NS_PER_MS // 10, 300 * NS_PER_MS if slow else 4 * NS_PER_MS)

        def act() -> None:
            if start != self.starts or number != lane.number or not self.alive:
                return
            if self.frozen:
                self.world.after(NS_PER_MS, act)
                return
            lane.running = None
            self._report(effect, ok=self._act(effect))
            self._next(lease)

        self.world.after(delay_ns, act)

    def _report(self, effect: Effect, *, ok: bool) -> None:
        name, lease = type(effect).__name__, effect.lease  # type: ignore[union-attr]  # as above
        serial = effect.serial  # type: ignore[union-attr]  # as above
        self.give(lambda at: events.EffectDone(at, lease, name, serial, ok))
        if name == "Announce" and ok:
            self.later(NS_PER_MS, lambda at: events.FirstAnswer(at, lease, serial))

    def _act(self, effect: Effect) -> bool:
        if self.world.likely(self.world.options.failing_effects):
            if self.world.likely(0.5):  # done, but told to have failed
                self._do(effect)
            return False
        return self._do(effect)

    def _do(self, effect: Effect) -> bool:
        match effect:
            case effects.BindVip(lease, _, deadline):
                return self._bind(lease, deadline)
            case effects.UnbindVip(lease):
                self.told.pop(lease, None)
                self._off(lease)
            case effects.OpenGate(lease, _, token, _, deadline):
                if self._newest(lease, deadline).deadline_passed(self.now()):
                    return False
                self.gate[lease] = (token, self._newest(lease, deadline))
            case effects.CloseGate(lease):
                self.gate.pop(lease, None)
            case effects.Announce(lease, _, deadline):
                return not self._newest(lease, deadline).deadline_passed(self.now())
            case _:
                pass
        return True

    def _newest(self, lease: str, deadline: Instant) -> Instant:
        return self.told.get(lease, deadline)

    def _bind(self, lease: str, deadline: Instant) -> bool:
        until = self._newest(lease, deadline)
        if until.deadline_passed(self.now()):
            return False
        self._on(lease, until)
        return True

    def _extend(self, lease: str, token: int, deadline: Instant) -> None:
        self.told[lease] = deadline
        until_ns = self.clock.true_ns(deadline)
        world, own = self.world, self.state.session
        # Until a session that takes the place of a vanished one is registered, the deadline is of that one's renewals.
        proven = own.id if own.phase is Phase.LIVE else own.old or own.id
        world.history.add(world.now_ns, "told", self.name, lease, token, proven, until_ns)
        if lease in self.gate:
            self.gate[lease] = (token, deadline)
        if self.kernel[lease].bound and not deadline.deadline_passed(self.now()):
            self._on(lease, deadline)

    def _on(self, lease: str, until: Instant) -> None:
        """The kernel has the address until `until`, and a little longer."""
        kernel, world = self.kernel[lease], self.world
        kernel.ends_ns = self.clock.true_ns(until) + self._late_ns()
        if not kernel.bound:
            kernel.bound = True
            world.history.add(world.now_ns, "present", self.name, lease)
        ends_ns = kernel.ends_ns

        def expire() -> None:
            if kernel.bound and kernel.ends_ns == ends_ns:
                self.vanish(lease, "its lifetime ended")

        world.after(ends_ns - world.now_ns, expire)

    def _late_ns(self) -> int:
        options = self.world.options
        if options.latest:
            return options.margin_ns * PPM // (PPM + options.drift_ppm)
        return self.world.between(0, options.margin_ns * LATENESS[0] // LATENESS[1])

    def _off(self, lease: str) -> None:
        if self.kernel[lease].bound:
            self.kernel[lease].bound = False
            self.world.history.add(self.world.now_ns, "absent", self.name, lease)

    def vanish(self, lease: str, why: str) -> None:
        """The address goes, by the kernel's or someone's hand; the kernel tells the agent."""
        if self.kernel[lease].bound:
            self._off(lease)
            self.later(NS_PER_MS, lambda at: events.VipMissing(at, lease, why))

    def client_writes(self, lease: str) -> None:
        """A backup client's write, if it is heard and the gate lets it in; and its acknowledgement."""
        token, deadline = self.gate.get(lease, (0, self.now()))
        if not self.kernel[lease].bound or lease not in self.gate or deadline.deadline_passed(self.now()):
            return
        world = self.world
        world.history.add(world.now_ns, "write", self.name, lease, token)
        state = self.state.leases[lease]
        if (
            state.role is not Role.HOLDER
            or not self.state.spec.lease_by_name[lease].replicated
            or self.frozen
        ):
            return
        must, streams = insync.must_have(self.state, lease), state.wanted
        if streams is not None and must <= streams | {self.state.spec.store}:
            world.history.add(world.now_ns, "ack", lease, frozenset(must | streams | {self.state.spec.store}))

    def holds(self, lease: str) -> bool:
        """It serves, and its address is on."""
        return self.alive and self.state.leases[lease].role is Role.HOLDER and self.kernel[lease].bound

    def live(self) -> bool:
        """Its session is registered."""
        return self.alive and not self.stopped and self.state.session.phase is Phase.LIVE
