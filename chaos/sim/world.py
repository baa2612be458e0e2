"""Virtual time: a heap of what happens next, one seed for every choice, and a network that may do anything.

Integer ns of true time. Nodes have clocks of their own (`chaos.sim.node`); nobody but the judge knows the true time.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chaos.history import History
from chaos.sim.etcd import FakeEtcd
from chaos.sim.options import Options
from leaseha.core import records
from leaseha.core.events import Change
from leaseha.core.values import NS_PER_MS, NS_PER_S, Delete, Outcome, Txn, Unknown

if TYPE_CHECKING:
    from chaos.sim.node import Node

ELECTION_NS: Final = (NS_PER_S // 2, 2 * NS_PER_S)
EXPIRY_NS: Final = NS_PER_S // 4


class World:
    """Time, chance, etcd, and the way between it and the nodes."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.chance = random.Random(options.seed)
        self.now_ns = 0
        self.history = History()
        self.etcd = FakeEtcd(late=self.chance.randrange)
        self.etcd.on_change = self._changed
        self.healed = False
        self.no_leader_until_ns = 0
        self.cut_requests: set[str] = set()
        self.cut_replies: set[str] = set()
        self.cut_watch: set[str] = set()
        self.unkept: set[str] = set()
        """Nodes whose etcd leases are not kept alive, though all else gets through."""
        self.watchers: list[Callable[[], None]] = []
        self.nodes: list[Node] = []
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.sent: dict[tuple[int, str, int], int] = {}
        """(session, incarnation, sequence) of own writes: when they were sent, for the judge."""
        self.after(EXPIRY_NS, self._expire)

    # Time

    def after(self, delay_ns: int, do: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._heap, (self.now_ns + max(0, delay_ns), next(self._count), do))

    def run_until(self, end_ns: int) -> None:
        """Let everything happen that is due before `end_ns`."""
        while self._heap and self._heap[0][0] <= end_ns:
            self.now_ns, _, do = heapq.heappop(self._heap)
            do()
        self.now_ns = end_ns

    def between(self, low_ns: int, high_ns: int) -> int:
        """A uniform duration."""
        return self.chance.randrange(low_ns, high_ns + 1)

    def likely(self, probability: float) -> bool:
        """True that often, while the world is still unkind."""
        return not self.healed and probability > 0 and self.chance.random() < probability

    # etcd

    def _expire(self) -> None:
        if self.now_ns >= self.no_leader_until_ns:
            self.etcd.expire(self.now_ns)
        self.after(EXPIRY_NS, self._expire)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            self._note(change)
        for wake in self.watchers:
            wake()

    def _note(self, change: Change) -> None:
        """Tell the judge what was written: claims, own records, in-sync sets."""
        top, _, rest = change.now.key.partition("/")
        if top == "sessions" and change.now.mod:
            record = records.decode(records.SessionRecord, change.now.value)
            if record is not None:
                session = int(rest, 16)
                sent_ns = self.sent.get((session, record.incarnation, record.sequence), self.now_ns)
                self.history.record(
                    self.now_ns, record.node, session, record.life.value, sent_ns, record.ttl_ns, record.store
                )
        elif top == "leases" and rest.endswith("/claim"):
            lease = rest.removesuffix("/claim")
            if change.now.mod and self.likely(self.options.snatch):
                self.after(
                    self.between(0, 60 * NS_PER_MS), lambda: self.etcd.write((Delete(change.now.key),))
                )
            claim = records.decode(records.ClaimRecord, change.now.value) if change.now.mod else None
            self.history.claim(
                self.now_ns,
                lease,
                change.now.mod,
                claim.hold.value if claim else "absent",
                claim.node if claim else "",
                claim.session if claim else 0,
                claim.kind if claim else "",
                claim.reason if claim else "",
                claim.from_node if claim else "",
            )

    # The way to etcd and back

    def delay_ns(self) -> int:
        """One way: a millisecond as a rule, now and then far more."""
        if self.likely(self.options.slow):
            return self.between(10 * NS_PER_MS, self.options.slow_max_ns)
        return self.between(NS_PER_MS // 10, 3 * NS_PER_MS)

    def commit(self, node: str, txn: Txn, what: str, answer: Callable[[Outcome], None]) -> None:
        """Send a transaction. Copies may be applied at any later time and in any order; the answer may be lost."""
        if what in self.options.late_kinds and self.likely(self.options.late_kind):
            late = self.between(0, self.options.late_max_ns)
            self.after(late, lambda: self._arrive(node, txn, answer, first=True))
            return
        copies = 1 + (self.chance.randrange(1, 3) if self.likely(self.options.copies) else 0)
        for number in range(copies):
            late = self.between(0, self.options.late_max_ns) if number else 0
            apply = functools.partial(self._apply, node, txn, answer, first=number == 0)
            self.after(self.delay_ns() + late, apply)

    def _apply(self, node: str, txn: Txn, answer: Callable[[Outcome], None], *, first: bool) -> None:
        if node in self.cut_requests and not self.healed:
            if self.likely(self.options.late_through_cut):
                again = self.between(0, self.options.late_max_ns)
                self.after(again, lambda: self._arrive(node, txn, answer, first=False))
            return
        self._arrive(node, txn, answer, first=first)

    def _arrive(self, node: str, txn: Txn, answer: Callable[[Outcome], None], *, first: bool) -> None:
        if self.now_ns < self.no_leader_until_ns:
            self.after(self.delay_ns(), lambda: answer(Unknown("no leader")))
            return
        outcome = self.etcd.txn(txn)
        if (
            first
            and not self.likely(self.options.lost_replies)
            and not (node in self.cut_replies and not self.healed)
        ):
            self.after(self.delay_ns(), lambda: answer(outcome))

    def ask(self, node: str, question: Callable[[], None]) -> bool:
        """Reads and grants: asked at once if etcd can be reached; False if there will be no answer."""
        reach = self.healed or (node not in self.cut_requests and node not in self.cut_replies)
        if not reach or self.now_ns < self.no_leader_until_ns or self.likely(self.options.lost_replies):
            return False
        self.after(self.delay_ns(), question)
        return True

    def elect(self) -> None:
        """etcd's leader dies: nothing for a while, then a higher term and full TTLs."""
        length_ns = self.between(*ELECTION_NS)
        self.no_leader_until_ns = self.now_ns + length_ns
        self.after(length_ns, lambda: self.etcd.change_leader(self.now_ns))
