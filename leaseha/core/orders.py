"""What this node is asked to do, from outside: booked here as facts are, and carried out by the rows of the table."""

from __future__ import annotations

from dataclasses import replace

from leaseha.core import events
from leaseha.core.facts import STOP_MAX_NS
from leaseha.core.state import Draft
from leaseha.core.values import NS_PER_MS

TOLD_NS = 100 * NS_PER_MS
"""Asked to stop: how long the others are waited for to hear of it."""


def retired(draft: Draft, event: events.Retired) -> None:
    """This node is not to hold the lease any more; or again."""
    draft.update(event.lease, retired=event.why)
    draft.republish = True


def ttl_changed(draft: Draft, event: events.TtlChanged) -> None:
    """Another ttl from the next write on: a raise counts when proven, a lowering from its sending."""
    draft.session = replace(draft.session, ttl_ns=min(event.ttl_ns, draft.spec.ttl_max_ns))
    draft.set(renew_asked=True)


def stop_asked(draft: Draft, event: events.StopAsked) -> None:
    """Let go of everything, then end."""
    if draft.node.stopping:
        return
    drain_ns = max((lease.drain_ns for lease in draft.spec.leases), default=0)
    off_by = draft.at.plus(drain_ns + draft.spec.ttl_max_ns + STOP_MAX_NS)
    draft.set(stopping=True, stop_told_by=draft.at.plus(TOLD_NS), off_by=off_by)
    draft.touch_all()
    draft.republish = True
