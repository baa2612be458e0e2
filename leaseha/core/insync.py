"""The in-sync set: which stores may take over without losing acknowledged data (G2, T13).

Only the holder writes it. While a change is unresolved the union counts: a store that is being added may
already be able to take over, one that is being removed may still be.
"""

from __future__ import annotations

from leaseha.core import placement, records
from leaseha.core.records import InsyncRecord
from leaseha.core.session import OwnWrite
from leaseha.core.state import Draft, NodeState, Role, lease_spec
from leaseha.core.values import Put


def written(write: OwnWrite, lease: str) -> frozenset[str]:
    """The stores that this write would put into the lease's in-sync set; empty if it writes none."""
    key = records.insync_key(lease)
    for put in write.txn.puts:
        if isinstance(put, Put) and put.key == key:
            record = records.decode(InsyncRecord, put.value)
            return record.stores if record else frozenset()
    return frozenset()


def must_have(state: NodeState, lease: str) -> frozenset[str]:
    """Every store that may be in the in-sync set now: what is acknowledged must be on all of them."""
    seen = state.view.insync(lease).record if state.view is not None else None
    stores = seen.stores if seen is not None else frozenset()
    for write in state.session.pending:
        if write.what == "T13":
            stores |= written(write, lease)
    if lease_spec(state.spec, lease).replicated:
        stores |= state.leases[lease].wanted or frozenset()  # it may be sent at any moment
    return stores


def may_change(draft: Draft, lease: str) -> bool:
    """Only the holder writes the set, and it need not serve yet.

    Where nothing is replicated, the first node of a new lease may never come so far, and nobody else could take over
    if it had admitted nobody. Where data is replicated its gate opens only when every member has answered, or was
    removed.
    """
    return draft.leases[lease].role in (Role.HOLDER, Role.PREPARING)


def wanted(draft: Draft, lease: str) -> frozenset[str] | None:
    """The set that the holder should write now; None if the one that stands is right.

    A lease with nothing to replicate admits every healthy node, and never removes one: nothing can be lacking.
    The holder's own store always belongs to it.
    """
    seen = draft.view.insync(lease)
    if seen.record is None:
        return None
    state = draft.leases[lease]
    if lease_spec(draft.spec, lease).replicated:
        own = placement.own_store(draft, lease)
        if state.wanted is None or not own:
            return None
        target = state.wanted | {own}
    else:
        target = seen.record.stores | _healthy(draft, lease)
    return None if target == seen.record.stores else target


def nodes_of(draft: Draft, lease: str, stores: frozenset[str]) -> dict[str, str]:
    """By store, the node that has it, or had it when it was last told."""
    seen = draft.view.insync(lease).record
    found = dict((seen.nodes if seen is not None else None) or {})
    for name, told in draft.view.nodes.items():
        if told.record is not None:
            found[placement.store_of(draft, lease, told.record)] = name
    found[placement.own_store(draft, lease)] = draft.spec.node
    return {store: found[store] for store in sorted(stores) if store in found}


def accepted_loss(draft: Draft, lease: str) -> str:
    """Who accepted which loss, if the claim that stands was written with the in-sync set by an operator; else empty."""
    seen, claim = draft.view.insync(lease), draft.view.claim(lease)
    return seen.record.accepted if seen.record is not None and seen.mod == claim.mod else ""


def _healthy(draft: Draft, lease: str) -> frozenset[str]:
    """The stores of all nodes that would be candidates if they were admitted."""
    stores = {draft.spec.store}
    for candidate in placement.others(draft, lease):
        if not candidate.why_not(ignore_insync=True):
            stores.add(candidate.store)
    return frozenset(stores)
