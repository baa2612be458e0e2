"""Real cores against a plain etcd in memory, by hand: time stands still until a test moves it.

Every effect is answered at once and well, unless a test takes it out first. The etcd here knows compares,
puts, deletes and attached leases, and no more; the simulator's (chaos/sim/etcd.py) is the verified fake.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Effect
from leaseha.core.events import Change, Event
from leaseha.core.spec import LeaseSpec, NodeSpec
from leaseha.core.state import LeaseState, NodeState, Role
from leaseha.core.values import (
    NS_PER_MS,
    NS_PER_S,
    Committed,
    Compare,
    Head,
    Instant,
    KeyValue,
    LeaseMissing,
    Outcome,
    Put,
    Refused,
    Target,
    Txn,
    Unknown,
)

ABSENT = KeyValue("", "", 0)


@dataclass
class PlainEtcd:
    """Keys, revisions and leases; applies a transaction when told to."""

    cluster_id: int = 7
    revision: int = 1
    term: int = 2
    keys: dict[str, KeyValue] = field(default_factory=dict)
    leases: set[int] = field(default_factory=set)
    next_lease: int = 100

    def head(self) -> Head:
        return Head(self.cluster_id, self.revision, self.term)

    def grant(self) -> int:
        self.next_lease += 1
        self.leases.add(self.next_lease)
        return self.next_lease

    def holds(self, compare: Compare) -> bool:
        kv = self.keys.get(compare.key, ABSENT)
        value = {Target.MOD: kv.mod, Target.CREATE: kv.create, Target.LEASE: kv.lease}[compare.target]
        return value == compare.value

    def txn(self, txn: Txn) -> tuple[Outcome, list[Change]]:
        if not all(self.holds(compare) for compare in txn.compares):
            reads = tuple(self.keys.get(key, KeyValue(key, "", 0)) for key in txn.reads)
            return Refused(self.head(), reads), []
        if any(isinstance(p, Put) and p.lease and p.lease not in self.leases for p in txn.puts):
            return LeaseMissing(), []
        self.revision += 1
        changes = [self._apply(put.key, put) for put in txn.puts]
        return Committed(self.head()), [change for change in changes if change is not None]

    def _apply(self, key: str, put: object) -> Change | None:
        before = self.keys.get(key)
        if not isinstance(put, Put):
            self.keys.pop(key, None)
            return Change(self.revision, KeyValue(key, "", 0), before) if before else None
        create = before.create if before else self.revision
        self.keys[key] = KeyValue(key, put.value, self.revision, create, put.lease)
        return Change(self.revision, self.keys[key], before)

    def delete(self, *keys: str) -> list[Change]:
        """Remove keys by hand."""
        self.revision += 1
        changes = [self._apply(key, None) for key in keys]
        return [change for change in changes if change is not None]

    def put(self, key: str, value: str, lease: int = 0) -> list[Change]:
        """Write a key by hand."""
        self.revision += 1
        change = self._apply(key, Put(key, value, lease))
        return [change] if change else []


class World:
    """Nodes by name, one etcd, one clock for all; `at_ns` moves only by `run`."""

    def __init__(self, *specs: NodeSpec) -> None:
        self.etcd = PlainEtcd()
        self.at_ns = 1000 * NS_PER_S
        self.nodes = {spec.node: machine.initial(spec) for spec in specs}
        self.queue: deque[tuple[str, Event]] = deque()
        self.log: list[tuple[str, Effect]] = []
        self.cut: set[str] = set()
        """Nodes whose transactions and reads get no answer, and to whom nothing is watched."""
        self.blind: set[str] = set()
        """Nodes that see nothing by watch."""
        self.dead: set[str] = set()
        self.started: set[str] = set()
        self.held_back: dict[str, Callable[[Effect], bool]] = {}
        """Effects of a node that a test answers itself, by a predicate."""
        self.kept: list[tuple[str, Effect]] = []
        self.wakes: dict[str, Instant] = {}

    def now(self) -> Instant:
        return Instant(self.at_ns, self.at_ns + 5)

    def start(self, *names: str) -> None:
        for name in names or self.nodes:
            self.started.add(name)
            self.give(name, events.Started(self.now()))
            spec = self.nodes[name].spec
            for lease in [lease.name for lease in spec.leases if lease.replicated]:
                self.give(name, events.StoreFound(self.now(), lease, spec.store))

    def give(self, name: str, event: Event) -> None:
        """Step one node, then everything that follows from it at this moment, in order."""
        self.queue.append((name, event))
        if len(self.queue) > 1:
            return
        while self.queue:
            self._step(*self.queue[0])
            self.queue.popleft()

    def _step(self, name: str, event: Event) -> None:
        if name in self.dead or name not in self.started:
            return
        self.nodes[name], wanted = machine.step(self.nodes[name], event)
        for effect in wanted:
            self.log.append((name, effect))
            held = self.held_back.get(name)
            if held is not None and held(effect):
                self.kept.append((name, effect))
            else:
                self.execute(name, effect)

    def execute(self, name: str, effect: Effect) -> None:
        match effect:
            case effects.WakeAt(at):
                self.wakes[name] = at
            case effects.OpenSession(request, _):
                if name in self.cut:
                    self.give(name, events.SessionFailed(self.now(), request, "cut"))
                else:
                    self.give(name, events.SessionOpened(self.now(), request, self.etcd.grant()))
            case effects.ReadAll(request, _):
                if name in self.cut:
                    self.give(name, events.ReadFailed(self.now(), request, "cut"))
                else:
                    self.give(name, self.snapshot(request))
            case effects.Commit(request, txn):
                self.commit(name, request, txn)
            case effects.Announce(lease, serial):
                self.give(name, events.EffectDone(self.now(), lease, "Announce", serial, ok=True))
                self.give(name, events.FirstAnswer(self.now(), lease, serial))
            case _ if hasattr(effect, "serial"):
                kind = type(effect).__name__
                self.give(name, events.EffectDone(self.now(), effect.lease, kind, effect.serial, ok=True))

    def snapshot(self, request: int) -> events.Snapshot:
        keys = tuple(self.etcd.keys.values())
        return events.Snapshot(self.now(), request, self.etcd.head(), self.at_ns // NS_PER_MS, keys)

    def commit(self, name: str, request: int, txn: Txn) -> None:
        if name in self.cut:
            self.give(name, events.TxnDone(self.now(), request, Unknown("cut")))
            return
        outcome, changes = self.etcd.txn(txn)
        self.give(name, events.TxnDone(self.now(), request, outcome))
        self.tell(changes)

    def tell(self, changes: Iterable[Change]) -> None:
        """Let every node that watches see these changes."""
        changes = tuple(changes)
        for name in list(self.nodes):
            if changes and name not in self.cut and name not in self.blind:
                wall_ms = self.at_ns // NS_PER_MS
                self.give(name, events.Watched(self.now(), self.etcd.head(), wall_ms, changes))

    def run(self, seconds: float, step_ms: int = 10) -> None:
        """Let time pass in small steps, with a tick to whoever asked for one."""
        end = self.at_ns + int(seconds * NS_PER_S)
        while self.at_ns < end:
            self.at_ns += step_ms * NS_PER_MS
            for name in list(self.nodes):
                wake = self.wakes.get(name)
                if wake is not None and wake.deadline_passed(self.now()):
                    del self.wakes[name]
                    self.give(name, events.Tick(self.now()))

    def kill(self, name: str) -> None:
        self.dead.add(name)

    def state(self, name: str, lease: str = "l") -> LeaseState:
        return self.nodes[name].leases[lease]

    def role(self, name: str, lease: str = "l") -> Role:
        return self.state(name, lease).role

    def holders(self, lease: str = "l") -> list[str]:
        live = [name for name in self.nodes if name not in self.dead]
        return [name for name in live if self.role(name, lease) is Role.HOLDER]

    def rows(self, name: str, lease: str = "l") -> list[str]:
        """The rows of the table that fired on a node for a lease."""
        return [
            e.row
            for n, e in self.log
            if n == name and isinstance(e, effects.Transitioned) and e.lease == lease
        ]

    def sent(self, name: str) -> list[str]:
        return [e.what for n, e in self.log if n == name and isinstance(e, effects.Commit)]

    def claim(self, lease: str = "l") -> records.ClaimRecord | None:
        kv = self.etcd.keys.get(records.claim_key(lease))
        return records.decode(records.ClaimRecord, kv.value) if kv else None


def spec(node: str, *leases: LeaseSpec, **changes: object) -> NodeSpec:
    """A node with one lease `l` (priorities a 100, b 50, c 10), unless leases are given."""
    one = LeaseSpec("l", {"a": 100, "b": 50, "c": 10}, digest="v.x", hold_down_ns=3 * NS_PER_S)
    return NodeSpec("test", node, f"store-{node}", f"inc-{node}", leases or (one,), **changes)  # type: ignore[arg-type]


def state_of(world: World, name: str) -> NodeState:
    return world.nodes[name]
