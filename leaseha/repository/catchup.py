"""The holder brings another store level and admits it: compare, put aside what we have not, send what it lacks.

One thread a store. Nothing waits for it but the last step: alone within the barrier what changed meanwhile is sent,
and from then on the store counts. What it lacks goes in an order in which it is a valid repository at any moment.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from leaseha.repository.gate import GateClosedError
from leaseha.repository.manifest import folder_of, listing, manifest
from leaseha.repository.operations import Changes
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, StalePeerError
from leaseha.repository.peer_manifest import AT_ONCE, MANIFEST, QUARANTINE
from leaseha.repository.peer_wire import address_of, path_of
from leaseha.repository.peers import Peer
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.store import DirectoryStore
from leaseha.repository.tokens import Mark

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
AGAIN_S: Final = 5.0
"""After a failure."""
COMPARE_S: Final = 120.0
"""How long another node may take to read its directory."""
LITTLE: Final = 32
"""So few changes are sent while everybody else waits; and more, once sending beside others does not get ahead."""
_ROUNDS: Final = 100
_LAST_S: Final = 1.0
_ORDER: Final = (Kind.CONFIG, Kind.KEYS, Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS, Kind.LOCKS)


class _StoppedError(Exception):
    """The tenure has ended, or this process."""


@dataclass(slots=True)
class Progress:
    """Of one store's catch-up."""

    begun_at: float
    total_bytes: int = 0
    sent_bytes: int = 0

    def told(self) -> dict[str, Any]:
        """For `status`."""
        took_s = max(time.monotonic() - self.begun_at, 1e-3)
        rate = self.sent_bytes / took_s
        left = max(self.total_bytes - self.sent_bytes, 0)
        eta_s = round(left / rate, 1) if rate else None
        return {
            "total_bytes": self.total_bytes,
            "sent_bytes": self.sent_bytes,
            "rate": round(rate),
            "eta_s": eta_s,
        }


