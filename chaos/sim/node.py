"""One simulated node: the real core, and an executor that keeps the contract of its effects in virtual time.

What belongs to a lease (address, fence, announcements, repository) is its service's (`chaos.sim.service`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from chaos.sim.clock import Clock
from chaos.sim.etcd import Compacted
from chaos.sim.service import Make, Service
from chaos.sim.world import World
from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Effect
from leaseha.core.session import Phase
from leaseha.core.spec import NodeSpec
from leaseha.core.state import NodeState, Role
from leaseha.core.values import NS_PER_MS, Instant, Outcome, Put, Txn, Unknown


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
        self.leases = tuple(lease.name for lease in self.state.spec.leases)
        self.fenced = name not in world.options.unfenced
        self.service = Service(self)
        self._todo: deque[Effect] = deque()
        self._inbox: deque[Make] = deque()
        self._waiting: list[Callable[[], None]] = []
        """What other threads of the process do when it is awake again."""
        self._wake: Instant | None = None
        self._watch_from = 0
        self._watch_due = False
        self.watch_broken = False
        self._closed: set[int] = set()
        """Sessions that are kept alive no more."""
        world.watchers.append(self._watch_soon)
        world.nodes.append(self)

    # Life and death

    def start(self) -> None:
        """A new process: sees nothing, removes what an older one left."""
        self._begin(machine.initial(self.next_spec()))
        self.service.begin()
        self.give(events.Started)
        self._tell_stores()

    def next_spec(self) -> NodeSpec:
        """Of the process that begins next, with an incarnation of its own."""
        return self._spec(f"{self.name}#{self.starts + 1}")

    def succeed(self, state: NodeState, deadlines: dict[str, Instant]) -> None:
        """Another program in place of this one, by `exec`: addresses and fence stay as they are (reload)."""
        self._begin(state)
        self.service.adopt(deadlines)
        if state.session.id:
            self._keep_alive(state.session.id, self.starts, state.spec.session_ttl_s)
        self.give(events.Started)
        self._tell_stores()

    def _tell_stores(self) -> None:
        """Its data directories were looked at; one names them all."""
        for lease in self.state.spec.leases:
            if lease.replicated:
                self._tell_store(lease.name, self.state.spec.store)

    def _tell_store(self, lease: str, store: str) -> None:
        self.give(lambda at: events.StoreFound(at, lease, store))

    def _begin(self, state: NodeState) -> None:
        self.starts += 1
        self.alive, self.frozen, self.stopped = True, False, False
        self.state = state
        for what in (self._todo, self._inbox, self._waiting):
            what.clear()
        self._wake, self._watch_from = None, 0

    def kill(self) -> None:
        """SIGKILL to all processes; the kernel keeps the address to the end of its lifetime."""
        self.world.history.add(self.world.now_ns, "died", self.name)
        self.alive = False
        self.service.died()

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
            waiting, self._waiting = self._waiting, []
            for do in waiting:  # before the steps, or beside them
                if self.world.chance.random() < 0.5 and not self.frozen:
                    do()
                else:
                    self.awake(self.world.between(0, NS_PER_MS // 10), do)
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

    def awake(self, delay_ns: int, do: Callable[[], None]) -> None:
        """What this process does after a while, beside its steps; later if it is frozen then, never if it is dead."""
        start = self.starts

        def act() -> None:
            if start != self.starts or not self.alive:
                return
            if self.frozen:
                self._waiting.append(do)
            else:
                do()

        self.world.after(delay_ns, act)

    def _run(self) -> None:
        while self.alive and not self.frozen:
            if self._todo:
                effect = self._todo.popleft()
                self._execute(effect)
            elif self._inbox and not self.stopped:
                self.state, wanted = machine.step(self.state, self._inbox.popleft()(self.now()))
                self.service.copies.look(self.state)
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
                self.service.extend(lease, token, deadline)
            case effects.Stopped():
                self.stopped = True
            case effects.Transitioned():
                if effect.role_to == Role.FENCED.value:
                    self.service.give_up(effect.lease)
            case effects.MoveEnded() | effects.Warned():
                pass
            case _:
                self.service.enqueue(effect)

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

    # What is seen of it

    @property
    def told(self) -> dict[str, Instant]:
        """Lease -> until when it may be served."""
        return self.service.told

    def idle(self) -> bool:
        """Nothing waits to be handled or carried out."""
        return not self._todo and not self._inbox and self.service.idle()

    def answers(self, lease: str) -> bool:
        """Its address is bound, and the fence open."""
        return self.service.kernel.answers(lease)

    def vanish(self, lease: str, why: str) -> None:
        """The address goes, by the kernel's or someone's hand; the kernel tells the agent."""
        if self.service.kernel.unbind(lease):
            self.gone(lease, why)

    def gone(self, lease: str, why: str) -> None:
        """What the kernel tells of an address that went."""
        self.later(NS_PER_MS, lambda at: events.VipMissing(at, lease, why))

    def client_writes(self, lease: str) -> None:
        """A backup client's write, and its acknowledgement."""
        self.service.client_writes(lease)

    def holds(self, lease: str) -> bool:
        """It serves, and answers."""
        return self.alive and self.state.leases[lease].role is Role.HOLDER and self.answers(lease)

    def live(self) -> bool:
        """Its session is registered."""
        return self.alive and not self.stopped and self.state.session.phase is Phase.LIVE
