"""The vendor: who its customers are, what happens to them, and how its five sources report it, imperfectly.

The model, in order. Each customer has an archetype and a plan. Engagement starts between 0.5 and 1.15 and is multiplied every week by
the archetype's drift and a log-normal shock. Usage per weekday is Poisson with mean seats x engagement x 3. Invoices fall
due monthly; each charge fails with the archetype's probability and is tried again after 3 and 7 days. Tickets are Poisson per
week with mean tickets_per_week / engagement; one in five is escalated where engagement is low. One NPS answer per quarter is
normal around 10 x engagement. A customer whose engagement is below 0.45 cancels, to the end of the next month, with a chance of
one in eight each week, once. CRM says who the customer is and when the contract renews.

Then the sources: each delivers after its own exponential delay (so signals arrive late and out of order), repeats a share
of deliveries word for word, and one source is silent for a day and catches up afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from postsale.aggregates.signals import (
    AccountProfiled,
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    RenewalDue,
    Signal,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    TicketSolved,
    UsageObserved,
)

Source = Literal["crm", "billing", "ticketing", "product", "survey"]
_DELAY_H: dict[Source, float] = {"crm": 6.0, "billing": 0.2, "ticketing": 1.0, "product": 12.0, "survey": 2.0}
_REPEATED = 0.04
_FEATURES = ("reports", "search", "export", "api", "sharing")
_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Europe/London")


@dataclass(frozen=True, slots=True)
class Archetype:
    """A way of being a customer. `drift` multiplies engagement weekly; `fails` is the chance that one charge fails."""

    name: str
    share: float
    drift: float
    fails: float
    tickets_per_week: float


ARCHETYPES: tuple[Archetype, ...] = (
    Archetype("steady", 0.45, 1.00, 0.01, 0.10),
    Archetype("growing", 0.20, 1.03, 0.01, 0.15),
    Archetype("fading", 0.15, 0.82, 0.05, 0.10),
    Archetype("card trouble", 0.12, 0.98, 0.65, 0.15),
    Archetype("unhappy", 0.08, 0.90, 0.10, 0.90),
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A signal reaching us: `at` is when it arrives, which may be long after it occurred."""

    at: datetime
    customer: str
    signal: Signal


@dataclass(frozen=True, slots=True)
class ConsentGivenAt:
    """A customer agreeing to be written to about its account."""

    at: datetime
    customer: str
    channel: str
    purpose: str


Arrival = Delivery | ConsentGivenAt


