"""What `status` says: a plain document made from the node's state, without asking anyone.

The same document is made from a mere look at etcd where no agent runs; what only an agent can know
(deadline left, silence of others) is then null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from leaseha.core import guards, placement, trace, wants
from leaseha.core.records import Hold
from leaseha.core.session import Phase, deadline_of
from leaseha.core.state import Draft, NodeState
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant
from leaseha.core.view import Past
from leaseha.runtime import copying, stranded

FORMAT: Final = 1
AGAIN: Final = "session re-established"
"""The reason of a claim whose holder goes on under a new session, and so under a new token (T14)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the state does not know of itself."""

    version: str
    pid: int
    source: str
    """`agent`: told by the agent itself; `etcd`: read from etcd, with no agent here."""
    fence_layers: tuple[str, ...] = ()
    vips: dict[str, list[str]] = field(default_factory=dict)
    checks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    replication: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By lease, what the process of a holder says of its copies."""
    announced: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """What came of the announcements of leases that are served here (leaseha.runtime.proving)."""
    foreign_claims: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """What others claimed of VIPs that were bound here (leaseha.runtime.defending)."""
    etcd: list[dict[str, Any]] = field(default_factory=list)
    etcd_leader: dict[str, Any] | None = None
    """Where etcd's leader is (leaseha.runtime.leader); None before etcd was asked."""
    urgency: dict[str, Any] | None = None
    """What keeps the agent in time on a busy machine (leaseha.runtime.urgency)."""


def document(state: NodeState, now: Instant, around: Surroundings) -> dict[str, Any]:
    """The whole status: JSON-ready; units end the names."""
    draft = Draft(state, now)
    own = state.session
    until = deadline_of(own, state.spec.drift_ppm)
    return {
        "format": FORMAT,
        "source": around.source,
        "cluster": state.spec.cluster,
        "node": state.spec.node,
        "version": around.version,
        "pid": around.pid,
        "stopping": state.stopping,
        "session": {
            "id": f"{own.id:016x}" if own.id else None,
            "state": own.phase.value,
            "deadline_left_s": _s(until.left_ns(now)) if until is not None else None,
            "ttl_s": _s(own.ttl_ns),
            "renew_every_s": _s(state.spec.renew_every_ns),
            "margin_s": _s(state.spec.margin_ns),
        },
        "fence_layers": list(around.fence_layers),
        "urgency": around.urgency,
        "etcd": around.etcd,
        "etcd_leader": around.etcd_leader,
        "leases": {lease.name: _lease(draft, lease.name, around) for lease in state.spec.leases},
        "nodes": _nodes(draft),
    }


def proven(state: NodeState, now: Instant) -> bool:
    """True while the own session is proven: ready."""
    until = deadline_of(state.session, state.spec.drift_ppm)
    return state.session.phase is Phase.LIVE and until is not None and not until.deadline_passed(now)


def holder(state: NodeState, lease: str) -> str:
    """The node that the claim names, by what this node has seen; empty if none."""
    record = Draft(state, Instant(0, 0)).view.claim(lease).record
    return record.node if record is not None and record.hold is Hold.HELD else ""


def _lease(draft: Draft, name: str, around: Surroundings) -> dict[str, Any]:
    state, seen = draft.leases[name], draft.view.claim(name)
    record = seen.record
    held = record is not None and record.hold is Hold.HELD
    past = _line(draft, name)
    until = guards.serve_until(draft, name)
    holding = placement.holding_session(draft, name)
    # From a mere look at etcd only records that are gone, dead or closed count as silent: those need no time to judge.
    own = holding == draft.session.id
    candidates = _candidates(draft, name, holding, judge=around.source == "agent")
    silent = held and (
        (until is None or until.deadline_passed(draft.at)) if own else placement.silent(draft, holding)
    )
    return {
        "holder": record.node if held and record is not None else None,
        "holder_silent": silent,
        "claim": record.hold.value if record is not None else _without_record(draft, seen.mod),
        "token": seen.mod or None,
        "epoch": record.epoch if record is not None else None,
        "since_ms": past.record.at_ms if past is not None else None,
        "reason": record.reason if record is not None else None,
        "trace_id": (trace.trace_id(record.traceparent) or None) if record is not None else None,
        "role": state.role.value if around.source == "agent" else None,
        "deadline_left_s": _s(until.left_ns(draft.at)) if until is not None else None,
        "vips": around.vips.get(name, []),
        "announced": around.announced.get(name),
        "foreign_claims": around.foreign_claims.get(name),
        "checks": around.checks.get(name, []),
        "in_sync": copying.nodes_in_sync(draft, name),
        "replication": copying.of_lease(draft, name, around.replication.get(name, {})),
        "stranded": stranded.of_lease(draft, name, silent=silent, judge=around.source == "agent"),
        "candidates": candidates,
        "note": ("" if held and not silent else _nobody(draft, name, candidates)) or _note(draft, name),
    }


