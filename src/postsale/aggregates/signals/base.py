"""What every signal has: the envelope that sources fill in, and how one is read from JSON-like values. May import `events` only."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ValidationError

from postsale.events import Event, Id, UtcDatetime, invalid_input, to_json


class Signal(Event):
    """A fact from a source. The same (source, id) arriving again changes nothing; with other content it is an error.

    `source` and `id` name the delivery, never a person. `occurred_at` is when it was true in the world. `contact` is the
    source's id of the person it is about, if any; that person belongs to the customer, and personal fields are sealed
    under that person's key (else under the customer's).
    """

    envelope_fields: ClassVar[frozenset[str]] = frozenset({"source", "id", "occurred_at", "available_at", "order", "contact"})

    source: Id
    id: Id
    occurred_at: UtcDatetime
    available_at: UtcDatetime | None = None  # when the source says it was knowable; backfills only
    order: Id | None = None  # compares lexicographically within a source: zero-pad numbers
    contact: Id | None = None


def signal_from(cls: type[Signal], values: dict[str, object]) -> Signal:
    """A signal from JSON-like values (ISO times as text allowed); InvalidInput names the field."""
    raw = to_json(cls.__name__, values)
    try:
        return cls.__pydantic_validator__.validate_json(raw)  # type: ignore[no-any-return]
    except ValidationError as error:
        refusal = invalid_input(cls.__name__, error)
    raise refusal  # out here, because pydantic's error, as context, would carry the input
