"""The seam between the public protocol and the other copies; and the one that has none.

The order that `App` keeps: take the body, teeing it; compare the hash; fsync the temporary; enter the barrier;
`confirm` (every store that counts has it under its name, durably, or was taken out of the in-sync set *in etcd*
first); rename here, last; `finish`; look at deadline and token; 200. So an object is visible on the holder only
once all have it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from leaseha.repository.paths import Address
from leaseha.repository.tokens import Mark


class UnconfirmedError(Exception):
    """Not every copy that counts has it, or there are too few: 503, and nothing was acknowledged."""


class Copies(Protocol):
    """One upload, on its way to the other copies. Used by one thread."""

    def write(self, piece: memoryview) -> None:
        """The next piece, in order; the memory is used again after this returns. Never raises for a copy's sake."""

    def barrier(self) -> AbstractContextManager[None]:
        """Around `confirm`, the publishing here, and `finish`. Raises CrowdedError."""

    def confirm(self, fd: int, size: int) -> None:
        """Every copy that counts is durable when this returns; `fd` has the whole object.

        Raises UnconfirmedError, GateClosedError.
        """

    def finish(self) -> None:
        """It is published here too. Raises UnconfirmedError when more stores count by now and lack it."""

    def abort(self) -> None:
        """It has failed: forget it wherever that is possible; never raises. Nothing after `finish`."""


class Replicator(Protocol):
    """Where uploads and deletes also go."""

    def upload(self, address: Address, mark: Mark, length: int | None) -> Copies:
        """A new upload of `length` bytes (None: not known) begins. Raises UnconfirmedError: too few copies."""

    def delete(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:
        """`local` and then every copy that counts have removed it when this returns.

        Raises UnconfirmedError, CrowdedError, GateClosedError, and what `local` raises.
        """

    def create(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:
        """The same for a new repository; here last. Raises as `delete`."""


class _NoCopies:
    """An upload that goes nowhere else."""

    def write(self, piece: memoryview) -> None:
        """Nothing to send to."""

    def barrier(self) -> AbstractContextManager[None]:
        """Nothing to wait for."""
        return contextlib.nullcontext()

    def confirm(self, fd: int, size: int) -> None:
        """No copy counts, so all that count are durable."""

    def finish(self) -> None:
        """Nothing more."""

    def abort(self) -> None:
        """Nothing to forget."""


class SingleCopy:
    """No standby: what is acknowledged is on this directory's disk, and only there."""

    def upload(self, address: Address, mark: Mark, length: int | None) -> Copies:  # noqa: ARG002 - the interface's
        """Goes nowhere else."""
        return _NoCopies()

    def delete(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:  # noqa: ARG002 - the interface's
        """No other copy to remove."""
        local()

    def create(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:  # noqa: ARG002 - the interface's
        """No other copy to make."""
        local()
