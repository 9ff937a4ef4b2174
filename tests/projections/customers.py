"""Customers for tests of health: signals at days, as facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from postsale.aggregates.signals import (
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    Signal,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    UsageObserved,
)
from postsale.events import to_us
from postsale.projections import Fact, fact_from

START = datetime(2026, 1, 1, 9, tzinfo=UTC)


def day(n: float) -> int:
    """Microseconds of the n-th day after the start."""
    return to_us(START + timedelta(days=n))


_TERMS = {"subscription_id": "s1", "mrr_minor": 4_900, "interval": "month", "currency": "EUR"}
_DEFAULTS: dict[type[Signal], dict[str, Any]] = {
    InvoicePaid: {"amount_minor": 4_900, "currency": "EUR"},
    InvoicePaymentFailed: {"amount_minor": 4_900, "currency": "EUR"},
    SubscriptionStarted: _TERMS,
    SubscriptionChanged: _TERMS,
    CancellationScheduled: _TERMS,
    SubscriptionEnded: _TERMS,
    UsageObserved: {"feature": "export", "count": 10},
    TicketOpened: {"ticket_id": "t"},
    TicketEscalated: {"ticket_id": "t"},
    SurveyAnswered: {"survey": "nps", "score": 9},
}


def signal(kind: type[Signal], on: float, **values: Any) -> Signal:
    at = START + timedelta(days=on)
    fields = {**_DEFAULTS.get(kind, {}), **values}
    if "effective_at" in kind.model_fields:
        fields.setdefault("effective_at", at)
    return kind(source="test", id="x", occurred_at=at, **fields)


class History:
    """Facts of one customer; positions in the order of the calls."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def on(self, n: float, kind: type[Signal], *, known: float | None = None, **values: Any) -> History:
        recorded = day(n if known is None else known)
        self.facts.append(fact_from(signal(kind, n, **values), len(self.facts) + 1, recorded_at_us=recorded))
        return self
