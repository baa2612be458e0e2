"""What a simulated node does for its leases: effects one after the other, addresses, fence, announcements, repository.

As the runtime does it: the fence is armed before an address is bound, and closed when it goes; a proven renewal moves
fence and lifetime on beside the effects. The repository is a process of its own and minds its own deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.sim.copies import Copies
from chaos.sim.fence import Fence
from chaos.sim.frames import Announcer
from chaos.sim.kernel import Kernel
from leaseha.core import effects, events
from leaseha.core.effects import Effect
from leaseha.core.events import Event
from leaseha.core.session import Phase
from leaseha.core.values import NS_PER_MS, Instant

if TYPE_CHECKING:
    from chaos.sim.node import Node

Make = Callable[[Instant], Event]


@dataclass(slots=True)
class Lane:
    """Effects of one lease in order; `running` is the number of the one under way."""

    queue: deque[Effect] = field(default_factory=deque)
    running: Effect | None = None
    number: int = 0


class Service:
    """Of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        margin_ns = node.state.spec.margin_ns
        self.kernel = Kernel(
            node.world, node.name, node.clock, fenced=node.fenced, margin_ns=margin_ns, gone=node.gone
        )
        self.fence = Fence(node, self.kernel)
        self.announcer = Announcer(node, self.kernel)
        self.copies = Copies(node)
        self.told: dict[str, Instant] = {}
        self.gate: dict[str, tuple[int, Instant]] = {}
        self._lanes: dict[str, Lane] = {}

    # The process

    def begin(self) -> None:
        """A new process: nothing is up, and what an older one left is removed."""
        self._lanes = {lease: Lane() for lease in self._node.leases}
        self.died()
        self.copies.begin()
        self.fence.begin()
        for lease in self._node.leases:
            self.kernel.unbind(lease)

    def adopt(self, deadlines: dict[str, Instant]) -> None:
        """Another program of the same process: these leases are up, until then."""
        self._lanes = {lease: Lane() for lease in self._node.leases}
        self.told = dict(deadlines)
        self.gate = {
            lease: (gate[0], deadlines[lease]) for lease, gate in self.gate.items() if lease in deadlines
        }
        self.fence.adopt()
        self.copies.adopt()
        for lease in self._node.leases:
            self.announcer.quiet(lease)
        for lease, until in deadlines.items():
            self._move_on(lease, until)

    def died(self) -> None:
        """Repository and agent are gone."""
        self.told.clear()
        self.gate.clear()
        self.copies.begin()

    def idle(self) -> bool:
        """No effect and no arming is under way."""
        return self.fence.idle() and not any(lane.running or lane.queue for lane in self._lanes.values())

    # Effects in order

    def enqueue(self, effect: Effect) -> None:
        """Behind the others of its lease; an urgent one instead of those that are not."""
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
        number, effect = lane.number, lane.running
        slow = self._world.likely(self._world.options.slow)
        delay_ns = self._world.between(NS_PER_MS // 10, 300 * NS_PER_MS if slow else 4 * NS_PER_MS)

        def ended(ok: bool) -> None:
            if self._lanes[lease] is lane and number == lane.number:
                lane.running = None
                self._report(effect, ok=ok)
                self._next(lease)

        def act() -> None:
            if number == lane.number:
                self._act(effect, lambda: number == lane.number, ended)

        self._node.awake(delay_ns, act)

    def _report(self, effect: Effect, *, ok: bool) -> None:
        name, lease = type(effect).__name__, effect.lease  # type: ignore[union-attr]  # as above
        serial = effect.serial  # type: ignore[union-attr]  # as above
        self._node.give(lambda at: events.EffectDone(at, lease, name, serial, ok))
        if name == "Announce" and ok:
            self._node.later(NS_PER_MS, lambda at: events.FirstAnswer(at, lease, serial))

    def _act(self, effect: Effect, wanted: Callable[[], bool], ended: Callable[[bool], None]) -> None:
        if self._world.likely(self._world.options.failing_effects):
            if self._world.likely(0.5):  # done, but told to have failed
                self._do(effect, wanted, lambda _: ended(False))
            else:
                ended(False)
            return
        self._do(effect, wanted, ended)

    def _do(self, effect: Effect, wanted: Callable[[], bool], ended: Callable[[bool], None]) -> None:
        ok = True
        match effect:
            case effects.BindVip(lease, _, deadline):
                self._bind(lease, deadline, wanted, ended)
                return
            case effects.UnbindVip(lease):
                self.unbind(lease)
            case effects.OpenGate(lease, _, token, _, deadline):
                self._open(lease, token, deadline, wanted, ended)
                return
            case effects.CloseGate(lease):
                self.gate.pop(lease, None)
            case effects.Announce(lease, _, deadline):
                ok = not self._newest(lease, deadline).deadline_passed(self._node.now())
                if ok:
                    self.announcer.announce(lease)
            case _:
                pass
        ended(ok)

    def _open(
        self,
        lease: str,
        token: int,
        deadline: Instant,
        wanted: Callable[[], bool],
        ended: Callable[[bool], None],
    ) -> None:
        """Where data is replicated, once every store that counts has answered."""

        def settled(ok: bool) -> None:
            until = self._newest(lease, deadline)
            ok = ok and not until.deadline_passed(self._node.now())
            if ok:
                self.gate[lease] = (token, until)
            self._node.awake(0, lambda: ended(ok))

        if self._node.state.spec.lease_by_name[lease].replicated:
            self.gate.pop(lease, None)
            self.copies.settle(lease, token, wanted, settled)
        else:
            settled(True)

    # Addresses and fence

    def _newest(self, lease: str, deadline: Instant) -> Instant:
        return self.told.setdefault(lease, deadline)

    def _bind(
        self, lease: str, deadline: Instant, wanted: Callable[[], bool], ended: Callable[[bool], None]
    ) -> None:
        """First the fence: so the first packet that reaches the address is answered."""
        until = self._newest(lease, deadline)
        if until.deadline_passed(self._node.now()):
            ended(False)
            return

        def armed(ok: bool) -> None:
            if wanted():
                if ok:
                    self.kernel.bind(lease, self._node.clock.true_ns(until))
                ended(ok)

        self.fence.arm(lease, until, armed)

    def extend(self, lease: str, token: int, deadline: Instant) -> None:
        """A renewal is proven (or a shorter ttl was sent)."""
        self.told[lease] = deadline
        world, own = self._world, self._node.state.session
        # Until a session that takes the place of a vanished one is registered, the deadline is of that one's renewals.
        proven = own.id if own.phase is Phase.LIVE else own.old or own.id
        until_ns = self._node.clock.true_ns(deadline)
        world.history.add(world.now_ns, "told", self._node.name, lease, token, proven, until_ns)
        if lease in self.gate:
            self.gate[lease] = (token, deadline)
        if self.kernel.bound(lease):
            self._move_on(lease, deadline)

    def _move_on(self, lease: str, deadline: Instant) -> None:
        def armed(ok: bool) -> None:
            if ok and self.kernel.bound(lease) and lease in self.told:
                self.kernel.bind(lease, self._node.clock.true_ns(deadline))

        self.fence.arm(lease, deadline, armed)

    def give_up(self, lease: str) -> None:
        """Nothing may be served from now on: the fence closes, and no frame is sent any more."""
        self.told.pop(lease, None)
        self.fence.close([lease])

    def unbind(self, lease: str) -> None:
        """Fence and address; done when the address is off."""
        self.told.pop(lease, None)
        self.announcer.quiet(lease)
        self.kernel.unbind(lease)
        self.fence.close([lease])

    # The repository

    def client_writes(self, lease: str) -> None:
        """A backup client's write, if it is heard and the gate lets it in; and its acknowledgement."""
        node, world = self._node, self._world
        token, deadline = self.gate.get(lease, (0, node.now()))
        if not self.kernel.answers(lease) or lease not in self.gate or deadline.deadline_passed(node.now()):
            return
        world.history.add(world.now_ns, "write", node.name, lease, token)
        if node.state.spec.lease_by_name[lease].replicated:
            stores = self.copies.acknowledged_on(lease)
            if stores is not None:
                world.history.add(world.now_ns, "ack", lease, stores)
