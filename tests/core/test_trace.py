"""Trace contexts that both ends of a move derive alike (G7)."""

from __future__ import annotations

import re

from leaseha.core import trace


def test_both_ends_of_a_move_derive_the_same_context() -> None:
    one = trace.of_move("c", "l", 7, 3)

    assert one == trace.of_move("c", "l", 7, 3)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", one)


def test_another_cluster_lease_token_or_session_is_another_trace() -> None:
    contexts = [
        trace.of_move("c", "l", 7, 3),
        trace.of_move("d", "l", 7, 3),
        trace.of_move("c", "m", 7, 3),
        trace.of_move("c", "l", 8, 3),
        trace.of_move("c", "l", 7, 4),
    ]

    assert len({trace.trace_id(context) for context in contexts}) == 5


def test_the_trace_id_is_the_second_part_and_empty_where_there_is_none() -> None:
    assert trace.trace_id("00-abc-def-01") == "abc"
    assert trace.trace_id("") == ""
    assert trace.trace_id("garbage") == ""
