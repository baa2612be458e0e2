"""What a test does by hand in a `World`: keeps transactions back, applies them late, twice or never, loses answers."""

from __future__ import annotations

from leaseha.core import effects, events, records
from leaseha.core.effects import Commit, Effect
from leaseha.core.events import Change
from leaseha.core.records import ClaimRecord
from leaseha.core.spec import NodeSpec
from leaseha.core.values import Outcome, Unknown
from tests.core.harness import World, spec


def keep(world: World, name: str, *what: str) -> None:
    """From now on these transactions of a node (all of them if none is named) wait for the test."""

    def wanted(effect: Effect) -> bool:
        return isinstance(effect, Commit) and (not what or effect.what in what)

    world.held_back[name] = wanted


def let(world: World, name: str) -> None:
    """Nothing of this node is kept back any more."""
    world.held_back.pop(name, None)


def kept(world: World, name: str, what: str = "") -> Commit:
    """The newest transaction that was kept back."""
    found = [e for n, e in world.kept if n == name and isinstance(e, Commit) and what in ("", e.what)]
    return found[-1]


def answer(world: World, name: str, commit: Commit, outcome: Outcome) -> None:
    """Let a node hear how a transaction ended."""
    world.give(name, events.TxnDone(world.now(), commit.request, outcome))


def apply(world: World, commit: Commit, *, seen: bool = True) -> Outcome:
    """Let etcd execute a transaction, and (if `seen`) every watching node see what it changed."""
    outcome, changes = world.etcd.txn(commit.txn)
    if seen:
        world.tell(changes)
    return outcome


def lose(world: World, name: str, commit: Commit) -> None:
    """No answer: the outcome is unknown."""
    answer(world, name, commit, Unknown("no answer"))


def end(world: World, name: str) -> Outcome:
    """Apply the newest transaction that was kept back, unseen by any watch, and answer it."""
    commit = kept(world, name)
    outcome = apply(world, commit, seen=False)
    answer(world, name, commit, outcome)
    return outcome


def record_key(world: World, name: str) -> str:
    """The key of a node's session record."""
    return records.session_key(world.nodes[name].session.id)


def erase(world: World, *keys: str) -> list[Change]:
    """Someone deletes keys by hand; every watching node sees it."""
    changes = world.etcd.delete(*keys)
    world.tell(changes)
    return changes


def warned(world: World, name: str) -> list[str]:
    """What a node said that is no transition."""
    return [e.what for n, e in world.log if n == name and isinstance(e, effects.Warned)]


def serving(*specs: NodeSpec, seconds: float = 2) -> World:
    """A running world: by default nodes a and b, where a holds `l`."""
    world = World(*(specs or (spec("a"), spec("b"))))
    world.start()
    world.run(seconds)
    return world


def claim(world: World, lease: str = "l") -> ClaimRecord:
    """The lease's claim; it must be there."""
    found = world.claim(lease)
    assert found is not None
    return found


def fails(world: World, name: str, kind: type[Effect], times: int = 1) -> None:
    """The next effects of a kind fail on a node."""
    left = [times]

    def hold(effect: Effect) -> bool:
        if not isinstance(effect, kind) or not left[0]:
            return False
        left[0] -= 1
        at, what = world.now(), kind.__name__
        world.queue.append((name, events.EffectDone(at, effect.lease, what, effect.serial, False, "no such")))
        return True

    world.held_back[name] = hold
