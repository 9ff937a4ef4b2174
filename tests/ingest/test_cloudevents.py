"""CloudEvents: every registered kind comes in through one envelope; what is not clean JSON is refused by the field's name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import Signal, UsageObserved
from postsale.events import Event, registry
from postsale.ingest import ITEM_LIMIT, cloudevents

from .support import CANARY, outcome, said

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "product/usage-observed",
    "source": "app.example",
    "id": "e-1",
    "subject": "cus_42",
    "time": "2026-03-01T12:00:00+01:00",
    "data": {"feature": "export", "count": 3},
}


class SeatsCounted(Signal):
    """A kind of the tests' own, in its second version."""

    wire_name: ClassVar[str] = "ingest-tests/seats-counted@2"
    seats: int
    unit: str


@registry.upcaster("ingest-tests/seats-counted@1", "ingest-tests/seats-counted@2")
def _named_unit(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "unit": "seat"}


class NotASignal(Event):
    """An event that no source may send."""

    wire_name: ClassVar[str] = "ingest-tests/decided@1"


def field_of(event: dict[str, Any]) -> str:
    error = cloudevents.signals(event).error
    assert error is not None
    return str(error.fields()["field"])


def test_the_attributes_become_the_signal_and_its_customer() -> None:
    item = cloudevents.signals(EVENT | {"sequence": "00017", "contact": "con_7", "availableat": "2026-03-02T00:00:00Z"})
    expected = UsageObserved(
        source="app.example",
        id="e-1",
        occurred_at=datetime(2026, 3, 1, 11, 0, tzinfo=UTC),
        available_at=datetime(2026, 3, 2, tzinfo=UTC),
        order="00017",
        contact="con_7",
        feature="export",
        count=3,
    )
    assert item.signals == (expected,)
    assert (item.customer, item.source, outcome(item)) == (ExternalId("customer", "", "cus_42"), "app.example", "signals")


def test_a_type_without_a_version_is_the_newest_and_an_old_version_is_upcast() -> None:
    newest = cloudevents.signals(EVENT | {"type": "ingest-tests/seats-counted", "data": {"seats": 3, "unit": "desk"}})
    old = cloudevents.signals(EVENT | {"type": "ingest-tests/seats-counted@1", "data": {"seats": 3}})
    assert [s.model_dump(include={"seats", "unit"}) for s in (*newest.signals, *old.signals)] == [
        {"seats": 3, "unit": "desk"},
        {"seats": 3, "unit": "seat"},
    ]


@pytest.mark.parametrize("name", ["product/usage-imagined", "product/usage-observed@9", "os/system@1"])
def test_an_unknown_kind_or_version_is_refused_and_named(name: str) -> None:
    item = cloudevents.signals(EVENT | {"type": name})
    assert item.error is not None
    assert item.error.fields()["field"] == "type"
    assert name in str(item.error)


@pytest.mark.parametrize("name", ["ingest-tests/decided@1", "os.system", f"x/{CANARY}", "product/usage-observed@1\n", "a" * 10_000 + "/b"])
def test_a_type_that_is_no_signal_is_refused(name: str) -> None:
    item = cloudevents.signals(EVENT | {"type": name})
    assert item.error is not None
    assert len(str(item.error)) < 500
    assert CANARY not in said(item)


def test_a_registered_event_that_is_not_a_signal_cannot_be_sent_by_a_source() -> None:
    error = cloudevents.signals(EVENT | {"type": "ingest-tests/decided@1", "data": {}}).error
    assert error is not None
    assert error.fields()["reason"] == "ingest-tests/decided@1 is not a signal: a source cannot send it"


def test_an_event_beyond_the_size_limit_is_refused_unparsed() -> None:
    item = cloudevents.item(json.dumps(EVENT).encode() + b" " * ITEM_LIMIT)
    assert item.error is not None
    assert item.error.fields()["reason"] == f"longer than {ITEM_LIMIT} bytes"


@pytest.mark.parametrize("name", ["specversion", "type", "source", "id", "subject", "time"])
def test_a_required_attribute_is_required(name: str) -> None:
    assert field_of({key: value for key, value in EVENT.items() if key != name}) == name
    assert field_of(EVENT | {name: ""}) == name
    assert field_of(EVENT | {name: 7}) == name


