"""Work that an operator asks a repository's process for: begun by a word, done in a thread, told in `status`.

One of a kind at a time. What came of the last of each kind is told until the next; nothing of it outlives the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from leaseha.repository.gate import GateClosedError
from leaseha.repository.peer_client import PeerError
from leaseha.repository.replicate import UnconfirmedError
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

FOUND_MOST: Final = 20
"""What was found is told up to so many lines: a status is one line of 64 KiB at most."""
LINE_MOST: Final = 200
"""Characters of one of them."""

_TROUBLE: Final = (OSError, ValueError, KeyError, TypeError)
_REFUSED: Final = (GateClosedError, UnconfirmedError, CrowdedError, PeerError)


class ChoreError(Exception):
    """It cannot be done, or not to its end; the text is for the operator."""


class Progress:
    """How far a chore is. Written by its thread, read by others."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.found: list[str] = []
        self.found_more = 0
        """How many lines are not in `found`."""
        self._stopped = threading.Event()

    def note(self, line: str) -> None:
        """Something that the operator should read."""
        if len(self.found) < FOUND_MOST:
            self.found.append(line[:LINE_MOST])
        else:
            self.found_more += 1

    def check(self) -> None:
        """Between two steps. Raises ChoreError when the process ends."""
        if self._stopped.is_set():
            raise ChoreError("the process ends")

    def rest(self, seconds: float) -> None:
        """Wait, unless the process ends. Raises ChoreError then."""
        self._stopped.wait(seconds)
        self.check()

    def stop(self) -> None:
        """From another thread: `check` raises from now on."""
        self._stopped.set()


Runner = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
"""Does it: gets the arguments that were asked with, returns what came of it, small and JSON-ready.

May raise ChoreError, OSError, PeerError, and what a closed gate or missing copies raise: told as why it failed.
"""


class _Chore:
    """One that was begun."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.state = "running"
        self.error = ""
        self.result: Mapping[str, Any] = {}
        self.began_ms = _wall_ms()
        self.ended_ms = 0

    def told(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "state": self.state,
            "done": progress.done,
            "total": progress.total,
            "found": list(progress.found),
            "found_more": progress.found_more,
            "error": self.error[: 2 * LINE_MOST],
            "result": dict(self.result),
            "began": self.began_ms,
            "ended": self.ended_ms,
        }


class Chores:
    """Those of one process. Used by its main thread; each chore runs in a thread of its own."""

    def __init__(self) -> None:
        self._runners: dict[str, tuple[Runner, Callable[[], str]]] = {}
        self._last: dict[str, _Chore] = {}

    def register(self, what: str, runner: Runner, allowed: Callable[[], str] = lambda: "") -> None:
        """`allowed` is asked before it begins: why it may not, in a sentence; empty when it may."""
        self._runners[what] = (runner, allowed)

    def begin(self, what: str, arguments: Mapping[str, Any]) -> str:
        """Why it is not begun; empty when it is."""
        if what not in self._runners:
            known = ", ".join(sorted(self._runners)) or "nothing"
            return f"this version knows no chore {what!r}, only {known}"
        if (last := self._last.get(what)) and last.state == "running":
            return f"{what} runs already: see how far it is, and ask again when it has ended"
        runner, allowed = self._runners[what]
        if why := allowed():
            return why
        chore = self._last[what] = _Chore()
        threading.Thread(target=_run, args=(what, chore, runner, arguments), name=what, daemon=True).start()
        return ""

    def status(self) -> dict[str, Any]:
        """For `status`, by kind."""
        return {what: chore.told() for what, chore in self._last.items()}

    def end(self) -> None:
        """The process ends: whatever looks at `check` stops."""
        for chore in self._last.values():
            chore.progress.stop()


def _run(what: str, chore: _Chore, runner: Runner, arguments: Mapping[str, Any]) -> None:
    state = "failed"
    try:
        chore.result = runner(arguments, chore.progress)
        state = "done"
    except (ChoreError, *_REFUSED) as refused:
        chore.error = str(refused)
    except _TROUBLE as trouble:
        chore.error = f"{type(trouble).__name__}: {trouble}"
    except Exception as unexpected:  # noqa: BLE001 - the border: a defect must not look like work that goes on
        chore.error = f"defect: {type(unexpected).__name__}: {unexpected}"
    chore.ended_ms = _wall_ms()
    chore.state = state
    if chore.error:
        log.error("%s failed: %s", what, chore.error)
    else:
        log.info("%s is done: %s", what, dict(chore.result))


def _wall_ms() -> int:
    return int(time.time() * 1000)
