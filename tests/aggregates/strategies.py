"""Strategies for events of any kind, built from the types of their fields, and the stored form without a store.

A kind that is added to the closed union is covered without a change here.
"""

import types
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Union, get_args, get_origin
from uuid import UUID

from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from postsale.aggregates.decisions import CustomerEvent
from postsale.aggregates.signals import Signal
from postsale.events import SYSTEM, Actor, Event, Header, Id, Lane, Masked, StoredEvent, StreamId, derive_id, encode_payload, from_us, to_us

STREAM = StreamId("acme", "customers", "c1")
START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = to_us(START)
CUSTOMER_EVENTS: tuple[type[Event], ...] = get_args(CustomerEvent)

# Few values, so that independent events meet: the same decision, the same intent, the same agent.
FEW_IDS = [UUID(int=n) for n in range(1, 5)]


class Visited(Signal):
    """A kind of fact that only these tests declare: the aggregate must not need to know it."""

    wire_name: ClassVar[str] = "tests.aggregates/visited@1"
    page: Id


instants = st.datetimes(START.replace(tzinfo=None), datetime(2027, 1, 1), timezones=st.just(UTC))
names = st.sampled_from(["a", "b", "renewal-rescue", "email", "Zoë", "crm/renewal-due", "x" * 200])
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


def a(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if hasattr(annotation, "__metadata__"):
        return a(get_args(annotation)[0], (*annotation.__metadata__, *metadata))
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, types.UnionType):
        return st.one_of([a(t, metadata if t is not type(None) else ()) for t in inner if t is not Masked])
    if origin is tuple:
        return st.lists(a(inner[0]), min_size=_bound(metadata, "min_length", 0), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(a(inner[0]), a(inner[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return build(annotation)
    if annotation is str:
        return _strings(metadata)
    if annotation is int:
        low, high = _bound(metadata, "ge", -5), _bound(metadata, "le", 1_000_000)
        return st.integers(low, min(high, low + 1_000_000))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        UUID: st.sampled_from(FEW_IDS),
        datetime: instants,
        type(None): st.none(),
    }
    return simple[annotation]


def _strings(metadata: tuple[Any, ...]) -> st.SearchStrategy[str]:
    marks = [m for part in metadata for m in (part.metadata if isinstance(part, FieldInfo) else [part])]
    checks = {m.func.__name__ for m in marks if isinstance(m, AfterValidator)}
    if any(getattr(m, "pattern", None) for m in marks):
        return st.sampled_from(["0" * 64, "af" * 32])
    if "_check_currency" in checks:
        return st.sampled_from(["EUR", "JPY"])
    if "_check_zone" in checks:
        return st.sampled_from(["Europe/Berlin", "UTC"])
    return names if "_check_id" in checks else texts


def _bound(metadata: tuple[Any, ...], name: str, default: int) -> int:
    marks = [m for part in metadata for m in (part.metadata if isinstance(part, FieldInfo) else [part])]
    return next((int(getattr(m, name)) for m in marks if getattr(m, name, None) is not None), default)


def build(cls: type[BaseModel], **fixed: Any) -> st.SearchStrategy[Any]:
    """Instances of a model; `fixed` values stay."""
    made = {n: a(i.annotation, tuple(i.metadata)) for n, i in cls.model_fields.items() if n not in fixed}
    return st.fixed_dictionaries(made).map(lambda values: cls(**values, **fixed))


customer_events = st.sampled_from(CUSTOMER_EVENTS).flatmap(build)


def decision_event(event: Event, position: int, *, version: int, event_id: UUID | None = None, at_us: int | None = None) -> StoredEvent:
    """An event of the decision lane as a store would hand it back."""
    at_us = START_US + position if at_us is None else at_us
    return _stored(
        event, Lane.DECISION, position, version, event_id or derive_id("decision", position), at_us, Header(actor=SYSTEM), STREAM
    )


def fact(signal: Signal, position: int, stream: StreamId = STREAM) -> StoredEvent:
    """A fact as a store would hand it back."""
    header = Header(actor=Actor("source", signal.source), source=signal.source, source_id=signal.id)
    event_id = derive_id(signal.source, signal.id)
    return _stored(signal, Lane.FACT, position, position, event_id, to_us(signal.occurred_at), header, stream)


def visited(number: int, at_us: int, page: str = "home") -> Visited:
    return Visited(source="web", id=f"visit-{number}", occurred_at=from_us(at_us), page=page)


def _stored(
    event: Event, lane: Lane, position: int, version: int, event_id: UUID, at_us: int, header: Header, stream: StreamId
) -> StoredEvent:
    return StoredEvent(
        position=position,
        stream=stream,
        lane=lane,
        version=version,
        event_id=event_id,
        wire_name=event.wire_name,
        schema=bytes(16),
        occurred_at_us=at_us,
        recorded_at_us=START_US + position,
        content_mac=bytes(16),
        header=header.to_bytes(),
        data=encode_payload(event),
        salt=bytes(16),
        leaf_index=position - 1,
        leaf=bytes(32),
    )
