"""The holder brings another store level and admits it: compare, put aside what we have not, send what it lacks.

One thread a store. Nothing waits for it but the last step: alone within the barrier what changed meanwhile is sent,
and from then on the store counts. What it lacks goes in an order in which it is a valid repository at any moment.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from leaseha.repository.differences import differences
from leaseha.repository.gate import GateClosedError
from leaseha.repository.hashing import Pace
from leaseha.repository.operations import Changes
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, StalePeerError, WrongBytesError
from leaseha.repository.peer_manifest import AT_ONCE, QUARANTINE
from leaseha.repository.peer_wire import STATE, addresses_of, path_of
from leaseha.repository.peers import Peer
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.store import DirectoryStore
from leaseha.repository.tokens import Mark

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
AGAIN_S: Final = 5.0
"""After a failure."""
AT_A_TIME: Final = 4
"""Objects that are sent beside each other: most of a small one's time is its fsyncs at the other end."""
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
    total_objects: int = 0
    sent_objects: int = 0
    sending_since: float = 0.0

    def told(self) -> dict[str, Any]:
        """For `status`."""
        took_s = max(time.monotonic() - (self.sending_since or self.begun_at), 1e-3)
        rate = self.sent_bytes / took_s
        left = max(self.total_bytes - self.sent_bytes, 0)
        eta_s = round(left / rate, 1) if rate else None
        return {
            "total_bytes": self.total_bytes,
            "sent_bytes": self.sent_bytes,
            "total_objects": self.total_objects,
            "sent_objects": self.sent_objects,
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
        self.pace = Pace()
        """Of all that is sent, but the last of it, for which others wait."""
        self.suspect: Callable[[Address], bool] = lambda _: False
        """Told of an object here that another store, or the disk, has refused; True: it is spoilt here."""
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
        found = differences(peer, self._store.root, lambda: self._check(mark))
        # A config has no hash that would tell which one is right: theirs is kept.
        surplus = found.surplus + found.configs
        for at in range(0, len(surplus), AT_ONCE):
            self._check(mark)
            put_aside(peer, surplus[at : at + AT_ONCE])
        if surplus:
            log.warning("catch-up of %s: %d objects put aside there", peer.address.node, len(surplus))
        progress = self._running[peer.store]
        # And what it has itself found spoilt, by its names and sizes the same.
        said = peer.client.ask("GET", STATE, peer.stamp()).json.get("bad", [])
        lacking = {**dict.fromkeys((*addresses_of(said), *found.configs), 0), **found.lacking}
        progress.total_bytes = sum(lacking.values())
        progress.total_objects = len(lacking)
        progress.sending_since = time.monotonic()
        for kind in _ORDER:
            self._send(peer, mark, [one for one in lacking if one.kind is kind], lacking)

    def _send(self, peer: Peer, mark: Mark, addresses: list[Address], sizes: Mapping[Address, int]) -> None:
        """Of one kind, in no order: all are there when this returns."""
        progress = self._running[peer.store]

        def send(address: Address) -> None:
            self._check(mark)
            self._align(peer, address, lambda count: self._paced(count, mark))
            with self._lock:
                progress.sent_bytes += sizes.get(address, 0)
                progress.sent_objects += 1

        _beside_each_other(send, addresses)

    def _paced(self, count: int, mark: Mark) -> None:
        self.pace.take(count, self._ended)
        self._check(mark)

    # ---- what changes meanwhile

    def _send_changes(self, peer: Peer, mark: Mark, changes: Changes) -> None:
        taken = changes.take()
        if taken is None:
            self._compare(peer, mark)
            return
        for kind in _ORDER:
            self._send(peer, mark, [one for one in taken if one.kind is kind], {})

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

    def _align(self, peer: Peer, address: Address, pace: Callable[[int], None] = lambda _: None) -> None:
        if address.kind is None:
            return  # a new repository's folders: made with its first object
        try:
            self._replicator.putting(address, pace=pace)(peer)
        except (FileNotFoundError, NotADirectoryError):
            put_aside(peer, [address])
        except (WrongBytesError, OSError):
            # What is spoilt here can be given to nobody; that must not keep all the rest from having a copy.
            if not self.suspect(address):
                raise
            log.error("catch-up of %s: %s is spoilt here", peer.address.node, path_of(address))  # noqa: TRY400 - an operator's sentence


def put_aside(peer: Peer, addresses: list[Address], seq: int = 0) -> None:
    """Into that store's quarantine. `seq`: of the operation that this belongs to. Raises PeerError."""
    body = json.dumps({"objects": [path_of(one) for one in addresses]}).encode()
    answer = peer.client.ask("POST", QUARANTINE, peer.stamp(seq), body)
    if answer.status != 200:
        raise PeerError(f"answered {answer.status}")


def _beside_each_other(work: Callable[[Address], None], addresses: Iterable[Address]) -> None:
    """All are done when this returns; else what the first that failed has raised.

    Threads that die with the process, which those of the standard library's pools do not.
    """
    left = iter(addresses)
    lock = threading.Lock()
    failed: list[Exception] = []

    def run() -> None:
        while not failed:
            with lock:
                address = next(left, None)
            if address is None:
                return
            try:
                work(address)
            except Exception as trouble:  # noqa: BLE001 - raised again below, in the thread that waits
                failed.append(trouble)

    threads = [threading.Thread(target=run, name="catch-up-sends", daemon=True) for _ in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
