"""The canonical hash of what happened to a customer: the same story told on two logs, by two engines, has the same hash.

A line an event, in the log's order: canonical JSON (keys sorted, no spaces, UTF-8) of `[wire name, stream, lane, event id, occurred at, header,
payload]` and a line feed; the hash is SHA-256 over the lines. Stream is `tenant/category/id`, lane `fact` or `decision`, occurred at in UTC
microseconds. Of the header: actor, origin, source, source_id, signal_index, source_order, available_at_us, causation_id, correlation_id,
depth, subjects, and the names of sealed fields with their subject; each only when it says something. The payload is in the clear.
Left out is what only one log has: its id, positions, recorded_at, salts, nonces, key ids, keyed digests of content, trace context.
Where a payload says how far was read (`fact_position`, `decision_version`), it says here how many of these events that is; the
`state_hash` beside them, which is over positions too, and the `position` of an undo's plan are left out. Event ids and digests of arguments are keyed by the tenant: two logs
agree when they share the tenant's key.
May import store, access, aggregates, events.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final

import orjson

from postsale.aggregates.budgets import BudgetCommitted, BudgetCompensated, BudgetReleased
from postsale.aggregates.decisions import EffectFailed, EffectStarted
from postsale.aggregates.undos import UNDOS, UndoFinished
from postsale.errors import KeyUnavailable
from postsale.events import MASKED, Event, Lane, Recorded, canonical, encode_payload

_HEADER: Final = ("source", "source_id", "signal_index", "source_order", "depth")
_EFFECT: Final = "effect/"
_FOLLOWS: Final = (BudgetCommitted, BudgetReleased, BudgetCompensated, UndoFinished)
"""What comes at the time of an effect's end, whenever that is."""


def stream_hash(events: Iterable[Recorded[Event]], *, attempts: bool = True) -> str:
    """The hash, hex, of unsealed events of a customer's streams, or of any others, in the order of their positions.

    `attempts=False` tells only what became of each effect, not how often it was tried and when, so that its events have neither id nor time, and what follows from its end (money, an undo that is over) has no time: a process that was killed between
    a call and its record is in the log for ever, as one attempt more. Raises KeyUnavailable for an event that is masked or erased.
    """
    return hashlib.sha256(b"".join(line + b"\n" for line in canonical_lines(events, attempts=attempts))).hexdigest()


def canonical_lines(events: Iterable[Recorded[Event]], *, attempts: bool = True) -> list[bytes]:
    """What the hash is over, for finding where two of them part."""
    kept = [e for e in events if attempts or not _attempt(e.data)]
    return [_line(e, kept, attempts) for e in kept]


def _attempt(event: Event) -> bool:
    return isinstance(event, EffectStarted) or (isinstance(event, EffectFailed) and not event.final)


def _line(event: Recorded[Event], kept: list[Recorded[Event]], attempts: bool) -> bytes:
    stored, header = event.stored, event.header
    if any(getattr(event.data, name) is MASKED for name in event.data.personal_fields):
        raise KeyUnavailable(
            what=f"the event at position {stored.position}", reason="it is masked, and a canonical hash is over what was said"
        )
    told: dict[str, Any] = {name: value for name in _HEADER if (value := getattr(header, name))}
    told |= {"actor": [header.actor.kind, header.actor.id], "origin": header.origin.value}
    told |= {name: str(value) for name in ("causation_id", "correlation_id") if (value := getattr(header, name)) is not None}
    if header.available_at_us is not None:
        told["available_at_us"] = header.available_at_us
    if header.subjects:
        told["subjects"] = list(header.subjects)
    if header.sealed:
        told["sealed"] = {name: subject for name, (subject, _) in sorted(header.sealed.items())}
    payload = orjson.loads(encode_payload(event.data))
    for ref in payload.get("read_set", ()):
        ref.pop("state_hash", None)
        _count(ref, "fact_position", [e.position for e in kept if e.stored.lane is Lane.FACT])
        _count(
            ref,
            "decision_version",
            [e.stored.version for e in kept if e.stored.lane is Lane.DECISION and str(e.stored.stream) == ref["stream"]],
        )
    if stored.stream.category == UNDOS:
        payload.pop("position", None)
    at_us: int | None = stored.occurred_at_us
    id_: str | None = str(stored.event_id)
    if not attempts and stored.kind.startswith(_EFFECT):
        payload.pop("attempt", None)
        at_us = id_ = None  # both tell which attempt it was
    if not attempts and isinstance(event.data, _FOLLOWS):
        at_us = None
    lane = "fact" if stored.lane is Lane.FACT else "decision"
    return canonical([stored.wire_name, str(stored.stream), lane, id_, at_us, told, payload])


def _count(ref: dict[str, Any], name: str, numbers: list[int]) -> None:
    if name in ref:
        ref[name] = bisect_right(numbers, ref[name])
