"""Who may hold a lease and who should: candidates, ranks, hold-down and the flap budget."""

from __future__ import annotations

from dataclasses import dataclass

from leaseha.core import deadline
from leaseha.core.records import Hold, Kind, Life, NodeRecord
from leaseha.core.state import Draft, lease_spec
from leaseha.core.values import NS_PER_S, Instant

HOUR_NS = 3600 * NS_PER_S
ASK_AGAIN_NS = 10 * NS_PER_S
"""An intent for failback that had no effect is written again after this."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as a possible holder of one lease."""

    node: str
    session: int
    store: str
    priority: int
    """Effective: as configured plus the weights of failed checks."""
    alive: bool
    ineligible: str
    in_sync: bool
    same_definition: bool

    def why_not(self, *, ignore_insync: bool = False) -> str:
        """Why it may not take the lease now; empty if it may."""
        if not self.alive:
            return "silent"
        if self.priority <= 0:
            return "priority 0"
        if not self.same_definition:
            return "its VIPs for this lease differ"
        if self.ineligible:
            return self.ineligible
        if not self.in_sync and not ignore_insync:
            return "not in-sync"
        return ""

    def order(self) -> tuple[int, str]:
        """Candidates rank themselves alike: the highest priority first, then by name."""
        return -self.priority, self.node


def silent_from(draft: Draft, session: int) -> Instant | None:
    """From when on a session counts as silent unless its record changes; None: it is not *live*."""
    seen = draft.view.session(session)
    record = seen.record
    if record is None or record.life is not Life.LIVE:
        return None
    return deadline.of_wait(seen.at, record.ttl_ns, draft.spec.drift_ppm, record.margin_ns)


def silent(draft: Draft, session: int) -> bool:
    """True if the session's record is gone, not *live*, or unchanged for as long as its holder could count on it."""
    over = silent_from(draft, session)
    return over is None or over.wait_over(draft.at)


@dataclass(frozen=True, slots=True)
class Twin:
    """A live session of another process under this node's name."""

    session: int
    store: str
    renewed: bool
    """It was renewed since this process looked first, so that process lives."""


def twin(draft: Draft) -> Twin | None:
    """Another process that is, or may be, alive as this node: by another disk, or by a copy of ours.

    An earlier process of this host has our store, and does not renew any more: that one is none.
    """
    for session_id, record in draft.view.live_sessions():
        if record.node != draft.spec.node or record.incarnation == draft.spec.incarnation:
            continue
        renewed = draft.view.session(session_id).at.boot_ns > draft.view.since.boot_ns
        if (renewed or record.store != draft.spec.store) and not silent(draft, session_id):
            return Twin(session_id, record.store, renewed)
    return None


def own_store(draft: Draft, lease: str) -> str:
    """What names this node's bytes of the lease in its in-sync set; empty: it has none that can be used."""
    return draft.leases[lease].store if lease_spec(draft.spec, lease).replicated else draft.spec.store


def store_of(draft: Draft, lease: str, record: NodeRecord) -> str:
    """The same of another node, as it tells."""
    return (record.stores or {}).get(lease, "") if lease_spec(draft.spec, lease).replicated else record.store


def _unfit(draft: Draft, lease: str) -> str:
    """Replicated: why this node's data directory cannot stand in an in-sync set; empty if it can."""
    unknown = lease_spec(draft.spec, lease).replicated and not own_store(draft, lease)
    return "its data directory was not looked at yet" if unknown else ""


def myself(draft: Draft, lease: str) -> Candidate:
    """This node as a possible holder."""
    state, spec = draft.leases[lease], lease_spec(draft.spec, lease)
    why = state.retired or state.ineligible or state.blocked
    why = why or _unfit(draft, lease)
    if not why and draft.node.stopping:
        why = "stopping"
    if not why and state.not_before is not None and not state.not_before.wait_over(draft.at):
        why = "could not serve it a moment ago"
    return Candidate(
        node=draft.spec.node,
        session=draft.session.id,
        store=own_store(draft, lease),
        priority=effective(draft, lease),
        alive=draft.session.id != 0,
        ineligible=why,
        in_sync=_admitted(draft, lease, own_store(draft, lease)),
        same_definition=_as_holder_has_it(draft, lease, spec.digest),
    )


def effective(draft: Draft, lease: str) -> int:
    """This node's priority for a lease: 0 stays 0, else at least 1 whatever the checks take away."""
    base = lease_spec(draft.spec, lease).priorities.get(draft.spec.node, 0)
    return max(1, base + draft.leases[lease].penalty) if base > 0 else 0


