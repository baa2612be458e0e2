"""The history of a lease: one line a move, written by the new holder into a bounded ring (G7)."""

from __future__ import annotations

from typing import Final

from leaseha.core import records, trace
from leaseha.core.records import HistoryRecord, Kind
from leaseha.core.state import Draft
from leaseha.core.values import NS_PER_MS, Delete, Put

RING: Final = 100
"""How many moves of a lease are kept."""


def record(draft: Draft, lease: str, token: int, *, answered: bool) -> HistoryRecord:
    """What is known now of the move to this token."""
    move = draft.leases[lease].move
    gap_ms = -1
    if answered and move.off_since is not None:
        gap_ms = (draft.at.boot_ns - move.off_since.boot_ns) // NS_PER_MS + max(0, move.down_ms)
    return HistoryRecord(
        token=token,
        kind=move.kind,
        reason=move.reason,
        from_node=move.from_node,
        to_node=draft.spec.node,
        at_ms=draft.view.wall_ms_at(draft.at),
        trace_id=trace.trace_id(move.trace),
        gap_ms=gap_ms,
        answered=answered,
    )


def note(draft: Draft, lease: str, token: int, *, answered: bool) -> HistoryRecord:
    """Let the line of history ride along with the next own write, and drop the oldest beyond the ring."""
    entry = record(draft, lease, token, answered=answered)
    notes: dict[str, Put | Delete] = dict(draft.node.notes)
    key = records.history_key(lease, token)
    notes[key] = Put(key, records.encode(entry))
    for old in sorted(set(draft.view.past(lease)) - {token})[: -(RING - 1)]:
        notes[records.history_key(lease, old)] = Delete(records.history_key(lease, old))
    draft.set(notes=notes)
    return entry


def unwritten(draft: Draft, lease: str) -> list[Put]:
    """The line of a failback whose target took the claim and vanished before it wrote one: for the flap budget."""
    seen = draft.view.claim(lease)
    claim = seen.record
    if claim is None or claim.kind != Kind.FAILBACK or seen.mod in draft.view.past(lease):
        return []
    entry = HistoryRecord(
        token=seen.mod,
        kind=claim.kind,
        reason=claim.reason,
        from_node=claim.from_node,
        to_node=claim.node,
        at_ms=draft.view.wall_ms_at(seen.at),
        trace_id=trace.trace_id(claim.traceparent),
    )
    return [Put(records.history_key(lease, seen.mod), records.encode(entry))]
