import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.otlp_receiver import OtlpReceiver, broken
from leaseha.adapters.telemetry import Resource, Status, Telemetry, TraceContext, parse
from leaseha.core.trace import of_move
from leaseha.errors import ConfigError
from tests.adapters.collectors import BlackHole, refused_endpoint

TRACE = of_move("prod", "backups", 41, 1001)
CONTEXT = TraceContext(TRACE.split("-")[1], TRACE.split("-")[2])
T0 = 1_780_000_000_000_000_000
MS = 1_000_000
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as made:
        yield made


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    made = BlackHole()
    yield made
    made.close()


def node(name: str, **options: object) -> Telemetry:
    return Telemetry(Resource(name, "prod", "1.2.3"), **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)  # waits for a fact: a background thread has done it
    return holds()


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_the_parts_of_two_nodes_are_one_trace_in_the_collector(receiver: OtlpReceiver):
    old, new = node("node1", otlp_endpoint=receiver.endpoint), node("node2", otlp_endpoint=receiver.endpoint)
    old.span("drain", TRACE, T0, T0 + 5 * MS, {"leaseha.lease": "backups"})
    old.span("unbind", TRACE, T0 + 5 * MS, T0 + 6 * MS, {"leaseha.lease": "backups"}, Status.ERROR, "busy")
    bind = new.span(
        "bind", TRACE, T0 + 8 * MS, T0 + 9 * MS, {"leaseha.lease": "backups", "leaseha.token": 42}
    )
    new.span("bind.check", bind, T0 + 8 * MS, T0 + 9 * MS)
    new.root("leaseha.switchover", TRACE, T0, T0 + 12 * MS, {"leaseha.reason": "asked"}, Status.OK)
    assert old.close(5)
    assert new.close(5)

    assert broken(receiver.spans) == ""
    spans = {span.span.name: span for span in receiver.spans}
    assert {span.trace_id for span in spans.values()} == {CONTEXT.trace_id}
    assert spans["leaseha.switchover"].span_id == CONTEXT.span_id
    assert spans["leaseha.switchover"].parent_id == ""
    assert spans["drain"].parent_id == spans["unbind"].parent_id == spans["bind"].parent_id == CONTEXT.span_id
    assert spans["bind.check"].parent_id == spans["bind"].span_id == bind.split("-")[2]
    assert spans["bind"].attributes == {"leaseha.lease": "backups", "leaseha.token": 42}
    assert (spans["drain"].span.start_time_unix_nano, spans["drain"].span.end_time_unix_nano) == (
        T0,
        T0 + 5 * MS,
    )
    assert spans["unbind"].span.status.message == "busy"
    assert spans["unbind"].span.status.code == spans["unbind"].span.status.STATUS_CODE_ERROR
    assert (
        spans["bind"].resource | {"leaseha.node": "node2", "leaseha.cluster": "prod"}
        == spans["bind"].resource
    )
    assert spans["bind"].resource["service.name"] == "leaseha"
    assert spans["bind"].resource["service.instance.id"] == "node2"
    assert spans["bind"].resource["service.version"] == "1.2.3"
    assert spans["drain"].resource["leaseha.node"] == "node1"


def test_spans_with_the_same_name_and_start_have_ids_of_their_own(tmp_path: Path):
    telemetry = node("node1", spool_file=tmp_path / "t.jsonl")
    made = {telemetry.span("bind", TRACE, T0, T0 + MS) for _ in range(100)}
    telemetry.close(5)
    assert len(made) == 100


def test_links_arrive_and_those_that_are_none_are_left_out(receiver: OtlpReceiver):
    telemetry = node("node1", otlp_endpoint=receiver.endpoint)
    other = of_move("prod", "backups", 7, 1001)
    telemetry.root("leaseha.failover", TRACE, T0, T0 + MS, links=[other, "nonsense"])
    telemetry.close(5)
    (span,) = receiver.spans
    assert [link.trace_id.hex() for link in span.span.links] == [other.split("-")[1]]


