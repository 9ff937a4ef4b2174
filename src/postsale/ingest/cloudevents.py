"""CloudEvents 1.0 in JSON, structured mode: the neutral way in for every kind of signal. Pure.

| attribute | becomes |
|---|---|
| `type` | the kind: a registered wire name; without `@version` the newest one |
| `source`, `id` | the signal's `source` and `id`: together the deduplication key |
| `subject` | the customer's id (required here) |
| `time` | `occurred_at` (required here; RFC 3339 with an offset) |
| `data` | the kind's own fields |
| `sequence` | `order`: compares lexicographically, so zero-pad numbers |
| `availableat`, `contact` | the signal's `available_at` and `contact` (extensions of ours) |

Other extension attributes (trace context, a broker's time stamps) belong to the delivery and are no content. Source of the
format: the CloudEvents specification 1.0.2, its JSON event format and its `sequence` extension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import Signal, signal_from
from postsale.errors import InvalidInput, PostSaleError
from postsale.events import canonical, registry
from postsale.ingest.items import Item, external_id, refused, safe_error, safe_name
from postsale.ingest.kinds import kind_named
from postsale.ingest.strictjson import check, parse

WHAT: Final = "cloudevent"
_CONTENT: Final = ("type", "source", "id", "subject", "time", "data", "sequence", "contact", "availableat")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})\Z")


def item(raw: bytes, *, customer_source: str = "", where: str = "item 1") -> Item:
    """The item of one event as received. Never raises for what is in it: a bad body becomes an item with an error."""
    try:
        event = parse(raw, WHAT)
    except InvalidInput as error:
        return refused(raw, raw, error, where, "cloudevents")
    if not isinstance(event, Mapping):
        return refused(raw, raw, _wrong("(whole)", "expected an object"), where, "cloudevents")
    return signals(event, raw=raw, customer_source=customer_source, where=where)


def signals(event: Mapping[str, Any], *, raw: bytes | None = None, customer_source: str = "", where: str = "item 1") -> Item:
    """The item of one parsed event: one signal, or an error that names the attribute or `data.field`. Pure and total."""
    try:
        check(event, WHAT)
    except InvalidInput as error:
        return refused(raw or b"", raw or b"", error, where, "cloudevents")
    content = canonical({name: event[name] for name in _CONTENT if name in event})
    raw = canonical(dict(event)) if raw is None else raw
    try:
        customer, signal = _read(event, customer_source)
    except PostSaleError as error:
        return refused(content, raw, safe_error(error, WHAT), where, "cloudevents")
    return Item(content, raw, customer, (signal,), None, None, where, signal.source)


def _read(event: Mapping[str, Any], customer_source: str) -> tuple[ExternalId, Signal]:
    if event.get("specversion") != "1.0":
        raise _wrong("specversion", 'expected "1.0"')
    name, cls = kind_named(_text(event, "type"), WHAT, "type")
    time = _text(event, "time")
    envelope = {"source": _text(event, "source"), "id": _text(event, "id"), "occurred_at": _checked_time("time", time)}
    for attribute, field in (("sequence", "order"), ("contact", "contact"), ("availableat", "available_at")):
        if event.get(attribute) is not None:
            envelope[field] = _text(event, attribute)
    if "available_at" in envelope:
        _checked_time("availableat", envelope["available_at"])
    customer = external_id(_text(event, "subject"), what=WHAT, field="subject", source=customer_source)
    fields = _data(event)
    if cls.wire_name != name:
        fields = registry.upcast(name, fields)
    for key in fields:
        if key not in cls.model_fields or key in cls.envelope_fields:
            raise _wrong(f"data.{safe_name(key)}", f"not a field of {name}")
    return customer, signal_from(cls, {**fields, **envelope})


def _data(event: Mapping[str, Any]) -> dict[str, Any]:
    if "data_base64" in event:
        raise _wrong("data_base64", "expected JSON in data")
    media = event.get("datacontenttype", "application/json")
    if not isinstance(media, str) or not media.partition(";")[0].strip().lower().endswith(("/json", "+json")):
        raise _wrong("datacontenttype", "expected a JSON media type")
    data = event.get("data", {})
    if not isinstance(data, Mapping):
        raise _wrong("data", "expected an object")
    return dict(data)


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(name, "required, as a text that is not empty")
    return value


def _checked_time(name: str, text: str) -> str:
    if not _TIME.match(text):
        raise _wrong(name, "expected an RFC 3339 time with an offset, such as 2026-03-01T12:00:00Z")
    return text


def _wrong(field: str, reason: str) -> InvalidInput:
    return InvalidInput(what=WHAT, field=field, reason=reason)