class CatchUp:
    """Looks for stores that are reachable and do not count. Used by the process's main thread and its own."""

    def __init__(self, replicator: PeerReplicator, store: DirectoryStore) -> None:
        self._replicator = replicator
        self._store = store
        self._lock = threading.Lock()
        self._running: dict[str, Progress] = {}
        self._again_at: dict[str, float] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="catch-up", daemon=True).start()

    def end(self) -> None:
        """For the end of the process, and for tests."""
        self._ended.set()

    def progress(self) -> dict[str, dict[str, Any]]:
        """By store."""
        with self._lock:
            return {store: one.told() for store, one in self._running.items()}

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            mark = self._replicator.mark
            if mark is None or not self._replicator.is_settled:
                continue
            counted = self._replicator.membership.required()
            for peer in self._replicator.peers.all():
                if peer.store not in counted and peer.alive:
                    self._begin(peer, mark)

    def _begin(self, peer: Peer, mark: Mark) -> None:
        with self._lock:
            if peer.store in self._running or time.monotonic() < self._again_at.get(peer.store, 0.0):
                return
            self._running[peer.store] = Progress(time.monotonic())
        name = f"catch-up-{peer.address.node}"
        threading.Thread(target=self._one, args=(peer, mark), name=name, daemon=True).start()

    def _one(self, peer: Peer, mark: Mark) -> None:
        try:
            self._bring_level(peer, mark)
        except StalePeerError as stale:
            try:
                self._replicator.stale(mark, stale)
            except GateClosedError:
                log.warning("catch-up of %s: %s", peer.address.node, stale)
        except _StoppedError:
            log.info("catch-up of %s: stopped", peer.address.node)
        except (PeerError, OSError, ValueError) as trouble:
            peer.fail(peer.round, str(trouble))
            log.warning("catch-up of %s: %s", peer.address.node, trouble)
        finally:
            with self._lock:
                self._running.pop(peer.store, None)
                self._again_at[peer.store] = time.monotonic() + AGAIN_S

    def _bring_level(self, peer: Peer, mark: Mark) -> None:
        operations = self._replicator.operations
        peer.trust_again()
        peer.introduce(operations.last)
        changes = operations.watch()
        try:
            self._compare(peer, mark)
            before = None
            for _ in range(_ROUNDS):
                self._check(mark)
                backlog = len(changes)
                if backlog > LITTLE and (before is None or backlog < before / 2):
                    before = backlog
                    self._send_changes(peer, mark, changes)
                elif self._replicator.admit(
                    peer.store, lambda: self._send_last(peer, changes), "level again"
                ):
                    log.info("catch-up of %s: level", peer.address.node)
                    return
            raise PeerError("never level: too much changes, or no quiet moment comes")
        finally:
            operations.unwatch(changes)

    def _check(self, mark: Mark) -> None:
        if self._ended.is_set() or self._replicator.mark != mark or not self._replicator.is_settled:
            raise _StoppedError

    # ---- comparing

    def _compare(self, peer: Peer, mark: Mark) -> None:
        theirs = peer.client.ask("GET", MANIFEST, peer.stamp(), answer_s=COMPARE_S).json["folders"]
        ours = manifest(self._store.root)
        lacking: list[tuple[Address, int]] = []
        surplus: list[Address] = []
        for path in sorted({*theirs, *ours}):
            self._check(mark)
            if tuple(theirs.get(path, ())) != tuple(ours.get(path, ())):
                self._differ(peer, path, lacking, surplus)
        for at in range(0, len(surplus), AT_ONCE):
            self._check(mark)
            put_aside(peer, surplus[at : at + AT_ONCE])
        if surplus:
            log.warning("catch-up of %s: %d objects put aside there", peer.address.node, len(surplus))
        progress = self._running[peer.store]
        progress.total_bytes = sum(size for _, size in lacking)
        lacking.sort(key=lambda one: _ORDER.index(one[0].kind or Kind.CONFIG))
        for address, size in lacking:
            self._check(mark)
            self._align(peer, address)
            progress.sent_bytes += size

    def _differ(
        self, peer: Peer, path: str, lacking: list[tuple[Address, int]], surplus: list[Address]
    ) -> None:
        config = address_of(path)
        if config is not None and config.kind is Kind.CONFIG:
            lacking.append((config, 0))  # whichever it is: ours is sent, or theirs is put aside
            return
        where, _ = folder_of(path)
        answer = peer.client.ask("GET", MANIFEST.decode() + path, peer.stamp(), answer_s=COMPARE_S)
        if answer.status != 200:
            raise PeerError(f"answered {answer.status}")
        theirs, ours = answer.json, listing(self._store.root, path)
        for name, size in ours.items():
            if theirs.get(name) != size:
                lacking.append((Address(where.repo, where.kind, name), size))
        surplus += [Address(where.repo, where.kind, name) for name in theirs if name not in ours]

    # ---- what changes meanwhile

    def _send_changes(self, peer: Peer, mark: Mark, changes: Changes) -> None:
        taken = changes.take()
        if taken is None:
            self._compare(peer, mark)
            return
        for address in sorted(taken, key=lambda one: _ORDER.index(one.kind or Kind.CONFIG)):
            self._check(mark)
            self._align(peer, address)

    def _send_last(self, peer: Peer, changes: Changes) -> bool:
        """Alone within the barrier: nothing changes meanwhile. False: that was not all of it.

        Clients that write faster than this sends are slowed down so: they get a turn between two attempts.
        """
        until = time.monotonic() + _LAST_S
        taken = changes.take()
        if taken is None:
            raise PeerError("too much has changed")
        left = sorted(taken, key=lambda one: _ORDER.index(one.kind or Kind.CONFIG), reverse=True)
        while left and time.monotonic() < until:
            self._align(peer, left.pop())
        for address in left:
            changes.add(address)
        return not left

    def _align(self, peer: Peer, address: Address) -> None:
        if address.kind is None:
            return  # a new repository's folders: made with its first object
        try:
            self._replicator.putting(address)(peer)
        except (FileNotFoundError, NotADirectoryError):
            put_aside(peer, [address])


def put_aside(peer: Peer, addresses: list[Address]) -> None:
    """Into that store's quarantine. Raises PeerError."""
    body = json.dumps({"objects": [path_of(one) for one in addresses]}).encode()
    answer = peer.client.ask("POST", QUARANTINE, peer.stamp(), body)
    if answer.status != 200:
        raise PeerError(f"answered {answer.status}")
