"""A tenant with a past to learn from: subscribers of whom some stop using, fail to pay, and leave; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from postsale.aggregates.signals import (
    InvoicePaid,
    InvoicePaymentFailed,
    ReferralInvited,
    RenewalDue,
    Signal,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    UsageObserved,
)

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + 720 * DAY
SPLIT = START + 480 * DAY
HORIZON = 60 * DAY


def terms(at: datetime, mrr: int) -> dict[str, object]:
    return {"subscription_id": "s", "mrr_minor": mrr, "interval": "month", "currency": "EUR", "effective_at": at}


def past(n: int, rng: random.Random, *, months: int = 24, sick: float = 0.03, fatal: float = 0.0) -> Iterator[Signal]:
    """A customer's time, month by month: it may fall ill (little use, failing payments), and whoever is ill often leaves; the well refer and grow."""

    def said(kind: type[Signal], id: str, at: datetime, **more: object) -> Signal:
        return kind(**{"source": "test", "id": f"{n}-{id}", "occurred_at": at, "available_at": at, **more})

    begin = START + rng.randrange(60) * DAY
    mrr, ill = 10_000, False
    yield said(SubscriptionStarted, "start", begin, **terms(begin, mrr))
    for month in range(months):
        at = begin + 30 * month * DAY
        ill = rng.random() < (0.85 if ill else sick)
        yield said(RenewalDue, f"due-{month}", at, renews_at=at + 30 * DAY)
        yield said(
            UsageObserved,
            f"use-{month}",
            at + DAY,
            feature="app",
            count=rng.randrange(1, 8) if ill else rng.randrange(10, 60),
            active_users=3,
        )
        failing = rng.random() < (0.6 if ill else 0.05)
        kind = InvoicePaymentFailed if failing else InvoicePaid
        yield said(kind, f"pay-{month}", at + 2 * DAY, amount_minor=mrr, currency="EUR")
        if month % 6 == 3:
            yield said(
                SurveyAnswered, f"nps-{month}", at + 3 * DAY, survey="nps", score=rng.randrange(0, 7) if ill else rng.randrange(5, 11)
            )
        if not ill and rng.random() < 0.05:
            yield said(ReferralInvited, f"refers-{month}", at + 5 * DAY, referral_id=f"r-{n}-{month}")
        if not ill and rng.random() < 0.06:
            mrr += 2_000
            yield said(SubscriptionChanged, f"more-{month}", at + 6 * DAY, **terms(at, mrr))
        if rng.random() < (0.3 + fatal if ill else 0.005 + fatal):
            end = at + 20 * DAY
            yield said(SubscriptionEnded, "end", end, **terms(end, mrr))
            return


def signals(customers: int = 220, seed: int = 5, **how: float) -> Iterator[tuple[str, Signal]]:
    rng = random.Random(seed)
    for n in range(customers):
        for signal in past(n, rng, **how):  # type: ignore[arg-type]
            if signal.occurred_at <= NOW:
                yield f"cus_{n}", signal
