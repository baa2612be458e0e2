"""The loop of a measuring process: due work, readable sockets, until told to stop.

It ends at SIGTERM or SIGINT, and when standard input does: that is a socket from the lab, so that nothing
outlives the lab however that ended. Over the same socket the lab hands it more descriptors while it runs.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from leaseha.lab.recording import UNKNOWN, Kind, Recorder

_ROOM: Final = 65536
_MOST_FDS: Final = 64


def hand_over(channel: socket.socket, message: object, sockets: Sequence[socket.socket]) -> None:
    """Give a running tool more sockets; `message` (JSON) says what they are, in the same order."""
    socket.send_fds(channel, [json.dumps(message).encode()], [one.fileno() for one in sockets])


class Loop:
    """Calls functions when their time or their data has come. Nothing called may block."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._readers: dict[int, Callable[[], None]] = {}
        self._adopt: Callable[[Any, list[int]], None] | None = None
        self._stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stopped)

    def _stopped(self, _number: int, _frame: object) -> None:
        self._stop = True

    def on_readable(self, fd: int, function: Callable[[], None]) -> None:
        """Call this when the descriptor has something; it reads all that is there."""
        self._readers[fd] = function

    def on_adopted(self, function: Callable[[Any, list[int]], None]) -> None:
        """Call this with message and descriptors of each `hand_over`."""
        self._adopt = function

    def run(self, period_ns: int, due: Callable[[int], None]) -> None:
        """Call `due(now_ns)` each period; late ones are left out, not made up for in a burst."""
        control = socket.socket(fileno=0)
        next_ns = time.monotonic_ns()
        self._ready(next_ns, force=True)
        while not self._stop:
            now_ns = time.monotonic_ns()
            if now_ns >= next_ns:
                # What came before this instant is noted before it: a reader may rely on that.
                for function in self._readers.values():
                    function()
                due(now_ns)
                next_ns += period_ns
                if next_ns <= now_ns:
                    next_ns = now_ns + period_ns
            if self._recorder is not None:
                self._recorder.flush(now_ns)
            left_s = max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
            for fd in self._select([0, *self._readers], left_s):
                if fd == 0:
                    self._control(control)
                else:
                    self._readers[fd]()
        if self._recorder is not None:
            self._recorder.flush(time.monotonic_ns(), force=True)

    def _ready(self, now_ns: int, *, force: bool) -> None:
        if self._recorder is not None:
            self._recorder.note(Kind.READY, UNKNOWN, 0, 0, now_ns)
            self._recorder.flush(now_ns, force=force)

    def _control(self, control: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(control, _ROOM, _MOST_FDS)
        if not data:
            self._stop = True
        elif self._adopt is not None:
            self._adopt(json.loads(data), fds)

    @staticmethod
    def _select(waited: Sequence[int], left_s: float) -> Iterable[int]:
        try:
            return select.select(waited, (), (), left_s)[0]  # epoll and poll know whole milliseconds only
        except InterruptedError:
            return ()
