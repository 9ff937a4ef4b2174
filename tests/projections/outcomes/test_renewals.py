"""Contract ends by hand: who renewed, and the three calls side by side."""

from __future__ import annotations

from postsale.aggregates.signals import (
    RenewalCalledByManager,
    RenewalCalledByModel,
    RenewalCalledFinally,
    RenewalDue,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
)
from postsale.projections.outcomes import hit_rates, renewal_rate, renewals

from .world import Customer, frame, named

OLD = -100.0


def due(ref: str, end: float, *, paying: bool = True) -> Customer:
    customer = Customer(ref)
    if paying:
        customer.on(-300, SubscriptionStarted, mrr_minor=100)
    return customer.on(-300, RenewalDue, renews_at=end)


def test_a_renewal_is_billings_word_thirty_days_later_and_without_billing_the_final_call() -> None:
    books = [
        due("kept", 40).book(),
        due("early", 50).on(20, RenewalDue, renews_at=415).book(),  # renewed before its time
        due("lost", 45).on(45, SubscriptionEnded).book(),
        due("slow", 42).on(60, SubscriptionEnded).book(),  # let go within the 30 days
        due("called", 44, paying=False).on(43, RenewalCalledFinally, renews_at=44, call="churn").book(),
        due("silent", 46, paying=False).book(),
        due("fresh", 88).book(),
        due("elsewhere", 200).book(),
    ]
    found = renewals(books, frame(0, 90, 100))
    assert {r.ref: (r.renewed, r.by) for r in found} == {
        "kept": (True, "billing"),
        "early": (True, "billing"),
        "lost": (False, "billing"),
        "slow": (False, "billing"),
        "called": (False, "final"),
        "silent": (None, None),
        "fresh": (None, None),
    }
    rate = renewal_rate(found, frame(0, 90, 100))
    assert (rate.numerator, rate.denominator, rate.value) == (2, 5, 0.4)  # kept and early of the five that are settled
    assert dict(rate.excluded) == {"neither billing nor a final call says": 1, "within 30 days of its end": 1}
    assert rate.note == "4 by billing, 1 by the final call"


def test_the_three_calls_stand_side_by_side_and_each_has_its_own_hit_rate() -> None:
    """Model: right, wrong, no call. Manager: right, right, unsure. Final: held against billing."""
    books = [
        due("a", 40)
        .on(10, RenewalCalledByModel, renews_at=40, call="renew")
        .on(11, RenewalCalledByManager, renews_at=40, call="expand")
        .book(),
        due("b", 45)
        .on(10, RenewalCalledByModel, renews_at=45, call="churn")
        .on(30, RenewalCalledByModel, renews_at=45, call="renew")  # its newest call counts
        .on(46, RenewalCalledByModel, renews_at=45, call="churn")  # after the end it is no forecast
        .on(11, RenewalCalledByManager, renews_at=45, call="churn")
        .on(45, SubscriptionEnded)
        .on(50, RenewalCalledFinally, renews_at=45, call="churn")
        .book(),
        due("c", 50)
        .on(11, RenewalCalledByManager, renews_at=50, call="unsure")
        .on(51, RenewalCalledFinally, renews_at=50, call="churn")
        .book(),
    ]
    window = frame(0, 90, 120)
    found = renewals(books, window)
    assert [(r.ref, r.model, r.manager, r.final, r.renewed) for r in found] == [
        ("a", "renew", "expand", None, True),
        ("b", "renew", "churn", "churn", False),
        ("c", None, "unsure", "churn", True),
    ]
    rates = hit_rates(found, window)
    model, manager, final = (named(rates, f"call-hits-{voice}") for voice in ("model", "manager", "final"))
    assert (model.numerator, model.n, dict(model.excluded)) == (1, 2, {"no call": 1})
    assert (manager.numerator, manager.n, dict(manager.excluded)) == (2, 2, {"unsure": 1})
    assert (final.numerator, final.n, dict(final.excluded)) == (1, 2, {"no call": 1})


def test_a_contract_end_that_was_corrected_counts_once_where_it_belongs() -> None:
    book = due("c", 40).on(-300, RenewalDue, renews_at=140).book()
    assert renewals([book], frame(0, 90, 200)) == []
    assert [r.renewed for r in renewals([book], frame(90, 180, 200))] == [True]


def test_a_contract_that_ends_during_a_pause_is_renewed_as_long_as_it_was_not_ended() -> None:
    """Both pause on day 30 and are due on day 40: one resumes on day 60, one is ended on day 50. 1 of 2."""
    terms = {"mrr_minor": 100}
    books = []
    for ref, then in (("a", SubscriptionResumed), ("b", SubscriptionEnded)):
        c = Customer(ref).on(OLD, SubscriptionStarted, **terms).on(OLD, RenewalDue, renews_at=40).on(30, SubscriptionPaused, **terms)
        books.append(c.on(60 if ref == "a" else 50, then, **terms).book())
    rate = renewal_rate(renewals(books, frame(0, 90)), frame(0, 90))
    assert (rate.numerator, rate.denominator) == (1, 2)
