"""Gaps, stays and overlaps from bare instants (here: small numbers of ns)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.lab.recording import Kind, Reader, Record, Recorder, kernel_stamp_ns, pack, unpack
from leaseha.lab.timeline import Overlap, Span, clip, gaps, overlaps, runs


@pytest.mark.parametrize(
    ("sent", "answered", "expected"),
    [
        ([0, 10, 20, 30], [1, 11, 21, 31], []),
        ([0, 10, 20, 30], [1, 31], [(1, 31)]),
        # Late, but before the next one was sent.
        ([0, 10, 20, 30], [1, 11, 29, 31], []),
        # The prober slept: nothing was asked, so nothing was missed.
        ([0, 10, 90, 100], [1, 11, 91, 101], []),
        # All probes were answered, but late, in one burst.
        ([0, 10, 20, 30], [1, 31, 32, 33], [(1, 31)]),
        # A probe on its way is no gap yet; two are.
        ([0, 10, 20], [1, 11], []),
        ([0, 10, 20, 30], [1, 11], [(11, 30)]),
        ([0, 10, 20, 30], [21, 31], [(0, 21)]),
        ([0, 10, 20], [], [(0, 20)]),
        ([], [], []),
    ],
)
def test_a_gap_is_a_silence_in_which_at_least_two_probes_were_sent(sent, answered, expected):
    assert gaps(sent, answered) == [Span(*one) for one in expected]


def test_answers_near_each_other_are_one_stay():
    assert runs([1, 5, 9, 30, 31], hole_ns=5) == [Span(1, 9), Span(30, 31)]
    assert runs([], hole_ns=5) == []


def test_a_window_cuts_spans():
    assert clip([Span(0, 10), Span(20, 30), Span(40, 50)], 5, 40) == [Span(5, 10), Span(20, 30), Span(40, 40)]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"a": [(0, 10)], "b": [(11, 20)]}, []),
        ({"a": [(0, 10)], "b": [(4, 20)]}, [(4, 10, "ab")]),
        ({"a": [(0, 10)], "b": [(5, 5)]}, [(5, 5, "ab")]),
        ({"a": [(0, 10), (20, 30)], "b": [(5, 25)]}, [(5, 10, "ab"), (20, 25, "ab")]),
        (
            {"a": [(0, 30)], "b": [(10, 20)], "c": [(15, 25)]},
            [(10, 15, "ab"), (15, 20, "abc"), (20, 25, "ac")],
        ),
        # Touching counts.
        ({"a": [(0, 10)], "b": [(10, 20)]}, [(10, 10, "ab")]),
        ({}, []),
    ],
)
def test_two_present_at_once_are_an_overlap(present, expected):
    spans = {who: [Span(*one) for one in all_of] for who, all_of in present.items()}
    assert overlaps(spans) == [Overlap(start, end, tuple(who)) for start, end, who in expected]


stays = st.lists(st.integers(0, 60), unique=True, max_size=8).map(
    lambda edges: [Span(*pair) for pair in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


@given(stays, stays, stays)
def test_an_overlap_is_found_exactly_where_two_are_present(a, b, c):
    present = {"a": a, "b": b, "c": c}
    found = overlaps(present)
    for at in range(61):
        there = sum(any(s.start_ns <= at <= s.end_ns for s in spans) for spans in present.values())
        assert (there >= 2) == any(o.start_ns <= at <= o.end_ns for o in found)


def test_a_recording_is_read_while_it_grows_and_a_torn_record_is_left_for_later(tmp_path):
    file = tmp_path / "x.rec"
    reader = Reader(file)
    assert list(reader.records()) == []
    first, second = Record(Kind.SENT, 255, 0, 1, 5), Record(Kind.ANSWER, 2, 1, 1, 7)
    file.write_bytes(pack(first) + pack(second)[:9])
    assert list(reader.records()) == [first]
    file.write_bytes(pack(first) + pack(second))
    assert list(reader.records()) == [first, second]
    assert unpack(pack(second)[:-1]) == []


def test_a_recorder_writes_at_most_fifty_milliseconds_late(tmp_path):
    recorder = Recorder(tmp_path / "x.rec")
    recorder.note(Kind.SENT, 0, 0, 1, 5)
    recorder.flush(50_000_000)
    recorder.note(Kind.SENT, 0, 0, 2, 6)
    recorder.flush(99_999_999)
    assert len(Reader(tmp_path / "x.rec").records()) == 1
    recorder.flush(100_000_000)
    assert len(Reader(tmp_path / "x.rec").records()) == 2


def test_a_packet_without_a_stamp_of_the_kernel_came_now():
    assert kernel_stamp_ns([]) > 0
