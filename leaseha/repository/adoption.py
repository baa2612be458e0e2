"""One token at a time changes a data directory: taking a higher one waits for those who are just changing it.

The ledger alone is check-then-act: between a look and a rename a higher token may have been stored. Within one
process this closes the gap: whoever publishes or deletes does it inside of `changing`, whoever stores a token
does it alone. So after a token was taken no request of a lower one changes anything any more (G6, A15).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from leaseha.repository.tokens import NOTHING, Mark, TokenLedger
from leaseha.repository.turnstile import Turnstile

WAIT_S: Final = 5.0
"""A rename and a directory's fsync take milliseconds; a disk that takes longer counts as broken."""


class NotIntroducedError(Exception):
    """The sender must `POST /v1/token` to this process first: it has restarted, or others came since."""


class Adoption:
    """The marks under which this process changes its directory. Used by many threads."""

    def __init__(self, ledger: TokenLedger) -> None:
        self._ledger = ledger
        self._turnstile = Turnstile()
        self._adopted: tuple[Mark, int] = (NOTHING, 0)

    def adopt(self, mark: Mark, round_: int = 0) -> None:
        """Durable when this returns; nothing of a lower mark, or of a lower round, changes anything after it.

        Raises TokenTooOldError, NotIntroducedError for a lower round, CrowdedError, OSError.
        """
        with self._turnstile.alone(WAIT_S):
            if mark == self._adopted[0] and round_ < self._adopted[1]:
                raise NotIntroducedError("a later introduction is known")
            self._ledger.store(mark)
            self._adopted = (mark, round_)

    def check(self, mark: Mark, round_: int) -> None:
        """Raises TokenTooOldError, NotIntroducedError, FileNotFoundError when the directory is gone."""
        self._ledger.check(mark)
        if self._adopted != (mark, round_):
            raise NotIntroducedError("introduce yourself first: POST /v1/token")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What is changed inside, after a look at the ledger inside, is not overtaken. Raises CrowdedError."""
        with self._turnstile.shared(WAIT_S):
            yield
