"""The order of operations on the holder: uploads together, deletes and admissions alone, indexes after their packs.

A pack may be on its way beside any other. Whatever makes packs reachable or says that they are there (index,
snapshot, key, lock, config) waits for the packs that came before it; a delete waits for everything before it and
holds up everything after it, so prune never removes a pack before its new index is everywhere.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from leaseha.repository.turnstile import CrowdedError, Turnstile


class Barrier:
    """Around each operation from the moment that it needs the other copies until it is published here."""

    def __init__(self) -> None:
        self._turnstile = Turnstile()
        self._changed = threading.Condition()
        self._packs: set[int] = set()
        self._numbers = itertools.count(1)

    @contextmanager
    def pack(self, timeout_s: float) -> Iterator[None]:
        """Beside others. Raises CrowdedError."""
        with self._turnstile.shared(timeout_s):
            with self._changed:
                number = next(self._numbers)
                self._packs.add(number)
            try:
                yield
            finally:
                with self._changed:
                    self._packs.discard(number)
                    self._changed.notify_all()

    @contextmanager
    def after_packs(self, timeout_s: float) -> Iterator[None]:
        """Beside others, but after the packs that are inside already. Raises CrowdedError."""
        with self._turnstile.shared(timeout_s):
            with self._changed:
                number = next(self._numbers)
                if not self._changed.wait_for(lambda: min(self._packs, default=number) >= number, timeout_s):
                    raise CrowdedError(f"packs before it took longer than {timeout_s:g} s")
            yield

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[None]:
        """Nothing else is inside. Raises CrowdedError."""
        with self._turnstile.alone(timeout_s):
            yield
