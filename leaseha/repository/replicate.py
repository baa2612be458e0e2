"""The seam where other copies come in. Today there is one copy, and it says so.

What a `Replicator` will promise, and what the rest of this package already leaves room for:

- `upload`: each piece goes to every in-sync standby while it arrives (cut-through); `commit` returns only
  when all of them have hashed, fsynced, renamed and fsynced the directory, or were taken out of the in-sync
  set *in etcd* first. Only then does the server say 200.
- `delete`: sent only after everything earlier is confirmed, so that no delete overtakes an upload.
- `visible`: an object is shown (HEAD, list, "same content again") only once every in-sync store has it.
- every message carries the token; a standby that has stored a higher one refuses.
"""

from __future__ import annotations

from typing import Protocol

from leaseha.repository.paths import Address
from leaseha.repository.tokens import Mark


class Copies(Protocol):
    """One upload, on its way to the other copies."""

    def write(self, piece: memoryview) -> None:
        """The next piece, in order; the memory is used again after this returns."""

    def commit(self) -> None:
        """Returns when every copy that counts is durable. Raises OSError otherwise."""

    def abort(self) -> None:
        """Forget this upload everywhere; never raises."""


class Replicator(Protocol):
    """Where uploads and deletes also go."""

    def upload(self, address: Address, mark: Mark) -> Copies:
        """A new upload begins."""

    def delete(self, address: Address, mark: Mark) -> None:
        """Returns when every copy that counts has removed it. Raises OSError otherwise."""

    def visible(self, address: Address) -> bool:
        """May this object, which is here, be shown to a client?"""


class _NoCopies:
    """An upload that goes nowhere else."""

    def write(self, piece: memoryview) -> None:
        """Nothing to send to."""

    def commit(self) -> None:
        """No copy counts, so all that count are durable."""

    def abort(self) -> None:
        """Nothing to forget."""


class SingleCopy:
    """No standby: what is acknowledged is on this directory's disk, and only there."""

    def upload(self, address: Address, mark: Mark) -> Copies:  # noqa: ARG002 - the interface's
        """Goes nowhere else."""
        return _NoCopies()

    def delete(self, address: Address, mark: Mark) -> None:
        """No other copy to remove."""

    def visible(self, address: Address) -> bool:  # noqa: ARG002 - the interface's
        """What is here is everywhere that counts."""
        return True
