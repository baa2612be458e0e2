"""The holder's operations by number: which are on their way, which ended in doubt, and up to where all is well.

An operation that failed after another store may have done it stays *in doubt*: it holds back `confirmed`, and so
stays in the tails of all, until its object was brought into line everywhere. Whoever catches up watches which
objects change meanwhile.
"""

from __future__ import annotations

import threading
from typing import Final

from leaseha.repository.paths import Address
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark

CHANGES_MOST: Final = 100_000
"""More changes than that during a catch-up, and comparing anew is cheaper."""


class Changes:
    """The objects that changed since the last `take`. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: set[Address] = set()
        self._overflown = False

    def add(self, address: Address) -> None:
        """Forgets everything, and says so, past a bound."""
        with self._lock:
            self._addresses.add(address)
            if len(self._addresses) > CHANGES_MOST:
                self._addresses.clear()
                self._overflown = True

    def take(self) -> frozenset[Address] | None:
        """What has changed since the last time; None: too much, compare everything."""
        with self._lock:
            taken = None if self._overflown else frozenset(self._addresses)
            self._addresses.clear()
            self._overflown = False
            return taken

    def __len__(self) -> int:
        return len(self._addresses)


class Operations:
    """Those of one tenure. Used by many threads."""

    def __init__(self, mark: Mark, tail: Tail, before: Operations | None = None) -> None:
        """`before`: those of the tenure before; under the same mark no number is given away twice."""
        self.mark = mark
        self._tail = tail
        self._lock = threading.Lock()
        self._last = before.last if before is not None and before.mark == mark else 0
        self._open: dict[int, Address] = {}
        self._doubtful: dict[int, Address] = {}
        self._watchers: set[Changes] = set()
        self._deleted: dict[Address, int] = {}
        self._deleted_too_many = False

    def begin(self, address: Address) -> int:
        """Its number, from 1; in the tail from now on."""
        with self._lock:
            self._last += 1
            self._open[self._last] = address
            self._tail.note(self.mark, self._last, address)
            return self._last

    def done(self, seq: int) -> None:
        """Every store that counts has it, and so have we: also what was in doubt about that object before."""
        with self._lock:
            address = self._open.pop(seq)
            self._end(seq, address)
            if self._deleted.get(address, seq) < seq:
                del self._deleted[address]
            for doubtful in [one for one, of in self._doubtful.items() if of == address and one < seq]:
                del self._doubtful[doubtful]
                self._tail.forget(self.mark, doubtful)

    def undone(self, seq: int) -> None:
        """No store has done it, and none will; nothing if it has ended already."""
        with self._lock:
            address = self._open.pop(seq, None)
            if address is not None:
                self._end(seq, address)

    def doubt(self, seq: int) -> None:
        """Some store may have done it; nothing if it has ended already."""
        with self._lock:
            address = self._open.pop(seq, None)
            if address is not None:
                self._doubtful[seq] = address
                self._tell_watchers(address)

    def _end(self, seq: int, address: Address) -> None:
        self._tail.forget(self.mark, seq)
        self._tell_watchers(address)

    def _tell_watchers(self, address: Address) -> None:
        for changes in self._watchers:
            changes.add(address)

    def doubtful(self) -> frozenset[Address]:
        """Objects to be brought into line."""
        with self._lock:
            return frozenset(self._doubtful.values())

    def pending(self) -> frozenset[Address]:
        """What is on its way or in doubt: these may differ between members, and that is no fault."""
        with self._lock:
            return frozenset((*self._open.values(), *self._doubtful.values()))

    def delete(self, seq: int, address: Address) -> None:
        """That operation is a delete, and is done here already."""
        with self._lock:
            self._deleted[address] = seq
            if len(self._deleted) > CHANGES_MOST:
                self._deleted.clear()
                self._deleted_too_many = True

    def was_deleted(self, address: Address) -> bool:
        """In this tenure, and not written again since; True also once there were too many to know."""
        with self._lock:
            return self._deleted_too_many or address in self._deleted

    def confirmed(self) -> int:
        """Every operation up to this number is on every member."""
        with self._lock:
            return min((*self._open, *self._doubtful), default=self._last + 1) - 1

    @property
    def last(self) -> int:
        """The highest number given away."""
        return self._last

    def watch(self) -> Changes:
        """Every object that changes from now on is noted there, until `unwatch`."""
        changes = Changes()
        with self._lock:
            self._watchers.add(changes)
        return changes

    def unwatch(self, changes: Changes) -> None:
        """Nothing is noted any more."""
        with self._lock:
            self._watchers.discard(changes)
