"""Which objects may differ between this directory and those of the other members: the tail.

A standby notes what it did for a holder and forgets it once the holder says that every member has it. A holder
notes what it has begun and forgets what it has finished everywhere. Whoever takes over looks at the tails of all
members and brings just those objects into line, so a takeover does not depend on how much is stored.

A process that has just started does not know what it did before: its tail is unknown until a holder has confirmed
everything that may have been sent to it.
"""

from __future__ import annotations

import threading
from typing import Final

from leaseha.repository.paths import Address
from leaseha.repository.tokens import NOTHING, Mark

MOST: Final = 10_000
"""More than that and the tail is unknown: comparing everything is then no dearer."""
MOST_RECENT: Final = Mark(10**18, 0)
"""Above every token."""


class Tail:
    """Addresses by (mark, number of the operation). Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[tuple[Mark, int], Address] = {}
        self._known = False
        self._floor = (NOTHING, 0)
        """What must be confirmed before an unknown tail is known."""

    def introduce(self, mark: Mark, floor: int) -> None:
        """A holder has come (again); it may have sent operations up to `floor` to this directory before."""
        with self._lock:
            if not self._known:
                self._floor = max(self._floor, (mark, floor))

    def note(self, mark: Mark, seq: int, address: Address) -> None:
        """This operation is about to change something."""
        with self._lock:
            if len(self._operations) >= MOST:
                self._known = False
                self._floor = max(self._floor, *self._operations)
                self._operations.clear()
            self._operations[mark, seq] = address

    def forget(self, mark: Mark, seq: int) -> None:
        """This operation is the same on every member now."""
        with self._lock:
            self._operations.pop((mark, seq), None)

    def confirm(self, mark: Mark, seq: int) -> None:
        """Everything up to this is the same on every member, and this directory is one of them."""
        with self._lock:
            if (mark, seq) >= self._floor:
                self._known = True
            for operation in [one for one in self._operations if one <= (mark, seq)]:
                del self._operations[operation]

    def settle(self, mark: Mark = MOST_RECENT) -> None:
        """Everything up to this token is the same on every member; what a higher one has done since stays."""
        with self._lock:
            for operation in [one for one in self._operations if one[0] <= mark]:
                del self._operations[operation]
            self._known = self._known or self._floor[0] <= mark

    def addresses(self) -> frozenset[Address] | None:
        """What may differ; None: unknown."""
        with self._lock:
            return frozenset(self._operations.values()) if self._known else None

    def __len__(self) -> int:
        return len(self._operations)
