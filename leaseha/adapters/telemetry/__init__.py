"""Traces of moves: a finished span in, a file and a collector out, and nobody ever waits for either.

`Telemetry` records spans, `MoveRecorder` knows which spans a move has and who emits its root. Names and
attributes are public API; docs/telemetry.md lists them.
"""

from leaseha.adapters.telemetry.moves import MoveRecorder
from leaseha.adapters.telemetry.recorder import Telemetry
from leaseha.adapters.telemetry.spans import Moment, Resource, Status
from leaseha.adapters.telemetry.traceparent import TraceContext, parse

__all__ = ["Moment", "MoveRecorder", "Resource", "Status", "Telemetry", "TraceContext", "parse"]
