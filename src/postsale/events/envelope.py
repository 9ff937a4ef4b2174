"""The envelope: everything that is kept about an event beside its data. Complete from the first event; see ADR 0002.

`NewEvent` is what a writer hands to a store; `StoredEvent` is what a store hands back, bytes until asked for the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import orjson

from postsale.errors import InvalidInput
from postsale.events.clock import from_us, iso
from postsale.events.ids import Lane, StreamId
from postsale.events.model import Event, canonical, decode_payload, registry, stored_fields


class Origin(StrEnum):
    """Where an event came from. Imports and simulations never raise a trigger in the live world."""

    LIVE = "live"
    IMPORT = "import"
    SIMULATION = "simulation"


class Actor(NamedTuple):
    """Who did it: `kind` is person, agent, system or source; `id` is a login, an agent's name, a connector."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


SYSTEM = Actor("system", "postsale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The part of the envelope that is not a column. Stored as canonical JSON; hashed as stored, never re-serialised."""

    actor: Actor
    origin: Origin = Origin.LIVE
    source: str = ""
    source_id: str = ""
    signal_index: int = 0
    source_order: str = ""  # compares lexicographically within a source
    available_at_us: int | None = None  # a source's claim of when it was knowable; backfills only
    raw_mac: str = ""  # keyed digest of the raw bytes, hex
    content_key: str = ""  # id of the key that made `content_mac`
    causation_id: UUID | None = None
    correlation_id: UUID | None = None
    depth: int = 0  # causation depth: 0 for what came from outside
    trace: str = ""  # W3C traceparent
    subjects: tuple[str, ...] = ()
    sealed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # field -> (subject, key id)

    def to_bytes(self) -> bytes:
        return canonical(self._members())

    def _members(self) -> dict[str, Any]:
        out: dict[str, Any] = {"v": 1, "actor": [self.actor.kind, self.actor.id], "origin": self.origin.value}
        for name in (
            "source",
            "source_id",
            "signal_index",
            "source_order",
            "available_at_us",
            "raw_mac",
            "content_key",
            "causation_id",
            "correlation_id",
            "depth",
            "trace",
            "subjects",
            "sealed",
        ):
            value = getattr(self, name)
            if value or (value is not None and name == "available_at_us"):  # 0 is a time: 1970
                out[name] = value
        return out

    @classmethod
    def from_bytes(cls, raw: bytes) -> Header:
        d = orjson.loads(raw)
        if (version := d.pop("v")) != 1:
            raise InvalidInput(what="Header", field="v", reason=f"expected 1, found {version!r}: written by a later version of postsale")
        d["actor"] = Actor(*d["actor"])
        d["origin"] = Origin(d["origin"])
        for name in ("causation_id", "correlation_id"):
            if name in d:
                d[name] = UUID(d[name])
        if "subjects" in d:
            d["subjects"] = tuple(d["subjects"])
        if "sealed" in d:
            d["sealed"] = {k: (v[0], v[1]) for k, v in d["sealed"].items()}
        return cls(**d)


class FactHeaders:
    """`Header.to_bytes` for facts that share a cause and a source: what they share is encoded once.

    `shared` is a header without the fields that `to_bytes` takes.
    """

    __slots__ = ("_actor", "_cause", "_plain", "_source", "_trace")

    def __init__(self, shared: Header) -> None:
        members = shared._members()

        def encoded(*names: str) -> bytes:
            return b",".join(b'"%s":%s' % (name.encode(), canonical(members[name])) for name in names if name in members)

        # In the order of canonical JSON, cut where the fields of a single fact have their places.
        self._actor = b"{" + encoded("actor")
        self._cause = b"," + encoded("causation_id", "content_key", "correlation_id", "depth", "origin")
        self._source = b"," + encoded("source")
        self._trace = b"," + encoded("trace", "v") + b"}"
        self._plain = self._actor + self._cause + self._source + b',"source_id":'

    def to_bytes(
        self,
        source_id: str,
        subject: str,
        signal_index: int,
        source_order: str | None,
        available_at_us: int | None,
        raw_mac: str,
        sealed: Mapping[str, tuple[str, str]],
    ) -> bytes:
        if not (signal_index or source_order or raw_mac or sealed) and available_at_us is None:  # most facts; a third of the cost
            return b'%b%b,"subjects":[%b]%b' % (self._plain, canonical(source_id), canonical(subject), self._trace)
        return b"".join(
            (
                self._actor,
                b"" if available_at_us is None else b',"available_at_us":%d' % available_at_us,
                self._cause,
                b',"raw_mac":' + canonical(raw_mac) if raw_mac else b"",
                b',"sealed":' + canonical(sealed) if sealed else b"",
                b',"signal_index":%d' % signal_index if signal_index else b"",
                self._source,
                b',"source_id":',
                canonical(source_id),
                b',"source_order":' + canonical(source_order) if source_order else b"",
                b',"subjects":[',
                canonical(subject),
                b"]",
                self._trace,
            )
        )


class NewEvent(NamedTuple):
    """An event on its way to a store: sealed, encoded, identified; without position, `recorded_at`, salt and leaf."""

    stream: StreamId
    lane: Lane
    expected_version: int | None  # decision lane: the stream's version before this event; fact lane: None
    event_id: UUID  # also the idempotency key
    wire_name: str
    schema: bytes  # 16-byte schema digest
    occurred_at_us: int
    content_mac: bytes  # 16-byte keyed digest of the content, compared when the id is there already
    header: bytes
    data: bytes


class StoredEvent(NamedTuple):
    """An event as a store holds it. Order and types are the contract of every store; `leaf` commits to all the rest."""

    position: int  # 1, 2, 3 … gapless per log
    stream: StreamId
    lane: Lane
    version: int  # fact lane: the position; decision lane: 1, 2, 3 … per stream
    event_id: UUID
    wire_name: str
    schema: bytes
    occurred_at_us: int
    recorded_at_us: int  # strictly increasing with position
    content_mac: bytes
    header: bytes
    data: bytes
    salt: bytes
    leaf_index: int  # 0, 1, 2 … gapless per tenant
    leaf: bytes

    @property
    def tenant(self) -> str:
        return self.stream.tenant

    @property
    def kind(self) -> str:
        return self.wire_name.partition("@")[0]

    def fields(self) -> dict[str, Any]:
        """The payload as a plain dict, upcast to the current version; sealed fields stay sealed.

        Raises UnknownWireName, UpcastFailed, InvalidInput: a version that is not known here is never read as another one.
        """
        return stored_fields(self.wire_name, self.data, self.position)


E = TypeVar("E", bound=Event, covariant=True)
Unseal = Callable[[StoredEvent, Header], bytes]
"""Given a stored event with sealed fields, its data with what may be read in the clear and the rest left sealed."""


@dataclass(frozen=True, slots=True)
class Recorded(Generic[E]):
    """An event as readers see it: the object and its envelope."""

    stored: StoredEvent
    header: Header
    data: E

    @property
    def position(self) -> int:
        return self.stored.position

    @property
    def event_id(self) -> UUID:
        return self.stored.event_id

    @property
    def occurred_at(self) -> datetime:
        return from_us(self.stored.occurred_at_us)

    @property
    def recorded_at(self) -> datetime:
        return from_us(self.stored.recorded_at_us)


def decode(stored: StoredEvent, unseal: Unseal | None = None) -> Recorded[Event]:
    """The typed event and its header. Without `unseal` every personal field is MASKED.

    Raises UnknownWireName, UpcastFailed, InvalidInput, SealBroken; never skips.
    """
    try:
        header = Header.from_bytes(stored.header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.reason if isinstance(error, InvalidInput) else f"not a header ({type(error).__name__})"
        raise InvalidInput(what=f"{stored.wire_name} at position {stored.position}", field="header", reason=reason) from None
    data = unseal(stored, header) if unseal is not None and header.sealed else stored.data
    envelope: dict[str, str] = {}
    if registry.get(stored.wire_name, stored.position).envelope_fields:
        envelope = {"source": header.source, "id": header.source_id, "occurred_at": iso(stored.occurred_at_us)}
        if header.source_order:
            envelope["order"] = header.source_order
        if header.available_at_us is not None:
            envelope["available_at"] = iso(header.available_at_us)
    return Recorded(stored, header, decode_payload(stored.wire_name, data, envelope, stored.position))
