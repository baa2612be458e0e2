"""`leaseha repo sync-status`: which node has everything, how far the others are; made from the agent's status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaseha.errors import OperationalError


def of(status: Mapping[str, Any], lease: str) -> dict[str, Any]:
    """Of one lease. Raises OperationalError where the agent does not know it.

    `level`: every node that could hold the lease is in sync. Rates and times left are known to the holder alone.
    """
    found = status["leases"].get(lease)
    if found is None:
        raise OperationalError(f"the agent that runs does not know the lease {lease}: reload it")
    copies = found["replication"]
    in_sync = found["in_sync"]
    stores: list[dict[str, Any]] = []
    said = {peer.get("node"): peer for peer in (copies or {}).get("peers", [])}
    for row in found["candidates"]:
        node = row["node"]
        peer = said.get(node, {})
        member = node in in_sync
        state = (
            "holder" if node == found["holder"] else "member" if member else peer.get("state", "not in sync")
        )
        stores.append(
            {
                "node": node,
                "store": peer.get("store"),
                "state": "not in sync" if state == "member" and not member else state,
                "why": "" if member else peer.get("why") or row["why"],
                "sent_bytes": peer.get("sent_bytes"),
                "total_bytes": peer.get("total_bytes"),
                "rate": peer.get("rate"),
                "eta_s": peer.get("eta_s"),
            }
        )
    able = {row["node"] for row in found["candidates"] if row["priority"] > 0}
    return {
        "lease": lease,
        "holder": found["holder"],
        "replicated": copies is not None,
        "level": copies is None or able <= {*in_sync},
        "copies": copies["copies"] if copies else 1,
        "min_copies": copies["min_copies"] if copies else 1,
        "members": in_sync,
        "warning": copies["warning"] if copies else "",
        "stores": stores,
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Its lines."""
    if not found["replicated"]:
        return f"{found['lease']}: one copy, on the node that holds it (replicate is off); holder {found['holder']}"
    least = f", at least {found['min_copies']} needed" if found["min_copies"] else ""
    lines = [
        f"{found['lease']}: copies {found['copies']}{least}; in sync: {', '.join(found['members']) or 'none'}"
    ]
    if found["warning"]:
        lines.append(found["warning"])
    return "\n".join(lines + [f"  {_line(store)}" for store in found["stores"]])


def _line(store: Mapping[str, Any]) -> str:
    text = f"{store['node']}: {store['state']}"
    if total := store["total_bytes"]:
        text += f", {store['sent_bytes'] / total:.0%} of {total / 2**20:.0f} MiB"
        text += f", {store['rate'] / 2**20:.1f} MiB/s" if store["rate"] else ""
        text += f", {store['eta_s']:.0f} s left" if store["eta_s"] is not None else ""
    return text + (f" ({store['why']})" if store["why"] else "")
