"""One act at every store that counts: until each has done it, or the agent says that it counts no more.

The one rule behind every 200 of a holder with standbys (G2). A store that cannot do it is asked out of the in-sync
set, and the act is not done before the agent says that it is out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from leaseha.repository.members import Membership
from leaseha.repository.peer_client import PeerError, StalePeerError, StrangerError
from leaseha.repository.peers import Peer, Peers
from leaseha.repository.replicate import UnconfirmedError
from leaseha.repository.tokens import Mark

log = logging.getLogger(__name__)

WAIT_S: Final = 30.0
"""How long a request waits for a store to be out of the set. etcd's own elections fit into it."""

Act = Callable[[Peer], None]
"""Does it at one store; raises PeerError."""


class Everywhere:
    """Who has done it so far. Used by one thread, for one operation."""

    def __init__(
        self,
        membership: Membership,
        peers: Peers,
        mark: Mark,
        floor: Callable[[], int],
        check: Callable[[], None],
        stale: Callable[[StalePeerError], None],
    ) -> None:
        """`check` raises when this node may serve no more; `stale` closes the gate and raises."""
        self._membership = membership
        self._peers = peers
        self._mark = mark
        self._floor = floor
        self._check = check
        self._stale = stale
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        """Why, by store: these are asked out."""

    def complete(self, act: Act, timeout_s: float = WAIT_S) -> None:
        """Returns when every store that counts has done it. Raises UnconfirmedError, and what `check` raises."""
        until = time.monotonic() + timeout_s
        while not (required := self._membership.required()) <= self.done:
            self._check()
            fresh = required - self.done - self.failed.keys()
            for store in sorted(fresh):
                self._one(store, act)
            if fresh:
                continue
            self._membership.drop(self.failed, "; ".join(sorted(set(self.failed.values()))))
            if not self._membership.wait_until(self._something_to_do, until - time.monotonic(), self._check):
                raise UnconfirmedError(
                    "another copy is missing and could not be taken out of the in-sync set"
                )
        self._check()

    def _something_to_do(self, required: frozenset[str]) -> bool:
        missing = required - self.done
        return not missing or not missing <= self.failed.keys()

    def _one(self, store: str, act: Act) -> None:
        peer = self._peers.get(store)
        if peer is None:
            self.failed[store] = f"{store}: nobody has said where it is"
            return
        if peer.mark != self._mark:
            raise UnconfirmedError("the token has changed meanwhile")
        # After it was looked up: so it is of this tenure, also if the same token began another one meanwhile.
        self._check()
        try:
            if not self._try(peer, act):
                self.failed[store] = f"{peer.address.node}: {peer.why or 'dead'}"
                return
        except StalePeerError as stale:
            self._stale(stale)
            raise UnconfirmedError(str(stale)) from stale
        self.done.add(store)

    def _try(self, peer: Peer, act: Act) -> bool:
        """At most twice: a process that has just restarted deserves it, one that stalls does not."""
        for _ in range(2):
            if not peer.usable and not peer.revive(self._floor()):
                return False
            seen_round = peer.round
            try:
                act(peer)
            except StalePeerError:
                raise
            except StrangerError as stranger:
                peer.fail(seen_round, str(stranger))
            except PeerError as trouble:
                peer.fail(seen_round, str(trouble))
                log.warning("%s: %s", peer.address.node, trouble)
            else:
                return True
        return False
