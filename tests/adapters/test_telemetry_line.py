"""The JSON line of a span: one line, of the span's own fields and of whatever attributes it has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.adapters.telemetry import Resource
from leaseha.adapters.telemetry.spans import FinishedSpan, Moment, clean, text, to_json

ANYTHING = st.text(st.characters(), max_size=10)  # lone surrogates, line ends and zeros among them
OWN = {"name": "x", "trace_id": "1" * 32, "span_id": "2" * 16, "start_ns": 0, "end_ns": 1, "node": "n"}


@given(
    st.dictionaries(
        ANYTHING | st.sampled_from([*OWN, "events"]),
        st.none() | st.booleans() | st.integers() | st.floats() | ANYTHING | st.lists(st.integers()),
    )
)
def test_whatever_the_attributes_are_the_line_is_json_that_says_them(attributes: dict[str, object]):
    kept = {text(name): value for name, value in clean(attributes).items()}
    line = to_json(
        FinishedSpan("x", "1" * 32, "2" * 16, "", 0, 1, kept, moments=(Moment("m", 1, {}),)),
        Resource("n", "c", "v"),
    )
    said = json.loads(line.encode("utf-8"), parse_constant=pytest.fail)

    assert "\n" not in line
    assert {name: said[name] for name in OWN} == OWN
    assert said["events"] == [{"name": "m", "at_ns": 1}]
    others = {name: value for name, value in kept.items() if name not in {*OWN, "events"}}
    assert {name: said[name] for name in others} == others
    assert {type(said[name]) for name in others} <= {str, bool, int, float}
