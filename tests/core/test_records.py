"""Keys and JSON of what stands in etcd (design 4.1): a round trip, and no garbage that raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.core import records, view
from leaseha.core.records import (
    ClaimRecord,
    HistoryRecord,
    Hold,
    InsyncRecord,
    IntentRecord,
    Kind,
    Life,
    NodeRecord,
    Record,
    SessionRecord,
)

KINDS: list[type[Any]] = [SessionRecord, ClaimRecord, InsyncRecord, IntentRecord, NodeRecord, HistoryRecord]
TEXT, NUMBER = st.text(max_size=8), st.integers(min_value=-(2**63), max_value=2**63)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        SessionRecord, st.sampled_from(Life), TEXT, TEXT, TEXT, NUMBER, NUMBER, NUMBER, TEXT
    ),
    st.builds(
        ClaimRecord, st.sampled_from(Hold), TEXT, NUMBER, st.sampled_from(Kind), TEXT, TEXT, NUMBER, TEXT
    ),
    st.builds(InsyncRecord, st.frozensets(TEXT)),
    st.builds(IntentRecord, st.sampled_from(Kind), TEXT, NUMBER, TEXT, TEXT, TEXT, TEXT),
    st.builds(
        NodeRecord, TEXT, NUMBER, TEXT,
        priorities=st.none() | st.dictionaries(TEXT, NUMBER),
        ineligible=st.none() | st.dictionaries(TEXT, TEXT),
        digests=st.none() | st.dictionaries(TEXT, TEXT),
    ),
    st.builds(HistoryRecord, NUMBER, st.sampled_from(Kind), TEXT, TEXT, TEXT, NUMBER, TEXT, NUMBER, st.booleans()),
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(RECORDS)
def test_what_is_written_is_read_back_the_same(record: Record) -> None:
    assert records.decode(type(record), records.encode(record)) == record


@given(RECORDS, st.sampled_from(["laterField", "x"]))
def test_a_field_of_a_later_version_is_passed_over(record: Record, name: str) -> None:
    value = json.dumps({**json.loads(records.encode(record)), name: [1, {}]})

    assert records.decode(type(record), value) == record


@pytest.mark.parametrize("kind", KINDS)
@given(value=TEXT | JSON.map(json.dumps))
def test_no_garbage_raises(kind: type[Any], value: str) -> None:
    """Written by hand or by a later version: someone's, not mine."""
    found = records.decode(kind, value)

    assert found is None or isinstance(found, kind)


@given(RECORDS, st.data())
def test_a_field_of_another_type_makes_the_record_unreadable(record: Record, data: st.DataObject) -> None:
    fields = json.loads(records.encode(record))
    name = data.draw(st.sampled_from(sorted(record.__dataclass_fields__)))
    found = records.decode(type(record), json.dumps({**fields, name: 1.5}))

    assert found is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SessionRecord, '{"life":"asleep","node":"a"}'),
        (SessionRecord, '{"life":"live","node":"a","sequence":true}'),
        (SessionRecord, '{"life":"live"}'),
        (InsyncRecord, '{"stores":["a",1]}'),
        (NodeRecord, '{"node":"a","session":1,"store":"s","priorities":{"l":"high"}}'),
        (NodeRecord, '{"node":"a","session":1,"store":"s","digests":{"l":1}}'),
        (ClaimRecord, "[" * 100_000),
        (ClaimRecord, "[]"),
        (ClaimRecord, "7"),
        (ClaimRecord, ""),
        (NodeRecord, '{"node":"a","session":1,"priorities":{"l":"high"}}'),
    ],
)
def test_a_value_that_is_no_such_record_is_none(kind: type[Any], value: str) -> None:
    assert records.decode(kind, value) is None


def test_defaults_are_left_out_and_the_order_is_fixed() -> None:
    record = ClaimRecord(Hold.HELD, node="a", session=5)

    assert records.encode(record) == '{"hold":"held","node":"a","session":5}'
    assert records.encode(InsyncRecord(frozenset("ba"))) == '{"stores":["a","b"]}'


def test_a_nonce_is_incarnation_and_sequence() -> None:
    """A12: the sequence alone does not name a write, since another process may count on."""
    assert SessionRecord(Life.LIVE, "a", incarnation="i", sequence=3).nonce() == ("i", 3)


def test_the_view_finds_each_key_where_the_record_module_puts_it() -> None:
    assert view.place(records.node_key("a"))[1:] == ("nodes", "a")
    assert view.place(records.session_key(255))[1:] == ("sessions", 255)
    assert view.place(records.claim_key("l"))[1:] == ("claims", "l")
    assert view.place(records.insync_key("l"))[1:] == ("insyncs", "l")
    assert view.place(records.intent_key("l"))[1:] == ("intents", "l")
    assert view.place(records.history_key("l", 7))[1:] == ("l", ("l", f"{7:020d}"))
    assert records.session_key(255) == "sessions/00000000000000ff"


@pytest.mark.parametrize(
    "key",
    ["", "x", "nodes/", "sessions/ff", "sessions/00000000000000FF", "leases/l", "leases/l/x",
     "leases/l/history/", "leases/l/history/x", "leases/l/history/²", "other/l/claim"],
)  # fmt: skip
def test_a_foreign_key_is_passed_over(key: str) -> None:
    assert view.place(key) == (None, "", "")