class Vendor:
    """A vendor with `customers` customers observed for `days` days from `start` (aware). The same seed, the same story."""

    def __init__(self, seed: int = 7, *, customers: int = 60, start: datetime, days: int = 91) -> None:
        self.seed, self.customers, self.start, self.days = seed, customers, start, days

    def arrivals(self) -> list[Arrival]:
        """Everything that reaches us, by time of arrival."""
        rng = random.Random(self.seed)
        silent_source: Source = rng.choice(("ticketing", "product"))
        silent_from = self.start + timedelta(days=rng.randrange(20, max(21, self.days - 10)))
        out: list[Arrival] = []
        for number in range(self.customers):
            story = list(self._customer(random.Random(f"{self.seed}/{number}"), number))
            out.extend(a for a in story if isinstance(a, ConsentGivenAt))
            for source, customer, signal in (a for a in story if not isinstance(a, ConsentGivenAt)):
                at = signal.occurred_at + timedelta(hours=rng.expovariate(1 / _DELAY_H[source]))
                if source == silent_source and silent_from <= at < silent_from + timedelta(days=1):
                    at = silent_from + timedelta(days=1, minutes=rng.randrange(120))
                out.append(Delivery(at, customer, signal))
                if rng.random() < _REPEATED:
                    out.append(Delivery(at + timedelta(hours=rng.uniform(0.1, 48)), customer, signal))
        end = self.start + timedelta(days=self.days)
        return sorted((a for a in out if a.at < end), key=lambda a: (a.at, a.customer))

    # ------------------------------------------------------------ one customer

    def _customer(self, rng: random.Random, number: int) -> Iterator[tuple[Source, str, Signal] | ConsentGivenAt]:
        name = f"cus_{number + 1:03d}"
        kind = rng.choices(ARCHETYPES, [a.share for a in ARCHETYPES])[0]
        seats = rng.choice((3, 5, 10, 25, 60))
        mrr_minor = seats * rng.choice((1900, 2900, 4900))
        renews = self.start + timedelta(days=rng.randrange(40, 200))
        source_ids = _Ids(name)
        joined = self.start - timedelta(days=rng.randrange(30, 700))

        yield (
            "crm",
            name,
            AccountProfiled(
                source="crm",
                id=source_ids.next("profile"),
                occurred_at=self.start + timedelta(minutes=number),
                name=f"Company {number + 1}",
                segment="smb" if seats < 10 else "mid-market" if seats < 60 else "enterprise",
                time_zone=rng.choice(_ZONES),
                seats=seats,
                starts_at=joined,
            ),
        )
        yield (
            "crm",
            name,
            RenewalDue(
                source="crm", id=source_ids.next("renewal"), occurred_at=self.start, renews_at=renews, auto_renews=rng.random() < 0.4
            ),
        )
        yield (
            "billing",
            name,
            SubscriptionStarted(
                source="billing",
                id=source_ids.next("subscription"),
                occurred_at=self.start,
                subscription_id=f"sub_{number + 1:03d}",
                mrr_minor=mrr_minor,
                interval="month",
                currency="EUR",
                effective_at=joined,
                seats=seats,
            ),
        )
        if rng.random() < 0.8:
            yield ConsentGivenAt(self.start + timedelta(hours=1 + number % 5), name, "email", "service")
        yield from self._billing(rng, name, source_ids, kind, mrr_minor)
        yield from self._weeks(rng, name, source_ids, kind, seats, mrr_minor)

    def _billing(self, rng: random.Random, name: str, ids: _Ids, kind: Archetype, mrr_minor: int) -> Iterator[tuple[Source, str, Signal]]:
        due = self.start + timedelta(days=rng.randrange(0, 30), hours=rng.randrange(24))
        while due < self.start + timedelta(days=self.days):
            invoice = ids.next("invoice")
            for attempt, wait in enumerate((0, 3, 7), start=1):
                at = due + timedelta(days=wait)
                if rng.random() >= kind.fails:
                    yield (
                        "billing",
                        name,
                        InvoicePaid(
                            source="billing",
                            id=ids.next("paid"),
                            occurred_at=at,
                            amount_minor=mrr_minor,
                            currency="EUR",
                            invoice_id=invoice,
                        ),
                    )
                    break
                yield (
                    "billing",
                    name,
                    InvoicePaymentFailed(
                        source="billing",
                        id=ids.next("failed"),
                        occurred_at=at,
                        amount_minor=mrr_minor,
                        currency="EUR",
                        invoice_id=invoice,
                        attempt=attempt,
                        reason="card_declined",
                    ),
                )
            due += timedelta(days=30)

    def _weeks(
        self, rng: random.Random, name: str, ids: _Ids, kind: Archetype, seats: int, mrr_minor: int
    ) -> Iterator[tuple[Source, str, Signal]]:
        engagement = rng.uniform(0.5, 1.15)
        asked = rng.randrange(10, 80)
        cancelled = False
        for day in range(self.days):
            at = self.start + timedelta(days=day, hours=rng.uniform(7, 18))
            if day % 7 == 0:
                engagement = min(1.5, max(0.02, engagement * kind.drift * math.exp(rng.gauss(0, 0.08))))
                for _ in range(_poisson(rng, kind.tickets_per_week / max(0.2, engagement))):
                    yield from self._ticket(rng, name, ids, at + timedelta(hours=rng.uniform(0, 100)), engagement)
                if not cancelled and engagement < 0.45 and rng.random() < 0.125:
                    cancelled = True
                    yield (
                        "billing",
                        name,
                        CancellationScheduled(
                            source="billing",
                            id=ids.next("cancelled"),
                            occurred_at=at,
                            subscription_id=f"sub_{name.removeprefix('cus_')}",
                            mrr_minor=mrr_minor,
                            interval="month",
                            currency="EUR",
                            effective_at=at + timedelta(days=30),
                            seats=seats,
                        ),
                    )
            if at.weekday() < 5 and (uses := _poisson(rng, seats * engagement * 3)):
                active = min(seats, max(1, round(seats * min(1.0, engagement * rng.uniform(0.6, 1.0)))))
                yield (
                    "product",
                    name,
                    UsageObserved(
                        source="product",
                        id=ids.next("usage"),
                        occurred_at=at,
                        feature=rng.choice(_FEATURES),
                        count=uses,
                        active_users=active,
                    ),
                )
            if day == asked:
                score = min(10, max(0, round(rng.gauss(10 * min(1.0, engagement), 1.5))))
                yield (
                    "survey",
                    name,
                    SurveyAnswered(source="survey", id=ids.next("nps"), occurred_at=at, survey="nps", score=score, contact=f"{name}-admin"),
                )

    @staticmethod
    def _ticket(rng: random.Random, name: str, ids: _Ids, at: datetime, engagement: float) -> Iterator[tuple[Source, str, Signal]]:
        ticket = ids.next("ticket")
        priority: Literal["low", "normal", "high"] = rng.choice(("low", "normal", "normal", "high"))
        yield (
            "ticketing",
            name,
            TicketOpened(
                source="ticketing", id=f"{ticket}-opened", occurred_at=at, ticket_id=ticket, priority=priority, contact=f"{name}-admin"
            ),
        )
        if engagement < 0.6 and rng.random() < 0.2:
            yield (
                "ticketing",
                name,
                TicketEscalated(source="ticketing", id=f"{ticket}-escalated", occurred_at=at + timedelta(hours=4), ticket_id=ticket),
            )
        minutes = round(rng.lognormvariate(6.5, 0.8))
        yield (
            "ticketing",
            name,
            TicketSolved(
                source="ticketing",
                id=f"{ticket}-solved",
                occurred_at=at + timedelta(minutes=minutes),
                ticket_id=ticket,
                first_reply_min=max(1, minutes // 5),
                resolution_min=minutes,
            ),
        )


class _Ids:
    """Delivery ids that are stable for a customer whatever happens to others."""

    def __init__(self, customer: str) -> None:
        self._customer, self._n = customer, 0

    def next(self, what: str) -> str:
        self._n += 1
        return f"{self._customer}-{what}-{self._n}"


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's method for small means, the normal approximation above 30."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, k, p = math.exp(-mean), 0, rng.random()
    while p > limit:
        k += 1
        p *= rng.random()
    return k
