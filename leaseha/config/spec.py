"""What of the configuration the core is told."""

from __future__ import annotations

from leaseha.config.model import Config, LeaseConfig
from leaseha.core.spec import LeaseSpec, NodeSpec


def lease_spec(lease: LeaseConfig) -> LeaseSpec:
    """One lease as the core knows it."""
    copies = lease.repository.copies if lease.repository is not None else None
    return LeaseSpec(
        name=lease.name,
        priorities=lease.priority,
        digest=lease.digest(),
        failback=lease.failback,
        hold_down_ns=lease.hold_down_ns,
        flap_budget=lease.flap_budget,
        drain_ns=lease.drain_timeout_ns,
        resources=lease.repository is not None,
        data=lease.repository is not None,
        replicated=copies is not None,
        peer_port=copies.peer_port if copies is not None else 0,
    )


def node_spec(
    config: Config, *, store: str, incarnation: str, version: str = "", address: str = ""
) -> NodeSpec:
    """This node as the core knows it; `store`, `incarnation` and `address` are found by the runtime at start."""
    session = config.session
    return NodeSpec(
        cluster=config.cluster,
        node=config.node.name,
        store=store,
        incarnation=incarnation,
        leases=tuple(lease_spec(lease) for lease in config.leases),
        version=version,
        address=address,
        ttl_ns=session.ttl_ns,
        renew_every_ns=session.renew_every_ns,
        ttl_max_ns=session.ttl_max_ns,
        margin_ns=session.margin_ns,
        drift_ppm=session.drift_ppm,
        session_ttl_s=session.session_ttl_s,
    )
