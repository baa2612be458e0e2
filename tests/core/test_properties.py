"""Whatever happens, in whatever order: `step` is pure, raises nothing, and keeps its invariants; tokens only grow.

Two worlds: one in which etcd is honest and everything around it is not, where G1 and G6 must hold; and one in
which a single node is told any nonsense at all, where it must only never raise.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Commit, Effect
from leaseha.core.events import Change, Event
from leaseha.core.records import (
    ClaimRecord,
    Hold,
    InsyncRecord,
    IntentRecord,
    Life,
    NodeRecord,
    SessionRecord,
)
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import NodeState
from leaseha.core.values import (
    NS_PER_MS,
    NS_PER_S,
    Committed,
    Head,
    Instant,
    KeyValue,
    LeaseMissing,
    Refused,
    Unknown,
)
from tests.core.harness import World, spec

LEASES = tuple(
    LeaseSpec(name, {"a": 100, "b": 50}, digest="v.x", hold_down_ns=NS_PER_S, resources=name == "m")
    for name in ("l", "m")
)
TIMINGS = {
    "ttl_ns": NS_PER_S,
    "renew_every_ns": 200 * NS_PER_MS,
    "ttl_max_ns": 3 * NS_PER_S,
    "margin_ns": 50 * NS_PER_MS,
}
TWICE_EVERY = 5
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Watchful(World):
    """A world that now and then steps twice: the same input, the same output, and the input is as it was."""

    def _step(self, name: str, event: Event) -> None:
        if len(self.log) % TWICE_EVERY or name not in self.started or name in self.dead:
            super()._step(name, event)
            return
        before = self.nodes[name]
        shown = repr(before)
        after = machine.step(before, event)
        super()._step(name, event)
        assert repr(before) == shown
        assert after[0] == self.nodes[name]
        comes_to_the_same(after, machine.step(before, event, everything=True))


def comes_to_the_same(
    some: tuple[NodeState, tuple[Effect, ...]], all_of_them: tuple[NodeState, tuple[Effect, ...]]
) -> None:
    """Looking at a few leases misses nothing that looking at every one finds, and wakes no later."""
    ours, theirs = some[0], all_of_them[0]
    assert ours.leases == theirs.leases
    assert ours.session == theirs.session
    assert [e for e in some[1] if not isinstance(e, effects.WakeAt)] == [
        e for e in all_of_them[1] if not isinstance(e, effects.WakeAt)
    ]
    if ours.wake is not None and theirs.wake is not None:
        assert ours.wake.left_ns(theirs.wake) <= 0


def answering(world: World, lease: str) -> list[str]:
    """The nodes whose VIP may be heard now: up, and inside the deadline that the fence was told."""
    found = []
    for name, node in world.nodes.items():
        state = node.leases[lease]
        told = state.told
        if "vip" in state.up and told is not None and not told.deadline_passed(world.now()):
            found.append(name)
    return found


OPERATIONS = (
    "run", "run", "run", "long", "cut", "heal", "blind", "see", "kill", "keep", "apply", "lose", "double",
    "drop session", "drop claim", "spoil session", "revoke", "switchover", "failing", "vip", "resource", "doubt",
    "health", "ttl", "doubted", "snapshot", "stop", "start",
)  # fmt: skip


def operate(world: World, what: str, name: str, lease: str, number: int) -> None:  # a list of faults
    """One thing that happens, by chance, to a node or its etcd."""
    now, own = world.now(), records.session_key(world.nodes[name].session.id)
    live = name in world.started and name not in world.dead
    match what:
        case "run":
            world.run(0.05 + number / 50, step_ms=50)
        case "long":
            world.run(1 + number / 10, step_ms=100)
        case "cut":
            world.cut.add(name)
        case "heal":
            world.cut.discard(name)
        case "blind":
            world.blind.add(name)
        case "see":
            world.blind.discard(name)
            world.give(name, world.snapshot(0))
        case "kill" if number == 0:
            world.dead.add(name)
        case "keep":
            world.held_back[name] = lambda effect: isinstance(effect, Commit)
        case "apply" | "lose" | "double":
            late(world, what, name)
        case "drop session" if own in world.etcd.keys:
            world.tell(world.etcd.delete(own))
        case "drop claim":
            world.tell(world.etcd.delete(records.claim_key(lease)))
        case "spoil session" if number < 3 and own in world.etcd.keys:
            world.tell(world.etcd.put(own, "{", world.nodes[name].session.id))
        case "revoke":
            world.etcd.leases.discard(world.nodes[name].session.id)
            world.tell(world.etcd.delete(own))
        case "switchover":
            kv = world.etcd.keys.get(records.claim_key(lease))
            intent = IntentRecord("switchover", "admin", kv.mod if kv else 0, ("", "a", "b", "c")[number % 4])
            world.tell(world.etcd.put(records.intent_key(lease), records.encode(intent)))
        case "failing":
            world.held_back[name] = lambda effect: hasattr(effect, "serial")
        case "start":
            world.held_back.pop(name, None)
            fail(world, name)
        case "snapshot":
            world.give(name, world.snapshot(0))
        case "stop" if number > 5:
            return
        case _ if live:
            world.give(name, simple(what, now, lease, number))


def late(world: World, what: str, name: str) -> None:
    """The oldest transaction that was kept back is executed (once or twice) or lost."""
    mine = [pair for pair in world.kept if pair[0] == name and isinstance(pair[1], Commit)]
    if not mine:
        return
    world.kept.remove(mine[0])
    commit = mine[0][1]
    assert isinstance(commit, Commit)
    if what == "lose":
        world.give(name, events.TxnDone(world.now(), commit.request, Unknown("lost")))
        return
    outcome, changes = world.etcd.txn(commit.txn)
    if what == "double":
        outcome, more = world.etcd.txn(commit.txn)
        changes += more
    world.give(name, events.TxnDone(world.now(), commit.request, outcome))
    world.tell(changes)


def fail(world: World, name: str) -> None:
    """Effects that were kept back end badly; transactions are never heard of again."""
    mine = [(n, e) for n, e in world.kept if n == name]
    world.kept = [pair for pair in world.kept if pair[0] != name]
    for _, effect in mine:
        if isinstance(effect, Commit):
            world.give(name, events.TxnDone(world.now(), effect.request, Unknown("lost")))
        else:
            done = (effect.lease, type(effect).__name__, effect.serial)  # type: ignore[union-attr]
            world.give(name, events.EffectDone(world.now(), *done, ok=False, detail="by chance"))


def simple(what: str, now: Instant, lease: str, number: int) -> Event:
    """An event that needs no more than its lease and a number."""
    match what:
        case "vip":
            return events.VipMissing(now, lease, "gone")
        case "resource":
            return events.ResourceFailed(now, lease, "died")
        case "health":
            return events.HealthChanged(now, lease, -10 * number, "ill" if number % 3 == 0 else "")
        case "ttl":
            return events.TtlChanged(now, (number + 1) * 300 * NS_PER_MS)
        case "doubted":
            return events.SessionDoubted(now, 101 + number)
        case "stop":
            return events.StopAsked(now)
        case _:
            return events.Doubt(now, lease, "link up")


STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.sampled_from("ab"), st.sampled_from("lm"), st.integers(0, 20)),
    max_size=40,
)


@FEW
@given(STEPS)
def test_no_two_nodes_answer_and_tokens_only_grow(steps: list[tuple[str, str, str, int]]) -> None:
    """G1, G6, in a world where only etcd is to be trusted."""
    world = Watchful(*(spec(name, *LEASES, **TIMINGS) for name in "ab"))
    world.start()
    tokens: dict[str, int] = {}
    for what, name, lease, number in [("long", "a", "l", 0), *steps]:
        operate(world, what, name, lease, number)
        for each in LEASES:
            assert len(answering(world, each.name)) <= 1
            kv = world.etcd.keys.get(records.claim_key(each.name))
            assert kv is None or kv.mod >= tokens.get(each.name, 0)
            tokens[each.name] = kv.mod if kv else tokens.get(each.name, 0)


NUMBERS = st.integers(0, 12)
AT = st.integers(0, 20 * NS_PER_S)
RECORDS = st.one_of(
    st.builds(SessionRecord, st.sampled_from(Life), st.sampled_from("ab"), st.sampled_from(["store-a", "x"]),
              st.just("inc-a"), NUMBERS, st.integers(0, 3 * NS_PER_S), NUMBERS),
    st.builds(ClaimRecord, st.sampled_from(Hold), st.sampled_from("ab"), NUMBERS, epoch=NUMBERS),
    st.builds(InsyncRecord, st.frozensets(st.sampled_from(["store-a", "store-b"]))),
    st.builds(IntentRecord, st.sampled_from(["switchover", "failback", "?"]), st.just("x"), NUMBERS,
              st.sampled_from(["", "a", "b"])),
    st.builds(NodeRecord, st.sampled_from("ab"), NUMBERS, st.sampled_from(["store-a", "store-b"]),
              priorities=st.just({"l": 70}), digests=st.just({"l": "v.x"})),
    st.builds(records.HistoryRecord, NUMBERS, st.sampled_from(["failback", "release"]), st.just("r"), st.just("a"),
              st.just("b"), st.integers(0, 10**13), st.just("t")),
).map(records.encode)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        [records.claim_key("l"), records.insync_key("l"), records.intent_key("l"), records.history_key("l", 3),
         records.node_key("a"), records.node_key("b"), "leases/l/other", "nodes/", "else"]
    ),
    NUMBERS.map(records.session_key),
)  # fmt: skip
KEY_VALUES = st.builds(KeyValue, KEYS, st.one_of(RECORDS, st.just("{")), NUMBERS, NUMBERS, NUMBERS)
HEADS = st.builds(Head, st.sampled_from([7, 7, 7, 8]), NUMBERS, st.sampled_from([2, 2, 2, 3]))
OUTCOMES = st.one_of(
    st.builds(Committed, HEADS),
    st.builds(Refused, HEADS, st.lists(KEY_VALUES, max_size=5).map(tuple)),
    st.just(LeaseMissing()),
    st.just(Unknown("?")),
)
CHANGES = st.builds(Change, NUMBERS, KEY_VALUES, st.one_of(st.none(), KEY_VALUES))
NONSENSE = st.one_of(
    st.builds(events.SessionOpened, AT, NUMBERS, st.integers(1, 12)),
    st.builds(events.SessionFailed, AT, NUMBERS, st.just("?")),
    st.builds(events.TxnDone, AT, NUMBERS, OUTCOMES),
    st.builds(events.Snapshot, AT, NUMBERS, HEADS, AT, st.lists(KEY_VALUES, max_size=6).map(tuple)),
    st.builds(events.Watched, AT, HEADS, AT, st.lists(CHANGES, max_size=4).map(tuple)),
    st.builds(events.EffectDone, AT, st.just("l"), st.sampled_from(["BindVip", "UnbindVip", "Announce"]), NUMBERS,
              st.booleans()),
    st.builds(events.FirstAnswer, AT, st.just("l"), NUMBERS, st.booleans()),
    st.builds(events.CopiesReported, AT, st.just("l"), st.frozensets(st.sampled_from(["store-a", "store-b"])),
              NUMBERS),
    st.builds(events.StoreFound, AT, st.just("l"), st.sampled_from(["", "store-a", "store-b"])),
    st.builds(events.HealthChanged, AT, st.just("l"), st.integers(-200, 200), st.sampled_from(["", "ill"])),
    st.builds(events.TtlChanged, AT, st.integers(0, 20 * NS_PER_S)),
    st.builds(events.VipMissing, AT, st.just("l"), st.just("")),
    st.builds(events.ResourceFailed, AT, st.just("l"), st.just("")),
    st.builds(events.ReadFailed, AT, NUMBERS, st.just("?")),
    st.builds(events.Tick, AT),
    st.builds(events.StopAsked, AT),
)  # fmt: skip


def timed(event: Any, last: Instant) -> tuple[Event, Instant]:
    """The event with its number turned into a moment that is not before the last one."""
    at = last.plus(event.at % (3 * NS_PER_S))
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    return type(event)(**{**fields, "at": at}), at


def answered(asked: list[Effect], event: Any) -> Any:
    """Most answers are for something that was asked: the newest question of their kind."""
    kinds = {
        events.SessionOpened: effects.OpenSession,
        events.TxnDone: Commit,
        events.Snapshot: effects.ReadAll,
    }
    wanted = [e for e in asked if isinstance(e, kinds.get(type(event), ()))]  # type: ignore[arg-type]
    if wanted and event.request % 4:
        fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
        return type(event)(**{**fields, "request": wanted[-1].request})  # type: ignore[union-attr]
    return event


@settings(FEW, max_examples=150)
@given(st.booleans(), st.lists(NONSENSE, max_size=40))
def test_no_nonsense_makes_a_node_raise(replicated: bool, told: list[Any]) -> None:
    """An etcd that lies, answers nobody asked for, moments by the second: no exception, no broken invariant."""
    lease = LeaseSpec("l", {"a": 100, "b": 50}, digest="v.x", data=replicated, replicated=replicated)
    at = Instant(0, 0)
    state, wanted = machine.step(machine.initial(spec("a", lease, **TIMINGS)), events.Started(at))
    asked = list(wanted)
    for each in told:
        event, at = timed(answered(asked, each), at)
        state, wanted = machine.step(state, event)
        asked += wanted
        assert any(isinstance(e, effects.WakeAt) for e in asked)