def others(draft: Draft, lease: str) -> list[Candidate]:
    """Every other node that published itself, as a possible holder."""
    found = []
    for name, seen in draft.view.nodes.items():
        record = seen.record
        if record is None or name == draft.spec.node:
            continue
        digest = (record.digests or {}).get(lease)
        store = store_of(draft, lease, record)
        found.append(
            Candidate(
                node=name,
                session=record.session,
                store=store,
                priority=(record.priorities or {}).get(lease, 0),
                alive=not silent(draft, record.session),
                ineligible=(record.ineligible or {}).get(lease, ""),
                in_sync=_admitted(draft, lease, store),
                same_definition=same_vips(digest, lease_spec(draft.spec, lease).digest),
            )
        )
    return found


def _admitted(draft: Draft, lease: str, store: str) -> bool:
    """In the in-sync set; while a new lease has none, everyone is."""
    seen = draft.view.insync(lease)
    if seen.mod == 0:
        return is_new(draft, lease)
    return seen.record is not None and store in seen.record.stores


def _as_holder_has_it(draft: Draft, lease: str, digest: str) -> bool:
    """Our definition is that of the live holder, if there is another live holder."""
    holder = holding_session(draft, lease)
    if holder in (0, draft.session.id) or silent(draft, holder):
        return True
    for seen in draft.view.nodes.values():
        if seen.record is not None and seen.record.session == holder:
            return same_vips((seen.record.digests or {}).get(lease), digest)
    return True


def same_vips(one: str | None, other: str) -> bool:
    """A digest is `<of the VIPs>.<of the rest>`; a node whose VIPs differ is no candidate."""
    return one is not None and one.partition(".")[0] == other.partition(".")[0]


def is_new(draft: Draft, lease: str) -> bool:
    """No claim, no in-sync set, no history, and none was ever seen here: nobody has ever held it.

    Keys that were there and are gone were deleted, perhaps under a holder that does not know it yet.
    """
    view = draft.view
    return lease not in view.claims and lease not in view.insyncs and not view.past(lease)


def holding_session(draft: Draft, lease: str) -> int:
    """The session that the claim names, 0 if it names none."""
    record = draft.view.claim(lease).record
    return record.session if record is not None and record.hold is Hold.HELD else 0


def ranked(draft: Draft, lease: str, *, without: int = 0) -> list[Candidate]:
    """All candidates in the order in which they may take, leaving out one session (the old holder's)."""
    everyone = [myself(draft, lease), *others(draft, lease)]
    return sorted((c for c in everyone if not c.why_not() and c.session != without), key=Candidate.order)


def rank(draft: Draft, lease: str, *, without: int = 0) -> int | None:
    """How many candidates come before this node; None if it is none itself."""
    for index, candidate in enumerate(ranked(draft, lease, without=without)):
        if candidate.node == draft.spec.node:
            return index
    return None


def best_other(draft: Draft, lease: str) -> Candidate | None:
    """The best candidate beside this node."""
    return next((c for c in ranked(draft, lease) if c.node != draft.spec.node), None)


def named(draft: Draft, lease: str, node: str) -> Candidate | None:
    """Another node by name, candidate or not."""
    return next((c for c in others(draft, lease) if c.node == node), None)


def is_better(draft: Draft, lease: str) -> bool:
    """This node should have the lease: the best of all candidates, with a higher priority than its live holder.

    A node that is merely better does not ask: the lease would move twice, and the flap budget with it.
    """
    holder = holding_session(draft, lease)
    if holder in (0, draft.session.id) or silent(draft, holder) or not failback_wanted(draft, lease):
        return False
    me = myself(draft, lease)
    other = next((c for c in others(draft, lease) if c.session == holder), None)
    return other is not None and rank(draft, lease) == 0 and me.priority > other.priority


def failback_wanted(draft: Draft, lease: str) -> bool:
    """The lease is configured to go back to the better node."""
    return lease_spec(draft.spec, lease).failback


def hold_down_end(draft: Draft, lease: str, since: Instant) -> Instant:
    """When a node that is better since then may ask for the lease."""
    return since.plus(lease_spec(draft.spec, lease).hold_down_ns)


def budget_free_at(draft: Draft, lease: str) -> Instant | None:
    """When the flap budget allows another failback; None: now (G8)."""
    budget = lease_spec(draft.spec, lease).flap_budget
    times = [p.at for p in draft.view.past(lease).values() if p.record.kind == Kind.FAILBACK]
    free = sorted((at.plus(HOUR_NS) for at in times), key=lambda at: at.boot_ns)
    spent = [at for at in free if not at.wait_over(draft.at)]
    if len(spent) < budget:
        return None
    return spent[len(spent) - budget] if budget else draft.at.plus(HOUR_NS)
