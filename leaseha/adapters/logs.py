"""Logs of the agent on its standard error: one line for each transition, and for each thing that was done.

A line is formatted where it is logged and written by a thread of its own, so that a reader who does not read
(a stuck pipe, a full journal) never holds up a renewal; what does not fit meanwhile is dropped and counted.
No traceback is ever written: an exception becomes one line that names it and where it came from.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import select
import threading
from collections.abc import Sequence
from typing import Final, cast

from leaseha.adapters.outbox import Counts, Deliver, Outbox
from leaseha.core.effects import Transitioned
from leaseha.core.records import HistoryRecord
from leaseha.core.trace import trace_id
from leaseha.lines import Shape, formatter

QUEUE_MAX: Final = 4096
BATCH_MAX: Final = 64
CLOSE_TIMEOUT_S: Final = 1.0
TRACE_SHOWN: Final = 8
"""How many digits of a trace id a line for people shows; the line that sums a move up has all of them."""
_moves: Final = logging.getLogger("leaseha.moves")


def transition_line(effect: Transitioned) -> None:
    """One row of the table fired, and why."""
    found = trace_id(effect.trace)
    detail = f" ({effect.detail})" if effect.detail else ""
    shown = f", token {effect.token}" if effect.token else ""
    shown += f", trace {found[:TRACE_SHOWN]}" if found else ""
    text = f"{effect.reason}{detail} [{effect.role_from} -> {effect.role_to}, {effect.row}{shown}]"
    _log(
        logging.INFO,
        text,
        lease=effect.lease,
        event="transition",
        row=effect.row,
        role_from=effect.role_from,
        role_to=effect.role_to,
        reason=effect.reason,
        detail=effect.detail,
        token=effect.token,
        trace_id=found,
    )


def phase_line(
    lease: str, phase: str, took_ms: float, trace_id: str, detail: str = "", *, ok: bool = True
) -> None:
    """One part of a move was done (`bind`, `announce`, ...), or not."""
    words = f"{phase.replace('_', ' ')} {'took' if ok else 'FAILED after'} {took_ms:.1f} ms"
    text = (
        f"{words}{f' ({detail})' if detail else ''}{f' [trace {trace_id[:TRACE_SHOWN]}]' if trace_id else ''}"
    )
    _log(
        logging.INFO if ok else logging.WARNING,
        text,
        lease=lease,
        event="phase",
        phase=phase,
        ok=ok,
        detail=detail,
        took_ms=round(took_ms, 3),
        trace_id=trace_id,
    )


def move_line(lease: str, history: HistoryRecord) -> None:
    """A move is over: the line of history, as it also stands in etcd."""
    origin = f" from {history.from_node}" if history.from_node else ""
    over = f"{history.kind}{origin} to {history.to_node} is over"
    if history.from_node == history.to_node:
        over = f"resumed by {history.to_node}"  # after its restart, say: nothing moved
    gap = f"{history.gap_ms} ms without service" if history.gap_ms >= 0 else "time without service unknown"
    why = f": {history.reason}" if history.reason else ""
    text = f"first answer: {over}, {gap}{why}"
    _log(
        logging.INFO,
        f"{text} [token {history.token}, trace {history.trace_id}]",
        lease=lease,
        event="move",
        kind=history.kind,
        reason=history.reason,
        from_node=history.from_node,
        to_node=history.to_node,
        token=history.token,
        gap_ms=history.gap_ms if history.gap_ms >= 0 else None,
        trace_id=history.trace_id,
    )


def warning_line(lease: str, what: str, detail: str) -> None:
    """Something that an operator should know, and that is no transition."""
    text = f"{what}: {detail}" if detail else what
    _log(logging.WARNING, text, lease=lease, event="warning", what=what, detail=detail)


def unknown_line(what: str, attempt: int, took_ms: float, why: str) -> None:
    """A transaction had no answer; for those who look for it (level debug), since many follow when etcd is away."""
    text = f"{what}: no answer after {took_ms:.1f} ms: {why}"
    _log(
        logging.DEBUG,
        text,
        event="unknown",
        what=what,
        attempt=attempt,
        reason=why,
        took_ms=round(took_ms, 3),
    )


def _log(level: int, message: str, lease: str = "", **fields: object) -> None:
    if _moves.isEnabledFor(level):
        _moves.log(level, "%s", message, extra={"leaseha": {"lease": lease, **fields}})


class _Handler(logging.handlers.QueueHandler):
    """Formats a record where it is logged, and hands the bytes to the outbox; a malformed call costs its own line."""

    def __init__(self, outbox: Outbox[bytes], formatter: logging.Formatter) -> None:
        # The base class only keeps the queue for `enqueue`, which is overridden: the outbox drops and counts.
        super().__init__(queue.SimpleQueue())
        self.setFormatter(formatter)
        self._outbox = outbox
        self.malformed = 0

    def prepare(self, record: logging.LogRecord) -> bytes:
        """The line as it will be written."""
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def enqueue(self, record: logging.LogRecord | bytes) -> None:
        """Never waits."""
        self._outbox.offer(cast(bytes, record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name for it
        """A record that cannot be formatted is named by its place; the standard way prints a traceback."""
        self.malformed += 1
        self._outbox.offer(f"malformed log call at {record.pathname}:{record.lineno}\n".encode())


class _Writer:
    """Writes whole batches to a file descriptor, and says what was dropped once there is room again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._said = 0
        self.outbox: Outbox[bytes] | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Blocks as long as the reader does. Raises OSError if nobody can read any more."""
        lost = self.outbox.counts.lost if self.outbox is not None else 0
        if lost > self._said:
            note = f"{lost - self._said} log lines were dropped here: the reader was too slow\n".encode()
            lines, self._said = [note, *lines], lost
        # Not through sys.stderr: a thread that hangs in its buffer's lock makes the interpreter abort at exit.
        left = memoryview(b"".join(lines))
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                select.select([], [self._fd], [], 1.0)


class Logs:
    """Installs the log of one agent; `close` takes it down again."""

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        level: str = "info",
        form: str = "human",
        fd: int = 2,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        writer = _Writer(fd)

        def connect(_: threading.Event) -> Deliver[bytes]:
            return writer.write

        self._outbox: Outbox[bytes] = Outbox("log", connect, capacity=queue_max, batch_max=BATCH_MAX)
        writer.outbox = self._outbox
        self._handler = _Handler(self._outbox, formatter(Shape(node, cluster, form)))
        self._root = logging.getLogger()
        self._before = (self._root.handlers[:], self._root.level)
        self._root.handlers[:] = [self._handler]
        self._root.setLevel(logging.WARNING)
        logging.getLogger("leaseha").setLevel(level.upper())
        logging.captureWarnings(True)

    @property
    def counts(self) -> Counts:
        """What became of the lines."""
        return self._outbox.counts

    def set_level(self, level: str) -> None:
        """`debug`, `info`, `warning` or `error`, from now on."""
        logging.getLogger("leaseha").setLevel(level.upper())

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write what waits, for `timeout_s` at most; True if no line was ever lost."""
        logging.captureWarnings(False)
        self._root.handlers[:], level = self._before
        self._root.setLevel(level)
        return self._outbox.close(timeout_s)
