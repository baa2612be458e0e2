"""Log, traces and the history on disk of one agent, made from its configuration and ended with it.

All three observe: no decision and no effect waits for them, and `close` is bounded.
"""

from __future__ import annotations

import logging
from typing import Final

from leaseha import __version__
from leaseha.adapters.logs import Logs
from leaseha.adapters.outbox import Complaints, Deliver, Outbox
from leaseha.adapters.telemetry import MoveRecorder, Resource, Telemetry
from leaseha.adapters.telemetry.spanfile import LineFile
from leaseha.config import Config
from leaseha.core.effects import Commit, MoveEnded, Transitioned, Warned
from leaseha.core.values import Instant, Outcome
from leaseha.runtime.lane import LaneEffect
from leaseha.runtime.proving import Verdict

_log = logging.getLogger("leaseha.history")

CLOSE_S: Final = 1.0
HISTORY_BYTES_MAX: Final = 4 << 20
HISTORY_FILES: Final = 4


class Story:
    """The executor's observer. Raises `ConfigError` for a protocol that is not installed."""

    def __init__(self, config: Config) -> None:
        self._logs = Logs(
            node=config.node.name,
            cluster=config.cluster,
            level=config.log.level.value,
            form=config.log.format.value,
        )
        self._telemetry = Telemetry(
            Resource(node=config.node.name, cluster=config.cluster, version=__version__),
            otlp_endpoint=config.telemetry.otlp_endpoint,
            protocol=config.telemetry.otlp_protocol.value,
            spool_file=config.telemetry.file,
        )
        self._moves = MoveRecorder(self._telemetry)
        lines = LineFile(config.state_dir / "history.jsonl", bytes_max=HISTORY_BYTES_MAX, keep=HISTORY_FILES)

        def connect(_: object) -> Deliver[str]:
            return lines.append

        complaints = Complaints(_log.warning)
        self._history: Outbox[str] = Outbox("history on disk", connect, complaints=complaints)

    def transitioned(self, effect: Transitioned) -> None:
        """A row of the table fired."""
        self._moves.transitioned(effect)

    def effect_ended(self, effect: LaneEffect, began: Instant, ok: bool, detail: str) -> None:
        """An effect on a lease ended, now."""
        self._moves.effect_ended(effect, began, ok, detail)

    def commit_ended(self, effect: Commit, began: Instant, outcome: Outcome) -> None:
        """A transaction ended, now."""
        self._moves.commit_ended(effect, began, outcome)

    def move_ended(self, effect: MoveEnded) -> None:
        """The service answers here: the move's root span, its line in the log, its line on disk."""
        self._moves.move_ended(effect)
        self._history.offer(effect.history)

    def proven(self, verdict: Verdict) -> None:
        """A neighbour has confirmed where the VIPs are, or nobody who was asked has."""
        by = str(verdict.by) if verdict.by is not None else ""
        asked = [str(one) for one in verdict.asked]
        self._moves.proven(verdict.lease, verdict.trace, verdict.since, verdict.at, by, asked)

    def warned(self, effect: Warned) -> None:
        """Something that an operator should know."""
        self._moves.warned(effect)

    def told_all(self) -> bool:
        """Nothing waits to be written to disk; a collector that does not listen is not waited for."""
        counts = (self._history.counts, self._logs.counts)
        return all(one.offered == one.delivered + one.lost for one in counts)

    def close(self) -> None:
        """Deliver what waits, bounded: a dead collector delays no stop."""
        self._moves.finish()
        self._telemetry.close(CLOSE_S)
        self._history.close(CLOSE_S)
        self._logs.close(CLOSE_S)
