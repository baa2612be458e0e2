"""Whose confirmation a repository's process needs: found in the core's state, told at every change.

Every store counts that may be in the in-sync set now, or may come into it by what was asked for (`core.insync`). It
is told after each step, before anything of that step is carried out; and the process counts by itself what it asked
for, until it hears a word that has taken that into account. So nothing is acknowledged without a store that could
take over (G2).
"""

from __future__ import annotations

from collections.abc import Callable

from leaseha.core import insync, placement
from leaseha.core.state import Draft, NodeState
from leaseha.core.values import Instant
from leaseha.repository.members import Members, PeerAddress


def members_of(state: NodeState, lease: str, at: Instant, min_copies: int) -> Members:
    """What the process of this node is told of a lease now."""
    draft = Draft(state, at)
    own = placement.own_store(draft, lease)
    return Members(
        own=own,
        insync=insync.must_have(state, lease),
        peers=tuple(_peers(draft, lease, own)),
        min_copies=min_copies,
        wants=state.leases[lease].heard,
    )


def _peers(draft: Draft, lease: str, own: str) -> list[PeerAddress]:
    """Where the other nodes take copies in. A node that tells of our own store has a copy of our directory: none."""
    found = []
    for name, seen in sorted(draft.view.nodes.items()):
        record = seen.record
        if record is None or name == draft.spec.node:
            continue
        store, port = placement.store_of(draft, lease, record), (record.peer_ports or {}).get(lease, 0)
        if store and store != own and port and record.address:
            alive = not placement.silent(draft, record.session)
            found.append(PeerAddress(store, name, record.address, port, alive))
    return found


class MembersTeller:
    """Tells one lease's process. `tell(members)` sends the word; `now` reads the clock."""

    def __init__(
        self, lease: str, min_copies: int, tell: Callable[[Members], None], now: Callable[[], Instant]
    ) -> None:
        self._lease = lease
        self._min_copies = min_copies
        self._tell = tell
        self._now = now
        self._newest: Members | None = None

    def look(self, state: NodeState) -> None:
        """After each step."""
        found = members_of(state, self._lease, self._now(), self._min_copies)
        if found != self._newest:
            self._newest = found
            self._tell(found)

    def again(self) -> None:
        """The process is a new one: it knows nothing yet."""
        if self._newest is not None:
            self._tell(self._newest)
