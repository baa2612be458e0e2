"""Deleted objects come back: out of this node's trash, by the way of an upload, so to every copy before they are seen.

Nothing that is there is replaced, and nothing that is not what its name says comes back. What has come back is taken
out of this node's trash; in the others' it stays until it is old.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from leaseha.repository.app import publish
from leaseha.repository.aside import Kept
from leaseha.repository.chores import ChoreError, Progress
from leaseha.repository.gate import Gate, GateClosedError
from leaseha.repository.paths import Address, Kind
from leaseha.repository.refused import RefusedError
from leaseha.repository.replicate import Replicator
from leaseha.repository.store import DirectoryStore
from leaseha.repository.usage import Usage

log = logging.getLogger(__name__)

_PIECE: Final = 256 * 1024
_ORDER: Final = (Kind.CONFIG, Kind.KEYS, Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS, Kind.LOCKS)
"""In which it is a valid repository at any moment."""


class Undelete:
    """The chore `undelete` of one data directory."""

    def __init__(self, store: DirectoryStore, gate: Gate, replicator: Replicator, usage: Usage) -> None:
        self._store = store
        self._gate = gate
        self._replicator = replicator
        self._usage = usage

    def allowed(self) -> str:
        """Why not here; empty on the holder."""
        if self._gate.word is None:
            return (
                f"only the holder brings objects back, and this node does not serve ({self._gate.why_closed})"
            )
        return ""

    def __call__(self, arguments: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        """`repository` (None: all), `since` (a day, or empty), `names` (beginnings of names; empty: all)."""
        trash = self._store.trash
        result = {"ok": True, "restored": 0, "bytes": 0, "there_already": 0, "damaged": 0, "refused": 0}
        with trash.pinned():
            chosen = list(_chosen(self._candidates(arguments)))
            progress.total = len(chosen)
            for copies in chosen:
                progress.check()
                outcome = self._bring_back(copies, progress)
                result[outcome] += 1
                result["bytes"] += copies[0].size if outcome == "restored" else 0
                progress.done += 1
        if not chosen:
            progress.note("the trash has nothing of that")
        result["ok"] = not result["damaged"] and not result["refused"]
        return result

    def _candidates(self, arguments: Mapping[str, Any]) -> Iterator[Kept]:
        repository, since = arguments["repository"], str(arguments["since"])
        names = tuple(str(name) for name in arguments["names"])
        for kept in self._store.trash.entries(newest_first=True):
            if (
                kept.day >= since
                and repository in {None, "/".join(kept.address.repo)}
                and (not names or (kept.address.name or Kind.CONFIG).startswith(names))
            ):
                yield kept

    def _bring_back(self, copies: list[Kept], progress: Progress) -> str:
        """All that is kept of one object, the newest first."""
        address = copies[0].address
        if address.kind is not Kind.CONFIG and self._is_there(address):
            return "there_already"
        for kept in copies:
            try:
                size = self._publish(kept)
            except FileNotFoundError:
                continue  # another process has emptied it
            except RefusedError as refused:
                if refused.status == 400:
                    progress.note(f"{address.label} of {kept.day}: its bytes are not what its name says")
                    continue
                progress.note(f"{address.label} of {kept.day}: {refused}")
                return "refused"
            self._usage.written(address, size, was=None)
            for done in copies:
                self._store.trash.forget(done)
            return "restored"
        return "damaged"

    def _is_there(self, address: Address) -> bool:
        try:
            with self._store.open(address):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _publish(self, kept: Kept) -> int:
        """As a client's upload of it would be. Bytes; raises RefusedError (400: wrong hash), ChoreError, OSError."""
        try:
            admitted = self._gate.enter()
            admitted.check_directory()
        except GateClosedError as closed:
            raise ChoreError(
                f"this node does not serve any more ({closed}): go on at the new holder"
            ) from closed
        address, mark = kept.address, admitted.mark
        with kept.path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            upload = self._store.begin(address, mark, size)
            try:
                copies = self._replicator.upload(address, mark, size)
                try:
                    view = memoryview(bytearray(_PIECE))
                    while count := file.readinto(view):
                        upload.write(view[:count])
                        copies.write(view[:count])
                    publish(upload, copies, admitted)
                except BaseException:
                    copies.abort()
                    raise
            finally:
                upload.abort()
        admitted.check_directory()
        return size


def _chosen(found: Iterator[Kept]) -> list[list[Kept]]:
    """One entry an object, with all that is kept of it; packs before what says that they are there."""
    by_address: dict[Address, list[Kept]] = {}
    for kept in found:
        by_address.setdefault(kept.address, []).append(kept)
    return sorted(by_address.values(), key=lambda copies: _ORDER.index(copies[0].address.kind or Kind.CONFIG))
