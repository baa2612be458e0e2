"""The holder compares its directory with every member's, every few minutes, while clients write.

Members have the same, or something is wrong: a file removed by hand, a file system that lost one. What was on its way
while both sides were read is no difference: the holder knows every operation from its beginning to its end, so what
changed meanwhile is left out, and nobody has to wait. What remains is put right at once, or the member leaves the
in-sync set first where that would take long (G2).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from leaseha.repository.catchup import put_aside
from leaseha.repository.differences import Differences, differences
from leaseha.repository.gate import GateClosedError
from leaseha.repository.mend import Mender
from leaseha.repository.paths import Address
from leaseha.repository.peer_client import PeerError, StalePeerError, WrongBytesError
from leaseha.repository.peer_wire import path_of
from leaseha.repository.peers import Peer
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.scrub import Scrub
from leaseha.repository.store import ConflictError, DirectoryStore, WrongHashError
from leaseha.repository.tokens import Mark
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
FEW: Final = 32
"""So many objects are sent at once, sooner than etcd could write a smaller set; who lacks more leaves it first."""


class _StoppedError(Exception):
    """The tenure has ended, or this process."""


class Comparer:
    """Works only while this node holds, and the members have settled."""

    def __init__(
        self, replicator: PeerReplicator, store: DirectoryStore, scrub: Scrub, mender: Mender
    ) -> None:
        self._replicator = replicator
        self._store = store
        self._scrub = scrub
        self._mender = mender
        self.every_s = 0.0
        """0: never. May be changed at any time."""
        self._ended = threading.Event()
        self._status: dict[str, Any] = {
            "compared": 0,
            "lacking": 0,
            "surplus": 0,
            "configs": 0,
            "finished_s": 0,
            "took_s": 0.0,
        }

    def begin(self) -> None:
        """From now on, in a thread of its own."""
        threading.Thread(target=self._run, name="compare", daemon=True).start()

    def end(self) -> None:
        """For the end of the process, and for tests."""
        self._ended.set()

    def status(self) -> dict[str, Any]:
        """For `status` and metrics: how many members were compared with, and what was found, since the start."""
        return {"every_s": self.every_s, **self._status}

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(LOOK_S):
            mark = self._replicator.mark
            if mark is None or not self._replicator.is_settled:
                last = time.monotonic()  # the takeover has just looked at what may differ
                continue
            if not self.every_s or time.monotonic() - last < self.every_s:
                continue
            self._all(mark)
            last = time.monotonic()

    def _all(self, mark: Mark) -> None:
        for store in sorted(self._replicator.membership.required()):
            peer = self._replicator.peers.get(store)
            if peer is None or not peer.usable or not peer.alive:
                continue
            began = time.monotonic()
            try:
                self._one(peer, mark)
                self._status["took_s"] = round(time.monotonic() - began, 3)
                self._status["compared"] += 1
            except _StoppedError:
                return
            except StalePeerError as stale:
                self._stale(mark, stale)
                return
            except (PeerError, GateClosedError, CrowdedError, ConflictError, OSError, ValueError) as trouble:
                log.warning("compare with %s: %s", peer.address.node, trouble)
        self._status["finished_s"] = round(time.time())

    def _stale(self, mark: Mark, stale: StalePeerError) -> None:
        try:
            self._replicator.stale(mark, stale)
        except GateClosedError as closed:
            log.warning("compare: %s", closed)

    def _check(self, mark: Mark) -> None:
        if self._ended.is_set() or self._replicator.mark != mark or not self._replicator.is_settled:
            raise _StoppedError

    def _one(self, peer: Peer, mark: Mark) -> None:
        found = self._look(peer, mark)
        if found is None or not found.all():
            return
        status = self._status
        status["lacking"] += len(found.lacking)
        status["surplus"] += len(found.surplus)
        status["configs"] += len(found.configs)
        self._tell(peer, found)
        self._give(peer, found)
        for address in found.surplus:
            self._check(mark)
            self._take(peer, address, mark)

    def _look(self, peer: Peer, mark: Mark) -> Differences | None:
        """What differs though nothing was on its way; None: too much has changed to know."""
        operations = self._replicator.operations
        changes = operations.watch()
        try:
            found = differences(peer, self._store.root, lambda: self._check(mark))
            # In this order: what ends between the two is in the second.
            pending = operations.pending()
            changed = changes.take()
        finally:
            operations.unwatch(changes)
        self._check(mark)
        if changed is None or operations is not self._replicator.operations:
            return None
        # Bad ones of ours can be given to nobody, and are minded already.
        return found.without(pending | changed | frozenset(self._scrub.bad()))

    def _tell(self, peer: Peer, found: Differences) -> None:
        node = peer.address.node
        for what, which in (("lacks", list(found.lacking)), ("alone has", found.surplus)):
            if which:
                some = ", ".join(path_of(one) for one in which[:5])
                log.error("compare: member %s %s %d objects: %s", node, what, len(which), some)
        for config in found.configs:
            log.error(
                "compare: %s differs at %s; nobody can tell which is right: see that restic opens it on both",
                path_of(config),
                node,
            )

    def _give(self, peer: Peer, found: Differences) -> None:
        """It lacks what was acknowledged: it gets it now, or counts no more until it was caught up with."""
        seen_round = peer.round
        try:
            if len(found.lacking) > FEW:
                raise PeerError(f"lacks {len(found.lacking)} objects")
            for address in found.lacking:
                self._give_one(peer, address)
        except StalePeerError:
            raise
        except (PeerError, CrowdedError) as trouble:
            peer.fail(seen_round, str(trouble))
            self._replicator.membership.drop([peer.store], f"{peer.address.node} {trouble}")

    def _give_one(self, peer: Peer, address: Address) -> None:
        try:
            self._mender.give(peer, address)
        except (FileNotFoundError, NotADirectoryError):
            return  # deleted since
        except WrongBytesError:
            # Ours is the bad one, a size that differs for instance: theirs may be good.
            if not self._scrub.suspect(address):
                raise

    def _take(self, peer: Peer, address: Address, mark: Mark) -> None:
        """The member alone has it. What is on a member was acknowledged, so it was lost here, unless it was deleted."""
        operations = self._replicator.operations
        if not operations.was_deleted(address):
            try:
                self._mender.fetch_from(peer, address, mark, spoilt=False)
                return
            except WrongHashError:
                log.error("compare: %s is spoilt there: put aside", path_of(address))  # noqa: TRY400 - an operator's sentence
        with self._replicator.barrier.pack(LOOK_S):
            if not self._is_here(address):
                put_aside(peer, [address])

    def _is_here(self, address: Address) -> bool:
        try:
            with self._store.open(address):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False
