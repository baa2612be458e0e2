"""Other work on the machine is kept out of a measurement: a file lock, held run by run."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOCK_HELP: Final = (
    "a file that is locked (flock, exclusive) during each single run and free between runs: work that runs under "
    "`flock -s FILE` keeps out of the measurement"
)


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Inside, whoever shares this lock waits; None: nobody is asked to. Waits until those who have it are done."""
    if path is None:
        yield
        return
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
