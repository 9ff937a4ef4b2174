"""Delivery status notifications (RFC 3464) about messages that an effect sent: which effect, and what became of it. Pure.

The effect is named by the envelope id that we gave (RFC 3461), else by the Message-ID of the returned message. No address leaves here.
Anybody can write such a message: take them from a mailbox that only your mail server fills.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from uuid import UUID

from postsale.aggregates.signals import MessageBounced, MessageDelivered, Signal
from postsale.errors import InvalidInput

MAX_BYTES = 10_000_000
_KEY = re.compile(r"(?:effect\.)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


class Returned(NamedTuple):
    """What came back of one effect: hand both to `Tenant.returned`."""

    effect: UUID
    signal: Signal


def bounce(raw: bytes, *, source: str = "smtp") -> Returned | None:
    """The signal of one notification as received; None for any other message, and for a relayed or expanded one.

    Raises InvalidInput when it is a notification that names no effect of ours, or has no usable date or status. The signal's id
    derives from the notification's own content, so that the same one again changes nothing.
    """
    if len(raw) > MAX_BYTES:
        raise _unusable("(whole)", f"more than {MAX_BYTES} bytes")
    message = message_from_bytes(raw)
    status = next((part for part in message.walk() if part.get_content_type() == "message/delivery-status"), None)
    if status is None:
        return None
    fields = [block for block in status.get_payload() if isinstance(block, Message)] if status.is_multipart() else []
    one = next((block for block in fields if block["Action"]), None)
    if one is None:
        raise _unusable("Action", "there is none")
    action, code = str(one["Action"]).strip().lower(), _STATUS.match(str(one["Status"] or "").strip())
    effect = _effect(message, fields)
    if action in {"relayed", "expanded"}:
        return None
    if action not in {"failed", "delayed", "delivered"} or code is None:
        raise _unusable("Action" if code is not None else "Status", "expected one of RFC 3464")
    said = {"source": source, "id": f"dsn-{hashlib.sha256(raw).hexdigest()[:32]}", "occurred_at": _date(message), "channel": "email"}
    if action == "delivered":
        return Returned(effect, MessageDelivered.model_validate(said))
    return Returned(effect, MessageBounced.model_validate({**said, "permanent": action == "failed", "code": code[0]}))


def _effect(message: Message, fields: list[Message]) -> UUID:
    named = [str(block["Original-Envelope-Id"]) for block in fields if block["Original-Envelope-Id"]]
    for part in message.walk():
        if part.get_content_type() == "text/rfc822-headers":
            text = part.get_payload(decode=True)
            original = message_from_bytes(text) if isinstance(text, bytes) else None
        elif part.get_content_type() == "message/rfc822":
            inner = part.get_payload()
            original = inner[0] if isinstance(inner, list) and isinstance(inner[0], Message) else None
        else:
            continue
        if original is not None and original["Message-ID"]:
            named.append(str(original["Message-ID"]).strip().removeprefix("<"))
    for name in named:
        if (found := _KEY.match(name.strip())) is not None:
            return UUID(found[1])
    raise _unusable("Original-Envelope-Id", "it names no effect")


def _date(message: Message) -> datetime:
    try:
        at = parsedate_to_datetime(str(message["Date"]))
    except (ValueError, TypeError):
        raise _unusable("Date", "expected a date of RFC 5322") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _unusable(field: str, reason: str) -> InvalidInput:
    return InvalidInput(what="delivery status notification", field=field, reason=reason)
