"""Stripe subscriptions as terms: monthly recurring revenue, interval, plan, seats, and what is scheduled.

MRR is the sum over the items of unit amount × quantity, brought to a month, less standing discounts, computed exactly and
rounded down once, at the end. A year has 12 months or 365 days; so a week is 7/365 and a day 1/365 of a year. Metered items
count 0: they have no fixed revenue. Tiered prices are refused: an event does not hold the tiers. Discounts that an event
only names by id cannot be applied, and taxes are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from postsale.aggregates.signals import CancellationScheduled, Signal, SubscriptionChanged, SubscriptionEnded, SubscriptionStarted
from postsale.ingest.stripe_fields import Object, scale

# Parts of a month: what one interval's amount is multiplied with to give a month's.
PER_MONTH: Final = {"day": Fraction(365, 12), "week": Fraction(365, 84), "month": Fraction(1), "year": Fraction(1, 12)}
_DECIMAL: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,12})?\Z")
_NOT_BEGUN: Final = frozenset({"incomplete", "incomplete_expired"})


def subscription_signals(body: Object, base: dict[str, Any], event: Object) -> tuple[Signal, ...]:
    """The signals of a `customer.subscription.*` event; () while the subscription has not begun."""
    kind, status = event.text("type"), body.text("status")
    occurred: datetime = base["occurred_at"]
    if kind.endswith(".deleted"):
        details = body.maybe_object("cancellation_details")
        why = None if details is None else details.maybe_text("feedback") or details.maybe_text("reason")
        ended = body.maybe_time("ended_at") or body.maybe_time("canceled_at") or occurred
        return (SubscriptionEnded(**base, **terms(body), effective_at=ended, reason=why),)
    if status in _NOT_BEGUN:
        return ()
    shared = {**base, **terms(body)}
    trial = status == "trialing"
    first: Signal
    if kind.endswith(".created") or _was_open(event):
        first = SubscriptionStarted(**shared, effective_at=body.maybe_time("start_date") or occurred, trial=trial)
    else:
        first = SubscriptionChanged(**shared, effective_at=occurred, trial=trial)
    ends = _scheduled_end(body)
    if ends is None or status == "canceled":
        return (first,)
    return (first, CancellationScheduled(**shared, effective_at=ends))


def _was_open(event: Object) -> bool:
    before = event.object("data").maybe_object("previous_attributes")
    return before is not None and before.get("status") == "incomplete"


def _scheduled_end(body: Object) -> datetime | None:
    at = body.maybe_time("cancel_at")
    if at is not None or body.get("cancel_at_period_end") is not True:
        return at
    ends = body.maybe_time("current_period_end")
    if ends is None:  # newer API versions keep the period with the items
        of_items = [item.time("current_period_end") for item in body.object("items").objects("data")]
        if not of_items:
            raise body.wrong("current_period_end", "the end of the period")
        ends = max(of_items)
    return ends


def terms(body: Object) -> dict[str, Any]:
    """The fields that all subscription signals share but `effective_at`; InvalidInput where the event does not tell them."""
    items = _items(body)
    prices = [_price(item) for item in items]
    currency = prices[0].currency()
    monthly = Fraction(0)
    for item, price in zip(items, prices, strict=True):
        interval, count = _interval(price)
        monthly += _amount(item, price) * PER_MONTH[interval] / count
    interval, count = _interval(prices[0])
    monthly = _discounted(body, monthly, PER_MONTH[interval] / count) * scale(currency)
    one = items[0] if len(items) == 1 else None
    return {
        "subscription_id": body.text("id"),
        "mrr_minor": monthly.numerator // monthly.denominator,
        "interval": interval,
        "interval_count": count,
        "currency": currency,
        "plan": prices[0].reference("id") if one is not None else None,  # of several items none is "the" plan
        "seats": None if one is None else one.maybe_integer("quantity"),
    }


def _items(body: Object) -> tuple[Object, ...]:
    listed = body.maybe_object("items")
    if listed is None and body.get("plan") is not None:  # API versions before there were items
        return (body,)
    if listed is None:
        raise body.wrong("items", "an object")
    if listed.get("has_more") is True:
        raise listed.wrong("has_more", "all items in the event; it holds only the first")
    items = listed.objects("data")
    if not items:
        raise listed.wrong("data", "at least one item")
    return items


def _price(item: Object) -> Object:
    price = item.maybe_object("price")
    return price if price is not None else item.object("plan")


def _interval(price: Object) -> tuple[str, int]:
    recurring = price.maybe_object("recurring")
    held = price if recurring is None else recurring
    interval, count = held.text("interval"), held.integer("interval_count", 1)
    if interval not in PER_MONTH:
        raise held.wrong("interval", "day, week, month or year")
    if count < 1:
        raise held.wrong("interval_count", "at least 1")
    return interval, count


def _amount(item: Object, price: Object) -> Fraction:
    """What one interval of this item costs, in Stripe's minor units."""
    recurring = price.maybe_object("recurring")
    if (price if recurring is None else recurring).get("usage_type") == "metered":
        return Fraction(0)
    if price.get("billing_scheme") == "tiered":
        raise price.wrong("billing_scheme", "per_unit; the tiers are not in the event, so the revenue is unknown")
    name = "unit_amount" if "recurring" in price.values or "unit_amount" in price.values else "amount"
    unit = price.maybe_integer(name)
    if unit is None:
        text = price.maybe_text(f"{name}_decimal")
        if text is None or not _DECIMAL.match(text):
            raise price.wrong(name, "an amount")
        amount = Fraction(text)
    else:
        amount = Fraction(unit)
    return amount * _quantity(item, price)


def _quantity(item: Object, price: Object) -> int:
    quantity = item.integer("quantity", 1)
    packs = price.maybe_object("transform_quantity")
    if packs is None:
        return quantity
    size = packs.integer("divide_by")
    if size < 1:
        raise packs.wrong("divide_by", "at least 1")
    return -(-quantity // size) if packs.get("round") == "up" else quantity // size


def _discounted(body: Object, monthly: Fraction, per_month: Fraction) -> Fraction:
    """Less every standing discount that the event holds whole; a coupon for one invoice does not recur."""
    listed = body.get("discounts")
    several = [part for part in listed if isinstance(part, Mapping)] if isinstance(listed, list) else []
    held = [Object(part, body.at("discounts")) for part in several] or [d for d in (body.maybe_object("discount"),) if d is not None]
    for discount in held:
        source = discount.maybe_object("source")
        coupon = (discount if source is None else source).maybe_object("coupon")
        if coupon is None or coupon.get("duration") == "once":
            continue
        off = coupon.maybe_integer("amount_off")
        if off is not None:
            monthly -= off * per_month
            continue
        percent = coupon.get("percent_off")
        if isinstance(percent, int | float) and not isinstance(percent, bool) and 0 <= percent <= 100:
            monthly *= 1 - Fraction(str(percent)) / 100
        elif percent is not None:
            raise coupon.wrong("percent_off", "a percentage from 0 to 100")
    return max(monthly, Fraction(0))
