"""What happened, told: each transition one log line with its reason, each move one trace and one line of history.

Observes and changes nothing: no decision, and no effect, waits for anything here.
"""

from __future__ import annotations

import logging
import sys

from leaseha.config import Config
from leaseha.core import effects
from leaseha.core.values import Instant, Outcome
from leaseha.runtime.lane import LaneEffect

_log = logging.getLogger("leaseha.moves")


class Story:
    """The executor's observer."""

    def __init__(self, config: Config) -> None:
        logging.basicConfig(
            stream=sys.stderr, level=logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s %(message)s"
        )

    def transitioned(self, effect: effects.Transitioned) -> None:
        _log.info(
            "%s %s %s -> %s: %s (%s)",
            effect.lease,
            effect.row,
            effect.role_from,
            effect.role_to,
            effect.reason,
            effect.detail,
        )

    def effect_ended(self, effect: LaneEffect, began: Instant, ok: bool, detail: str) -> None:
        _log.info("%s %s %s", type(effect).__name__, ok, detail)

    def commit_ended(self, effect: effects.Commit, began: Instant, outcome: Outcome) -> None:
        if effect.what != "T2":
            _log.debug("%s %s", effect.what, outcome)

    def move_ended(self, effect: effects.MoveEnded) -> None:
        _log.info("%s", effect)

    def warned(self, effect: effects.Warned) -> None:
        _log.warning("%s", effect)

    def close(self) -> None:
        pass
