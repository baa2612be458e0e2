"""What `status` and `check` say of a lease whose data is kept on several nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from leaseha.config import Config
from leaseha.core import insync, placement
from leaseha.core.records import NodeRecord
from leaseha.core.state import Draft, lease_spec

KNOCK_S: Final = 2.0


def nodes_in_sync(draft: Draft, lease: str) -> list[str]:
    """Who is admitted, by node; what no running node has, by that which had it last, or else by its uuid."""
    record = draft.view.insync(lease).record
    stores = record.stores if record is not None else frozenset()
    running = {draft.spec.node: placement.own_store(draft, lease)}
    for node, seen in draft.view.nodes.items():
        if seen.record is not None:
            running[node] = placement.store_of(draft, lease, seen.record)
    known = insync.nodes_of(draft, lease, stores)
    return sorted(_named(store, known.get(store, ""), running) for store in stores)


def _named(store: str, node: str, running: Mapping[str, str]) -> str:
    """A node that runs with another disk, or with none that can be used, is not what was admitted."""
    if not node:
        return f"store {store}"
    return f"{node} (store {store})" if running.get(node, store) not in ("", store) else node


def of_lease(draft: Draft, lease: str, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many copies there are, and how each comes on; None where there is one by design.

    `said`: by the holder's process, empty elsewhere: only the holder knows how far a node has caught up.
    """
    if not lease_spec(draft.spec, lease).replicated:
        return None
    admitted = nodes_in_sync(draft, lease)
    known = {name for name, seen in draft.view.nodes.items() if seen.record is not None}
    able = [name for name, priority in lease_spec(draft.spec, lease).priorities.items() if priority > 0]
    warning = ""
    if len(admitted) == 1 and len(able) > 1:
        lacking = ", ".join(
            f"{name}{'' if name in known else ' (not running)'}" for name in sorted({*able} - {*admitted})
        )
        warning = f"ONE COPY: what is acknowledged is on {admitted[0]} alone; not in-sync: {lacking}"
    return {
        "copies": len(admitted),
        "min_copies": said.get("min_copies"),
        "warning": warning,
        "peers": said.get("peers", []),
        "tail": said.get("tail"),
        "doubtful": said.get("doubtful"),
        "upkeep": said.get("upkeep", {}),
    }


def as_text(copies: Mapping[str, Any], in_sync: list[str]) -> list[str]:
    """Its lines of `status`."""
    least = f", at least {copies['min_copies']} needed" if copies["min_copies"] else ""
    lines = [f"copies {copies['copies']}{least}: {', '.join(in_sync) or 'none'}"]
    if copies["warning"]:
        lines.append(copies["warning"])
    lines += _spoilt(copies)
    return lines + [_peer(peer) for peer in copies["peers"] if peer.get("state") != "member"]


def _spoilt(copies: Mapping[str, Any]) -> list[str]:
    """What scrub and compare have found, if it is bad; only the holder knows."""
    upkeep = copies.get("upkeep") or {}
    scrub, mending, compare = (upkeep.get(part, {}) for part in ("scrub", "mending", "compare"))
    lines = [
        f"SPOILT: {peer['bad']} objects on {peer.get('node')}" for peer in copies["peers"] if peer.get("bad")
    ]
    if bad := scrub.get("bad"):
        lost = mending.get("lost", 0)
        lines.append(f"SPOILT: {bad} objects on this disk, of {lost} no member has a good copy")
    if compare.get("configs"):
        lines.append("a repository's config differs between nodes: see the log")
    if lacking := compare.get("lacking"):
        lines.append(f"members lacked {lacking} acknowledged objects since this process started: see the log")
    return lines


def _peer(peer: Mapping[str, Any]) -> str:
    """One node that has not everything: why, or how far it has come."""
    text = f"copy on {peer.get('node') or peer.get('store')}: {peer.get('state')}"
    total = peer.get("total_bytes")
    if total:
        done = peer.get("done_bytes", peer.get("sent_bytes", 0))
        text += f", {done / total:.0%} of {total / 2**20:.0f} MiB"
        rate, eta = peer.get("rate"), peer.get("eta_s")
        text += f", {rate / 2**20:.1f} MiB/s" if rate else ""
        text += f", {eta:.0f} s left" if eta is not None else ""
    return text + (f" ({peer['why']})" if peer.get("why") else "")


async def unreachable(config: Config, others: list[NodeRecord]) -> list[str]:
    """Peer ports of other nodes that this machine cannot connect to, a sentence each."""
    found = []
    for lease in config.leases:
        if lease.repository is None or lease.repository.copies is None:
            continue
        for other in others:
            port = (other.peer_ports or {}).get(lease.name, 0)
            at = f"lease.{lease.name}: copies cannot be sent to {other.node}"
            if other.node == config.node.name:
                continue
            if not port or not other.address:
                found.append(f"{at}: it does not say where it takes them in (replicate = true there?)")
            elif why := await _knock(other.address, port):
                found.append(f"{at}: {other.address} port {port}: {why}")
    return found


async def _knock(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(KNOCK_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {KNOCK_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""
