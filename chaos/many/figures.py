"""What is measured of many leases. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node at rest. CPU in % of one core."""

    node: str
    leases: int
    agent_cpu: float
    agent_rss_kib: int
    agent_pss_kib: int
    guard_cpu: float
    guard_rss_kib: int
    guard_pss_kib: int


@dataclass(frozen=True, slots=True)
class Death:
    """One run: from the power cut on, ms. `pause_ms`: the longest between two renewals of a survivor meanwhile."""

    share: int
    first_ms: float
    median_ms: float
    last_ms: float
    by: dict[str, int]
    two_answering: int
    missing: int
    pause_ms: float


@dataclass(frozen=True, slots=True)
class Rest:
    """At rest: a second's worth of etcd."""

    revisions_s: float
    entries_s: float
    seconds: float
    nodes: tuple[NodeCost, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One number of leases."""

    leases: int
    started_s: float
    home_s: float
    rest: Rest
    status_s: float
    deaths: tuple[Death, ...]
