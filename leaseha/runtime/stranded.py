"""A lease that nobody may take because no member of its in-sync set can: who they are, and the two ways out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaseha.core import insync, placement
from leaseha.core.records import Hold
from leaseha.core.state import Draft


def of_lease(draft: Draft, lease: str, *, silent: bool, judge: bool = True) -> dict[str, Any] | None:
    """None: it is held by someone who gives a sign of life, or a member may take it.

    `silent`: its holder gives none. `judge`: this node runs, and may be a candidate itself.
    """
    seen, claim = draft.view.insync(lease).record, draft.view.claim(lease).record
    held = claim is not None and claim.hold is Hold.HELD
    if not draft.ready or seen is None or draft.leases[lease].mine or (held and not silent):
        return None
    nodes = placement.others(draft, lease) + ([placement.myself(draft, lease)] if judge else [])
    if any(not one.why_not() for one in nodes):
        return None
    known = insync.nodes_of(draft, lease, seen.stores)
    members = [_member(store, known.get(store, ""), nodes) for store in sorted(seen.stores)]
    return {
        "members": sorted(members, key=lambda one: (one["node"] or "", one["store"])),
        "since_ms": seen.at_ms or None,
        "could": sorted(one.node for one in nodes if not one.why_not(ignore_insync=True)),
        "accepted": seen.accepted,
    }


def _member(store: str, node: str, nodes: list[placement.Candidate]) -> dict[str, Any]:
    """Why this one does not take it."""
    running = next((one for one in nodes if one.node == node), None)
    why = "not running"
    if running is not None and running.store not in ("", store):
        why = "runs with another disk"
    elif running is not None:
        why = running.why_not(ignore_insync=True) or "its disk cannot be used"
    return {"node": node or None, "store": store, "why": why}


def members_text(told: Mapping[str, Any]) -> str:
    """The members, each with why it does not take the lease."""
    named = [f"{one['node'] or 'store ' + one['store']} ({one['why']})" for one in told["members"]]
    return ", ".join(named) or "no node at all"


def as_text(lease: str, told: Mapping[str, Any], since: str) -> list[str]:
    """Its lines of `status`, the two ways out among them. `since`: when the set became what it is; empty: unknown."""
    names = ", ".join(one["node"] or f"store {one['store']}" for one in told["members"])
    node = told["could"][0] if len(told["could"]) == 1 else "NODE"
    return [
        f"NOBODY MAY TAKE IT. All that was acknowledged is on: {members_text(told)}"
        + (f"; so since {since}" if since else ""),
        f"  way out 1: bring back {names}, with its data: it takes over by itself, and nothing is lost",
        f"  way out 2: leaseha recover {lease} --accept-loss --node {node}: goes on without what that node has not",
    ]
