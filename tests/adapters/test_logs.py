import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from leaseha.adapters import logs
from leaseha.adapters.logs import Logs
from leaseha.core.effects import Transitioned
from leaseha.core.records import HistoryRecord
from leaseha.core.trace import of_move, trace_id
from leaseha.core.values import Instant
from tests.adapters.traced import TracedWorld

TRACE = of_move("prod", "backups", 41, 1001)
TOP = Path(__file__).resolve().parents[2]
SILENT = Transitioned(
    "backups", "S-silent", "STANDBY", "CLAIMING", "holder silent: take the lease", "node1 silent for 6512 ms",
    0, TRACE, Instant(1, 1),
)  # fmt: skip
HISTORY = HistoryRecord(
    42,
    "failover",
    "node1 silent for 6512 ms",
    "node1",
    "node2",
    1_780_000_000_000,
    trace_id(TRACE),
    6530,
    True,
)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """What is logged by a call, as written."""
    path = tmp_path / "log"

    def logged(call: Callable[[], object], **options: object) -> list[str]:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        made = Logs(node="node2", cluster="prod", fd=fd, **options)  # type: ignore[arg-type]
        try:
            call()
        finally:
            made.close(5)
            os.close(fd)
        return path.read_text().splitlines()

    return logged  # type: ignore[return-value]


def test_a_transition_is_one_line_with_its_reason(lines):
    (line,) = lines(lambda: logs.transition_line(SILENT))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    node2 backups: "
        r"holder silent: take the lease \(node1 silent for 6512 ms\) "
        rf"\[STANDBY -> CLAIMING, S-silent, trace {TRACE[3:11]}\]",
        line,
    )


def test_a_transition_as_json_says_the_same_in_fields(lines):
    (line,) = lines(lambda: logs.transition_line(SILENT), form="json")
    fields = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields.pop("ts"))
    assert "holder silent" in fields.pop("message")
    assert fields == {
        "level": "info",
        "node": "node2",
        "cluster": "prod",
        "lease": "backups",
        "logger": "leaseha.moves",
        "event": "transition",
        "row": "S-silent",
        "role_from": "STANDBY",
        "role_to": "CLAIMING",
        "reason": "holder silent: take the lease",
        "detail": "node1 silent for 6512 ms",
        "token": 0,
        "trace_id": trace_id(TRACE),
    }


def test_phases_moves_and_warnings_have_units_at_the_end_of_their_fields(lines):
    def say() -> None:
        logs.phase_line("backups", "bind", 3.14159, trace_id(TRACE), "node2:backups")
        logs.phase_line("backups", "announce", 1.0, trace_id(TRACE), "no carrier", ok=False)
        logs.move_line("backups", HISTORY)
        logs.warning_line("backups", "VIP missing", "someone removed it")
        logs.unknown_line("T2 renew", 0, 300.0, "deadline")

    bind, announce, move, warning, unknown = map(json.loads, lines(say, form="json", level="debug"))
    assert (bind["event"], bind["phase"], bind["took_ms"], bind["ok"]) == ("phase", "bind", 3.142, True)
    assert (announce["level"], announce["ok"], announce["detail"]) == ("warning", False, "no carrier")
    assert (move["event"], move["kind"], move["gap_ms"], move["token"]) == ("move", "failover", 6530, 42)
    assert (warning["event"], warning["level"], warning["what"]) == ("warning", "warning", "VIP missing")
    assert (unknown["event"], unknown["level"], unknown["lease"]) == ("unknown", "debug", "")


def test_a_node_that_takes_its_own_lease_back_has_resumed_it(lines):
    own = replace(HISTORY, from_node=HISTORY.to_node)

    (said,) = lines(lambda: logs.move_line("backups", own))

    assert f"first answer: resumed by {own.to_node}, {own.gap_ms} ms without service" in said
    assert "failover from" not in said


def test_a_person_can_follow_a_failover_from_the_silence_to_the_first_answer(lines):
    def failover() -> None:
        world = TracedWorld()
        world.start()
        world.run(2)
        world.kill("a")
        world.settle()

    said = lines(failover)
    after = said[next(i for i, line in enumerate(said) if "holder silent" in line) :]
    told = [re.sub(r"^\S+ \S+ INFO    node2 l: ", "", line) for line in after]
    assert [re.match(r"[a-zA-Z. ]+", line)[0].strip() for line in told] == [
        "holder silent for its ttl and margin",
        "the claim is proven",
        "claim took",
        "resource.start took",
        "bind took",
        "gate.open took",
        "announce took",
        "the VIP is bound and announced",
        "first answer",
    ]
    assert "a silent for 65" in told[0]
    assert re.search(r"failover from a to b is over, 65\d\d ms without service", told[-1])