def test_an_end_before_the_start_and_odd_attributes_do_not_cost_the_span(receiver: OtlpReceiver):
    telemetry = node("n\udc80", otlp_endpoint=receiver.endpoint)
    odd = {
        "none": None,
        "big": 2**80,
        "nan": float("nan"),
        "bytes": b"\xff",
        "cut": "x\ud800",
        "list": [1],
        "yes": True,
    }
    telemetry.span("bind\udc80", TRACE, T0, T0 - MS, odd, Status.ERROR, "\udcff")
    assert telemetry.close(5)
    (span,) = receiver.spans
    assert span.span.start_time_unix_nano == span.span.end_time_unix_nano == T0
    assert span.attributes["yes"] is True
    assert span.attributes["big"] == str(2**80)
    assert "none" not in span.attributes


# -- traceparent ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_a_traceparent_survives_writing_and_reading(trace: int, span: int, flags: int):
    context = TraceContext(f"{trace:032x}", f"{span:016x}", flags)
    assert parse(str(context)) == context


@given(st.text(alphabet="0123456789abcdefABCDEF- gx\n", max_size=60) | st.text())
def test_what_is_no_traceparent_is_never_taken_for_one(value: str):
    found = parse(value)
    if found is not None:
        assert value.split("-")[1:3] == [found.trace_id, found.span_id]
        assert len(found.trace_id) == 32


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-more",
        f"00-{'1' * 32}-{'1' * 16}-01\n",
        f"00-{'1' * 31}-{'1' * 16}-01",
    ],
)
def test_an_invalid_traceparent_is_ignored(value: str, tmp_path: Path):
    telemetry = node("node1", spool_file=tmp_path / "t.jsonl")
    assert parse(value) is None
    assert telemetry.span("bind", value, T0, T0) == ""
    assert telemetry.root("leaseha.failover", value, T0, T0) == ""
    assert telemetry.close(5)
    assert not (tmp_path / "t.jsonl").exists()


def test_a_later_version_with_more_fields_is_read():
    assert parse(f"01-{'1' * 32}-{'2' * 16}-01-more") == TraceContext("1" * 32, "2" * 16)


# -- collectors that are not well -----------------------------------------------------------------------------------


