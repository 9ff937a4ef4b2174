"""Health is an exact weighted mean: missing inputs give their weight away, and the parts sum to the whole."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    AccountChurned,
    AccountProfiled,
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    RenewalDue,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    UsageObserved,
)
from postsale.errors import BadDeclaration, InvalidInput
from postsale.projections import CUSTOMER_HEALTH, Component, CustomerHealth, Features, Fold, HealthModel, count, explain_health, last_seen
from postsale.projections.health import round_half_even

from .customers import START, History, day

FULL = 100_000_000


class Tiny(Features, version=1, owner="tests"):
    n = count(UsageObserved)
    seen = last_seen(UsageObserved)


def model_of(parts, **options):
    """A model whose components give these scores with these weights."""
    components = tuple(Component(f"c{i}", weight, lambda v, s=score: s, absent="not there") for i, (score, weight) in enumerate(parts))
    return HealthModel(name="tiny", version=1, features=Tiny, components=components, **options)


def values_at(n=0.0, facts=(), features=Tiny):
    fold = Fold(features)
    return fold.finish(fold.fold(facts), day(n))


def test_the_published_vector_gives_74_87_and_is_fair():
    model = model_of([(83_000_000, 7), (71_000_000, 5), (78_000_000, 8), (54_000_000, 3)])
    score = model.score(values_at())
    assert score.score == 74.87
    assert score.band == "fair"
    assert score.value_micro == round(Fraction(83 * 7 + 71 * 5 + 78 * 8 + 54 * 3, 23) * 1_000_000)
    assert sum(c.contribution_micro for c in score.components) == score.value_micro


scores = st.one_of(st.none(), st.integers(0, FULL), st.sampled_from([0, FULL]))


@given(st.lists(st.tuples(scores, st.integers(1, 1_000)), min_size=1, max_size=9))
def test_contributions_sum_exactly_and_each_is_its_share_to_a_micro_point(parts):
    score = model_of(parts).score(values_at())
    weights = sum(w for s, w in parts if s is not None)
    if not weights:
        assert (score.value_micro, score.score, score.band) == (None, None, None)
        assert [c.missing for c in score.components] == ["not there"] * len(parts)
        return
    exact = Fraction(sum(s * w for s, w in parts if s is not None), weights)
    assert score.value_micro == round(exact)  # Fraction rounds half to even
    assert sum(c.contribution_micro for c in score.components) == score.value_micro
    for (s, w), c in zip(parts, score.components, strict=True):
        assert abs(c.contribution_micro - Fraction((s or 0) * w, weights)) < 1
        assert (c.score_micro, c.missing) == (s, "not there" if s is None else None)
    assert Decimal(str(score.score)) == (Decimal(score.value_micro) / 1_000_000).quantize(Decimal("0.01"), ROUND_HALF_EVEN)


@given(st.integers(-(10**20), 10**20), st.integers(1, 10**9))
def test_rounding_is_half_to_even_in_integers(numerator, denominator):
    assert round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(st.lists(st.tuples(st.integers(0, FULL), st.integers(1, 100)), min_size=2, max_size=6), st.data())
def test_a_missing_input_gives_its_weight_to_the_others_and_is_not_read_as_zero(parts, data):
    lost = data.draw(st.integers(0, len(parts) - 1))
    without = [p for i, p in enumerate(parts) if i != lost]
    missing = [(None, w) if i == lost else (s, w) for i, (s, w) in enumerate(parts)]
    assert model_of(missing).score(values_at()).value_micro == model_of(without).score(values_at()).value_micro


@pytest.mark.parametrize(
    ("points", "band"),
    [
        (0, "poor"),
        (50, "poor"),
        (50.5, "poor"),
        (50.500001, "fair"),
        (51, "fair"),
        (75.49, "fair"),
        (75.5, "good"),
        (76, "good"),
        (100, "good"),
    ],
)
def test_bands_go_by_the_value_rounded_to_a_whole_point_half_to_even(points, band):
    assert model_of([(round(points * 1_000_000), 1)]).score(values_at()).band == band


def test_an_input_older_than_90_days_is_stale_and_named_with_its_date():
    model = HealthModel(
        "t", 1, Tiny, (Component("usage", 1, lambda v: FULL, fresh="seen", absent="never used"), Component("other", 1, lambda v: 0))
    )
    facts = History().on(0, UsageObserved).facts
    assert model.score(values_at(0)).components[0].missing == "never used"
    assert model.score(values_at(90, facts)).value_micro == FULL // 2
    stale = model.score(values_at(90.01, facts))
    assert stale.value_micro == 0
    assert stale.components[0].missing == "stale: last seen 2026-01-01, 90 days before"


def test_custom_bands_name_the_value():
    assert model_of([(60_000_000, 1)], bands=(("red", 59), ("green", 100))).score(values_at()).band == "green"


@pytest.mark.parametrize(
    ("parts", "options", "reason"),
    [
        ([], {}, "at least one"),
        ([(1, 0)], {}, "weight"),
        ([(1, True)], {}, "weight"),
        ([(1, 1)], {"bands": ()}, "ascend"),
        ([(1, 1)], {"bands": (("a", 50),)}, "ascend"),
        ([(1, 1)], {"bands": (("a", 60), ("b", 60), ("c", 100))}, "ascend"),
    ],
)
def test_a_model_that_cannot_work_is_refused(parts, options, reason):
    with pytest.raises(BadDeclaration, match=reason):
        model_of(parts, **options)


def test_a_model_refuses_a_name_twice_and_an_unknown_freshness():
    with pytest.raises(BadDeclaration, match="each name once"):
        HealthModel("t", 1, Tiny, (Component("a", 1, lambda v: 1), Component("a", 1, lambda v: 1)))
    with pytest.raises(BadDeclaration, match="'nope', which Tiny does not declare"):
        HealthModel("t", 1, Tiny, (Component("a", 1, lambda v: 1, fresh="nope"),))


@pytest.mark.parametrize("bad", [-1, FULL + 1, 0.5, True, "1"])
def test_a_component_outside_the_scale_is_an_error_that_names_it(bad):
    with pytest.raises(InvalidInput, match="c0"):
        model_of([(bad, 1)]).score(values_at())


def test_the_models_digest_changes_with_weights_bands_version_and_features():
    base = model_of([(1, 1)])
    assert base.digest == model_of([(1, 1)]).digest
    others = [
        model_of([(1, 2)]),
        model_of([(1, 1)], bands=(("a", 100),)),
        HealthModel("tiny", 2, Tiny, base.components),
        HealthModel("tiny", 1, CustomerHealth, base.components),
    ]
    assert len({base.digest, *(m.digest for m in others)}) == 5


# ---------------------------------------------------------------- the shipped model


def health(history, n):
    return explain_health(CUSTOMER_HEALTH, history.facts, day(n), day(10_000))


def component(result, name):
    return next(c for c in result.components if c.name == name).score_micro


def test_nothing_known_is_no_score_and_not_zero():
    nothing = health(History(), 0)
    assert (nothing.score, nothing.band, nothing.trend.direction) == (None, None, None)
    assert set(nothing.missing) == {c.name for c in CUSTOMER_HEALTH.components}


def test_a_shopper_who_bought_once_last_week_is_good_and_eight_months_ago_poor():
    once = History().on(0, InvoicePaid)
    assert health(once, 7).band == "good"
    assert health(once, 240).band == "poor"
    assert set(health(once, 240).missing) == {c.name for c in CUSTOMER_HEALTH.components} - {"purchasing"}


def test_silence_is_judged_by_the_shoppers_own_pace():
    weekly, quarterly = History(), History()
    for n in range(30):
        weekly.on(7 * n, InvoicePaid)
    for n in range(3):
        quarterly.on(100 * n, InvoicePaid)
    assert health(weekly, 203 + 60).band == "poor"
    assert health(quarterly, 200 + 60).band == "good"


@given(st.lists(st.integers(0, 600), min_size=1, max_size=12), st.integers(0, 900), st.integers(0, 400))
def test_without_a_new_purchase_a_shoppers_score_never_rises(days_, wait, longer):
    history = History()
    for n in days_:
        history.on(n, InvoicePaid)
    last = max(days_)
    assert health(history, last + wait + longer).value_micro <= health(history, last + wait).value_micro
    assert health(history, last).value_micro == FULL


def test_a_subscriber_is_judged_by_payments_and_not_by_purchasing():
    subscriber = (
        History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(31, InvoicePaymentFailed).on(33, InvoicePaid).on(40, InvoicePaid)
    )
    result = health(subscriber, 41)
    assert component(result, "payments") == FULL * 3 // 4
    assert "purchasing" in result.missing
    assert result.score == 75.0


def test_a_failed_payment_counts_for_a_shopper_too():
    shopper = History().on(0, InvoicePaid).on(1, InvoicePaymentFailed)
    assert component(health(shopper, 2), "payments") == FULL // 2


def test_usage_is_judged_beside_the_thirty_days_before():
    steady = History().on(0, UsageObserved).on(40, UsageObserved)
    assert component(health(steady, 50), "usage") == 80_000_000
    assert component(health(steady, 75), "usage") == 0
    assert "usage" in health(steady, 131).missing
    assert component(health(History().on(0, UsageObserved), 5), "usage") == 80_000_000
    assert component(health(History().on(0, UsageObserved).on(40, UsageObserved, count=12), 50), "usage") == 96_000_000
    assert component(health(History().on(0, UsageObserved).on(40, UsageObserved, count=99), 50), "usage") == FULL


def test_adoption_is_active_users_by_seats_of_the_running_contract_else_the_profile():
    used = History().on(0, UsageObserved, active_users=3)
    assert "adoption" in health(used, 1).missing
    assert component(health(used.on(1, AccountProfiled, seats=4), 2), "adoption") == 75_000_000
    assert component(health(used.on(2, SubscriptionStarted, seats=6), 3), "adoption") == 50_000_000
    assert component(health(used.on(3, SubscriptionStarted, subscription_id="s2", seats=2), 4), "adoption") == 37_500_000


def test_support_loses_points_for_tickets_and_more_for_escalations():
    noisy = History().on(0, TicketOpened).on(1, TicketOpened).on(2, TicketEscalated)
    assert component(health(noisy, 3), "support") == 55_000_000
    assert component(health(noisy, 50), "support") == 75_000_000
    assert "support" in health(noisy, 120).missing


def test_the_latest_survey_is_scaled_and_turned_where_lower_is_better():
    answered = History().on(0, SurveyAnswered, score=10).on(1, SurveyAnswered, score=2, scale_min=1, scale_max=5)
    assert component(health(answered, 2), "survey") == 25_000_000
    effort = answered.on(2, SurveyAnswered, survey="ces", score=2, scale_min=1, scale_max=5, higher_is_better=False)
    assert component(health(effort, 3), "survey") == 75_000_000
    broken = effort.on(3, SurveyAnswered, score=5, scale_min=5, scale_max=5)
    assert component(health(broken, 4), "survey") == 75_000_000  # a scale of one point says nothing


def test_whoever_has_cancelled_is_never_better_than_the_middle():
    happy = History().on(0, SubscriptionStarted).on(1, InvoicePaid)
    assert health(happy, 2).score == 100.0
    leaving = happy.on(3, CancellationScheduled)
    assert component(health(leaving, 4), "contract") == 0
    assert health(leaving, 4).band == "poor"
    stayed = leaving.on(5, SubscriptionChanged)
    assert "contract" in health(stayed, 6).missing
    gone = stayed.on(7, SubscriptionEnded)
    assert component(health(gone, 8), "contract") == 0
    back = gone.on(9, SubscriptionStarted)
    assert "contract" in health(back, 10).missing


def test_an_account_that_the_crm_closed_is_poor_until_it_comes_back():
    """With a subscription and without one; a purchase or new terms after it say more than the CRM's word before."""
    shopper = History().on(0, InvoicePaid).on(20, InvoicePaid)
    assert health(shopper, 21).band == "good"
    closed = shopper.on(22, AccountChurned)
    assert (health(closed, 23).score, component(health(closed, 23), "contract")) == (0.0, 0)
    assert health(closed.on(24, InvoicePaid), 25).band == "good"
    subscriber = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(2, AccountChurned)
    assert health(subscriber, 3).band == "poor"
    assert "contract" in health(subscriber.on(4, SubscriptionStarted), 5).missing


def test_contract_values_add_within_one_currency_and_trials_bring_none():
    history = History().on(0, SubscriptionStarted, seats=3).on(1, SubscriptionStarted, subscription_id="s2", mrr_minor=100)
    facts = history.on(1, RenewalDue, renews_at=START).facts
    values = values_at(2, facts, CustomerHealth)
    assert (values["mrr_minor"], values["currency"], values["seats"], values["renews_at"]) == (5_000, "EUR", 3, day(0))
    trial = history.on(2, SubscriptionChanged, subscription_id="s2", trial=True).facts
    assert values_at(3, trial, CustomerHealth)["mrr_minor"] == 4_900
    mixed = history.on(3, SubscriptionChanged, subscription_id="s2", currency="USD").facts
    values = values_at(4, mixed, CustomerHealth)
    assert (values["mrr_minor"], values["currency"]) == (None, None)


def test_every_score_has_two_decimals_and_is_finite():
    history = History().on(0, SubscriptionStarted).on(0, InvoicePaid).on(1, InvoicePaymentFailed).on(2, InvoicePaymentFailed)
    score = health(history, 3).score
    assert score == 33.33
    assert math.isfinite(score)
