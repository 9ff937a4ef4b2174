"""Recurring revenue, by hand: the arithmetic stands beside each case."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from postsale.aggregates.signals import (
    AccountChurned,
    CancellationScheduled,
    CancellationWithdrawn,
    DiscountApplied,
    InvoiceRefunded,
    RenewalDue,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
)
from postsale.errors import InvalidInput
from postsale.projections.outcomes import Rates, logo_churn, movements, mrr_history, retention
from postsale.projections.outcomes.renewals import due_in
from postsale.projections.outcomes.revenue import FORGOTTEN, NO_RATE, NOT_DUE, SWITCHED, month_starts

from .world import Customer, frame, named, us

OLD = -100.0  # before every period here


def paying(ref: str, minor: int, since: float = OLD, **more: object) -> Customer:
    return Customer(ref).on(since, SubscriptionStarted, mrr_minor=minor, **more)


def test_retention_of_a_quarter_by_hand() -> None:
    """100 stays, 200 grows to 260, 300 shrinks to 240, 400 leaves, 500 is new and in no cohort."""
    books = [
        paying("stays", 100).book(),
        paying("grows", 200).on(30, SubscriptionChanged, mrr_minor=260).book(),
        paying("shrinks", 300).on(30, SubscriptionChanged, mrr_minor=240).book(),
        paying("leaves", 400).on(30, SubscriptionEnded, mrr_minor=400).book(),
        paying("new", 500, since=10).book(),
    ]
    found = retention(books, frame())
    grr, nrr = named(found, "grr"), named(found, "nrr")
    # start 100 + 200 + 300 + 400 = 1,000; kept 100 + 200 + 240 + 0 = 540; at the end 100 + 260 + 240 + 0 = 600
    assert (grr.numerator, grr.denominator, grr.value, grr.n) == (540, 1_000, 0.54, 4)
    assert (nrr.numerator, nrr.denominator, nrr.value, nrr.n) == (600, 1_000, 0.6, 4)
    assert (grr.currency, grr.cohort, dict(grr.excluded)) == ("EUR", "opening 2026-01-01", {})
    (moved,) = movements(books, frame())
    # 1,000 + 500 new + 60 expansion - 60 contraction - 400 churn = 1,100
    assert (moved.opening, moved.new, moved.expansion, moved.contraction, moved.churn, moved.closing) == (1_000, 500, 60, -60, -400, 1_100)
    churn = named(logo_churn(books, frame()), "logo-churn")
    assert (churn.numerator, churn.denominator, churn.value) == (1, 4, 0.25)


def test_a_change_that_takes_effect_at_the_start_is_in_the_period_and_one_at_the_end_in_the_next() -> None:
    book = paying("c", 100).on(0, SubscriptionChanged, mrr_minor=80).on(90, SubscriptionEnded).book()
    assert [named(retention([book], frame(a, b)), "nrr").value for a, b in ((-50, 0), (0, 90), (90, 180))] == [1.0, 0.8, 0.0]


def test_a_pause_is_contraction_and_no_lost_customer_and_its_end_a_reactivation() -> None:
    book = paying("c", 100).on(20, SubscriptionPaused, mrr_minor=100).on(100, SubscriptionResumed, mrr_minor=100).book()
    (during,) = movements([book], frame(0, 90))
    (after,) = movements([book], frame(90, 180))
    assert (during.contraction, during.churn, during.closing) == (-100, 0, 0)
    assert (after.opening, after.reactivation, after.new, after.closing) == (0, 100, 0, 100)
    assert named(logo_churn([book], frame(0, 90)), "logo-churn").value == 0.0
    assert named(logo_churn([book], frame(90, 180)), "logo-churn").n == 1  # a customer that pauses is one
    assert retention([book], frame(90, 180)) == []  # and has no revenue to retain


def test_a_trial_counts_no_revenue_until_it_is_paid() -> None:
    book = Customer().on(-10, SubscriptionStarted, mrr_minor=100, trial=True).on(4, SubscriptionChanged, mrr_minor=100).book()
    assert [dict(book.at(us(day)).mrr) for day in (0, 4, 4.5)] == [{}, {}, {"EUR": 100}]
    (moved,) = movements([book], frame())
    assert (moved.opening, moved.new, moved.closing) == (0, 100, 100)
    assert named(logo_churn([book], frame()), "logo-churn").n == 0


def test_a_trial_that_ends_unpaid_is_not_churn() -> None:
    book = Customer().on(-10, SubscriptionStarted, mrr_minor=100, trial=True).on(4, SubscriptionEnded, mrr_minor=100).book()
    assert movements([book], frame()) == []
    assert named(logo_churn([book], frame()), "logo-churn").n == 0


def test_a_refund_and_a_discount_already_in_the_terms_leave_mrr_alone() -> None:
    book = (
        paying("c", 100)
        .on(10, InvoiceRefunded, amount_minor=100, currency="EUR")
        .on(20, SubscriptionChanged, mrr_minor=80)  # after a discount of 20
        .on(20, DiscountApplied, subscription_id="s1", amount_minor=20, currency="EUR")
        .book()
    )
    assert dict(book.at(us(30)).mrr) == {"EUR": 80}  # not 100 - 20 - 20, nor less by the refund


def test_a_switch_of_plans_between_subscriptions_is_netted_per_customer() -> None:
    """s1 of 100 and s2 of 50 become s3 of 170: the customer grew by 20, nothing was lost."""
    book = (
        paying("c", 100)
        .on(OLD, SubscriptionStarted, subscription_id="s2", mrr_minor=50)
        .on(40, SubscriptionEnded, mrr_minor=100)
        .on(40, SubscriptionEnded, subscription_id="s2", mrr_minor=50)
        .on(40, SubscriptionStarted, subscription_id="s3", mrr_minor=170)
        .book()
    )
    found = retention([book], frame())
    assert (named(found, "grr").value, named(found, "nrr").value) == (1.0, round(170 / 150, 9))
    (moved,) = movements([book], frame())
    assert (moved.expansion, moved.churn, moved.new) == (20, 0, 0)
    assert named(logo_churn([book], frame()), "logo-churn").value == 0.0


def test_who_left_and_came_back_within_the_period_was_not_lost() -> None:
    book = paying("c", 100).on(10, SubscriptionEnded).on(50, SubscriptionStarted, subscription_id="s2", mrr_minor=70).book()
    assert named(logo_churn([book], frame()), "logo-churn").value == 0.0
    assert named(retention([book], frame()), "grr").value == 0.7
    assert named(logo_churn([book], frame(0, 30)), "logo-churn").value == 1.0
    (back,) = movements([book], frame(30, 90))
    assert (back.reactivation, back.new) == (70, 0)


def test_money_is_lost_when_a_subscription_ends_not_when_its_end_is_scheduled() -> None:
    book = paying("c", 100).on(10, CancellationScheduled, mrr_minor=100, effective_at=60).on(60, SubscriptionEnded).book()
    assert [dict(book.at(us(day)).mrr) for day in (59, 60, 61)] == [{"EUR": 100}, {"EUR": 100}, {}]
    withdrawn = (
        paying("c", 100)
        .on(10, CancellationScheduled, mrr_minor=100, effective_at=60)
        .on(20, CancellationWithdrawn, mrr_minor=100, effective_at=20)
        .book()
    )
    assert dict(withdrawn.at(us(61)).mrr) == {"EUR": 100}


def test_a_late_correction_holds_from_when_it_takes_effect() -> None:
    """Learnt on day 100: since day 30 it was 60, not 100. The quarter kept 60 of 100 once that is known, and all of it before."""
    late = paying("c", 100).on(100, SubscriptionChanged, effective_at=30, mrr_minor=60)
    assert named(retention([late.book(day=99)], frame()), "grr").value == 1.0
    assert named(retention([late.book(day=100)], frame(as_of=100)), "grr").value == 0.6
    recorded_late = paying("c", 100).on(30, SubscriptionChanged, mrr_minor=60, known=120)
    assert named(retention([recorded_late.book(known=90)], frame()), "grr").value == 1.0
    assert named(retention([recorded_late.book(known=120)], frame()), "grr").value == 0.6


def test_a_corrected_fact_of_the_same_time_replaces_and_a_newer_change_outlives_a_scheduled_one() -> None:
    corrected = paying("c", 100).on(30, SubscriptionChanged, mrr_minor=6).on(30, SubscriptionChanged, mrr_minor=60).book()
    assert dict(corrected.at(us(31)).mrr) == {"EUR": 60}
    scheduled = paying("c", 100).on(5, SubscriptionChanged, effective_at=50, mrr_minor=500).on(20, SubscriptionChanged, mrr_minor=90).book()
    assert dict(scheduled.at(us(60)).mrr) == {"EUR": 90}


def test_currencies_are_never_added() -> None:
    books = [paying("e", 100).book(), paying("u", 300, currency="USD").on(9, SubscriptionEnded, currency="USD").book()]
    found = retention(books, frame())
    assert [(m.name, m.currency, m.value) for m in found] == [
        ("grr", "EUR", 1.0),
        ("nrr", "EUR", 1.0),
        ("grr", "USD", 0.0),
        ("nrr", "USD", 0.0),
    ]
    assert [(m.currency, m.churn) for m in movements(books, frame())] == [("EUR", 0), ("USD", -300)]


def test_who_changes_currency_is_left_out_with_the_reason_and_in_the_cohort_when_rates_are_given() -> None:
    """USD 2.00 become EUR 1.50. At 0.50 EUR for a dollar, 100 became 150; JPY has no minor unit: 400 yen at 0.01 are EUR 4.00."""
    moved = paying("m", 200, currency="USD").on(9, SubscriptionChanged, mrr_minor=150, currency="EUR").book()
    yen = paying("y", 400, currency="JPY").book()
    usd = named(retention([moved, yen], frame()), "grr", "USD")
    assert (usd.value, usd.n, dict(usd.excluded)) == (None, 0, {SWITCHED: 1})
    assert [(m.currency, m.switched, m.churn, m.new) for m in movements([moved], frame())] == [("EUR", 150, 0, 0), ("USD", -200, 0, 0)]
    rates = Rates("EUR", date(2026, 1, 1), {"USD": Decimal("0.5"), "JPY": Decimal("0.01")})
    found = retention([moved, yen], frame(), rates=rates)
    assert [(m.name, m.currency, m.numerator, m.denominator) for m in found] == [("grr", "EUR", 500, 500), ("nrr", "EUR", 550, 500)]
    assert found[0].note == "converted to EUR at rates of 2026-01-01"
    without = Rates("EUR", date(2026, 1, 1), {"USD": Decimal("0.5")})
    assert dict(named(retention([moved, yen], frame(), rates=without), "grr").excluded) == {NO_RATE: 1}


def test_avoidable_and_unavoidable_losses_stand_apart_from_those_of_which_nobody_said() -> None:
    books = [
        paying("a", 100).on(10, SubscriptionEnded, avoidable=True).book(),
        paying("u", 100).on(10, SubscriptionEnded).on(11, AccountChurned, avoidable=False).book(),
        paying("n", 100).on(10, SubscriptionEnded).book(),
        paying("before", 100)
        .on(-50, SubscriptionEnded, avoidable=True)
        .on(-40, SubscriptionStarted, mrr_minor=5)
        .on(10, SubscriptionEnded)
        .book(),
        paying("stays", 100).book(),
    ]
    found = logo_churn(books, frame())
    shares = {m.name: (m.numerator, m.denominator) for m in found}
    assert shares == {
        "logo-churn": (4, 5),
        "logo-churn-avoidable": (1, 5),
        "logo-churn-unavoidable": (1, 5),
        "logo-churn-unstated": (2, 5),
    }


def test_the_crm_may_call_a_customer_lost_that_billing_still_bills_and_the_measure_says_so() -> None:
    book = paying("c", 100).on(10, AccountChurned).book()
    churn = named(logo_churn([book], frame()), "logo-churn")
    assert (churn.value, churn.note) == (1.0, "1 by the CRM's word while billing goes on")
    assert named(retention([book], frame()), "grr").value == 1.0  # money is billing's word
    assert (
        named(
            logo_churn([paying("c", 100).on(10, AccountChurned).on(20, SubscriptionChanged, mrr_minor=9).book()], frame()), "logo-churn"
        ).value
        == 0
    )


def test_of_multi_year_contracts_only_those_due_in_the_period_can_be_asked_about() -> None:
    """100 is due and falls to 70; 900 is bound for two more years: of what was eligible for renewal 70 % is left."""
    due = (
        paying("due", 100)
        .on(-90, RenewalDue, renews_at=45)
        .on(40, RenewalDue, renews_at=410)
        .on(45, SubscriptionChanged, mrr_minor=70)
        .book()
    )
    bound = paying("bound", 900).on(-90, RenewalDue, renews_at=800).book()
    window = frame()
    found = retention([due, bound], window, eligible=lambda b: due_in(b, window.start_us, window.end_us))
    nrr = named(found, "nrr-due")
    assert (nrr.value, nrr.n, dict(nrr.excluded)) == (0.7, 1, {NOT_DUE: 1})


def test_terms_older_than_ten_years_are_left_out_and_counted() -> None:
    old = paying("old", 100, since=-4_000).book(day=0)
    found = retention([old, paying("c", 50).book()], frame())
    assert (named(found, "grr").n, dict(named(found, "grr").excluded)) == (1, {FORGOTTEN: 1})


def test_the_mrr_of_months_is_read_just_before_each() -> None:
    book = paying("c", 100, since=-20).on(31, SubscriptionChanged, mrr_minor=130).book()
    times = month_starts(frame(0, 75), 4)
    assert times == [us(0), us(31), us(59), us(75)]
    assert [(p.mrr_minor, p.customers) for p in mrr_history([book], times)] == [(100, 1), (100, 1), (130, 1), (130, 1)]


@pytest.mark.parametrize(("start", "end", "as_of"), [(10, 10, 20), (20, 10, 30), (0, 10, 9)])
def test_a_period_that_is_empty_or_not_over_is_refused(start: float, end: float, as_of: float) -> None:
    with pytest.raises(InvalidInput, match="period"):
        frame(start, end, as_of)


def test_retention_with_pauses_two_currencies_and_changes_in_mid_period_by_hand() -> None:
    """Only the two ends count, each subscription in its own currency.

    EUR at the start: 100 + 200 + 300 + 400 = 1,000. At the end: 100 → 150 → 120 is 120 (kept 100); 200 → 50 → 200 is 200; 300 paused on day
    80 is 0, but no lost customer; 400 paused on day 10 and resumed with 380 on day 60 is 380. Kept 100 + 200 + 0 + 380 = 680, at the end 700.
    USD at the start: 500, of the customer that also pays 100 EUR: at the end 250, kept 250.
    """
    two = paying("two", 100).on(OLD, SubscriptionStarted, subscription_id="s2", mrr_minor=500, currency="USD")
    two.on(20, SubscriptionChanged, mrr_minor=150).on(70, SubscriptionChanged, mrr_minor=120)
    two.on(45, SubscriptionChanged, subscription_id="s2", mrr_minor=250, currency="USD")
    books = [
        two.book(),
        paying("dips", 200).on(20, SubscriptionChanged, mrr_minor=50).on(50, SubscriptionChanged, mrr_minor=200).book(),
        paying("pauses", 300).on(80, SubscriptionPaused, mrr_minor=300).book(),
        paying("resumes", 400).on(10, SubscriptionPaused, mrr_minor=400).on(60, SubscriptionResumed, mrr_minor=380).book(),
    ]
    found = retention(books, frame())
    for name, euros, dollars in (("grr", 680, 250), ("nrr", 700, 250)):
        assert (named(found, name, "EUR").numerator, named(found, name, "EUR").denominator) == (euros, 1_000)
        assert (named(found, name, "USD").numerator, named(found, name, "USD").denominator) == (dollars, 500)
    # at 2 EUR for one USD: 1,000 + 2 x 500 = 2,000; two customers' sums are netted: of 1,100 at the start 620 are left, kept 620
    whole = retention(books, frame(), rates=Rates("EUR", date(2026, 1, 1), {"USD": Decimal(2)}))
    assert (named(whole, "grr").numerator, named(whole, "nrr").numerator, named(whole, "grr").denominator) == (
        620 + 200 + 380,
        1_200,
        2_000,
    )
    churn = named(logo_churn(books, frame()), "logo-churn")
    assert (churn.numerator, churn.denominator) == (0, 4)
    (dollars_moved, euros_moved) = sorted(movements(books, frame()), key=lambda m: m.currency, reverse=True)
    # EUR 1,000 + 20 (two) - 300 (pauses) - 20 (resumes) = 700; USD 500 - 250 = 250
    assert (euros_moved.expansion, euros_moved.contraction, euros_moved.churn, euros_moved.closing) == (20, -320, 0, 700)
    assert (dollars_moved.contraction, dollars_moved.closing) == (-250, 250)


def test_a_pause_that_spans_the_whole_period_is_in_no_cohort_and_no_churn() -> None:
    """Paused from before the start until after the end: no MRR at either end; a customer at the start, and still one at the end."""
    book = paying("c", 100).on(-10, SubscriptionPaused, mrr_minor=100).on(95, SubscriptionResumed, mrr_minor=100).book()
    assert retention([book], frame()) == []
    churn = named(logo_churn([book], frame()), "logo-churn")
    assert (churn.numerator, churn.denominator) == (0, 1)