@pytest.mark.parametrize(
    ("over", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"time": "2026-03-01T12:00:00"}, "time"),
        ({"time": "1700000000"}, "time"),
        ({"time": "2026-02-30T12:00:00Z"}, "occurred_at"),
        ({"data": [1]}, "data"),
        ({"data": {}}, "feature"),
        ({"data": {"feature": "x", "count": -1}}, "count"),
        ({"data": {"feature": "x", "count": 2**60}}, "data.count"),
        ({"data": {"feature": "x", "count": float("nan")}}, "data.count"),
        ({"data": {"feature": "x", "count": float("inf")}}, "data.count"),
        ({"data": {"feature": "x", "id": "other"}}, "data.id"),
        ({"data": {"feature": "x", "surprise": 1}}, "data.surprise"),
        ({"data": {"feature": "x\0"}}, "data.feature"),
        ({"data": {"feature": "x\ud800"}}, "data.feature"),
        ({"data": {"feature": "x\u202e"}}, "feature"),
        ({"data_base64": "AA=="}, "data_base64"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"subject": "a" * 201}, "subject"),
        ({"subject": " cus_42"}, "subject"),
        ({"sequence": 17}, "sequence"),
        ({"availableat": "tomorrow"}, "availableat"),
        ({"data": {"feature": "x", CANARY: 1}}, "data.(a field)"),
        ({CANARY: float("nan")}, "(a field)"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(over: dict[str, Any], field: str) -> None:
    assert field_of(EVENT | over) == field
    assert CANARY not in said(cloudevents.signals(EVENT | over))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"id": "a", "id": "b"}', "id"),
        ('{"data": {"x": [{"y": 1, "y": 1}]}}', "data.x.0.y"),
        (f'{{"{CANARY}": 1, "{CANARY}": 2}}', "(a field)"),
        ('{"data": {"n": NaN}}', "data.n"),
        ('{"data": {"n": -Infinity}}', "data.n"),
        ('{"data": {"n": 1e400}}', "data.n"),
        ('{"data": {"n": 1152921504606846976}}', "data.n"),
        ('{"data": {"t": "\\u0000"}}', "data.t"),
        ('{"data": {"t": "\\ud800"}}', "data.t"),
        ('{"data": ' + "[" * 70 + "]" * 70 + "}", "data" + ".0" * 63),
        ("[" * 100_000, "(whole)"),
        ('{"id": "a"', "(whole)"),
        ("[]", "(whole)"),
    ],
)
def test_json_that_two_readers_could_understand_differently_is_refused_by_its_path(text: str, field: str) -> None:
    item = cloudevents.item(text.encode())
    assert item.error is not None
    assert item.error.fields()["field"] == field
    assert CANARY not in said(item)


def test_invalid_utf8_is_refused_and_a_byte_order_mark_is_not() -> None:
    raw = json.dumps(EVENT).encode()
    assert outcome(cloudevents.item(b"\xef\xbb\xbf" + raw)) == "signals"
    assert outcome(cloudevents.item(raw.replace(b"export", b"exp\xffrt"))) == "error"


def test_trace_context_and_other_delivery_attributes_are_no_content() -> None:
    again = EVENT | {"traceparent": "00-1", "knativearrivaltime": "2026-03-01T12:00:01Z"}
    assert cloudevents.signals(EVENT).source_item == cloudevents.signals(again).source_item
    corrected = EVENT | {"data": {"feature": "export", "count": 4}}
    assert cloudevents.signals(EVENT).source_item != cloudevents.signals(corrected).source_item


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just(CANARY), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*EVENT, "sequence", "contact", "data_base64", CANARY]), JSON, max_size=4))
def test_any_attribute_may_be_anything_and_the_result_is_one_item_that_says_no_value(over: dict[str, Any]) -> None:
    item = cloudevents.signals(EVENT | over)
    if outcome(item) == "error":
        assert CANARY not in said(item)
    raw = json.dumps(EVENT | over).encode()
    assert outcome(cloudevents.item(raw)) in ("signals", "error")


@given(st.binary(max_size=60))
def test_any_bytes_are_one_item(raw: bytes) -> None:
    assert outcome(cloudevents.item(raw)) == "error"
