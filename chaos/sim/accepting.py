"""An operator who accepts a loss (`leaseha recover`): watches etcd, thinks for a while, and writes in one transaction.

As the real one (`leaseha.runtime.recovering`): a session that was neither renewed for its ttl nor is there counts as
silent; with a silent holder and silent members a node that was renewed meanwhile is made the only member. The clock is
true, and the allowance for drift is the nodes' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.sim.node import Node
from leaseha.core import deadline, records, transactions
from leaseha.core.records import ClaimRecord, Hold, InsyncRecord, Life, NodeRecord, SessionRecord
from leaseha.core.transactions import Recovering
from leaseha.core.values import NS_PER_S, Committed, KeyValue

THINKS_NS: Final = 2 * NS_PER_S


class Operator:
    """Of one lease, in favour of one node."""

    def __init__(self, node: Node, lease: str) -> None:
        self._node, self._lease = node, lease
        self._world = node.world
        self._before: dict[str, int] = {}

    def watch(self) -> None:
        """Look, and look again after the longest silence that means nothing."""
        keys = self._world.etcd.keys
        self._before = {key: kv.mod for key, kv in keys.items() if key.startswith(records.SESSIONS)}
        waits = [self._world.options.ttl_ns]
        for key in self._before:
            record = records.decode(SessionRecord, keys[key].value)
            if record is not None and record.life is Life.LIVE:
                spec = self._node.state.spec
                waits.append(deadline.waited_ns(record.ttl_ns, spec.drift_ppm, record.margin_ns))
        self._world.after(max(waits), self._decide)

    def _silent(self, session: int) -> bool:
        key = records.session_key(session)
        kv = self._world.etcd.keys.get(key)
        record = records.decode(SessionRecord, kv.value) if kv is not None else None
        return kv is None or record is None or record.life is not Life.LIVE or kv.mod == self._before.get(key)

    def _decide(self) -> None:
        keys = self._world.etcd.keys
        claim_kv, set_kv = (keys.get(key(self._lease)) for key in (records.claim_key, records.insync_key))
        claim = records.decode(ClaimRecord, claim_kv.value) if claim_kv is not None else None
        admitted = records.decode(InsyncRecord, set_kv.value) if set_kv is not None else None
        if claim_kv is None or set_kv is None or claim is None or admitted is None:
            return
        nodes = {key: kv for key, kv in keys.items() if key.startswith(records.NODES)}
        told = [
            record for kv in nodes.values() if (record := records.decode(NodeRecord, kv.value)) is not None
        ]
        chosen = next((one for one in told if one.node == self._node.name), None)
        holding = claim.session if claim.hold is Hold.HELD else 0
        if chosen is None or self._silent(chosen.session) or (holding and not self._silent(holding)):
            return
        store = (chosen.stores or {}).get(self._lease, "")
        members = [one for one in told if (one.stores or {}).get(self._lease) in admitted.stores]
        if not store or any(not self._silent(one.session) for one in members):
            return
        item = self._item(claim_kv, claim, set_kv.mod, store, holding, nodes)
        self._world.after(self._world.between(0, THINKS_NS), lambda: self._write(item, store))

    def _item(
        self,
        claim_kv: KeyValue,
        claim: ClaimRecord,
        set_mod: int,
        store: str,
        holding: int,
        nodes: dict[str, KeyValue],
    ) -> Recovering:
        lost = ClaimRecord(Hold.LOST, "operator", reason="accepted", from_node=claim.node, epoch=claim.epoch)
        session = self._world.etcd.keys.get(records.session_key(holding))
        mods = [(key.removeprefix(records.NODES), kv.mod) for key, kv in sorted(nodes.items())]
        return Recovering(
            self._lease,
            claim_kv.mod,
            set_mod,
            claim if claim.hold is Hold.FREE else lost,
            InsyncRecord(frozenset({store}), accepted="accepted by the operator"),
            holding,
            session.mod if session is not None else 0,
            mods,
        )

    def _write(self, item: Recovering, store: str) -> None:
        if self._world.healed:  # who is patient then gets all back
            return
        outcome = self._world.etcd.txn(transactions.accept_loss(item))
        if isinstance(outcome, Committed):
            self._world.history.add(self._world.now_ns, "accepted", self._lease, store)


def accept(node: Node) -> None:
    """For one of its leases, at any time."""
    replicated = [lease.name for lease in node.state.spec.leases if lease.replicated]
    if replicated:
        Operator(node, node.world.chance.choice(replicated)).watch()


FAULTS: Final[dict[str, Callable[[Node], None]]] = {"accept": accept}