def spans_and_close_s(telemetry: Telemetry, count: int) -> tuple[float, float]:
    """Median time of a span, and how long the close took."""
    took = []
    for number in range(count):
        start = time.perf_counter()
        telemetry.span("bind", TRACE, T0 + number, T0 + number + MS, {"leaseha.lease": "backups"})
        took.append(time.perf_counter() - start)
    start = time.perf_counter()
    telemetry.close(1.0)
    closed_s = time.perf_counter() - start
    median_s = sorted(took)[count // 2]
    print(f"span: median {median_s * 1e6:.0f} us, worst {max(took) * 1e3:.2f} ms; close {closed_s:.2f} s")
    return median_s, closed_s


def test_a_refusing_collector_delays_neither_a_span_nor_the_close():
    telemetry = node("node1", otlp_endpoint=refused_endpoint())
    median_s, closed_s = spans_and_close_s(telemetry, 500)
    assert median_s < 0.005
    assert closed_s < 1.5
    assert telemetry.counts["otlp"].lost == 500


def test_a_collector_that_never_answers_delays_neither_a_span_nor_the_close(black_hole: BlackHole):
    telemetry = node("node1", otlp_endpoint=black_hole.endpoint)
    telemetry.span("bind", TRACE, T0, T0 + MS)
    assert black_hole.connected.wait(10)
    median_s, closed_s = spans_and_close_s(telemetry, 500)
    assert median_s < 0.005
    assert closed_s < 1.5
    assert telemetry.counts["otlp"].lost == 501


def test_a_process_with_a_dead_collector_ends_at_once(black_hole: BlackHole):
    """The libraries' own way blocks an exit for 30 s."""
    code = (
        "import sys\nfrom leaseha.adapters.telemetry import *\n"
        f"t = Telemetry(Resource('n', 'c', 'v'), otlp_endpoint={black_hole.endpoint!r})\n"
        f"t.span('bind', {TRACE!r}, 1, 2)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=TOP, stdin=subprocess.PIPE) as process:
        assert black_hole.connected.wait(20)
        start = time.monotonic()
        process.communicate(b"end\n", timeout=20)
        assert time.monotonic() - start < 10
        assert process.returncode == 0


def test_spans_wait_for_a_collector_that_is_busy(receiver: OtlpReceiver):
    receiver.answer = HTTPStatus.SERVICE_UNAVAILABLE
    telemetry = node("node1", otlp_endpoint=receiver.endpoint)
    telemetry.span("bind", TRACE, T0, T0 + MS)
    assert eventually(lambda: receiver.refused > 0)
    receiver.answer = HTTPStatus.OK
    assert receiver.wait_for(lambda spans: len(spans) == 1)
    assert telemetry.close(5)


def test_spans_that_the_collector_does_not_want_are_not_sent_again(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
):
    receiver.answer = HTTPStatus.BAD_REQUEST
    telemetry = node("node1", otlp_endpoint=receiver.endpoint)
    telemetry.span("bind", TRACE, T0, T0 + MS)
    assert eventually(lambda: telemetry.counts["otlp"].lost == 1)
    receiver.answer = HTTPStatus.OK
    telemetry.span("announce", TRACE, T0, T0 + MS)
    assert receiver.wait_for(lambda spans: [s.span.name for s in spans] == ["announce"])
    assert telemetry.close(5) is False
    assert receiver.refused == 1
    assert "400" in caplog.text


def test_a_full_queue_loses_the_newest_counts_them_and_says_so_once(
    black_hole: BlackHole, caplog: pytest.LogCaptureFixture
):
    telemetry = node("node1", otlp_endpoint=black_hole.endpoint, queue_max=10)
    telemetry.span("bind", TRACE, T0, T0 + MS)
    assert black_hole.connected.wait(10)
    for _ in range(100):
        telemetry.span("bind", TRACE, T0, T0 + MS)
    assert telemetry.counts["otlp"].lost == 90
    assert 1 <= len([r for r in caplog.records if r.name == "leaseha.telemetry"]) <= 2
    telemetry.close(0)


def test_a_closed_telemetry_takes_nothing_more_and_raises_nothing(tmp_path: Path):
    telemetry = node("node1", spool_file=tmp_path / "t.jsonl")
    assert telemetry.close(5)
    telemetry.span("bind", TRACE, T0, T0)
    assert telemetry.counts["file"].lost == 1


def test_without_endpoint_and_file_nothing_is_done():
    telemetry = node("node1")
    assert telemetry.span("bind", TRACE, T0, T0) != ""
    assert telemetry.counts == {}
    assert telemetry.close()


# -- what is imported -----------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_an_agent_without_a_collector_never_loads_opentelemetry(tmp_path: Path):
    loaded = run_python(
        "import sys\nfrom leaseha.adapters.telemetry import *\n"
        f"from pathlib import Path\nt = Telemetry(Resource('n', 'c', 'v'), spool_file=Path({str(tmp_path / 't')!r}))\n"
        f"t.root('leaseha.failover', {TRACE!r}, 1, 2)\nt.close(5)\n"
        "print([m for m in ('opentelemetry', 'requests', 'tenacity', 'grpc') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"
    assert len(lines(tmp_path / "t")) == 1


def test_grpc_without_its_extra_is_refused_with_the_remedy():
    said = run_python(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'opentelemetry.exporter.otlp.proto.grpc': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from leaseha.adapters.telemetry import *\nfrom leaseha.errors import ConfigError\n"
        "try: Telemetry(Resource('n', 'c', 'v'), otlp_endpoint='http://127.0.0.1:1', protocol='grpc')\n"
        "except ConfigError as error: print(error)"
    )
    assert said.startswith("telemetry.otlp_protocol = grpc: ")
    assert "leaseha[grpc]" in said


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match=r"telemetry\.otlp_protocol = udp"):
        node("node1", otlp_endpoint="http://127.0.0.1:1", protocol="udp")


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc") is None,
    reason="needs the extra leaseha[grpc]",
)
def test_spans_travel_over_grpc_too(receiver: OtlpReceiver):
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802
            receiver.take(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    telemetry = node("node1", otlp_endpoint=f"http://127.0.0.1:{port}", protocol="grpc")
    telemetry.root("leaseha.failover", TRACE, T0, T0 + MS)
    assert receiver.wait_for(lambda spans: len(spans) == 1, 20)
    assert telemetry.close(5)
    server.stop(0)


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_line_of_the_file_says_all_of_its_span_flat(tmp_path: Path):
    telemetry = node("node1", spool_file=tmp_path / "deep" / "t.jsonl")
    made = telemetry.span(
        "bind", TRACE, T0, T0 + 1_500_000, {"leaseha.lease": "backups", "leaseha.token": 42}
    )
    assert telemetry.close(5)
    assert lines(tmp_path / "deep" / "t.jsonl") == [
        {
            "name": "bind",
            "trace_id": CONTEXT.trace_id,
            "span_id": made.split("-")[2],
            "parent_id": CONTEXT.span_id,
            "node": "node1",
            "cluster": "prod",
            "version": "1.2.3",
            "start_ns": T0,
            "end_ns": T0 + 1_500_000,
            "took_ms": 1.5,
            "status": "unset",
            "leaseha.lease": "backups",
            "leaseha.token": 42,
        }
    ]


def test_the_file_survives_a_restart_and_a_torn_line(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    for start in (1, 2):
        telemetry = node("node1", spool_file=path)
        telemetry.root("leaseha.failover", TRACE, start, start)
        assert telemetry.close(5)
    with path.open("a") as file:
        file.write('{"name":"torn by a cra')
    telemetry = node("node1", spool_file=path)
    telemetry.root("leaseha.failover", TRACE, 3, 3)
    assert telemetry.close(5)
    whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    assert [line["start_ns"] for line in whole] == [1, 2, 3]


def test_the_file_is_bounded_and_keeps_the_newest(tmp_path: Path):
    telemetry = node("node1", spool_file=tmp_path / "t.jsonl", spool_bytes_max=4000, spool_keep=2)
    for number in range(200):
        telemetry.span("bind", TRACE, number, number)
    assert telemetry.close(5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["t.jsonl", "t.jsonl.1", "t.jsonl.2"]
    assert all(path.stat().st_size <= 4000 for path in tmp_path.iterdir())
    kept = [line["start_ns"] for name in reversed(names) for line in lines(tmp_path / name)]
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 20


def test_a_full_disk_loses_spans_and_nothing_else(caplog: pytest.LogCaptureFixture):
    telemetry = node("node1", spool_file=Path("/dev/full"))
    median_s, closed_s = spans_and_close_s(telemetry, 200)
    assert median_s < 0.005
    assert closed_s < 1.5
    assert telemetry.counts["file"].lost == 200
    assert len([record for record in caplog.records if "No space left" in record.message]) == 1


def test_a_disk_that_hangs_holds_up_neither_the_agent_nor_the_collector(
    tmp_path: Path, receiver: OtlpReceiver
):
    """A FIFO that nobody reads takes 64 KiB and then hangs its writer for good."""
    os.mkfifo(tmp_path / "t.jsonl")
    telemetry = node("node1", spool_file=tmp_path / "t.jsonl", otlp_endpoint=receiver.endpoint)
    for number in range(1000):
        telemetry.span("bind", TRACE, number, number)
    assert receiver.wait_for(lambda spans: len(spans) == 1000)
    start = time.perf_counter()
    assert telemetry.close(0.5) is False
    assert time.perf_counter() - start < 2
    assert telemetry.counts["otlp"].lost == 0
    assert telemetry.counts["file"].lost > 0
    with (tmp_path / "t.jsonl").open("rb") as stuck:  # lets the hanging thread go
        stuck.read(1)
