"""Spans to an OTLP collector. Imported by the outbox's thread only, since the libraries behind it load slowly.

The exporter alone is used, without a tracer provider: its batch processor blocks an exit for 30 s when the
collector is away, and draws ids at random.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Final

import tenacity
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceFlags
from opentelemetry.trace.status import Status as SdkStatus
from opentelemetry.trace.status import StatusCode

from leaseha.adapters.telemetry.spans import FinishedSpan, Resource, Status
from leaseha.adapters.telemetry.traceparent import TraceContext

ATTEMPT_TIMEOUT_S: Final = 1.0
RETRY_FOR_S: Final = 600.0
RETRY_WAIT_MAX_S: Final = 15.0
TRACES_PATH: Final = "/v1/traces"
_CODES: Final = {Status.UNSET: StatusCode.UNSET, Status.OK: StatusCode.OK, Status.ERROR: StatusCode.ERROR}
_TEMPORARY: Final = {"408", "425", "429"}


class NotExported(Exception):
    """The collector did not take a batch; another attempt may succeed."""


class Unwanted(Exception):
    """The collector answered that it will not take this batch, however often it is sent."""


class _LastWord(logging.Handler):
    """Keeps the exporter's last complaint, which it says to its logger and returns to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.text = record.getMessage()


class OtlpSender:
    """Sends batches of finished spans; every wait and every retry has an end."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        closing: threading.Event,
        complain: Callable[[str], None],
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._exporter = exporter
        self._resource = SdkResource.create(dict(resource.attributes()))
        self._scope = InstrumentationScope("leaseha", resource.version)
        self._complain = complain
        self._last_word = _quieten()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(NotExported),
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(retry_for_s), tenacity.stop_when_event_set(closing)
            ),
            wait=tenacity.wait_exponential(multiplier=0.25, max=RETRY_WAIT_MAX_S),
            sleep=tenacity.sleep_using_event(closing),
            before_sleep=lambda state: complain(f"no answer yet: {_of(state)}"),
            reraise=True,
        )

    def deliver(self, batch: Sequence[FinishedSpan]) -> None:
        """Send a batch, again and again for ten minutes; while closing, once more at most.

        Raises:
            NotExported: the collector was not reached in that time.
            Unwanted: it answered that it does not want these spans.

        """
        spans = [self._readable(span) for span in batch]
        self._retrying(self._once, spans)

    def _once(self, spans: Sequence[ReadableSpan]) -> None:
        self._last_word.text = ""
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            return
        why = self._last_word.text or "the collector did not take the spans"
        code = re.search(r"code: (4\d\d)\b", why)
        if code is not None and code[1] not in _TEMPORARY:
            raise Unwanted(why)
        raise NotExported(why)

    def _readable(self, span: FinishedSpan) -> ReadableSpan:
        context = TraceContext(span.trace_id, span.span_id)
        parent = TraceContext(span.trace_id, span.parent_id) if span.parent_id else None
        return ReadableSpan(
            name=span.name,
            context=_sdk(context, remote=False),
            parent=_sdk(parent, remote=True) if parent is not None else None,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(m.name, m.attributes, m.at_ns) for m in span.moments],
            links=[Link(_sdk(link, remote=True)) for link in span.links],
            status=SdkStatus(_CODES[span.status], span.message if span.status is Status.ERROR else None),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def http_exporter(endpoint: str) -> SpanExporter:
    """OTLP/HTTP to a base URL (`http://collector:4318`), or to a URL that ends in `/v1/traces`.

    Headers and certificates come from the environment variables that OpenTelemetry defines.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = endpoint.rstrip("/")
    url = base if base.endswith(TRACES_PATH) else base + TRACES_PATH
    return OTLPSpanExporter(endpoint=url, timeout=ATTEMPT_TIMEOUT_S)


def grpc_exporter(endpoint: str) -> SpanExporter:
    """OTLP/gRPC to `http://collector:4317` (plain) or `https://...` (TLS); needs the extra `leaseha[grpc]`."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=ATTEMPT_TIMEOUT_S
    )


def _sdk(context: TraceContext, *, remote: bool) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=remote,
        trace_flags=TraceFlags(context.flags),
    )


def _quieten() -> _LastWord:
    """Keep the exporters' own lines, one for each attempt, out of the log; we say one a minute."""
    logger = logging.getLogger("opentelemetry.exporter.otlp")
    logger.propagate = False
    for handler in logger.handlers:
        if isinstance(handler, _LastWord):
            return handler
    made = _LastWord()
    logger.addHandler(made)
    return made


def _of(state: tenacity.RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome is not None else None
    return str(error) if error is not None else ""
