"""Durations read as a person writes them, and are written so that they read back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaseha.config.durations import format_duration, parse_duration

MS, S = 10**6, 10**9


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("200ms", 200 * MS),
        ("5s", 5 * S),
        ("1m30s", 90 * S),
        ("2h", 7200 * S),
        ("1h1m1s1ms1us", 3661 * S + MS + 1000),
        ("1.5s", 1500 * MS),
        ("0.25ms", 250_000),
        ("1m0.5s", 60_500 * MS),
        ("0s", 0),
        ("090s", 90 * S),
    ],
)
def test_a_duration_is_read_in_nanoseconds(text: str, expected_ns: int):
    assert parse_duration(text) == expected_ns


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "with its unit"),
        ("5", '"5s" for seconds'),
        ("5 s", "not a duration"),
        (" 5s", "not a duration"),
        ("5S", "not a duration"),
        ("5s5s", "not a duration"),
        ("5s1m", "not a duration"),
        ("1.5m3s", "only the last number"),
        ("-5s", "cannot be negative"),
        ("+5s", "not a duration"),
        ("5sec", "not a duration"),
        ("1e3s", "not a duration"),
        ("٣s", "not a duration"),
        ("0.0001us", "finer than a nanosecond"),
        ("9" * 60 + "s", "with its unit"),
        ("5s\n", "not a duration"),
    ],
)
def test_what_is_no_duration_says_what_to_write(text: str, remedy: str):
    with pytest.raises(ValueError, match=remedy):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**18))
@example(0)
@example(1)
@example(999_999_999)
@example(3600 * S)
def test_what_is_written_reads_back(duration_ns: int):
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@given(st.text(max_size=50))
def test_any_text_is_a_duration_or_a_value_error(text: str):
    why = ""
    found = -1
    try:
        found = parse_duration(text)
    except ValueError as e:
        why = str(e)

    assert (found >= 0) != bool(why)


@given(st.lists(st.sampled_from(["1", "30", "2.5", "h", "m", "s", "ms", "us"]), max_size=6).map("".join))
def test_a_text_that_is_read_is_written_as_the_same_duration(text: str):
    try:
        found = parse_duration(text)
    except ValueError:
        return
    assert parse_duration(format_duration(found)) == found
