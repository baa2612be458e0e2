import gzip
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from chaos.otlp_receiver import OtlpReceiver, ReceivedSpan, broken

TOP = Path(__file__).resolve().parents[2]


def request(*spans: tuple[str, str]) -> ExportTraceServiceRequest:
    """Spans by id and parent id, one letter each."""
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for own, parent in spans:
        span = scope.spans.add(name=own, trace_id=b"t" * 16, span_id=own.encode() * 8)
        span.parent_span_id = parent.encode() * 8
    return made


def post(
    endpoint: str, body: bytes, kind: str = "application/x-protobuf", path: str = "/v1/traces", **headers: str
) -> int:
    host = endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("POST", path, body, {"Content-Type": kind, **headers})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as made:
        yield made


def received(*spans: tuple[str, str]) -> list[ReceivedSpan]:
    return [ReceivedSpan({}, span) for span in request(*spans).resource_spans[0].scope_spans[0].spans]


def test_a_request_is_kept_as_it_came_plain_or_compressed(receiver: OtlpReceiver):
    raw = request(("a", "")).SerializeToString()
    assert post(receiver.endpoint, raw) == 200
    assert post(receiver.endpoint, gzip.compress(raw), **{"Content-Encoding": "gzip"}) == 200
    assert receiver.requests == [request(("a", ""))] * 2


def test_what_is_no_otlp_is_refused(receiver: OtlpReceiver):
    assert post(receiver.endpoint, b"\xff\xff\xff") == 400
    assert post(receiver.endpoint, b"x", **{"Content-Encoding": "gzip"}) == 400
    assert post(receiver.endpoint, b"{}", "application/json") == 415
    assert post(receiver.endpoint, b"", path="/v1/metrics") == 404
    assert receiver.spans == []
    assert receiver.refused == 4


def test_a_tree_is_whole_and_each_way_to_break_it_is_named():
    assert broken(received(("a", ""), ("b", "a"), ("c", "b"))) == ""
    assert broken(received(("a", ""), ("a", ""))) == "two spans have the same id"
    assert broken(received(("a", ""), ("b", ""))) == "2 roots: ['a', 'b']"
    assert broken(received(("b", "a"))) == "0 roots: []"
    assert broken(received(("a", ""), ("c", "b"))) == "no parent for ['c']"
    assert broken(received(("a", ""), ("b", "c"), ("c", "b"))) == "parents run in a circle"


def test_the_command_writes_a_line_of_json_for_each_span(tmp_path: Path):
    command = [sys.executable, "-m", "chaos.otlp_receiver", "--port", "0", "--out", str(tmp_path / "spans")]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().split()[-1]
            assert post(endpoint, request(("a", ""), ("b", "a")).SerializeToString()) == 200
        finally:
            process.terminate()
    first, second = map(json.loads, (tmp_path / "spans").read_text().splitlines())
    assert (first["span"]["name"], first["parent_id"]) == ("a", "")
    assert second["parent_id"] == first["span_id"]
