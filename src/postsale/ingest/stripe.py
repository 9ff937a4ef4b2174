"""Stripe: verify a webhook's signature, and turn an event into signals. Pure: no clock, no network, no SDK.

Which events mean what, and why no money is counted twice:

| event | signals |
|---|---|
| `invoice.paid` | InvoicePaid with `amount_paid` |
| `invoice.payment_succeeded` | ignored: `invoice.paid` says the same; `Options(paid_event=…)` swaps the two |
| `invoice.payment_failed` | InvoicePaymentFailed with `amount_due` and the attempt |
| `customer.subscription.created` | SubscriptionStarted (and CancellationScheduled); ignored while its first payment is open |
| `customer.subscription.updated` | SubscriptionChanged, or SubscriptionStarted when its first payment came through; and CancellationScheduled for as long as one is scheduled, because the new terms alone would read as "no longer cancelled" |
| `customer.subscription.deleted` | SubscriptionEnded |
| `charge.succeeded`, `charge.captured` | InvoicePaid when the charge has no invoice |
| `charge.failed` | InvoicePaymentFailed when the charge has no invoice |
| any other | ignored |

`occurred_at` and `order` are the event's `created` (whole seconds: Stripe gives no finer order). Source format: Stripe's API
reference, event and webhook pages.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, Signal
from postsale.errors import InvalidInput, PostSaleError
from postsale.events import canonical, to_us
from postsale.ingest.items import KEPT_BYTES, Item, external_id, refused, safe_error
from postsale.ingest.strictjson import check, parse
from postsale.ingest.stripe_fields import WHAT, Object, minor
from postsale.ingest.stripe_subscriptions import subscription_signals

LIVE, TEST = "stripe", "stripe-test"
DELIVERY_FIELDS: Final = frozenset({"pending_webhooks", "request"})
"""Fields of the envelope that say how it was delivered: the same event may arrive with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read Stripe events. The defaults suit one Stripe account whose customer ids you also use yourself."""

    customer_source: str = ""
    """"" puts `cus_…` into the tenant's one namespace of customer ids; another name keeps Stripe's ids apart until linked."""
    test_mode: Literal["record", "ignore"] = "record"
    """Events with `livemode: false`: recorded under the source "stripe-test", so that they stay recognisable for ever, or ignored."""
    paid_event: Literal["invoice.paid", "invoice.payment_succeeded"] = "invoice.paid"
    """Stripe sends both for one payment: the one named here counts. Choose the other if your endpoint does not receive this one."""
    unlinked_charges: bool = False
    """Whether a charge without an `invoice` field (API versions from 2025-03-31) counts as money of its own."""


DEFAULT: Final = Options()


def verify(raw: bytes, signature_header: str | None, secrets: Sequence[str], now: datetime, tolerance_s: int = 300) -> None:
    """Raise InvalidInput unless one of the secrets signed exactly these bytes at most `tolerance_s` before or after `now`.

    `raw` is the body as received, before any parsing. `secrets` are the endpoint's signing secrets (`whsec_…`), several during
    a rotation; so may be the `v1` signatures. Every pair is compared, in constant time. Format: `t=…,v1=…`, hex HMAC-SHA256
    of `t.body`.
    """
    if not secrets or not all(secrets):
        raise _unsigned("no signing secret was given")
    if signature_header is None:  # as `headers.get(…)` gives it
        raise _unsigned("there is no Stripe-Signature header")
    stamps = [part[2:] for part in signature_header[:4096].split(",") if part.startswith("t=")]
    given = [part[3:].encode("utf-8", "replace") for part in signature_header[:4096].split(",") if part.startswith("v1=")]
    if len(stamps) != 1 or not (stamps[0].isascii() and stamps[0].isdecimal() and len(stamps[0]) <= 12) or not given:
        raise _unsigned("expected one t=… in seconds and at least one v1=…")
    stamp = stamps[0]
    good = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest().encode()
        for signature in given:
            good |= hmac.compare_digest(expected, signature)
    if not good:
        raise _unsigned("no v1 signature fits the body under the given secrets")
    if abs(to_us(now) - int(stamp) * 1_000_000) > tolerance_s * 1_000_000:
        raise _unsigned(f"signed more than {tolerance_s} s from now")


def _unsigned(reason: str) -> InvalidInput:
    return InvalidInput(what="stripe webhook", field="Stripe-Signature", reason=reason)


def item(raw: bytes, *, options: Options = DEFAULT, where: str = "item 1") -> Item:
    """The item of one event as received. Never raises for what is in it: a bad body becomes an item with an error."""
    try:
        event = parse(raw, WHAT)
    except InvalidInput as error:
        return refused(raw, raw, error, where, LIVE)
    if not isinstance(event, Mapping):
        return refused(raw, raw, InvalidInput(what=WHAT, field="(whole)", reason="expected an object"), where, LIVE)
    return signals(event, raw=raw, options=options, where=where)


def signals(event: object, *, raw: bytes | None = None, options: Options = DEFAULT, where: str = "item 1") -> Item:
    """The item of one verified, parsed event: its signals, or why it is ignored, or an error that names the field.

    Pure and total. Signals of one event share its id (`evt_…`); `Item.indexed` tells them apart.
    """
    if not isinstance(event, Mapping):  # signed, and still not an event
        whole = raw if raw is not None else _best_effort(event)
        return refused(whole, whole, InvalidInput(what=WHAT, field="(whole)", reason="expected an object"), where, LIVE)
    source = TEST if event.get("livemode") is False else LIVE
    try:
        check(event, WHAT)
        content = canonical({name: value for name, value in event.items() if name not in DELIVERY_FIELDS})
    except InvalidInput as error:
        whole = raw if raw is not None else _best_effort(event)
        return refused(whole, whole, error, where, source)
    raw = canonical(event) if raw is None else raw
    try:
        customer, found, ignored = _read(event, source, options)
    except PostSaleError as error:
        return refused(content, raw, safe_error(error, WHAT), where, source)
    return Item(content, raw, customer, found, ignored, None, where, source)


def _best_effort(event: object) -> bytes:
    """Some bytes of what is not a JSON object, for quarantine."""
    try:
        return json.dumps(dict(event) if isinstance(event, Mapping) else event, default=str, skipkeys=True).encode()[:KEPT_BYTES]
    except (ValueError, RecursionError):
        return b""


class Ignored(Exception):
    """Raised by a handler: the event is of a kind that we do not record, and why. Carries no value of the event."""


Handler = Callable[[Object, dict[str, Any], Object, Options], tuple[Signal, ...]]


def _read(event: Mapping[str, Any], source: str, options: Options) -> tuple[ExternalId | None, tuple[Signal, ...], str | None]:
    envelope = Object(event, "")
    if event.get("object") not in ("event", None):
        raise InvalidInput(what=WHAT, field="object", reason='expected an event envelope ("object": "event"), not a bare resource')
    kind = envelope.text("type")
    base: dict[str, Any] = {"source": source, "id": envelope.text("id"), "occurred_at": envelope.time("created")}
    base["order"] = f"{envelope.integer('created'):012d}"
    handler = _HANDLERS.get(kind)
    if handler is None:
        return None, (), "an event type that holds no signal"
    if source == TEST and options.test_mode == "ignore":
        return None, (), "test mode (livemode is false)"
    body = envelope.object("data").object("object")
    customer = body.reference("customer")
    try:
        if customer is None and kind.startswith("charge."):
            raise Ignored("the charge names no customer")
        found = handler(body, base, envelope, options)
    except Ignored as reason:
        return None, (), str(reason)
    if customer is None:
        raise InvalidInput(what=WHAT, field="data.object.customer", reason="expected a customer id")
    return external_id(customer, what=WHAT, field="data.object.customer", source=options.customer_source), found, None


def _invoice_paid(invoice: Object, base: dict[str, Any], event: Object, options: Options) -> tuple[Signal, ...]:
    if event.text("type") != options.paid_event:
        raise Ignored(f"{options.paid_event} carries the same payment")
    return (_paid(invoice, base, "amount_paid", invoice.reference("id")),)


def _invoice_failed(invoice: Object, base: dict[str, Any], event: Object, options: Options) -> tuple[Signal, ...]:  # noqa: ARG001
    attempt = max(1, invoice.integer("attempt_count", 1))
    return (_failed(invoice, base, "amount_due", invoice.reference("id"), attempt, None),)


def _charge(charge: Object, base: dict[str, Any], event: Object, options: Options) -> tuple[Signal, ...]:
    if charge.get("invoice") is not None:
        raise Ignored("the charge belongs to an invoice, whose events carry the money")
    if "invoice" not in charge.values and not options.unlinked_charges:
        raise Ignored("this API version does not say whether the charge belongs to an invoice; see Options.unlinked_charges")
    kind = event.text("type")
    if kind == "charge.failed":
        return (_failed(charge, base, "amount", None, 1, charge.maybe_text("failure_code")),)
    if kind == "charge.succeeded" and charge.get("captured") is False:
        raise Ignored("authorised only; charge.captured will carry the money")
    return (_paid(charge, base, "amount_captured" if kind == "charge.captured" else "amount", None),)


def _paid(body: Object, base: dict[str, Any], amount: str, invoice_id: str | None) -> Signal:
    currency = body.currency()
    return InvoicePaid(
        **base, amount_minor=minor(body.integer(amount), currency, body.at(amount)), currency=currency, invoice_id=invoice_id
    )


def _failed(body: Object, base: dict[str, Any], amount: str, invoice_id: str | None, attempt: int, reason: str | None) -> Signal:
    currency = body.currency()
    due = minor(body.integer(amount), currency, body.at(amount))
    return InvoicePaymentFailed(**base, amount_minor=due, currency=currency, invoice_id=invoice_id, attempt=attempt, reason=reason)


def _subscription(body: Object, base: dict[str, Any], event: Object, options: Options) -> tuple[Signal, ...]:  # noqa: ARG001
    found = subscription_signals(body, base, event)
    if not found:
        raise Ignored("the subscription has not begun: its first payment is open or lapsed")
    return found


_HANDLERS: Final[dict[str, Handler]] = {
    "invoice.paid": _invoice_paid,
    "invoice.payment_succeeded": _invoice_paid,
    "invoice.payment_failed": _invoice_failed,
    "customer.subscription.created": _subscription,
    "customer.subscription.updated": _subscription,
    "customer.subscription.deleted": _subscription,
    "charge.succeeded": _charge,
    "charge.captured": _charge,
    "charge.failed": _charge,
}
