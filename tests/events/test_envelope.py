"""The header and the envelope's fields come back exactly as they were written."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from postsale.aggregates import decisions
from postsale.aggregates.signals import InvoicePaid, TicketOpened
from postsale.errors import InvalidInput
from postsale.events import (
    MASKED,
    MAX_INT,
    SYSTEM,
    Actor,
    Event,
    Header,
    Origin,
    decode,
    encode_payload,
    invalid_input,
    iso,
    registry,
    schema_digest,
    to_us,
)

from .kinds import Everything, stored

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
headers = st.builds(
    Header,
    actor=st.builds(Actor, texts, texts),
    origin=st.sampled_from(Origin),
    source=texts,
    source_id=texts,
    signal_index=st.integers(0, MAX_INT),
    source_order=texts,
    available_at_us=st.none() | st.integers(-MAX_INT, MAX_INT) | st.just(0),
    raw_mac=texts,
    content_key=texts,
    causation_id=st.none() | st.uuids() | st.just(UUID(int=0)),
    correlation_id=st.none() | st.uuids(),
    depth=st.integers(0, MAX_INT),
    trace=texts,
    subjects=st.lists(texts, max_size=3).map(tuple),
    sealed=st.dictionaries(texts, st.tuples(texts, texts), max_size=3),
)


@given(headers)
def test_a_header_read_back_is_the_header_that_was_written(header: Header) -> None:
    raw = header.to_bytes()
    assert Header.from_bytes(raw) == header
    assert Header.from_bytes(raw).to_bytes() == raw


def test_what_is_at_its_default_is_not_written() -> None:
    assert orjson.loads(Header(actor=SYSTEM).to_bytes()) == {"v": 1, "actor": ["system", "postsale"], "origin": "live"}


def test_a_header_of_a_later_version_is_not_guessed_at() -> None:
    raw = Header(actor=SYSTEM).to_bytes().replace(b'"v":1', b'"v":2')
    with pytest.raises(InvalidInput, match="later version") as caught:
        decode(stored(Everything.wire_name, b"{}")._replace(header=raw))
    assert caught.value.field == "header"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"v":1}',
        b'{"v":1,"actor":3}',
        b'{"v":1,"actor":["a","b"],"origin":"mars"}',
        b'{"v":1,"actor":["a","b"],"origin":"live","more":1}',
        b'{"v":1,"actor":["a","b"],"origin":"live","causation_id":"x"}',
    ],
)
def test_a_header_that_cannot_be_read_is_a_typed_error_that_names_the_event(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"tests\.events/everything@1 at position 6\.header"):
        decode(stored(Everything.wire_name, b"{}", position=6)._replace(header=raw))


@given(headers)
def test_a_recorded_event_has_the_whole_header(header: Header) -> None:
    event = stored(Everything.wire_name, b"{}", header)
    recorded = decode(event)
    assert (recorded.header, recorded.stored, recorded.data) == (header, event, Everything())
    assert recorded.header is recorded.header
    assert recorded == decode(event)
    assert hash(recorded) == hash(decode(event))
    assert recorded != decode(event._replace(position=6))
    assert repr(recorded.header) in repr(recorded)


instants = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1), timezones=st.just(UTC))


@given(instants, st.none() | instants, st.none() | st.sampled_from(["0001", "2026-03", "é"]))
def test_the_fields_kept_in_the_envelope_come_back_with_the_signal(at: datetime, available: datetime | None, order: str | None) -> None:
    signal = InvoicePaid(source="stripe", id="evt_1", occurred_at=at, available_at=available, order=order, amount_minor=1, currency="EUR")
    header = Header(
        actor=Actor("source", "stripe"),
        source=signal.source,
        source_id=signal.id,
        source_order=signal.order or "",
        available_at_us=to_us(signal.available_at) if signal.available_at else None,
    )
    data = encode_payload(signal)
    assert set(orjson.loads(data)).isdisjoint(InvoicePaid.envelope_fields)
    recorded = decode(stored(signal.wire_name, data, header, occurred_at_us=to_us(at)))
    assert recorded.data == signal
    assert recorded.occurred_at == at


names = st.sampled_from(["amount_minor", "currency", "invoice_id", "items", "source", "id", "occurred_at", "contact", "order", "more"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(7)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["EUR", "in_1", "\ud800", "2026-01-01T00:00:00Z", "20240101", "5"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
good: dict[str, Any] = {"amount_minor": 5, "currency": "EUR"}


@given(
    st.lists(st.tuples(names, values), max_size=3).map(lambda more: [*good.items(), *more])
    | st.lists(st.tuples(names, values), max_size=4),
    st.sampled_from(["stripe", "", " ", "é"]),
    st.none() | instants,
    st.sampled_from([0, 1_790_000_000_000_001, -(10**16), 2**62, 2**63 - 1]),
)
def test_a_signal_is_read_as_strictly_as_from_its_whole_json(
    members: list[tuple[str, Any]], source: str, available: datetime | None, at_us: int
) -> None:
    """Whatever a damaged payload holds: NaN, a member twice, a member of the envelope, another type, a lone surrogate."""

    def text(members: list[tuple[str, Any]]) -> str:
        return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}"

    header = Header(actor=SYSTEM, source=source, source_id="1", available_at_us=None if available is None else to_us(available))
    event = stored(InvoicePaid.wire_name, text(members).encode(), header, position=9, occurred_at_us=at_us)

    def by_the_book() -> Event:
        envelope = {"source": source, "id": "1", "occurred_at": iso(at_us)} | ({"available_at": iso(to_us(available))} if available else {})
        try:
            return InvoicePaid.model_validate_json(text([*members, *envelope.items()]))
        except ValidationError as error:
            raise invalid_input("billing/invoice-paid@1 at position 9", error) from None

    def outcome(read: Callable[[], Event]) -> object:
        try:
            return read()
        except InvalidInput as error:
            return re.sub(r" at line \d+ column \d+", "", str(error))  # where in the JSON differs

    expected = outcome(by_the_book)
    assert outcome(lambda: decode(event).data) == expected
    if isinstance(expected, Event):
        assert decode(event).data.model_fields_set == expected.model_fields_set


def test_without_the_right_to_unseal_a_personal_field_is_masked() -> None:
    header = Header(actor=SYSTEM, source="zendesk", source_id="1", sealed={"subject": ("person", "key")})
    data = b'{"ticket_id":"t","subject":{"$sealed":"1.abc"}}'
    signal = decode(stored(TicketOpened.wire_name, data, header)).data
    assert isinstance(signal, TicketOpened)
    assert signal.subject is MASKED


def test_an_unsealer_is_asked_only_where_something_is_sealed() -> None:
    def must_not_be_asked(*_: Any) -> bytes:
        raise AssertionError("asked")

    assert decode(stored(Everything.wire_name, b"{}"), must_not_be_asked).data == Everything()


def test_a_recorded_event_tells_when_it_happened_and_when_it_was_known() -> None:
    recorded = decode(stored(Everything.wire_name, b"{}", position=7, occurred_at_us=1_000_000))
    assert recorded.occurred_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert recorded.recorded_at - recorded.occurred_at == timedelta(microseconds=7 - 1_000_000)
    assert (recorded.position, recorded.event_id, recorded.stored.tenant) == (7, UUID(int=7), "acme")
    assert iso(recorded.stored.occurred_at_us) == "1970-01-01T00:00:01.000000Z"


def test_every_registered_kind_has_a_schema_digest_of_its_own_shape() -> None:
    kinds: list[type[Event]] = [registry.get(name) for name in registry if not name.startswith("tests.")]
    assert decisions.DecisionRecorded in kinds
    assert all(len(schema_digest(kind)) == 16 for kind in kinds)
    assert len({schema_digest(kind) for kind in kinds}) == len(kinds)
