"""A collector for tests and campaigns: takes OTLP over HTTP and keeps the decoded protobuf.

In process: `with OtlpReceiver() as receiver: ... receiver.wait_for(lambda spans: ...)`. On the command line:
`python -m chaos.otlp_receiver --port 4318 --out spans.jsonl` writes a line of JSON for each span.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

BODY_MAX: Final = 64 * 1024 * 1024
SPANS_KEPT: Final = 100_000
PROTOBUF: Final = "application/x-protobuf"
Value = str | bool | int | float | None


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came, with the attributes of the resource that sent it."""

    resource: Mapping[str, Value]
    span: Span

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        """16 hex digits; empty for a root."""
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, Value]:
        """The span's own."""
        return _plain(self.span.attributes)


def broken(spans: Sequence[ReceivedSpan]) -> str:
    """What keeps the spans of one trace from being one connected tree; empty if nothing does."""
    if len(ids := {span.span_id for span in spans}) != len(spans):
        return "two spans have the same id"
    roots = [span.span.name for span in spans if not span.parent_id]
    if len(roots) != 1:
        return f"{len(roots)} roots: {roots}"
    if orphans := [span.span.name for span in spans if span.parent_id and span.parent_id not in ids]:
        return f"no parent for {orphans}"
    # Every parent exists and there is one root: what does not reach it must run in a circle.
    parents = {span.span_id: span.parent_id for span in spans}
    for start in parents:
        at, left = start, len(parents)
        while parents[at] and left:
            at, left = parents[at], left - 1
        if parents[at]:
            return "parents run in a circle"
    return ""


class OtlpReceiver:
    """Listens at once, on a port of its own if none is named; `kept(span)` is called for each span received."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, kept: Callable[[ReceivedSpan], None] | None = None
    ) -> None:
        self._kept = kept
        self._changed = threading.Condition()
        self._requests: deque[ExportTraceServiceRequest] = deque(maxlen=SPANS_KEPT)
        self._spans: deque[ReceivedSpan] = deque(maxlen=SPANS_KEPT)
        self.answer = HTTPStatus.OK
        """What the next requests are answered; anything but 200 keeps nothing of them."""
        self.refused = 0
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Its base URL."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        """The decoded requests, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans, in order of arrival."""
        with self._changed:
            return list(self._spans)

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by trace id."""
        found: dict[str, list[ReceivedSpan]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return found

    def wait_for(self, seen: Callable[[list[ReceivedSpan]], bool], timeout_s: float = 10.0) -> bool:
        """Wait until `seen(spans)` says True of all spans so far; False if it does not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: seen(list(self._spans)), timeout_s)

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep a request; from the server's threads, and from a gRPC servicer in tests."""
        with self._changed:
            self._requests.append(request)
            for group in request.resource_spans:
                resource = _plain(group.resource.attributes)
                for span in (span for scope in group.scope_spans for span in scope.spans):
                    self._spans.append(received := ReceivedSpan(resource, span))
                    if self._kept is not None:
                        self._kept(received)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_POST(self) -> None:
        """`POST /v1/traces`, protobuf, plain or compressed."""
        receiver = self.server.receiver
        status, body = self._read()
        if status is HTTPStatus.OK and receiver.answer is not HTTPStatus.OK:
            status = receiver.answer
        if status is HTTPStatus.OK:
            try:
                receiver.take(ExportTraceServiceRequest.FromString(body))
            except DecodeError:
                status = HTTPStatus.BAD_REQUEST
        if status is not HTTPStatus.OK:
            receiver.refused += 1
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", PROTOBUF)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _read(self) -> tuple[HTTPStatus, bytes]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_MAX:
            self.close_connection = True
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b""
        raw = self.rfile.read(int(length))
        if self.path != "/v1/traces":
            return HTTPStatus.NOT_FOUND, b""
        if self.headers.get_content_type() != PROTOBUF:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, b""
        try:
            match self.headers.get("Content-Encoding", "identity"):
                case "gzip":
                    raw = gzip.decompress(raw)
                case "deflate":
                    raw = zlib.decompress(raw)
        except (OSError, EOFError, zlib.error):
            return HTTPStatus.BAD_REQUEST, b""
        return HTTPStatus.OK, raw

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name for it
        """A campaign reads spans, not accesses."""


def _plain(attributes: Sequence[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    match kind:
        case "string_value" | "bool_value" | "int_value" | "double_value":
            found: Value = getattr(value, kind)
            return found
        case None:
            return None
        case _:
            return str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Receive until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m chaos.otlp_receiver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4318)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file of JSON lines, appended to")
    asked = parser.parse_args(argv)
    with asked.out.open("a", encoding="utf-8") as out:

        def keep(received: ReceivedSpan) -> None:
            line = {
                "resource": received.resource,
                "trace_id": received.trace_id,
                "span_id": received.span_id,
                "parent_id": received.parent_id,
                "attributes": received.attributes,
                "span": MessageToDict(received.span),
            }
            out.write(json.dumps(line) + "\n")
            out.flush()

        with OtlpReceiver(asked.host, asked.port, keep) as receiver:
            print(f"receiving at {receiver.endpoint}", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                print(f"{len(receiver.spans)} spans", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