def _line(draft: Draft, name: str) -> Past | None:
    """The line of history that the claim's stay began with. One goes on under a new token without a line of its own."""
    seen, past = draft.view.claim(name), draft.view.past(name)
    if seen.record is None or seen.record.reason != AGAIN or seen.mod in past:
        return past.get(seen.mod)
    newest = past.get(max((token for token in past if token < seen.mod), default=0))
    return newest if newest is not None and newest.record.to_node == seen.record.node else None


def _without_record(draft: Draft, mod: int) -> str:
    if not draft.ready:
        return "unknown: etcd has not answered yet"
    return "unreadable" if mod else "absent"


def _candidates(draft: Draft, name: str, holding: int, *, judge: bool) -> list[dict[str, Any]]:
    """Every node, in the order in which it would take the lease; with why it would not."""
    everyone = placement.others(draft, name)
    if judge:
        everyone.append(placement.myself(draft, name))
    rows = []
    for candidate in sorted(everyone, key=lambda c: (bool(c.why_not()), *c.order())):
        why_not = candidate.why_not()
        if judge and candidate.node == draft.spec.node and not candidate.alive:
            why_not = "has no session in etcd"
        rows.append(
            {
                "node": candidate.node,
                "priority": candidate.priority,
                "candidate": not why_not,
                "why": why_not or _why(candidate, holding),
                "holds": candidate.session == holding and holding != 0,
                "in_sync": candidate.in_sync,
            }
        )
    return rows


def _why(candidate: placement.Candidate, holding: int) -> str:
    if candidate.session == holding:
        return f"healthy, in-sync, holds it with priority {candidate.priority}"
    return f"healthy, in-sync, priority {candidate.priority}"


def _note(draft: Draft, name: str) -> str:
    """One sentence on what this node waits for, if it waits."""
    state = draft.leases[name]
    if state.blocked:
        return state.blocked
    if state.mine and state.ineligible:
        return f"should not hold it ({state.ineligible}), but there is no better candidate: stays"
    if state.mine and state.wanted_back is not None and guards.put_off(draft, name):
        return "a better node asks for it back: waits for a pause between uploads, ten minutes at most"
    at = wants.ask_at(draft, name)
    if at is not None:
        left_s = max(0, at.wait_left_ns(draft.at)) // NS_PER_S
        free = placement.budget_free_at(draft, name)
        why = "flap budget used up" if free is not None else "hold-down"
        when = f"in {left_s} s ({why})" if left_s else "now"
        return f"this node is the better one; failback {when}"
    return ""


def _nobody(draft: Draft, name: str, candidates: list[dict[str, Any]]) -> str:
    """Why a lease that nobody serves stays so, if no node may take it: that seldom cures itself."""
    if not draft.ready or draft.leases[name].mine or any(row["candidate"] for row in candidates):
        return ""
    return "no node may take it: " + "; ".join(f"{row['node']}: {row['why']}" for row in candidates)


def _nodes(draft: Draft) -> list[dict[str, Any]]:
    rows = []
    for name, seen in sorted(draft.view.nodes.items()):
        record = seen.record
        if record is not None:
            differs = [
                lease.name
                for lease in draft.spec.leases
                if lease.digest and (record.digests or {}).get(lease.name) != lease.digest
            ]
            rows.append(
                {
                    "node": name,
                    "address": record.address or None,
                    "version": record.version or None,
                    "stores": dict(record.stores or {}),
                    "session": f"{record.session:016x}",
                    "last_sign_ms_ago": (draft.at.boot_ns - draft.view.session(record.session).at.boot_ns)
                    // NS_PER_MS,
                    "definition_differs": differs,
                }
            )
    return rows


def _s(duration_ns: int) -> float:
    """ns as s, rounded to ms."""
    return round(duration_ns / NS_PER_S, 3)
