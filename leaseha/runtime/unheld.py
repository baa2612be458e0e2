"""Says why nobody holds a lease, as far as this node is the reason: a cluster that stands still must not be silent."""

from __future__ import annotations

import logging
from typing import Final

from leaseha.core import placement
from leaseha.core.records import Hold
from leaseha.core.state import Draft, NodeState, Way
from leaseha.core.values import Instant

NEVER_ADMITTED: Final = (
    "not in-sync: no holder has ever admitted this node's store (state_dir); "
    "a node that was admitted must take it first (`leaseha status` says who they are)"
)

_log = logging.getLogger("leaseha.agent")


def reasons(state: NodeState, now: Instant) -> dict[str, str]:
    """By lease, why this node does not take it although it has no holder that gives a sign of life."""
    draft = Draft(state, now)
    if not draft.ready or state.stopping:
        return {}
    found = {}
    for lease, own in draft.leases.items():
        record = draft.view.claim(lease).record
        held = record is not None and record.hold is Hold.HELD
        if (
            own.mine
            or own.way is not Way.NONE
            or (held and not placement.silent(draft, placement.holding_session(draft, lease)))
        ):
            continue
        if why := placement.myself(draft, lease).why_not():
            found[lease] = NEVER_ADMITTED if why == "not in-sync" else why
    return found


class Unheld:
    """Looked at now and then: a reason that lasts from one look to the next is said, once."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def look(self, found: dict[str, str]) -> None:
        """`found`: as `reasons` gives it."""
        for lease, why in found.items():
            if self._seen.get(lease) == why and self._said.get(lease) != why:
                self._said[lease] = why
                text = "nobody holds the lease, and this node does not take it: %s"
                _log.warning(text, why, extra={"leaseha": {"lease": lease}})
        self._seen = found
        self._said = {lease: why for lease, why in self._said.items() if lease in found}
