"""`leaseha repo verify NODE`: every byte of both sides is read and hashed, and what differs is told.

Stronger than the compare, which trusts names and sizes, and dearer: it reads all of both disks. What it finds spoilt is
mended as what scrub finds is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from leaseha.repository import peer_wire
from leaseha.repository.chores import ChoreError, Progress
from leaseha.repository.differences import COMPARE_S
from leaseha.repository.hashing import Pace, hash_of
from leaseha.repository.manifest import file_of, folder_of, listing, manifest
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_app import PeerApp, PeerRefusedError, Visit
from leaseha.repository.peer_client import PeerError
from leaseha.repository.peer_manifest import MANIFEST, body_of
from leaseha.repository.peer_wire import path_of
from leaseha.repository.peers import Peer
from leaseha.repository.replicator import PeerReplicator
from leaseha.repository.scrub import UNREADABLE, Scrub

HASHES: Final = b"/v1/hashes"
_BATCH_BYTES: Final = 64 * 1024 * 1024
_BATCH: Final = 200
_ANSWER_S: Final = 600.0
"""For one batch, or one object of 4 GiB on a slow disk."""
MISSING: Final = "missing"
GOOD: Final = "good"
SPOILT: Final = "spoilt"

Outcomes = dict[str, str]
"""By path: one of those words; of a config its hash."""


def outcomes(
    root: Path, addresses: list[Address], scrub: Scrub, paced: Callable[[int], None] = lambda _: None
) -> Outcomes:
    """What becomes of each, read from the disk. Raises OSError, and what `paced` raises."""
    found: Outcomes = {}
    for address in addresses:
        try:
            digest, _ = hash_of(file_of(root, address), paced)
            outcome = digest if address.kind is Kind.CONFIG else GOOD if digest == address.name else SPOILT
        except (FileNotFoundError, NotADirectoryError):
            outcome = MISSING
        except OSError as trouble:
            if trouble.errno not in UNREADABLE:
                raise
            outcome = SPOILT
        if outcome == SPOILT:
            scrub.suspect(address)
        found[path_of(address)] = outcome
    return found


class HashesRoute:
    """What a node answers to a holder that verifies."""

    def __init__(self, root: Path, scrub: Scrub) -> None:
        self._root = root
        self._scrub = scrub

    def join(self, app: PeerApp) -> None:
        """Answered there from now on."""
        app.add_route(HASHES, self.give)

    def give(self, visit: Visit) -> None:
        """Of some objects, each read from the disk."""
        try:
            addresses = peer_wire.addresses_of(json.loads(body_of(visit))["objects"])
        except (ValueError, KeyError, TypeError) as wrong:
            raise PeerRefusedError(400, "not a list of objects") from wrong
        visit.answer(outcomes(self._root, list(addresses[:_BATCH]), self._scrub))


class Verify:
    """The chore of the holder."""

    def __init__(self, replicator: PeerReplicator, root: Path, scrub: Scrub) -> None:
        self._replicator = replicator
        self._root = root
        self._scrub = scrub

    def allowed(self) -> str:
        """Why not here; empty on the holder."""
        return "" if self._replicator.is_settled else "only the holder verifies, and this node does not serve"

    def __call__(self, arguments: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        """`node`: its name, or its store; `rate`: bytes a second, 0 as fast as it goes."""
        peer = self._peer(str(arguments["node"]))
        pace = Pace(int(arguments.get("rate") or 0))
        operations = self._replicator.operations
        changes = operations.watch()
        try:
            different, count = self._read_all(peer, progress, pace)
            pending = operations.pending()
            changed = changes.take()
        finally:
            operations.unwatch(changes)
        if changed is None or operations is not self._replicator.operations:
            raise ChoreError("too much was written meanwhile, or the holder has changed: ask again")
        real = {one: how for one, how in different.items() if one not in pending | changed}
        for address, (here, there) in real.items():
            progress.note(f"{path_of(address)}: {here} here, {there} at {peer.address.node}")
        return {"ok": not real, "objects": count, "differences": len(real)}

    def _peer(self, name: str) -> Peer:
        for peer in self._replicator.peers.all():
            if name in {peer.address.node, peer.store}:
                if not peer.usable:
                    raise ChoreError(f"{name} is out of touch: {peer.why or 'its node is dead'}")
                return peer
        known = ", ".join(peer.address.node for peer in self._replicator.peers.all())
        raise ChoreError(f"no other node {name} keeps copies of this lease, only {known or 'none'}")

    def _read_all(
        self, peer: Peer, progress: Progress, pace: Pace
    ) -> tuple[dict[Address, tuple[str, str]], int]:
        different: dict[Address, tuple[str, str]] = {}
        theirs = peer.client.ask("GET", MANIFEST, peer.stamp(), answer_s=COMPARE_S).json["folders"]
        ours = manifest(self._root)
        paths = sorted({*theirs, *ours})
        progress.total = sum(max(one.get(path, (0,))[0] for one in (theirs, ours)) for path in paths)
        for path in paths:
            for batch in _batches(self._sizes(peer, path)):
                progress.check()
                here, there = self._both(peer, batch, progress, pace)
                for address in batch:
                    how = here.get(path_of(address), MISSING), there.get(path_of(address), MISSING)
                    if how[0] != how[1] or how[0] == SPOILT:
                        different[address] = how
                progress.done += len(batch)
        return different, progress.done

    def _sizes(self, peer: Peer, path: str) -> dict[Address, int]:
        config = peer_wire.address_of(path)
        if config is not None and config.kind is Kind.CONFIG:
            return {config: 0}
        where, _ = folder_of(path)
        answer = peer.client.ask("GET", MANIFEST.decode() + path, peer.stamp(), answer_s=COMPARE_S)
        sizes = {**(answer.json if answer.status == 200 else {}), **listing(self._root, path)}
        return {Address(where.repo, where.kind, name): int(size) for name, size in sorted(sizes.items())}

    def _both(
        self, peer: Peer, batch: list[Address], progress: Progress, pace: Pace
    ) -> tuple[Outcomes, Outcomes]:
        """At the same time. Raises PeerError, OSError."""
        there: Outcomes = {}
        failed: list[PeerError] = []

        def ask() -> None:
            body = json.dumps({"objects": [path_of(one) for one in batch]}).encode()
            try:
                answer = peer.client.ask("POST", HASHES, peer.stamp(), body, answer_s=_ANSWER_S)
                if answer.status != 200:
                    raise PeerError(f"{peer.address.node} cannot verify: it runs an older version")
                there.update(answer.json)
            except PeerError as trouble:
                failed.append(trouble)

        def paced(count: int) -> None:
            progress.check()
            pace.take(count)

        asking = threading.Thread(target=ask, name="verify", daemon=True)
        asking.start()
        here = outcomes(self._root, batch, self._scrub, paced)
        asking.join()
        if failed:
            raise failed[0]
        return here, there


def _batches(sizes: Mapping[Address, int]) -> Iterator[list[Address]]:
    batch: list[Address] = []
    held = 0
    for address, size in sizes.items():
        if batch and (len(batch) >= _BATCH or held + size > _BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(address)
        held += size
    if batch:
        yield batch
