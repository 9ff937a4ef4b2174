"""Expansion: what customers grew by and why, the deals about it, and who is ready for more. The declaration, and measures of a period. Pure.

| measure | formula |
|---|---|
| expansion rate | sum over the opening cohort of max(0, MRR at end - MRR at start) / sum of MRR at start |
| customers expanded | customers of the opening cohort with more MRR at the end / customers of it |

The cohort and its exclusions are those of GRR and NRR, so NRR = GRR + expansion rate. Imports signals, features, books, intervals, measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from postsale.aggregates.signals import (
    CancellationWithdrawn,
    MilestoneReached,
    OpportunityStageChanged,
    SeatsCounted,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionResumed,
    SubscriptionStarted,
    UsageObserved,
)
from postsale.projections.algebra import Moment
from postsale.projections.declaring import days, distinct, first_seen, history, last_seen, latest, maximum
from postsale.projections.derived import derived
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.outcomes.books import Book
from postsale.projections.outcomes.intervals import ratio_interval, wilson
from postsale.projections.outcomes.measure import Frame, Measure, Rates
from postsale.projections.outcomes.revenue import SWITCHED, converted, readable, switched

READY_AT: Final = 0.9
"""Share of the paid seats in use from which a customer is ready for more."""

_TERMS: Final = (SubscriptionStarted, SubscriptionChanged, SubscriptionResumed, CancellationWithdrawn)
_EVER: Final = days(3_660)
_WON: Final = frozenset({"won", "closed-won"})
_OVER: Final = _WON | {"lost", "closed-lost"}
Histories = Mapping[str, tuple[Moment, ...]]


class Expansion(Features, version=1, owner="postsale"):
    """Seats and plans over time, how much of what is paid for is used, what was reached with it, and deals about more."""

    effective = history(_TERMS, lambda e: e.effective_at, by=lambda e: e.subscription_id, window=_EVER)
    seats_stated = history(_TERMS, lambda e: e.seats, by=lambda e: e.subscription_id, window=_EVER)
    plans_stated = history(_TERMS, lambda e: e.plan, by=lambda e: e.subscription_id, window=_EVER)
    terms_at = last_seen(_TERMS, by=lambda e: e.subscription_id)
    ended_at = last_seen(SubscriptionEnded, by=lambda e: e.subscription_id)
    seats_by = latest(_TERMS, lambda e: e.seats, by=lambda e: e.subscription_id, unit="seats")
    bought = latest(SeatsCounted, lambda e: e.bought, unit="seats")
    assigned = latest(SeatsCounted, lambda e: e.assigned, unit="seats")
    active = maximum(UsageObserved, lambda e: e.active_users, window=days(30), unit="people")
    milestones = distinct(MilestoneReached, lambda e: e.milestone, unit="milestones")
    value_at = first_seen(MilestoneReached, where=lambda e: e.value)
    deals = latest(OpportunityStageChanged, lambda e: e.stage, by=lambda e: e.opportunity_id, where=lambda e: e.kind_of_deal == "expansion")
    moved_at = last_seen(OpportunityStageChanged, by=lambda e: e.opportunity_id, where=lambda e: e.kind_of_deal == "expansion")

    @derived(unit="subscriptions", description="whose terms are known and that did not end since")
    def running(terms_at: Mapping[str, int], ended_at: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(sorted(s for s, at in terms_at.items() if s not in ended_at or ended_at[s] < at))

    @derived(unit="seats", description="paid for: of the terms of running subscriptions, else as counted")
    def seats(running: tuple[str, ...], seats_by: Mapping[str, int], bought: int | None) -> int | None:
        stated = [seats_by[s] for s in running if s in seats_by]
        return sum(stated) if stated else bought if running else None

    @derived(unit="ratio", description="seats in use, by assignment or by people active in 30 days, whichever is more / seats paid for")
    def utilisation(seats: int | None, assigned: int | None, active: int | None) -> float | None:
        if not seats or (assigned is None and active is None):
            return None
        return max(assigned or 0, active or 0) / seats

    @derived(description="nine tenths of the seats are in use, and what they bought it for was reached; None while use is not known")
    def ready(utilisation: float | None, value_at: int | None) -> bool | None:
        return None if utilisation is None else utilisation >= READY_AT and value_at is not None

    @derived(unit="deals", description="about more, neither won nor lost")
    def open_deals(deals: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(sorted(d for d, stage in deals.items() if stage not in _OVER))


def expansion(books: Sequence[Book], customers: Mapping[str, FeatureValues], frame: Frame, rates: Rates | None = None) -> list[Measure]:
    """Of the opening cohort by currency: expansion rate and customers expanded; of all: deals won, and who is ready. Values of `Expansion`."""
    good, unread = readable(books, rates)
    grew: dict[str, list[tuple[int, int]]] = {}
    excluded: dict[str, Counter[str]] = {}
    why: dict[str, Counter[str]] = {}
    for book in good:
        before, after = book.at(frame.start_us), book.at(frame.end_us)
        for currency, was in before.mrr.items():
            now = after.mrr.get(currency, 0)
            pairs, out = grew.setdefault(currency, []), excluded.setdefault(currency, Counter())
            reasons = why.setdefault(currency, Counter())
            if switched(before, after) and not now:
                out[SWITCHED] += 1
                continue
            pairs.append((was, max(0, now - was)))
            if now > was:
                reasons[_cause(customers.get(book.ref), frame)] += now - was
    made = []
    for currency in sorted(grew):
        starts, more = [s for s, _ in grew[currency]], [m for _, m in grew[currency]]
        note = ", ".join(f"{by} {minor:,}" for by, minor in sorted(why[currency].items()))
        left_out, cohort = dict(unread + excluded[currency]), f"opening {frame.start:%Y-%m-%d}"
        made.append(
            Measure(
                name="expansion-rate",
                value=round(sum(more) / sum(starts), 9) if starts else None,
                unit="ratio",
                population="customers with MRR at the start",
                n=len(starts),
                numerator=sum(more),
                denominator=sum(starts),
                excluded=left_out,
                interval=ratio_interval(more, starts),
                cohort=cohort,
                currency=currency,
                frame=frame,
                note="; ".join(x for x in (note, converted(rates)) if x),
            )
        )
        hits = sum(m > 0 for m in more)
        made.append(
            Measure(
                name="customers-expanded",
                value=round(hits / len(more), 9) if more else None,
                unit="ratio",
                population="customers with MRR at the start",
                n=len(more),
                numerator=hits,
                denominator=len(more),
                excluded=left_out,
                interval=wilson(hits, len(more)),
                cohort=cohort,
                currency=currency,
                frame=frame,
            )
        )
    return [*made, *_deals(customers, frame), _ready(customers, frame)]


def _cause(values: FeatureValues | None, frame: Frame) -> str:
    """What changed with the money, of what the terms say."""
    if values is None:
        return "price"
    before, after = (_terms(values, us) for us in (frame.start_us, frame.end_us))
    seats = sum(n for n, _ in after.values()) > sum(n for n, _ in before.values())
    plan = any(s in before and before[s][1] != p for s, (_, p) in after.items()) or bool(after.keys() - before.keys())
    return {(True, True): "both", (True, False): "seats", (False, True): "plan"}.get((seats, plan), "price")


def _terms(values: FeatureValues, us: int) -> dict[str, tuple[int, str | None]]:
    """By subscription, seats and plan of the newest statement that takes effect before a time."""
    found: dict[str, tuple[int, str | None]] = {}
    for subscription, moments in values["effective"].items():
        stated = [m.position for m in moments if m.value < us]
        if stated:
            seats = {m.position: m.value for m in values["seats_stated"].get(subscription, ())}
            plans = {m.position: m.value for m in values["plans_stated"].get(subscription, ())}
            found[subscription] = (seats.get(stated[-1], 0), plans.get(stated[-1]))
    return found


def _deals(customers: Mapping[str, FeatureValues], frame: Frame) -> list[Measure]:
    won = lost = still = 0
    for v in customers.values():
        for deal, stage in v["deals"].items():
            inside = frame.start_us <= v["moved_at"][deal] < frame.end_us
            won += inside and stage in _WON
            lost += inside and stage in _OVER - _WON
            still += stage not in _OVER
    n = won + lost
    return [
        Measure(
            name="expansion-deals-won",
            value=round(won / n, 9) if n else None,
            unit="ratio",
            population="deals about more that were won or lost in the period",
            n=n,
            numerator=won,
            denominator=n,
            excluded={"still open": still} if still else {},
            interval=wilson(won, n),
            frame=frame,
        )
    ]


def _ready(customers: Mapping[str, FeatureValues], frame: Frame) -> Measure:
    known = [v["ready"] for v in customers.values() if v["running"] and v["ready"] is not None]
    missing = sum(1 for v in customers.values() if v["running"] and v["ready"] is None)
    return Measure(
        name="expansion-ready",
        value=round(sum(known) / len(known), 9) if known else None,
        unit="ratio",
        population="customers with a running subscription whose use is known, at the end of the period",
        n=len(known),
        numerator=sum(known),
        denominator=len(known),
        excluded={"use not known": missing} if missing else {},
        interval=wilson(sum(known), len(known)),
        frame=frame,
        note=f"{round(100 * READY_AT)} % of seats used, value reached",
    )
