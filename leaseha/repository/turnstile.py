"""Many may pass together, or one alone: the lock behind both barriers of the data plane.

Whoever wants to be alone holds up newcomers, so that it comes to its turn; every wait has a bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CrowdedError(Exception):
    """The turn did not come in time."""


class Turnstile:
    """Not re-entrant: who is in must not ask again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0

    @contextmanager
    def shared(self, timeout_s: float) -> Iterator[None]:
        """Together with others. Raises CrowdedError."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._alone and not self._waiting_alone, timeout_s):
                raise CrowdedError(f"not let in for {timeout_s:g} s")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[None]:
        """Nobody else is inside. Raises CrowdedError, leaving others as they were."""
        with self._changed:
            self._waiting_alone += 1
            try:
                if not self._changed.wait_for(lambda: not self._alone and not self._inside, timeout_s):
                    raise CrowdedError(f"others did not leave for {timeout_s:g} s")
                self._alone = True
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
