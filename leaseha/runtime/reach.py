"""Whether etcd is reached, for the log: when it stops answering, now and then while that lasts, when it is back.

The core does not need it: it knows its deadlines. A person looks here first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_S, Instant

PATIENCE_NS: Final = NS_PER_S
"""One slow answer is nothing to speak of."""
AGAIN_NS: Final = 30 * NS_PER_S

_log = logging.getLogger("leaseha.etcd")


class Reach:
    """Told of each answer and each failure; `endpoints` as configured."""

    def __init__(self, endpoints: str, now: Callable[[], Instant] = clock.now) -> None:
        self._endpoints = endpoints
        self._now = now
        self._answered: Instant | None = None
        self._said: Instant | None = None

    def answered(self) -> None:
        """etcd gave an answer, of whatever content."""
        now = self._now()
        if self._said is not None:
            away = "" if self._answered is None else f" after {_seconds(self._answered, now)} s"
            _log.warning("etcd answers again%s", away)
        self._answered, self._said = now, None

    def failed(self, why: str) -> None:
        """An attempt came to nothing."""
        now = self._now()
        if self._answered is not None and not self._answered.plus(PATIENCE_NS).wait_over(now):
            return
        if self._said is not None and not self._said.plus(AGAIN_NS).wait_over(now):
            return
        self._said = now
        since = "yet" if self._answered is None else f"for {_seconds(self._answered, now)} s"
        _log.warning("etcd (%s) has given no answer %s, trying on: %s", self._endpoints, since, why)


def _seconds(since: Instant, now: Instant) -> str:
    return f"{(now.boot_ns - since.boot_ns) / NS_PER_S:.1f}"
