"""The guard of a simulated node: takes down what a crashed agent left, then closes its session and frees its claims.

As in production it knows the session and no revision: it reads, compares what it read (T12), and reads again. A node
that is started anew meanwhile has taken its place; what it had sent by then may still be applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from chaos.sim.node import Node
from leaseha.core import records, transactions
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, Kind, Life, SessionRecord
from leaseha.core.transactions import Letting
from leaseha.core.values import NS_PER_MS, NS_PER_S, Committed, Outcome, Put, Txn

GRACE_NS: Final = 250 * NS_PER_MS
"""How long past its deadline an agent that hangs is let be."""
TRIED_NS: Final = 15 * NS_PER_S
AGAIN_NS: Final = 50 * NS_PER_MS
ANSWER_NS: Final = NS_PER_S


class Guard:
    """Of one process of a node; made when that process has ended."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._start = node.starts
        self._session = node.state.session.id
        self._end_ns = self._world.now_ns + TRIED_NS

    def clean_up(self) -> None:
        """Addresses off; if that is proven for each, T12. What failed stays on to the end of its lifetime."""
        self._soon(self._take_down)

    def _take_down(self) -> None:
        self._node.service.fence.ended()
        unknown = [] if self.close_fence() else ["the fence"]
        unknown += [lease for lease in self._node.leases if not self.unbind(lease)]
        if self.may_free(unknown):
            self._soon(self._read)

    def close_fence(self) -> bool:
        """All leases go out of both sets, if there are any, and if the kernel does as it is told."""
        kernel = self._node.service.kernel
        if kernel.fenced and self._world.likely(self._world.options.failing_effects):
            return False
        kernel.close(self._node.leases)
        return True

    def unbind(self, lease: str) -> bool:
        """The address of a lease goes, if the kernel does as it is told."""
        if self._world.likely(self._world.options.failing_effects):
            return False
        self._node.vanish(lease, "taken off by its guard")
        return True

    def may_free(self, unknown: list[str]) -> bool:
        """B13: nothing while anything may still be answered for."""
        return not unknown and self._session != 0

    def _read(self) -> None:
        if not self._world.ask(self._node.name, self._write):
            self._world.after(AGAIN_NS, lambda: self._soon(self._read))

    def _write(self) -> None:
        """T12 with what stands now; again until it is known to be done, or there is nothing to do."""
        keys = {kv.key: kv for kv in self._world.etcd.read_all()[1]}
        own = keys.get(records.session_key(self._session))
        record = records.decode(SessionRecord, own.value) if own is not None else None
        if own is None or record is None or record.life is not Life.LIVE:
            return
        letting, lines = [], []
        for lease in self._node.leases:
            kv = keys.get(records.claim_key(lease))
            claim = records.decode(ClaimRecord, kv.value) if kv is not None else None
            if (
                kv is not None
                and claim is not None
                and (claim.hold, claim.session) == (Hold.HELD, self._session)
            ):
                free = ClaimRecord(
                    Hold.FREE, kind=Kind.FAILOVER, reason="the agent died", previous=kv.mod,
                    from_node=self._node.name, epoch=claim.epoch,
                )  # fmt: skip
                letting.append(Letting(lease, kv.mod, 0, free))
                line = records.history_key(lease, kv.mod)
                if claim.kind == Kind.FAILBACK and line not in keys:
                    lines.append(Put(line, self._line(claim, kv.mod)))
        txn = transactions.t12_close(self._session, own.mod, record, letting)
        self._commit(replace(txn, puts=(*txn.puts, *lines)))

    def _line(self, claim: ClaimRecord, token: int) -> str:
        """Of a failback whose target crashed before it wrote one: the flap budget counts it."""
        at_ms = self._world.now_ns // NS_PER_MS
        entry = HistoryRecord(token, claim.kind, claim.reason, claim.from_node, claim.node, at_ms, "")
        return records.encode(entry)

    def _commit(self, txn: Txn) -> None:
        answered = False

        def answer(outcome: Outcome | None) -> None:
            nonlocal answered
            if not answered and not isinstance(outcome, Committed):
                self._world.after(AGAIN_NS, lambda: self._soon(self._read))
            answered = True

        self._world.commit(self._node.name, txn, "T12", answer)
        self._world.after(ANSWER_NS, lambda: answer(None))

    def _soon(self, do: Callable[[], None]) -> None:
        def act() -> None:
            if self._start == self._node.starts and self._world.now_ns < self._end_ns:
                do()

        self._world.after(self._world.between(NS_PER_MS // 10, 4 * NS_PER_MS), act)


def crash(node: Node) -> None:
    """SIGKILL to the agent alone: its guard sees it at once."""
    if node.alive:
        node.kill()
        Guard(node).clean_up()


def hang(node: Node) -> None:
    """SIGSTOP to the agent, for good: past the deadline its guard kills it first."""
    if not node.alive or node.frozen or not node.told:
        return
    start = node.starts
    late_ns = max(node.clock.true_ns(until) for until in node.told.values()) + GRACE_NS - node.world.now_ns
    node.freeze(late_ns + NS_PER_S)

    def late() -> None:
        if node.starts == start and node.frozen:
            crash(node)

    node.world.after(late_ns, late)


def hush(node: Node) -> None:
    """The channel to the guard closes, and the agent lives: no end, as long as its pidfd says nothing."""
    if node.alive:
        silent(node)


def silent(_: Node) -> None:
    """What the guard does then: it waits for the end, or for a missed deadline."""


FAULTS: Final[dict[str, Callable[[Node], None]]] = {"crash": crash, "hang": hang, "hush": hush}
