"""What a node death came to: the first answers of its VIPs, and when the survivors' sessions were renewed."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Final, Self

from leaseha.errors import LabError
from leaseha.lab.etcd import CLIENT_PORT
from leaseha.lab.lab import Lab
from leaseha.lab.sweeping import Sweep
from leaseha.lab.timeline import MS

HOLE_MS: Final = 600.0
"""A VIP at rest is asked several times in this time, by the client and directly."""
_PREFIX: Final = "/leaseha/lab/sessions/"
_STOP_S: Final = 5.0


class RenewalWatch:
    """Notes when each node's session record was written, as a watch of etcd tells it; a context manager.

    Every transaction of a node puts its session record, so each of them is a renewal.
    """

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.etcd.members[0].host.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run, name="renewals", daemon=True)
        self._seen: dict[str, list[int]] = {}

    def __enter__(self) -> Self:
        self._socket.settimeout(_STOP_S)
        self._socket.connect(("127.0.0.1", CLIENT_PORT))
        self._socket.settimeout(None)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        asked = {"key": _b64(_PREFIX), "range_end": _b64(_PREFIX[:-1] + "0")}
        connection = http.client.HTTPConnection("127.0.0.1", CLIENT_PORT)
        connection.sock = self._socket
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection.request("POST", "/v3/watch", json.dumps({"create_request": asked}))
            answer = connection.getresponse()
            while line := answer.readline():
                self._hear(json.loads(line), time.monotonic_ns())

    def _hear(self, message: Any, at_ns: int) -> None:
        for event in message.get("result", {}).get("events", []):
            if event.get("type", "PUT") == "PUT":
                record = json.loads(base64.b64decode(event["kv"]["value"]))
                if record.get("life", "live") == "live":
                    self._seen.setdefault(record["node"], []).append(at_ns)

    def longest_ms(self, start_ns: int, nodes: Sequence[str]) -> float:
        """The longest pause between two renewals of one of these nodes, of those that ended after an instant."""
        spans = [
            (after - before) / MS
            for name in nodes
            for before, after in pairwise(self._seen.get(name, []))
            if after > start_ns
        ]
        if not spans:
            raise LabError("no renewal of a survivor was seen")
        return max(spans)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def takeover(sweep: Sweep, share: Sequence[int], began_ns: int, victim: str) -> dict[str, Any]:
    """First, median and last first answer of another node for the VIPs of the share, ms; who answered; how many
    did not; for how many VIPs, of all, two nodes answered.
    """
    first = sweep.first_answers(began_ns, other_than=victim)
    took_ms = sorted((first[at][0] - began_ns) / MS for at in share if at in first)
    by: dict[str, int] = {}
    for at in share:
        if at in first:
            by[first[at][1]] = by.get(first[at][1], 0) + 1
    return {
        "first_ms": took_ms[0] if took_ms else 0.0,
        "median_ms": statistics.median(took_ms) if took_ms else 0.0,
        "last_ms": took_ms[-1] if took_ms else 0.0,
        "by": dict(sorted(by.items())),
        "two_answering": len(sweep.two_answering(HOLE_MS)),
        "missing": len(share) - len(took_ms),
    }
