"""Each move is exactly one connected trace in a real collector; a dead collector delays no move and no stop."""

import contextlib
import statistics

import pytest

from chaos import traces
from tests.e2e.cluster import assert_no_traceback, wait_logged

pytestmark = [pytest.mark.netns, pytest.mark.lab]

TRANSITIONS = 8


@pytest.fixture(scope="module")
def found() -> dict[str, traces.Found]:
    """What the same transitions came to with a collector that answers, and with one that does not."""
    return {}


def test_each_of_eight_moves_is_one_connected_trace_of_all_that_took_part(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    with traces.cluster(folder) as lab, contextlib.closing(traces.collect(lab)) as receiver:
        live = found["live"] = traces.run(lab, TRANSITIONS)
        traces.judge(live, receiver)

    assert live.faults == []
    assert all(count >= 4 for count in live.spans.values())
    assert_no_traceback(folder)


def test_a_collector_that_never_answers_delays_no_move_and_no_stop(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hole")
    with traces.cluster(folder) as lab:
        lab.host(traces.COLLECTOR).cut_silent()
        hole = traces.run(lab, len(traces.CYCLE))
        wait_logged(lab, traces.OTHER, "WARNING", "10.77.0.1:4318")

    assert hole.faults == []
    assert all(one.stop_s < 3 for one in hole.transitions if one.stop_s is not None)
    if "live" in found:
        for act in set(traces.CYCLE):
            with_it, without = (
                statistics.median(one.gap_ms for one in run.transitions if one.act == act)
                for run in (found["live"], hole)
            )
            assert without < 2 * with_it + 200
    assert_no_traceback(folder)
