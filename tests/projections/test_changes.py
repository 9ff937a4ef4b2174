"""The last change of a reading is found to the microsecond, with the fact that made it or the word that time did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, SubscriptionStarted, TicketOpened, UsageObserved
from postsale.events import DAY_US
from postsale.projections import CUSTOMER_HEALTH, explain_health
from postsale.projections.changes import last_change

from .customers import History, day

KINDS = [InvoicePaid, InvoicePaymentFailed, SubscriptionStarted, TicketOpened, UsageObserved]
FOLD = CUSTOMER_HEALTH.fold


def band_at(facts, us):
    return CUSTOMER_HEALTH.score(FOLD.finish(FOLD.fold(f for f in facts if f.occurred_at_us <= us), us)).band


def changed(facts, us, **options):
    return last_change(FOLD, [f for f in facts if f.occurred_at_us <= us], us, lambda v: CUSTOMER_HEALTH.score(v).band, **options)


@st.composite
def histories(draw):
    history = History()
    for kind, hours in draw(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 24 * 120)), max_size=12)):
        history.on(hours / 24, kind)
    return history.facts


@given(histories(), st.integers(0, 200))
def test_the_reading_changes_there_and_every_day_from_then_on_ends_as_today(facts, n):
    us = day(n)
    found = changed(facts, us)
    today = us // DAY_US
    if found is None:
        assert {band_at(facts, (d + 1) * DAY_US - 1) for d in range(today - 366, today)} == {band_at(facts, us)}
        return
    assert found.after == band_at(facts, us) == band_at(facts, found.at_us)
    assert found.before == band_at(facts, found.at_us - 1) != found.after
    assert (found.cause is not None) == (found.at_us in {f.occurred_at_us for f in facts})
    for d in range(found.at_us // DAY_US, today):
        assert band_at(facts, (d + 1) * DAY_US - 1) == found.after


def test_a_fact_that_changed_the_band_is_named():
    facts = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(8.25, InvoicePaymentFailed).facts
    found = changed(facts, day(20))
    assert (found.at_us, found.before, found.after, found.cause.position) == (day(8.25), "good", "poor", 3)


def test_where_time_alone_changed_it_no_fact_is_named():
    facts = History().on(0, SubscriptionStarted).on(1, InvoicePaid).facts
    found = changed(facts, day(120))
    assert (found.at_us, found.before, found.after, found.cause) == (day(91) - 9 * DAY_US // 24, "good", None, None)  # midnight


def test_a_change_taken_back_on_the_same_day_is_none():
    history = History().on(0, SubscriptionStarted)
    history.on(1, InvoicePaid).on(9, InvoicePaymentFailed)
    for n in range(9):
        history.on(9.01 + n / 100, InvoicePaid)
    assert changed(history.facts, day(30)).at_us == day(1)


def test_further_back_than_it_looks_there_is_none():
    facts = History().on(0, SubscriptionStarted).on(1, InvoicePaid).facts
    assert changed(facts, day(60), look_back_days=40) is None
    assert changed(facts, day(60), look_back_days=80).at_us == day(1)


def test_people_read_since_when_the_band_is_what_it_is():
    facts = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(8, InvoicePaymentFailed).facts
    text = str(explain_health(CUSTOMER_HEALTH, facts, day(20), day(20)).why())
    assert "poor since 2026-01-09T09:00:00.000000Z, good before: event 3, billing/invoice-payment-failed" in text
    text = str(explain_health(CUSTOMER_HEALTH, History().on(0, UsageObserved).facts, day(40), day(40)).why())
    assert "poor since 2026-01-31T00:00:00.000000Z, good before: as time passed" in text
