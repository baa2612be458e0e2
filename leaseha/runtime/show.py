"""Status and history as text for a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from leaseha.core.records import HistoryRecord
from leaseha.runtime import copying, stranded


def status(found: dict[str, Any]) -> str:
    """The status document as text; also that of an agent which is older than this program, and tells less."""
    lines = [f"cluster {found['cluster']}, {_source(found)}"]
    for name, lease in found["leases"].items():
        lines += ["", *_lease(name, lease)]
    lines += ["", *_etcd(found["etcd"]), *_leader(found.get("etcd_leader"))]
    return "\n".join(lines)


def _source(found: dict[str, Any]) -> str:
    if found["source"] == "etcd":
        return "as written in etcd: no agent runs here, so silence of others cannot be judged"
    left = found["session"]["deadline_left_s"]
    proven = f"proven for {left:.1f} s" if left is not None and left > 0 else "not proven"
    layers = ", ".join(found["fence_layers"])
    return (
        f"as node {found['node']} sees it (session {proven}; fence: {layers}){_urgency(found.get('urgency'))}"
    )


def _urgency(urgency: dict[str, Any] | None) -> str:
    if urgency is None:
        return ""
    worst, note = urgency["worst"], f" ({urgency['note']})" if urgency["note"] else ""
    memory = "locked" if urgency["memory_locked"] else "not locked"
    return (
        f"\npriority {urgency['priority']}, memory {memory}{note}; of late a renewal used up to "
        f"{worst['renewal_used']:.0%} of its time: timers {worst['timer_late_ms']:g} ms late, etcd "
        f"{worst['etcd_answer_ms']:g} ms, pauses {worst['gc_pause_ms']:g} ms"
    )


def _lease(name: str, lease: dict[str, Any]) -> list[str]:
    holder = lease["holder"] or f"NO HOLDER ({lease['claim']})"
    if lease["holder_silent"]:
        holder += " (SILENT: gives no sign of life)"
    facts = [f"token {lease['token']}" if lease["token"] else "no token"]
    if lease["since_ms"]:
        facts.append(f"since {when(lease['since_ms'])}")
    if lease["deadline_left_s"] is not None:
        facts.append(f"deadline in {lease['deadline_left_s']:.1f} s")
    lines = [f"lease {name}: {holder}"]
    if alone := lease.get("stranded"):
        since = when(alone["since_ms"]) if alone["since_ms"] else ""
        lines += [f"  {line}" for line in stranded.as_text(name, alone, since)]
    lines += [f"  {', '.join(facts)}", f"  VIPs {', '.join(lease['vips'])}"]
    if lease["announced"] is not None:
        lines.append(f"  announced: {_announced(lease['announced'])}")
    if (claims := lease["foreign_claims"]) is not None:
        counts = f"heard {claims['heard']} times, defended {claims['defended']} times"
        lines.append(f"  foreign claims: {counts}; the last: {claims['last']}")
    if lease["reason"]:
        lines.append(f"  moved because: {lease['reason']}")
    if lease.get("replication"):
        lines += [f"  {line}" for line in copying.as_text(lease["replication"], lease["in_sync"])]
    rows = [
        (str(rank), one["node"], str(one["priority"]), "candidate" if one["candidate"] else "no", one["why"])
        for rank, one in enumerate(lease["candidates"], 1)
    ]
    lines += [f"  {line}" for line in columns([("", "node", "priority", "candidate", "why"), *rows])]
    for check in lease["checks"]:
        if check["healthy"] is False:
            lines.append(f"  check {check['check']} fails: {check['detail']}")
    if lease["note"]:
        lines.append(f"  {lease['note']}")
    return lines


def _announced(told: dict[str, Any]) -> str:
    if told["proven"]:
        left = f" (nobody to ask about {', '.join(told['nobody_to_ask'])})" if told["nobody_to_ask"] else ""
        return f"proven by {told['by']} after {told['after_ms']:.0f} ms{left}"
    return f"unproven (asked {', '.join(told['asked'])})" if told["asked"] else "unproven (nobody to ask)"


def _etcd(members: Sequence[dict[str, Any]]) -> list[str]:
    if not members:
        return ["etcd: not asked yet"]
    return [
        f"etcd {one['endpoint']}: {one['version'] or '?'}"
        + (f", on {one['node']}" if one.get("node") else "")
        + (", leader" if one["leader"] else "")
        + (f", TROUBLE: {one['trouble']}" if one["trouble"] else "")
        for one in members
    ]


def _leader(leader: dict[str, Any] | None) -> list[str]:
    """Only what is worth a line: that the leader shares a holder's host, and what was done about it."""
    if leader is None:
        return []
    lines = []
    if leader["holds"]:
        lines.append(
            f"  etcd's leader is on the host of {leader['node']}, which holds {', '.join(leader['holds'])}"
        )
    if leader["note"]:
        lines.append(f"  {leader['note']}")
    return lines


def history(moves: Sequence[HistoryRecord]) -> str:
    """Moves as a table, oldest first."""
    head = ("when", "move", "from", "to", "gap", "reason", "token", "trace")
    rows = [
        (
            when(move.at_ms),
            move.kind,
            move.from_node or "-",
            move.to_node,
            f"{move.gap_ms} ms" if move.gap_ms >= 0 else "-",
            move.reason,
            str(move.token),
            move.trace_id,
        )
        for move in moves
    ]
    return "\n".join(columns([head, *rows]))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, two blanks between."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def when(at_ms: int) -> str:
    """Unix ms as UTC, to the ms."""
    try:
        at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return f"({at_ms} ms)"
    return f"{at:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}Z"
