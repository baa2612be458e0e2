"""Trace contexts that both ends of a move derive alike (W3C Trace Context, `traceparent` version 00).

A move ends the time of one token, so its trace id is a hash of cluster, lease, that token and the session that
held it: an old holder that never heard of the takeover, and the node that took over, write into the same trace.
The session (an etcd lease id, never used again) keeps traces apart when a cluster is built anew.
"""

from __future__ import annotations

import hashlib


def of_move(cluster: str, lease: str, token: int, session: int) -> str:
    """`00-<trace id>-<root span id>-01` of the move that ends this token's time."""
    digest = hashlib.sha256(f"leaseha move\0{cluster}\0{lease}\0{token}\0{session}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


def trace_id(traceparent: str) -> str:
    """The 32 hex digits of the trace id; empty if there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 else ""
