"""The replication of a simulated node: what its repository's process streams to, asks for, and waits for.

It is a process of its own: it goes on while the agent is frozen, and words between the two take time. As the real one
does it (`leaseha.repository.members`, `settle`): a store counts from the moment that it is asked in, and until the
agent says that it is out; the gate opens only when every store that counts has answered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from leaseha.core import events, insync
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_MS

if TYPE_CHECKING:
    from chaos.sim.node import Node

LOOK_NS: Final = 5 * NS_PER_MS
SETTLE_NS: Final = 2000 * NS_PER_MS
UNREACHED: Final = 0.15
"""How often a member that lives is not reached by a new holder."""


@dataclass(slots=True)
class Tenure:
    """Of one lease, as the process has it."""

    token: int = 0
    streams: frozenset[str] = frozenset()
    """Stores that get every write, the own one not among them."""
    asked: dict[int, frozenset[str]] = field(default_factory=dict)
    union: frozenset[str] = frozenset()
    """What may be in the set, by the agent's last word that arrived."""
    sent: tuple[int, frozenset[str]] | None = None
    """The agent's last word that was sent."""
    arrives_ns: int = 0
    """When the last word that was sent arrives: words keep their order."""


class Copies:
    """Of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._leases: dict[str, Tenure] = {}
        self._number = 0
        self._life = 0
        """Grows when the process dies."""

    def begin(self) -> None:
        """A new process: it knows nothing."""
        self._life += 1
        self._leases = {lease.name: Tenure() for lease in self._node.state.spec.leases if lease.replicated}

    def adopt(self) -> None:
        """Another program of the agent: what was said and not heard is heard by that one."""
        for lease, tenure in self._leases.items():
            tenure.sent = None
            if tenure.asked:
                self._say(lease, max(tenure.asked))

    def _own(self) -> str:
        return self._node.state.spec.store

    # The agent's words

    def look(self, state: NodeState) -> None:
        """After each step of the core, before anything of it is carried out."""
        for lease, tenure in self._leases.items():
            word = state.leases[lease].heard, insync.must_have(state, lease)
            if word != tenure.sent:
                tenure.sent = word
                self._after_words(lease, functools.partial(_hear, tenure, *word))

    def _after_words(self, lease: str, do: Callable[[], None]) -> None:
        """When all that was sent before has arrived."""
        world, tenure, life = self._world, self._leases[lease], self._life
        slow = world.likely(world.options.slow)
        delay_ns = world.between(0, 300 * NS_PER_MS if slow else 2 * NS_PER_MS)
        tenure.arrives_ns = max(tenure.arrives_ns, world.now_ns + delay_ns)

        def arrive() -> None:
            if life == self._life:
                do()

        world.after(tenure.arrives_ns - world.now_ns, arrive)

    # The process

    def required(self, lease: str) -> frozenset[str]:
        """Every other store that must have what is acknowledged."""
        tenure = self._leases[lease]
        return tenure.union.union(*tenure.asked.values()) - {self._own()}

    def acknowledged_on(self, lease: str) -> frozenset[str] | None:
        """Where a write is that is acknowledged now; None: it cannot be."""
        streams = self._leases[lease].streams
        return streams | {self._own()} if self.required(lease) <= streams else None

    def stream(self, lease: str, stores: Collection[str]) -> None:
        """From now on to these; one that does not count yet is brought up to date first."""
        tenure, wanted = self._leases[lease], frozenset(stores) - {self._own()}
        for store in sorted(wanted - tenure.streams - self.required(lease)):
            self._world.history.add(self._world.now_ns, "copied", lease, store)
        tenure.streams = wanted
        self._ask(lease)

    def _ask(self, lease: str) -> None:
        tenure = self._leases[lease]
        wanted = tenure.streams | {self._own()}
        if wanted == (tenure.asked[max(tenure.asked)] if tenure.asked else tenure.union):
            return
        self._number += 1
        tenure.asked[self._number] = wanted
        self._say(lease, self._number)

    def _say(self, lease: str, number: int) -> None:
        stores, token = self._leases[lease].asked[number], self._leases[lease].token
        delay_ns = self._world.between(0, 2 * NS_PER_MS)
        self._node.later(delay_ns, lambda at: events.CopiesReported(at, lease, stores, token, number))

    # The gate

    def settle(
        self, lease: str, token: int, wanted: Callable[[], bool], settled: Callable[[bool], None]
    ) -> None:
        """Ask every member; leave out those that do not answer; `settled` once nobody else counts, or not in time."""

        def begin() -> None:
            tenure = self._leases[lease]
            if token != tenure.token:
                tenure.token, tenure.asked = token, {}
            reached = {store for store in self._reached() if not self._world.likely(UNREACHED)}
            tenure.streams = self.required(lease) & reached
            self._ask(lease)
            self._look(lease, wanted, settled, self._world.now_ns + SETTLE_NS)

        self._after_words(lease, begin)

    def _reached(self) -> list[str]:
        """Stores of the nodes that live, also of those whose agent is frozen."""
        return [node.state.spec.store for node in self._world.nodes if node.alive]

    def _look(
        self, lease: str, wanted: Callable[[], bool], settled: Callable[[bool], None], end_ns: int
    ) -> None:
        life = self._life
        if not wanted():
            return
        done = self.acknowledged_on(lease) is not None
        if done or self._world.now_ns > end_ns:
            settled(done)
            return

        def again() -> None:
            if life == self._life:
                self._look(lease, wanted, settled, end_ns)

        self._world.after(LOOK_NS, again)


def _hear(tenure: Tenure, number: int, union: frozenset[str]) -> None:
    """The agent's word: what it has taken into account counts no more by itself, but for the last."""
    tenure.union = union
    last = max(tenure.asked, default=0)
    for one in [one for one in tenure.asked if one < number and one != last]:
        del tenure.asked[one]
