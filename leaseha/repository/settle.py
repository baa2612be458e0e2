"""Before a new holder's gate opens: all members know its token, and nothing differs between them (A14, A15).

Only what is in the tails is looked at, so a takeover does not depend on how much is stored. A member that cannot
be reached, or whose tail is unknown, is asked out of the in-sync set instead of waited for; it is compared with and
admitted again later.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from leaseha.repository.catchup import put_aside
from leaseha.repository.gate import Gate, GateClosedError
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, StalePeerError, object_path
from leaseha.repository.peers import Peer
from leaseha.repository.replicate import UnconfirmedError
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.store import Store
from leaseha.repository.tokens import Mark, TokenTooOldError
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

SETTLE_S: Final = 6.0
"""How long all of it may take; the agent then hears that it did not succeed, while its own wait still runs."""


class NotSettledError(Exception):
    """The gate must stay closed; the text says why."""


class Settling:
    """One attempt under one token. `run` in a thread of its own; `cancel` from any."""

    def __init__(self, replicator: PeerReplicator, gate: Gate, store: Store, mark: Mark) -> None:
        self._replicator = replicator
        self._gate = gate
        self._store = store
        self._mark = mark
        self._until = time.monotonic() + SETTLE_S
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._differing: set[Address] = set()
        self._unsure: dict[str, str] = {}
        """Stores that must leave the set, and why."""
        self._introduced: set[str] = set()

    def cancel(self) -> None:
        """Its result is not wanted any more."""
        self._cancelled.set()

    def run(self) -> None:
        """Returns when the gate may open. Raises NotSettledError, StalePeerError."""
        if not self._replicator.settling.acquire(timeout=SETTLE_S):
            raise NotSettledError("the settling before has not ended")
        try:
            self._run()
        finally:
            self._replicator.settling.release()

    def _run(self) -> None:
        try:
            self._check()
            self._gate.adoption.adopt(self._mark)
            self._replicator.begin(self._mark)
            own = self._replicator.tail.addresses()
            if own is None:
                others = self._replicator.membership.required()
                self._unsure = dict.fromkeys(others, "this process has restarted and does not know its tail")
            else:
                self._differing |= own
            self._settle()
            if self._cancelled.is_set():
                raise NotSettledError("another word came meanwhile")
            self._replicator.settled(self._mark)
        except (TokenTooOldError, CrowdedError, OSError, GateClosedError, UnconfirmedError) as trouble:
            raise NotSettledError(str(trouble)) from trouble

    def _settle(self) -> None:
        membership = self._replicator.membership
        while True:
            self._check()
            required = membership.required()
            fresh = [store for store in required if store not in self._introduced | self._unsure.keys()]
            if fresh:
                self._introduce(fresh)
                continue
            if missing := required & self._unsure.keys():
                membership.drop(missing, "; ".join(sorted({self._unsure[one] for one in missing})))
                left_s = self._until - time.monotonic()
                if not membership.wait_until(self._nobody_unsure, left_s, self._check):
                    raise NotSettledError("members that cannot be asked could not be taken out of the set")
                continue
            if self._align(required):
                return

    def _nobody_unsure(self, required: frozenset[str]) -> bool:
        return not required & self._unsure.keys()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise NotSettledError("another word came meanwhile")
        if time.monotonic() >= self._until:
            raise NotSettledError(f"the members did not settle within {SETTLE_S:g} s")

    # ---- tokens

    def _introduce(self, stores: list[str]) -> None:
        """All at once, since each may take a second. Raises StalePeerError."""
        stale: list[StalePeerError] = []
        threads = [
            threading.Thread(target=self._introduce_one, args=(store, stale), name="introduce", daemon=True)
            for store in stores
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if stale:
            raise stale[0]

    def _introduce_one(self, store: str, stale: list[StalePeerError]) -> None:
        peer = self._replicator.peers.get(store)
        why = ""
        tail: frozenset[Address] | None = frozenset()
        try:
            if peer is None:
                why = f"{store}: nobody has said where it is"
            elif not peer.alive:
                why = f"{peer.address.node}: its node is dead"
            else:
                tail = peer.introduce(0).tail
                why = "" if tail is not None else f"{peer.address.node}: its process does not know its tail"
        except StalePeerError as higher:
            stale.append(higher)
        except PeerError as trouble:
            why = f"{store if peer is None else peer.address.node}: {trouble}"
        with self._lock:
            self._introduced.add(store)
            if why:
                self._unsure[store] = why
            elif tail:
                self._differing |= tail

    # ---- what differs

    def _align(self, required: frozenset[str]) -> bool:
        """Our disk is the truth. False: a store failed in the middle of it, and is unsure now.

        Each is an operation by number, in the tails of those that do it: if we die halfway, the next holder must
        know that they differ here from those that we have not come to.
        """
        operations = self._replicator.operations
        for address in sorted(self._differing, key=_order):
            seq = operations.begin(address)
            try:
                if not self._align_everywhere(address, seq, required):
                    return False
                operations.done(seq)
            finally:
                operations.doubt(seq)  # nothing, once it is done
        if self._differing:
            log.info("settled %d objects with %d other members", len(self._differing), len(required))
        return True

    def _align_everywhere(self, address: Address, seq: int, required: frozenset[str]) -> bool:
        for store in sorted(required):
            self._check()
            peer = self._replicator.peers.get(store)
            try:
                if peer is None:
                    raise PeerError("nobody has said where it is")
                self._align_one(peer, address, seq)
            except StalePeerError:
                raise
            except PeerError as trouble:
                self._unsure[store] = f"{store if peer is None else peer.address.node}: {trouble}"
                return False
        return True

    def _align_one(self, peer: Peer, address: Address, seq: int) -> None:
        try:
            with self._store.open(address) as stored:
                # Whatever is there under its name was hashed and is durable; only a config may be a different one.
                if address.kind is not Kind.CONFIG:
                    answer = peer.client.ask("HEAD", object_path(address), peer.stamp())
                    if answer.status == 200 and answer.length == stored.size:
                        return
            self._replicator.putting(address, seq, settled=False)(peer)
        except (FileNotFoundError, NotADirectoryError):
            # It was never acknowledged: what was is here. Kept there all the same, for whoever wants to see it.
            put_aside(peer, [address], seq)


def _order(address: Address) -> tuple[bool, bool, str]:
    """Packs before what says that they are there."""
    return address.kind is not Kind.DATA, address.kind is Kind.SNAPSHOTS, address.label
