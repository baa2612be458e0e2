"""The core's world with a recorder on each node: whole moves, and what they look like from outside."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from leaseha.adapters.telemetry import MoveRecorder, Resource, Telemetry
from leaseha.core import effects, events, machine, records
from leaseha.core.effects import Effect
from leaseha.core.spec import LeaseSpec
from leaseha.core.trace import of_move
from leaseha.core.values import NS_PER_MS, NS_PER_S
from tests.core.harness import World, spec

WALL_MS = 1_780_000_000_000
LEASE = LeaseSpec("l", {"a": 100, "b": 50, "c": 10}, digest="v.x", hold_down_ns=3 * NS_PER_S, resources=True)


class TracedWorld(World):
    """Three nodes; each effect takes a few ms, and each node tells a recorder of its own."""

    def __init__(self, *, endpoint: str | None = None, folder: Path | None = None, seed: int = 1) -> None:
        super().__init__(*(spec(name, LEASE) for name in "abc"))
        self.endpoint, self.folder = endpoint, folder
        self.chance = random.Random(seed)
        self.telemetry: dict[str, Telemetry] = {}
        self.recorders: dict[str, MoveRecorder] = {}
        self.all_telemetry: list[Telemetry] = []
        self.ended: list[tuple[str, records.HistoryRecord]] = []
        self.took_s: list[float] = []
        """How long each call of a recorder took, by the real clock."""
        self.incarnation = 0
        self.broken: set[str] = set()
        """Nodes that cannot bind."""

    def start(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            self.record(name)
        super().start(*names)

    def record(self, name: str) -> None:
        file = self.folder / f"{name}.jsonl" if self.folder is not None else None
        telemetry = Telemetry(Resource(name, "test", "1.2.3"), otlp_endpoint=self.endpoint, spool_file=file)
        self.all_telemetry.append(telemetry)
        self.telemetry[name] = telemetry
        self.recorders[name] = MoveRecorder(telemetry, self.now, lambda: WALL_MS + self.at_ns // NS_PER_MS)

    def execute(self, name: str, effect: Effect) -> None:
        recorder = self.recorders[name]
        match effect:
            case effects.Transitioned():
                self.timed(recorder.transitioned, effect)
            case effects.MoveEnded():
                history = records.decode(records.HistoryRecord, effect.history)
                assert history is not None
                self.ended.append((name, history))
                self.timed(recorder.move_ended, effect)
            case effects.Warned():
                self.timed(recorder.warned, effect)
            case _ if hasattr(effect, "serial"):
                began = self.now()
                self.at_ns += self.chance.randint(1, 9) * NS_PER_MS
                kind = type(effect).__name__
                ok = kind != "BindVip" or name not in self.broken
                self.timed(recorder.effect_ended, effect, began, ok, "" if ok else "no such device")
                if not ok:
                    self.give(
                        name, events.EffectDone(self.now(), effect.lease, kind, effect.serial, ok=False)
                    )
                    return
        super().execute(name, effect)

    def timed(self, call: Callable[..., None], *args: object) -> None:
        start = time.perf_counter()
        call(*args)
        self.took_s.append(time.perf_counter() - start)

    def restart(self, name: str) -> None:
        """A dead or stopped node comes back as a new process."""
        self.dead.discard(name)
        self.incarnation += 1
        self.nodes[name] = machine.initial(
            replace(spec(name, LEASE), incarnation=f"{name}{self.incarnation}")
        )
        self.start(name)

    def holder(self) -> str:
        (name,) = self.holders()
        return name

    def next_trace(self) -> str:
        """The trace of the move that will end the present token's time."""
        claim = self.claim()
        assert claim is not None
        return of_move("test", "l", self.etcd.keys[records.claim_key("l")].mod, claim.session)

    def settle(self) -> str:
        """Let time pass until one node holds."""
        for _ in range(200):
            self.run(0.1)
            if len(self.holders()) == 1:
                return self.holder()
        raise AssertionError({name: self.role(name) for name in self.nodes})

    def switchover(self, target: str) -> None:
        """Ask as the command line does."""
        asked = records.IntentRecord(
            "switchover", "cli", self.etcd.keys[records.claim_key("l")].mod, target, "test", self.next_trace()
        )
        self.tell(self.etcd.put(records.intent_key("l"), records.encode(asked)))
        self.run(0.2)

    def close(self, timeout_s: float = 5.0) -> None:
        for recorder in self.recorders.values():
            recorder.finish()
        for telemetry in self.all_telemetry:
            telemetry.close(timeout_s)
