"""What a quota lets in: before the body, and while it comes where its length was not told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from leaseha.repository.door import DoorOptions, Guest
from leaseha.repository.paths import Address
from leaseha.repository.refused import RefusedError
from leaseha.repository.usage import Usage


class Quota:
    """One upload's. Used by one thread."""

    def __init__(self, usage: Usage | None, options: DoorOptions, guest: Guest, address: Address) -> None:
        self._usage = usage
        self._options = options
        self._guest = guest
        self._address = address
        self._taken = 0

    @property
    def any(self) -> bool:
        """There is one at all."""
        own = self._guest.user.quota_bytes if self._guest.user else 0
        return self._usage is not None and bool(self._options.quota_bytes or own)

    @contextlib.contextmanager
    def taking(self, length: int | None, *, there: bool) -> Iterator[None]:
        """For the time of the upload: `length` bytes, or as many as `write` is told of.

        `there`: such an object is here already and is only confirmed, which always may be. Raises RefusedError (507).
        """
        usage = self._usage
        if usage is None or not self.any or there:
            self._taken = -1
            yield
            return
        self._check(length or 0)
        with usage.expecting(self._address.repo, length or 0):
            self._taken = -1 if length is not None else 0
            yield

    def write(self, piece: memoryview) -> None:
        """Bytes that nobody announced. Raises RefusedError (507)."""
        if self._taken >= 0:
            self._taken += len(piece)
            self._check(self._taken)

    def _check(self, size: int) -> None:
        address, kind, usage = self._address, self._address.kind, self._usage
        if usage is None:
            return
        quota = self._options.quota_bytes
        if quota and usage.left(address.repo, kind, quota) < size:
            raise RefusedError(507, "the repository's quota is used up")
        user = self._guest.user
        if (
            user is not None
            and user.quota_bytes
            and address.repo[:1] == (user.name,)
            and usage.left_below(user.name, kind, user.quota_bytes) < size
        ):
            raise RefusedError(507, "the user's quota is used up")
