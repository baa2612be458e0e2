"""What one node is told before it starts: its names, timings and leases. Never changes while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leaseha.core.values import NS_PER_MS, NS_PER_S

RANK_STEP_NS = 50 * NS_PER_MS
"""How much longer each further candidate waits before it takes (G3)."""


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """One lease as configured; the same on every node, which `digest` lets them check."""

    name: str
    priorities: Mapping[str, int]
    """Node name to priority; the higher is preferred; 0 or absent never holds."""
    digest: str = ""
    """`<of the VIPs>.<of the rest>`: the first part must be the same on all candidates."""
    failback: bool = True
    hold_down_ns: int = 30 * NS_PER_S
    flap_budget: int = 3
    """Automatic failbacks an hour at most (G8)."""
    drain_ns: int = 5 * NS_PER_S
    resources: bool = False
    """True: there is something to start, stop and gate beside the VIPs."""
    data: bool = False
    """True: holds data, so after a restored etcd only `recover` lets it be taken."""
    replicated: bool = False
    """True: the replication reports which stores to admit; False: every healthy node is admitted."""
    peer_port: int = 0
    """Replicated: where this node takes copies in."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node as configured, with what its process drew at start (`incarnation`)."""

    cluster: str
    node: str
    store: str
    """uuid of the state directory. A lease whose data is replicated counts by its data directory instead."""
    incarnation: str
    """Unique to this process; with the sequence number it names each own write."""
    leases: tuple[LeaseSpec, ...]
    version: str = ""
    address: str = ""
    ttl_ns: int = 5 * NS_PER_S
    renew_every_ns: int = 1 * NS_PER_S
    ttl_max_ns: int = 15 * NS_PER_S
    margin_ns: int = 1500 * NS_PER_MS
    """Lateness of the weakest fence layer in force on this node, plus timer slack."""
    drift_ppm: int = 1000
    """Bound on the difference of clock rates, in millionths (design: 0.001)."""
    session_ttl_s: int = 30
    """TTL of the etcd lease: garbage collection only; at least 2 x ttl_max."""
    standby_every_ns: int = 500 * NS_PER_MS
    """How often a node that holds nothing renews at most: it has no deadline to keep, and others need only know that
    it lives. It renews as fast as a holder while something is about to happen."""
    slice_size: int = 50
    """How many of its claims one renewal compares."""
    batch_size: int = 60
    """How many leases one transaction touches at most."""
    lease_by_name: Mapping[str, LeaseSpec] = field(init=False, repr=False, compare=False)
    position: Mapping[str, int] = field(init=False, repr=False, compare=False)
    """The order of the leases."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", {lease.name: at for at, lease in enumerate(self.leases)})
        object.__setattr__(self, "lease_by_name", {lease.name: lease for lease in self.leases})
