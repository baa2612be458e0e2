"""What refuses a request without the live token: the gate.

The agent gives words, `(token, epoch, deadline)`. A request enters only while a word is live, and looks
again immediately before each answer: so nothing is acknowledged after the deadline, however long the disk
took. Writes also compare the token with the one kept in the data directory, immediately before they rename
and before they acknowledge.

Not promised: that the last look and the act are one. A process frozen between the two and thawed later does
that one rename late. In a directory that several nodes see, this is check-then-act: harmless for objects
(their name is their hash, and the file was complete), a late delete of a client that has long retried
otherwise. Replication closes it: each node then has a directory of its own, and a standby that stored a
higher token answers 409 to whatever a late holder sends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from leaseha.core.values import Instant
from leaseha.repository.adoption import Adoption
from leaseha.repository.tokens import Mark, TokenLedger, TokenTooOldError
from leaseha.repository.turnstile import CrowdedError

HOLD_S: Final = 3.0
"""How long a request waits for a gate that is about to open."""


def now() -> Instant:
    """This moment by the two clocks that a deadline is measured by."""
    return Instant(
        time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    )


class GateClosedError(Exception):
    """Nothing may be served or acknowledged now; the text says why."""


@dataclass(frozen=True, slots=True)
class Word:
    """The right to serve: under this token, until this moment."""

    mark: Mark
    deadline: Instant


class Gate:
    """Open under one word at most. Words come from one thread; passes are used by many.

    The word is one attribute that is replaced whole, so readers need no lock. Whoever replaces it has the
    lock: else a word that is just being extended could undo the closing by a worker.
    """

    def __init__(
        self,
        ledger: TokenLedger,
        clock: Callable[[], Instant] = now,
        superseded: Callable[[], None] = lambda: None,
    ) -> None:
        """`superseded` is called when a higher token was found and the gate closed.

        It comes from any thread, with the lock held: it may set a flag, no more.
        """
        self._ledger = ledger
        self._clock = clock
        self._superseded = superseded
        self._lock = threading.Lock()
        self._word: Word | None = None
        self._why_closed = "not serving"
        self._entering = False
        self._opened = 0
        """How often it was opened: a pass from before is not good again, also under the same token."""
        self._decided = threading.Event()
        """Cleared while it is about to open: who comes meanwhile waits a moment instead of being refused."""
        self._decided.set()
        self.adoption = Adoption(ledger)
        """Whoever changes the directory does it inside of this."""

    def about_to_open(self, why: str) -> None:
        """Closed, but for a moment only: `enter` waits for `open` or `close`, up to `HOLD_S`."""
        with self._lock:
            self._why_closed = why
            self._entering = False
            self._word = None
            self._decided.clear()

    def open(self, word: Word) -> None:
        """Requests may enter. The token is durable before this returns.

        Raises TokenTooOldError, GateClosedError when the deadline has passed, OSError when the token cannot
        be stored; the gate is closed then.
        """
        with self._lock:
            self._entering = False
            self._word = None
        try:
            self.adoption.adopt(word.mark)
        except CrowdedError as crowded:
            self.close(f"the disk is too slow: {crowded}")
            raise GateClosedError(self._why_closed) from crowded
        except (TokenTooOldError, OSError) as refused:
            self.close(str(refused))
            raise
        if word.deadline.deadline_passed(self._clock()):
            self.close("the deadline passed before the gate was open")
            raise GateClosedError(self._why_closed)
        with self._lock:
            self._opened += 1
            self._word = word
            self._entering = True
            self._decided.set()

    def extend(self, token: int, deadline: Instant) -> bool:
        """Move the deadline, in either direction. False: closed, passed, or of another token: nothing changed."""
        with self._lock:
            word = self._word
            if word is None or word.mark.token != token or word.deadline.deadline_passed(self._clock()):
                return False
            self._word = Word(word.mark, deadline)
            return True

    def drain(self, why: str) -> None:
        """Nothing new enters; who is in may finish until the deadline or `close`."""
        self._why_closed = why
        self._entering = False
        self._decided.set()

    def close(self, why: str) -> None:
        """Nothing enters and no pass is good any more."""
        with self._lock:
            self._close(why)

    def close_under(self, mark: Mark, why: str) -> None:
        """`close`, and say so, unless it is closed already or open under another token since."""
        with self._lock:
            if self._word is not None and self._word.mark == mark:
                self._close(why)
                self._superseded()

    def _close(self, why: str) -> None:
        self._why_closed = why
        self._entering = False
        self._word = None
        self._decided.set()

    @property
    def opened(self) -> int:
        """How often it was opened."""
        return self._opened

    @property
    def word(self) -> Word | None:
        """What the gate is open under; its deadline may have passed."""
        return self._word

    @property
    def why_closed(self) -> str:
        """The sentence for whoever is refused."""
        return self._why_closed

    def enter(self) -> Pass:
        """Raises GateClosedError, at once unless the gate is about to open."""
        self._decided.wait(HOLD_S)
        word = self._word
        if word is None or not self._entering:
            raise GateClosedError(self._why_closed)
        admitted = Pass(self, word.mark, self._opened)
        admitted.check()
        return admitted

    def check(self, mark: Mark) -> None:
        """Raises GateClosedError unless the gate is open under `mark` and the deadline has not passed."""
        word = self._word
        if word is None or word.mark != mark:
            raise GateClosedError(self._why_closed)
        if word.deadline.deadline_passed(self._clock()):
            raise GateClosedError("the deadline has passed")

    def check_directory(self, mark: Mark) -> None:
        """`check`, and the data directory has not seen a higher token. Raises GateClosedError."""
        try:
            self._ledger.check(mark)
        except TokenTooOldError as old:
            # Not when the higher token is our own, under which the gate is open again since.
            self.close_under(mark, str(old))
            raise GateClosedError(str(old)) from old
        except FileNotFoundError as gone:
            # Not a disk that refuses: what is there now is no store at all, and must not look like an empty one.
            raise GateClosedError("the data directory is not there any more (is it mounted?)") from gone
        self.check(mark)


@dataclass(frozen=True, slots=True)
class Pass:
    """A request that was let in, under the token of that moment."""

    gate: Gate
    mark: Mark
    opened: int = 0
    """Which opening of the gate it was let in by."""

    def check(self) -> None:
        """Before any answer. Raises GateClosedError."""
        self.gate.check(self.mark)
        if self.opened != self.gate.opened:
            raise GateClosedError("the gate was closed meanwhile")

    def check_directory(self) -> None:
        """Before anything is changed, and before a change is acknowledged. Raises GateClosedError."""
        self.gate.check_directory(self.mark)
        self.check()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change of the directory: no token is taken meanwhile. Raises GateClosedError."""
        try:
            with self.gate.adoption.changing():
                self.check_directory()
                yield
        except CrowdedError as crowded:
            raise GateClosedError(f"another token is being taken: {crowded}") from crowded
