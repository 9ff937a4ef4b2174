"""Expansion by hand: what it came to, by what, of whom; deals; who is ready for more."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    MilestoneReached,
    OpportunityStageChanged,
    SeatsCounted,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
    UsageObserved,
)
from postsale.projections.outcomes import Expansion, Measure, Rates, expansion, movements, retention
from postsale.projections.outcomes.revenue import SWITCHED

from .world import Customer, frame, named

OLD = -100.0


def paying(ref: str, minor: int, seats: int = 10, plan: str = "team", **more: object) -> Customer:
    return Customer(ref).on(OLD, SubscriptionStarted, mrr_minor=minor, seats=seats, plan=plan, **more)


def changed(c: Customer, day: float, minor: int, seats: int = 10, plan: str = "team", **more: object) -> Customer:
    return c.on(day, SubscriptionChanged, mrr_minor=minor, seats=seats, plan=plan, **more)


def measured(*customers: Customer, rates: Rates | None = None) -> list[Measure]:
    return expansion([c.book() for c in customers], {c.ref: c.values(Expansion, 89.999) for c in customers}, frame(), rates)


def test_expansion_by_seats_by_plan_by_both_and_by_neither() -> None:
    """Of 600 at the start: seats + 20, plan + 30, both + 40, price alone + 10; one shrinks by 50; one is new and in no cohort. 100 / 600."""
    found = measured(
        changed(paying("seats", 100), 10, 120, seats=12),
        changed(paying("plan", 100), 20, 130, plan="enterprise"),
        changed(paying("both", 100), 30, 140, seats=11, plan="enterprise"),
        changed(paying("price", 100), 40, 110),
        changed(paying("shrinks", 200), 50, 150, seats=7),
        Customer("new").on(10, SubscriptionStarted, mrr_minor=500, seats=50),
    )
    rate, share = named(found, "expansion-rate"), named(found, "customers-expanded")
    assert (rate.numerator, rate.denominator, rate.n, rate.currency) == (100, 600, 5, "EUR")
    assert rate.value == round(100 / 600, 9)
    assert rate.note == "both 40, plan 30, price 10, seats 20"
    assert (share.numerator, share.denominator) == (4, 5)


def test_a_change_in_mid_period_and_back_again_is_no_expansion_and_the_end_counts() -> None:
    """100 → 150 → 100 is nothing; 100 → 150 → 120 is 20; a change that takes effect at the end belongs to the next period."""
    back = changed(changed(paying("back", 100), 10, 150, seats=15), 20, 100)
    part = changed(changed(paying("part", 100), 10, 150, seats=15), 20, 120, seats=12)
    rate = named(measured(back, part, changed(paying("next", 100), 80, 190, seats=19, effective_at=90)), "expansion-rate")
    assert (rate.numerator, rate.denominator, rate.note) == (20, 300, "seats 20")


def test_a_pause_within_the_period_is_no_expansion_and_one_that_ends_in_it_is_nobodys_opening() -> None:
    """100 pauses and resumes with 130: 30. Who was paused at the start has no MRR to grow from: a reactivation of 200."""
    terms = {"mrr_minor": 100, "seats": 10, "plan": "team"}
    within = paying("within", 100).on(10, SubscriptionPaused, **terms).on(40, SubscriptionResumed, mrr_minor=130, seats=13, plan="team")
    before = paying("before", 200).on(-10, SubscriptionPaused, **terms).on(40, SubscriptionResumed, mrr_minor=200, seats=10, plan="team")
    rate = named(measured(within, before), "expansion-rate")
    assert (rate.numerator, rate.denominator, rate.note) == (30, 100, "seats 30")
    (moved,) = movements([within.book(), before.book()], frame())
    assert (moved.expansion, moved.reactivation) == (30, 200)


def test_currencies_are_measured_apart_or_converted_at_one_date_and_who_changes_it_is_left_out() -> None:
    """100 EUR + 50; 100 USD + 10; one goes from 100 EUR to 300 USD. In USD at 1.10: (55 + 10 + 190) / (110 + 100 + 110)."""
    people = [
        changed(paying("eur", 100), 10, 150, seats=15),
        changed(paying("usd", 100, currency="USD"), 10, 110, seats=11, currency="USD"),
        changed(paying("moves", 100), 10, 300, seats=10, currency="USD"),
    ]
    found = measured(*people)
    euros, dollars = named(found, "expansion-rate", "EUR"), named(found, "expansion-rate", "USD")
    assert (euros.numerator, euros.denominator, dict(euros.excluded)) == (50, 100, {SWITCHED: 1})
    assert (dollars.numerator, dollars.denominator) == (10, 100)
    whole = named(measured(*people, rates=Rates("USD", date(2026, 1, 1), {"EUR": Decimal("1.10")})), "expansion-rate")
    assert (whole.numerator, whole.denominator) == (55 + 10 + 190, 110 + 100 + 110)
    assert whole.note.endswith("converted to USD at rates of 2026-01-01")


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=1, max_size=6))
def test_nrr_is_grr_and_the_expansion_rate(amounts: list[tuple[int, int]]) -> None:
    customers = [changed(paying(f"c{n}", was), 30, now) if now else paying(f"c{n}", was).on(30, SubscriptionEnded, mrr_minor=was) for n, (was, now) in enumerate(amounts)]  # fmt: skip
    kept, rate = retention([c.book() for c in customers], frame()), named(measured(*customers), "expansion-rate")
    assert named(kept, "nrr").numerator == (named(kept, "grr").numerator or 0) + (rate.numerator or 0)
    assert named(kept, "nrr").denominator == rate.denominator


def test_deals_about_more_are_won_lost_or_open_and_deals_about_renewals_are_none() -> None:
    """Closed in the period: a won, b lost; c is open; d was won before; e is a renewal. 1 of 2."""
    c = paying("c", 100)
    for deal, moves in (
        ("a", ((5, "open"), (30, "won"))),
        ("b", ((5, "open"), (30, "lost"))),
        ("c", ((40, "open"),)),
        ("d", ((-5, "won"),)),
    ):
        for day, stage in moves:
            c.on(day, OpportunityStageChanged, opportunity_id=deal, stage=stage, kind_of_deal="expansion")
    c.on(30, OpportunityStageChanged, opportunity_id="e", stage="won", kind_of_deal="renewal")
    won = named(measured(c), "expansion-deals-won")
    assert (won.numerator, won.denominator, dict(won.excluded)) == (1, 2, {"still open": 1})
    assert c.values(Expansion, 89)["open_deals"] == ("c",)


@pytest.mark.parametrize(
    ("seats", "assigned", "active", "value", "expected"),
    [
        (10, 9, None, True, (0.9, True)),
        (10, 8, None, True, (0.8, False)),
        (10, 9, None, False, (0.9, False)),
        (10, 2, 12, True, (1.2, True)),  # more come than are paid for
        (10, None, None, True, (None, None)),
    ],
)
def test_who_uses_what_is_paid_for_and_got_the_value_is_ready(
    seats: int, assigned: int | None, active: int | None, value: bool, expected: tuple[float | None, bool | None]
) -> None:
    c = paying("c", 100, seats=seats)
    if assigned is not None:
        c.on(80, SeatsCounted, subscription_id="s1", bought=seats, assigned=assigned)
    if active is not None:
        c.on(80, UsageObserved, feature="x", active_users=active)
    c.on(70, MilestoneReached, milestone="live", value=value)
    values = c.values(Expansion, 89.999)
    assert (values["utilisation"], values["ready"]) == expected
    ready = named(measured(c), "expansion-ready")
    assert (ready.numerator, ready.n) == (int(expected[1] is True), int(expected[1] is not None))


def test_seats_of_subscriptions_that_ended_are_not_paid_for_any_more() -> None:
    c = paying("c", 100, seats=10).on(OLD, SubscriptionStarted, subscription_id="s2", mrr_minor=50, seats=5)
    assert c.values(Expansion, 5)["seats"] == 15
    c.on(10, SubscriptionEnded, subscription_id="s2", mrr_minor=50)
    assert c.values(Expansion, 20)["seats"] == 10
    c.on(30, SubscriptionEnded, mrr_minor=100)
    assert c.values(Expansion, 40)["seats"] is None
