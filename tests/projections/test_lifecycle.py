"""Lifecycle stages follow from facts, at the microsecond, by what had happened and was known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    AccountChurned,
    AccountProfiled,
    CancellationScheduled,
    InvoicePaid,
    RenewalDue,
    SubscriptionEnded,
    SubscriptionStarted,
    TicketOpened,
    UsageObserved,
)
from postsale.events import from_us, to_us
from postsale.projections import CUSTOMER_HEALTH, Lifecycle
from postsale.projections.lifecycle import STAGES, lifecycle_stage, read_lifecycle

from .customers import History, day

FOLD = CUSTOMER_HEALTH.fold


def read(facts, us, known=None) -> Lifecycle:
    return read_lifecycle(FOLD, lifecycle_stage, facts, us, day(10_000) if known is None else known)


def at(facts, us):
    return read(facts, us).stage


def test_nothing_is_known_of_a_customer_who_never_began():
    got = read(History().on(0, TicketOpened).facts, day(1))
    assert (got.stage, got.reason, got.since) == (None, None, None)
    assert str(got).startswith("no lifecycle stage")


@pytest.mark.parametrize("kind", [SubscriptionStarted, InvoicePaid, UsageObserved])
def test_onboarding_is_the_ninety_days_from_the_first_terms_purchase_or_usage(kind):
    facts = History().on(0, TicketOpened).on(3, kind).facts
    assert [at(facts, us) for us in (day(3) - 1, day(3), day(93) - 1, day(93))] == [None, "onboarding", "onboarding", "adoption"]


def test_the_profile_says_when_it_began_before_anything_else_does():
    facts = History().on(50, UsageObserved).on(51, AccountProfiled, starts_at=from_us(day(-60))).facts
    assert [at(facts, day(n)) for n in (50, 51)] == ["onboarding", "adoption"]
    assert read(facts, day(51)).reason == "began on 2025-11-02, 111 days before"
    future = History().on(0, AccountProfiled, starts_at=from_us(day(5))).facts
    assert [at(future, us) for us in (day(5) - 1, day(5))] == [None, "onboarding"]


def test_renewal_is_the_ninety_days_before_the_contract_ends_once_onboarding_is_over():
    facts = History().on(0, SubscriptionStarted).on(0, RenewalDue, renews_at=from_us(day(365))).facts
    assert [at(facts, us) for us in (day(275) - 1, day(275), day(365), day(365) + 1)] == ["adoption", "renewal", "renewal", "adoption"]
    early = History().on(0, SubscriptionStarted).on(0, RenewalDue, renews_at=from_us(day(30))).facts
    assert at(early, day(20)) == "onboarding"


def test_leaving_is_when_every_running_subscription_is_cancelled_and_churned_when_all_ended():
    history = History().on(0, SubscriptionStarted).on(0, SubscriptionStarted, subscription_id="s2")
    history.on(100, CancellationScheduled).on(110, CancellationScheduled, subscription_id="s2")
    history.on(120, SubscriptionEnded).on(130, SubscriptionEnded, subscription_id="s2").on(140, SubscriptionStarted)
    facts = history.facts
    assert [at(facts, day(n)) for n in (99, 105, 110, 125, 130, 140)] == [
        "adoption",
        "adoption",
        "leaving",
        "leaving",
        "churned",
        "adoption",
    ]
    assert read(facts, day(135)).reason == "the last subscription ended on 2026-05-11"


def test_the_crms_word_ends_it_until_the_customer_comes_back():
    facts = History().on(0, UsageObserved).on(95, AccountChurned).on(99, InvoicePaid).facts
    assert [at(facts, day(n)) for n in (94, 96, 100)] == ["adoption", "churned", "adoption"]


def test_it_says_since_when_what_was_before_and_which_fact_did_it():
    facts = History().on(0, SubscriptionStarted).on(100, CancellationScheduled).facts
    got = read(facts, day(130)).to_dict()
    assert (got["stage"], got["since"], got["before"], got["position"]) == ("leaving", "2026-04-11T09:00:00.000000Z", "adoption", 2)
    by_time = read(facts, day(99))
    assert (by_time.stage, by_time.since, by_time.before, by_time.position) == ("adoption", from_us(day(90)), "onboarding", None)
    assert str(by_time) == "adoption since 2026-04-01: began on 2026-01-01, 99 days before"
    assert str(read(facts[:1], day(900))).startswith("adoption for more than 366 days: ")


KINDS = [SubscriptionStarted, CancellationScheduled, SubscriptionEnded, AccountChurned, InvoicePaid, UsageObserved, TicketOpened]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 200), st.sampled_from([0, 1, 40])), max_size=10),
    st.integers(0, 260),
    st.integers(0, 260),
    st.randoms(use_true_random=False),
)
def test_only_what_had_occurred_and_was_known_counts_in_any_order(events, as_of, known, rng):
    history = History()
    for kind, n, late in events:
        history.on(n, kind, known=n + late)
    visible = [f for f in history.facts if f.occurred_at_us <= day(as_of) and f.recorded_at_us <= day(known)]
    got = read(history.facts, day(as_of), day(known))
    rng.shuffle(visible)
    again = read(visible, day(as_of), day(known))
    assert got == again
    assert got.stage in {None, *STAGES}
    if got.since is not None:
        since_us = to_us(got.since)
        assert (at(visible_then(visible, since_us), since_us), got.before) == (
            got.stage,
            at(visible_then(visible, since_us - 1), since_us - 1),
        )
        assert got.before != got.stage


def visible_then(facts, us):
    return [f for f in facts if f.occurred_at_us <= us]
