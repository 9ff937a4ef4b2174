"""What every connector produces: one `Item` per source item, and the helpers that keep values out of messages.

Ingest is pure: bytes and rows become items here; the app records them. May import `aggregates`, `events` and `errors`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import Signal
from postsale.errors import InvalidInput, MappingInvalid, PostSaleError
from postsale.events import Id

ITEM_LIMIT: Final = 1_048_576
"""Bytes of one source item. A longer one is refused, alone; what is kept of it is its first `KEPT_BYTES`."""
KEPT_BYTES: Final = 65_536

Digest = Callable[[bytes], str]
"""A keyed digest as hex. The app injects it, so that nothing that is stored can be guessed from; see `keyed_digest`."""

_SAFE_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,63}\Z")
_ID: Final = TypeAdapter(Id)


@dataclass(frozen=True, slots=True)
class Item:
    """One source item and what became of it: signals, or the reason it is ignored, or the error that sends it to quarantine.

    Exactly one of the three is set. Either all signals of an item are good or the item is refused whole.
    """

    source_item: bytes  # canonical bytes less the delivery fields: equal bytes are "the same content"; to be MACed, not stored
    raw: bytes  # as received; of an item beyond ITEM_LIMIT its first KEPT_BYTES
    customer: ExternalId | None
    signals: tuple[Signal, ...]  # () when ignored or refused
    ignored: str | None  # why an item of this kind is not recorded
    error: InvalidInput | MappingInvalid | None  # names fields and columns, never values
    where: str  # "row 17" (a line of the file; a data row of Parquet) or "item 3"
    source: str = ""  # whose ids these are, as in `Signal.source`; known for refused items too
    flags: tuple[str, ...] = ()  # names of the mapping's checks that it fails and that only flag
    context: bytes = b""  # what must stand before `raw` to read it again: a table's header line

    def indexed(self) -> Iterator[tuple[int, Signal]]:
        """The signals with their signal index: 0, 1, … among those of one id. Part of the idempotency key.

        Not the place in `signals`: a row that later gains an escalation must not shift the index of what follows it.
        """
        seen: dict[str, int] = {}
        for signal in self.signals:
            index = seen.get(signal.id, 0)
            seen[signal.id] = index + 1
            yield index, signal


def refused(source_item: bytes, raw: bytes, error: InvalidInput | MappingInvalid, where: str, source: str, context: bytes = b"") -> Item:
    """An item that goes to quarantine. The error keeps neither frames nor the errors behind it: they hold values."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return Item(source_item, raw, None, (), None, error, where, source, (), context)


def keyed_digest(key: bytes) -> Digest:
    """A `Digest` of 32 hex digits: BLAKE2b with a secret key of 16 to 64 bytes. InvalidInput for a shorter or longer key."""
    if not 16 <= len(key) <= 64:
        raise InvalidInput(what="keyed_digest", field="key", reason="expected 16 to 64 secret bytes")

    def digest(material: bytes) -> str:
        return hashlib.blake2b(material, digest_size=16, key=key).hexdigest()

    return digest


def external_id(value: object, *, what: str, field: str, source: str = "", kind: Literal["customer", "contact"] = "customer") -> ExternalId:
    """A checked external id; InvalidInput names `field` and never repeats the value."""
    try:
        return ExternalId(kind, source, _ID.validate_python(value, strict=True))
    except ValidationError as error:
        reason = _reason(error)
    raise InvalidInput(what=what, field=field, reason=reason)


def _reason(error: ValidationError) -> str:
    return str(error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]).removeprefix("Value error, ")


def safe_name(name: object) -> str:
    """A name from outside when it looks like a field name, else "(a field)": a key may itself be an e-mail address."""
    if isinstance(name, int):
        return str(name)
    return name if isinstance(name, str) and _SAFE_NAME.match(name) else "(a field)"


def safe_error(error: PostSaleError, what: str) -> InvalidInput:
    """Any error of ours as InvalidInput whose path holds nothing from outside that could be personal."""
    if isinstance(error, InvalidInput):
        path = ".".join(safe_name(int(part) if part.isdecimal() else part) for part in error.field.split("."))
        return InvalidInput(what=error.what, field=error.field if error.field == "(whole)" else path, reason=error.reason)
    return InvalidInput(what=what, field="(whole)", reason=f"refused with {type(error).__name__}")
