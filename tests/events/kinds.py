"""Kinds of event that only these tests declare, and a stored event made without a store."""

from typing import Any, ClassVar
from uuid import UUID

from pydantic import Field

from postsale.events import (
    SYSTEM,
    AmountMinor,
    Count,
    Currency,
    Event,
    Header,
    Id,
    Int,
    Lane,
    Personal,
    StoredEvent,
    StreamId,
    Text,
    UtcDatetime,
)

STREAM = StreamId("acme", "customers", "c1")


class Everything(Event):
    """One field of each type."""

    wire_name: ClassVar[str] = "tests.events/everything@1"
    name: Id = "n"
    text: Text = ""
    count: Count = 0
    number: Int = 0
    amount_minor: AmountMinor = 0
    currency: Currency = "EUR"
    at: UtcDatetime | None = None
    ratio: float = 0.0
    flag: bool = False
    secret: Personal[Text] | None = None
    letters: Personal[dict[str, str]] | None = None
    loose: dict[str, Any] = Field(default_factory=dict)


def stored(wire_name: str, data: bytes, header: Header | None = None, *, position: int = 5, occurred_at_us: int = 0) -> StoredEvent:
    raw = (header or Header(actor=SYSTEM)).to_bytes()
    return StoredEvent(
        position=position,
        stream=STREAM,
        lane=Lane.FACT,
        version=position,
        event_id=UUID(int=position),
        wire_name=wire_name,
        schema=bytes(16),
        occurred_at_us=occurred_at_us,
        recorded_at_us=position,
        content_mac=bytes(16),
        header=raw,
        data=data,
        salt=bytes(16),
        leaf_index=position,
        leaf=bytes(32),
    )