def test_a_level_leaves_out_what_is_below_it(lines):
    def say() -> None:
        logs.transition_line(SILENT)
        logs.warning_line("", "low disk", "")

    (line,) = lines(say, level="warning")
    assert line.endswith("WARNING node2: low disk")


def test_libraries_are_heard_from_warnings_on_only(lines):
    def say() -> None:
        logging.getLogger("grpc").info("chatter")
        logging.getLogger("grpc").warning("GOAWAY")
        warnings.warn("old certificate", stacklevel=1)

    said = lines(say)
    assert "chatter" not in "".join(said)
    assert any(line.endswith("node2: GOAWAY") for line in said)
    assert any("old certificate" in line for line in said)


def test_an_exception_is_one_line_without_a_traceback(lines):
    def fail() -> None:
        try:
            raise ValueError("no\nsuch thing")
        except ValueError:
            logging.getLogger("leaseha.x").exception("it failed")

    (human,) = lines(fail)
    assert re.search(r"it failed: ValueError: no \| such thing \(test_logs\.py:\d+\)$", human)
    (line,) = lines(fail, form="json")
    assert json.loads(line)["error"].startswith("ValueError: no | such thing (test_logs.py:")


def test_what_comes_from_outside_cannot_forge_a_line(lines):
    forged = "x\n2026-11-22 00:00:00.000 INFO    node1 backups: all is well\x1b[2J\udc80"
    for form in ("human", "json"):
        (line,) = lines(lambda: logs.warning_line("backups", "odd", forged), form=form)
        assert "\x1b" not in line


def test_a_malformed_call_costs_its_own_line_and_no_traceback(lines, capfd: pytest.CaptureFixture[str]):
    def say() -> None:
        logging.getLogger("leaseha.x").warning("%d things", "many")
        logging.getLogger("leaseha.x").warning("after")

    said = lines(say)
    assert "malformed log call at" in said[0]
    assert said[1].endswith("after")
    assert capfd.readouterr().err == ""


@pytest.fixture
def stuck() -> Iterator[tuple[int, int]]:
    """A pipe that is full and that nobody reads, yet."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"\n" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    yield reading, writing
    os.close(reading)


def test_a_stuck_pipe_blocks_neither_the_caller_nor_the_end(stuck: tuple[int, int]):
    reading, writing = stuck
    made = Logs(node="node2", cluster="prod", fd=writing, queue_max=100)
    took_s = []
    for _ in range(1000):
        start = time.perf_counter()
        logs.transition_line(SILENT)
        took_s.append(time.perf_counter() - start)
    start = time.perf_counter()
    assert made.close(0.3) is False
    assert time.perf_counter() - start < 1.5
    assert sorted(took_s)[500] < 0.005
    assert made.counts.offered == 1000
    assert made.counts.lost == 1000
    os.set_blocking(reading, False)
    while os.read(reading, 1 << 20) == b"":
        pass


def test_once_the_pipe_is_read_again_the_log_says_what_was_dropped(stuck: tuple[int, int]):
    reading, writing = stuck
    made = Logs(node="node2", cluster="prod", fd=writing, queue_max=100)
    for _ in range(300):
        logs.transition_line(SILENT)
    lost = made.counts.lost
    assert lost >= 100
    said = b""
    while said.count(b"S-silent") < 300 - lost:
        said += os.read(reading, 1 << 20)
    assert b" log lines were dropped here: the reader was too slow\n" in said
    made.close(5)
    os.close(writing)


def test_a_process_with_a_stuck_pipe_ends(stuck: tuple[int, int]):
    """Also through the interpreter's own end, which waits for the lock of its buffers."""
    _, writing = stuck
    code = (
        "from leaseha.adapters import logs\n"
        f"made = logs.Logs(node='n', cluster='c', fd={writing})\n"
        "for _ in range(100): logs.warning_line('l', 'x', 'y')\n"
        "made.close(0.2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TOP,
        pass_fds=[writing],
        timeout=30,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_pipe_is_no_reason_to_fail():
    reading, writing = os.pipe()
    os.close(reading)
    made = Logs(node="node2", cluster="prod", fd=writing)
    logs.transition_line(SILENT)
    assert made.close(5) is False
    os.close(writing)


def test_closing_gives_logging_back_as_it_was(lines):
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    lines(lambda: None)
    assert (root.handlers[:], root.level) == before
