"""Finished spans to a file and a collector, without anybody waiting for either.

`span` and `root` hash an id and append to bounded queues; they do no I/O, take no lock for longer than an
append, and never raise for what they are given. Each sink has its own thread, so that a hanging disk does
not hold up the collector, nor the reverse. OpenTelemetry is imported in the collector's thread, and only
if there is a collector. Not promised: that a span arrives.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from leaseha.adapters import clock
from leaseha.adapters.outbox import CAPACITY, Complaints, Counts, Deliver, Outbox
from leaseha.adapters.telemetry import spans, traceparent
from leaseha.adapters.telemetry.spanfile import FILE_BYTES_MAX, KEEP_FILES, LineFile
from leaseha.adapters.telemetry.spans import FinishedSpan, Moment, Resource, Status
from leaseha.core.values import NS_PER_S
from leaseha.errors import ConfigError

CLOSE_TIMEOUT_S: Final = 1.0
FILE_BATCH: Final = 64
FILE_LINGER_S: Final = 0.1
OTLP_LINGER_S: Final = 0.5
"""The spans of a move go out together and after it: encoding them must not take turns with binding and announcing."""
_GRPC_MODULE: Final = "opentelemetry.exporter.otlp.proto.grpc"
_logger: Final = logging.getLogger("leaseha.telemetry")


class Telemetry:
    """Records spans of one node. `protocol` is `http` or `grpc`; without endpoint and file all of it does nothing.

    Raises `ConfigError` if `protocol` is none of these, or gRPC is asked for and its extra is not installed.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        otlp_endpoint: str | None = None,
        protocol: str = "http",
        spool_file: Path | None = None,
        spool_bytes_max: int = FILE_BYTES_MAX,
        spool_keep: int = KEEP_FILES,
        queue_max: int = CAPACITY,
    ) -> None:
        self._resource = resource
        self._serial = itertools.count()
        self._sinks: dict[str, Outbox[FinishedSpan]] = {}
        if otlp_endpoint is not None:
            _require(protocol)
        if spool_file is not None:
            lines = LineFile(spool_file, bytes_max=spool_bytes_max, keep=spool_keep)
            self._sinks["file"] = Outbox(
                f"trace file {spool_file}",
                lambda _: self._to_file(lines),
                capacity=queue_max,
                batch_max=FILE_BATCH,
                linger_s=FILE_LINGER_S,
                complaints=Complaints(_logger.warning),
            )
        if otlp_endpoint is not None:
            complaints = Complaints(_logger.warning)
            self._sinks["otlp"] = Outbox(
                f"traces to {otlp_endpoint}",
                lambda closing: self._to_collector(otlp_endpoint, protocol, closing, complaints),
                capacity=queue_max,
                linger_s=OTLP_LINGER_S,
                complaints=complaints,
            )

    def span(
        self,
        name: str,
        trace: str,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, object] | None = None,
        status: Status = Status.UNSET,
        message: str = "",
        *,
        moments: Sequence[Moment] = (),
        links: Sequence[str] = (),
    ) -> str:
        """Record a finished span as a child of the span that the traceparent `trace` names; Unix times in ns.

        Returns the traceparent of the new span, for children of its own; empty if `trace` is invalid, in
        which case nothing is recorded. Links that are no valid traceparent are left out.
        """
        parent = traceparent.parse(trace)
        if parent is None:
            return ""
        made = spans.span_id(parent, self._resource.node, name, start_ns, next(self._serial))
        context = traceparent.TraceContext(parent.trace_id, made, parent.flags)
        self._offer(
            name, context, parent.span_id, (start_ns, end_ns), attributes, (status, message), moments, links
        )
        return str(context)

    def root(
        self,
        name: str,
        trace: str,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, object] | None = None,
        status: Status = Status.UNSET,
        message: str = "",
        *,
        moments: Sequence[Moment] = (),
        links: Sequence[str] = (),
    ) -> str:
        """Record the root span of a trace: the very span that `trace` names, without a parent. As `span` otherwise.

        Exactly one process may do so for a trace; docs/telemetry.md says which (and `MoveRecorder` does it).
        """
        context = traceparent.parse(trace)
        if context is None:
            return ""
        self._offer(name, context, "", (start_ns, end_ns), attributes, (status, message), moments, links)
        return str(context)

    @property
    def counts(self) -> dict[str, Counts]:
        """By sink (`file`, `otlp`), what became of the spans."""
        return {name: sink.counts for name, sink in self._sinks.items()}

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Deliver what waits, for `timeout_s` in all at most; True if nothing was ever lost.

        Blocks for that long: call it after the leases are released, and not on the event loop.
        """
        end = clock.now().plus(int(timeout_s * NS_PER_S))
        for sink in self._sinks.values():
            sink.finish()
        for sink in self._sinks.values():
            sink.close(max(0, end.left_ns(clock.now())) / NS_PER_S)
        return all(counts.lost == 0 for counts in self.counts.values())

    def _offer(
        self,
        name: str,
        context: traceparent.TraceContext,
        parent_id: str,
        times: tuple[int, int],
        attributes: Mapping[str, object] | None,
        outcome: tuple[Status, str],
        moments: Sequence[Moment],
        links: Sequence[str],
    ) -> None:
        start_ns, end_ns = spans.within(*times)
        span = FinishedSpan(
            name=spans.text(name),
            trace_id=context.trace_id,
            span_id=context.span_id,
            parent_id=parent_id,
            start_ns=start_ns,
            end_ns=end_ns,
            attributes=spans.clean(attributes),
            status=outcome[0],
            message=spans.text(outcome[1]),
            moments=tuple(Moment(spans.text(m.name), m.at_ns, spans.clean(m.attributes)) for m in moments),
            links=tuple(found for link in links if (found := traceparent.parse(link)) is not None),
        )
        for sink in self._sinks.values():
            sink.offer(span)

    def _to_file(self, lines: LineFile) -> Deliver[FinishedSpan]:
        return lambda batch: lines.append([spans.to_json(span, self._resource) for span in batch])

    def _to_collector(
        self, endpoint: str, protocol: str, closing: threading.Event, complaints: Complaints
    ) -> Deliver[FinishedSpan]:
        from leaseha.adapters.telemetry import otlp  # late, and in this thread: half a second of imports

        exporter = otlp.grpc_exporter(endpoint) if protocol == "grpc" else otlp.http_exporter(endpoint)
        sender = otlp.OtlpSender(
            exporter, self._resource, closing, lambda why: complaints.say(f"traces to {endpoint}: {why}")
        )
        return sender.deliver


def _require(protocol: str) -> None:
    """Raise `ConfigError` if spans cannot be sent by this protocol here."""
    key = "telemetry.otlp_protocol"
    if protocol not in ("http", "grpc"):
        raise ConfigError.single(key, protocol, 'write "http" or "grpc"')
    if protocol == "grpc" and not _installed(_GRPC_MODULE):
        remedy = (
            'OTLP over gRPC is an extra: install "leaseha[grpc]", or write "http" and the port for it (4318)'
        )
        raise ConfigError.single(key, protocol, remedy)


def _installed(module: str) -> bool:
    """Without importing it: that takes long."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
