"""`leaseha reload` of a simulated node: another program in place of the running one, with session and leases kept.

As the runtime does it (`leaseha.runtime.reload`): the ttl is raised and proven first, so that all deadlines are far
away; at a moment at which nothing is under way the core's state is taken; for a while then nobody is there, while
addresses and fence live on in the kernel; what begins afterwards proves everything anew. With too little time left, or
no such moment, the old program goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.sim.node import Node
from leaseha.core import events, handover
from leaseha.core.handover import Handover
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant

LEFT: Final = (8, 10)
"""Of `ttl_max`: the least that must be left to every deadline."""
PATIENCE_NS: Final = 15 * NS_PER_S
PAUSE_NS: Final = 5 * NS_PER_MS
AGAIN_NS: Final = 50 * NS_PER_MS


class Reload:
    """One of them, of one process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._ttl_max_ns = node.state.spec.ttl_max_ns
        self._ttl_ns = node.state.spec.ttl_ns
        self._end_ns = self._world.now_ns + PATIENCE_NS

    def begin(self) -> None:
        """Look again and again for the moment."""
        node, state = self._node, self._node.state
        if self._world.healed or self._world.now_ns > self._end_ns or state.stopping:
            self._give_ttl(self._ttl_ns)
            return
        left_ns = handover.left_ns(state, node.now())
        enough = left_ns is None or left_ns >= self._ttl_max_ns * LEFT[0] // LEFT[1]
        if enough and node.idle() and (not handover.not_calm(state) or handover.nothing_held(state)):
            self._replace()
            return
        if not enough and not state.session.pending:
            self._give_ttl(self._ttl_max_ns)
        node.awake(PAUSE_NS, self.begin)

    def _give_ttl(self, ttl_ns: int) -> None:
        self._node.give(lambda at: events.TtlChanged(at, ttl_ns))

    def _replace(self) -> None:
        """From here on nothing is decided: what the old program is told by now, nobody hears."""
        node = self._node
        told = handover.take(node.state)
        deadlines = handover.deadlines(node.state, node.now())
        held = {one.lease: deadlines[one.lease] for one in told.held()}
        start = node.starts
        node.alive = False

        def succeed() -> None:
            if not node.alive and node.starts == start:
                self._succeed(told, held)

        self._world.after(self._world.between(10 * NS_PER_MS, 3 * self._ttl_max_ns // 2), succeed)

    def _succeed(self, told: Handover, held: dict[str, Instant]) -> None:
        node = self._node
        node.succeed(handover.adopted(node.next_spec(), told, node.now()), held)
        self._prove(told)

    def _prove(self, told: Handover) -> None:
        node = self._node
        if not handover.proven(node.state, told):
            if not node.state.session.pending:
                self._give_ttl(self._ttl_ns)
            node.awake(AGAIN_NS, lambda: self._prove(told))


def reload(node: Node) -> None:
    """What an operator asks for at any time."""
    if node.alive and not node.frozen and not node.stopped:
        Reload(node).begin()


FAULTS: Final[dict[str, Callable[[Node], None]]] = {"reload": reload}
