"""The holder puts right what scrub has found, here and at its members, and what the compare has found.

A good copy is fetched into a temporary, hashed, and renamed over the bad one; at a member the same happens when the
holder sends its own. It is done beside uploads and never beside a delete (`Barrier.pack`), so nothing that was
deleted comes back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from leaseha.repository.barrier import Barrier
from leaseha.repository.gate import Gate, GateClosedError
from leaseha.repository.paths import Address
from leaseha.repository.peer_client import PeerError, StalePeerError, WrongBytesError
from leaseha.repository.peer_wire import path_of
from leaseha.repository.peers import Peer
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.scrub import UNREADABLE, Scrub
from leaseha.repository.store import DirectoryStore, WrongHashError
from leaseha.repository.tokens import Mark
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
AGAIN_S: Final = 60.0
"""When nobody had a good copy, or it could not be sent."""
_WAIT_S: Final = 5.0


class Mender:
    """Works only while this node holds, and the members have settled."""

    def __init__(
        self,
        replicator: PeerReplicator,
        store: DirectoryStore,
        gate: Gate,
        scrub: Scrub,
        fault: Callable[[str], None],
    ) -> None:
        self._replicator = replicator
        self._store = store
        self._gate = gate
        self._scrub = scrub
        self._fault = fault
        self._again_at: dict[tuple[str, Address], float] = {}
        self._ended = threading.Event()
        self.fetched = self.sent = 0
        """Objects put right here, and at members, since the start."""
        self.lost: dict[Address, None] = {}
        """Of those that are bad here no member has a good copy."""

    def begin(self) -> None:
        """From now on, in a thread of its own."""
        threading.Thread(target=self._run, name="mender", daemon=True).start()

    def end(self) -> None:
        """For the end of the process, and for tests."""
        self._ended.set()

    def status(self) -> dict[str, Any]:
        """For `status` and metrics."""
        return {"fetched": self.fetched, "sent": self.sent, "lost": len(self.lost)}

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            mark = self._replicator.mark
            if mark is None or not self._replicator.is_settled:
                self._again_at.clear()
                self.lost.clear()
                continue
            try:
                self._round(mark)
            except (GateClosedError, CrowdedError) as later:
                log.info("mending: %s", later)
            except StalePeerError as stale:
                self._stale(mark, stale)
            except OSError as trouble:
                log.error("mending: %s", trouble)  # noqa: TRY400 - an operator's sentence
                if trouble.errno in UNREADABLE:
                    self._fault(f"mending: {trouble}")
                self._ended.wait(AGAIN_S)

    def _stale(self, mark: Mark, stale: StalePeerError) -> None:
        try:
            self._replicator.stale(mark, stale)
        except GateClosedError as closed:
            log.warning("mending: %s", closed)

    def _round(self, mark: Mark) -> None:
        bad = self._scrub.bad()
        for address in [one for one in self.lost if one not in bad]:
            self.lost.pop(address, None)
        for address in bad:
            if self._due("", address) and not self.fetch(address, mark, spoilt=True):
                self.lost[address] = None
                log.error("mending: no other copy of %s is good; what is here stays", path_of(address))
        for store in self._replicator.membership.required():
            peer = self._replicator.peers.get(store)
            if peer is not None and peer.usable:
                self._mend(peer)

    def _mend(self, peer: Peer) -> None:
        for address in peer.bad:
            if self._ended.is_set() or not self._due(peer.store, address):
                continue
            log.error("mending: %s is spoilt at %s", path_of(address), peer.address.node)
            try:
                self.give(peer, address)
            except (FileNotFoundError, NotADirectoryError):
                continue  # deleted meanwhile
            except WrongBytesError:
                if self._scrub.suspect(address):
                    log.error("mending: %s is spoilt here too", path_of(address))  # noqa: TRY400 - an operator's sentence
            except StalePeerError:
                raise
            except PeerError as trouble:
                # It lacks what was acknowledged, and cannot take it: it must not take over (G2).
                why = f"{peer.address.node} has spoilt objects and took no good one: {trouble}"
                self._replicator.membership.drop([peer.store], why)
                return

    def _due(self, store: str, address: Address) -> bool:
        if time.monotonic() < self._again_at.get((store, address), 0.0):
            return False
        self._again_at[store, address] = time.monotonic() + AGAIN_S
        return True

    # ---- both ways

    @property
    def _barrier(self) -> Barrier:
        return self._replicator.barrier

    def give(self, peer: Peer, address: Address) -> None:
        """What is here, to a member. Raises PeerError (WrongBytesError: ours is spoilt), FileNotFoundError, OSError."""
        with self._barrier.pack(_WAIT_S):
            self._replicator.putting(address)(peer)
        self.sent += 1

    def fetch(self, address: Address, mark: Mark, *, spoilt: bool) -> bool:
        """From a member that has a good copy; False: none has.

        `spoilt`: ours is there, and bad; else it is missing, and may have been deleted.

        Raises StalePeerError, GateClosedError, CrowdedError, OSError: the own disk.
        """
        for store in sorted(self._replicator.membership.required()):
            peer = self._replicator.peers.get(store)
            if peer is None or not peer.usable or address in peer.bad:
                continue
            try:
                if self.fetch_from(peer, address, mark, spoilt=spoilt):
                    return True
            except StalePeerError:
                raise
            except WrongHashError:
                log.error("%s is spoilt at %s too", path_of(address), peer.address.node)  # noqa: TRY400 - an operator's sentence
            except PeerError as trouble:
                log.warning("fetching %s from %s: %s", path_of(address), peer.address.node, trouble)
        return False

    def fetch_from(self, peer: Peer, address: Address, mark: Mark, *, spoilt: bool) -> bool:
        """False: it has none. Raises WrongHashError, PeerError, and as `fetch`."""
        operations = self._replicator.operations
        upload = self._store.begin(address, mark, None)
        try:
            if not peer.client.fetch(address, peer.stamp(), upload.write):
                return False
            upload.verify()
            upload.seal()
            with self._barrier.pack(_WAIT_S):
                admitted = self._gate.enter()
                if admitted.mark != mark or operations is not self._replicator.operations:
                    raise GateClosedError("the token has changed meanwhile")
                with admitted.changing():
                    if operations.was_deleted(address) or (spoilt and address not in self._scrub.bad()):
                        return True  # there is nothing to be put right any more
                    upload.publish(replace=spoilt)
            self.fetched += 1
            log.error("mending: %s was fetched from %s", path_of(address), peer.address.node)
            return True
        finally:
            upload.abort()
