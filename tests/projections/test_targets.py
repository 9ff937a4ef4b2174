"""What counts as an outcome: each shipped label over what was before and what came within the horizon, and who is asked about."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from postsale.aggregates.signals import (
    AccountChurned,
    CancellationScheduled,
    InvoicePaid,
    ReferralInvited,
    RenewalCalledFinally,
    RenewalDue,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    UsageObserved,
)
from postsale.errors import BadDeclaration
from postsale.events import DAY_US
from postsale.projections import Fold
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.priors import CHURN_PRIOR, EXPANSION_PRIOR
from postsale.projections.scoring import Platt, Rank
from postsale.projections.targets import CHURN, EXPANSION, REFERRAL, RENEWAL, TARGETS, CustomerOutcome, Target, by_name

from .customers import START, History, day

HORIZON = 90
DUE = START + timedelta(days=60)


def before(*facts: Any) -> Any:
    """A customer at day 30, with a subscription that runs since day 0."""
    history = History().on(0, SubscriptionStarted).on(1, RenewalDue, renews_at=DUE)
    for on, kind, values in facts:
        history.on(on, kind, **values)
    fold = Fold(CustomerHealth)
    return fold.finish(fold.fold(history.facts), day(30))


def label(target: Target, *later: Any, past: tuple[Any, ...] = ()) -> bool:
    """Whether the outcome occurred, of what came after day 30."""
    history = History()
    for on, kind, values in later:
        history.on(on, kind, **values)
    fold = Fold(CustomerOutcome)
    return target.label(before(*past), fold.finish(fold.fold(history.facts), day(30 + HORIZON)))


END = (50, SubscriptionEnded, {})
MORE = {"mrr_minor": 9_900}


@pytest.mark.parametrize(
    ("later", "churned"),
    [
        ([], False),
        ([(40, InvoicePaid, {})], False),
        ([END], True),
        ([(50, AccountChurned, {})], True),
        ([END, (70, SubscriptionStarted, {})], False),  # came back
        ([(40, SubscriptionChanged, {}), END], True),
        ([END, (49, SubscriptionStarted, {"subscription_id": "s2"})], False),  # moved to another one
        ([(40, SubscriptionStarted, {"subscription_id": "s2"}), (60, SubscriptionEnded, {"subscription_id": "s2"})], False),
        ([(50, CancellationScheduled, {})], False),  # has not left yet
    ],
)
def test_a_customer_churned_when_nothing_runs_any_more_or_the_crm_says_so(later: list[Any], churned: bool) -> None:
    assert label(CHURN, *later) is churned


@pytest.mark.parametrize(
    ("later", "past", "renewed"),
    [
        ([], (), True),
        ([END], (), False),
        ([(40, CancellationScheduled, {})], (), False),
        ([(40, CancellationScheduled, {}), (45, SubscriptionChanged, {})], (), True),  # taken back
        ([], ((20, CancellationScheduled, {}),), False),
        ([(45, SubscriptionChanged, {})], ((20, CancellationScheduled, {}),), True),
        ([(50, AccountChurned, {})], (), False),
        ([(55, RenewalCalledFinally, {"renews_at": DUE, "call": "churn"})], (), False),  # the CRM settled it
        ([(55, RenewalCalledFinally, {"renews_at": DUE, "call": "contract"}), (40, CancellationScheduled, {})], (), True),
        ([(55, RenewalCalledFinally, {"renews_at": DUE, "call": "unsure"}), END], (), False),
        ([(55, RenewalCalledFinally, {"renews_at": DUE + timedelta(days=365), "call": "churn"})], (), True),  # another contract
    ],
)
def test_a_contract_was_renewed_as_the_crm_settled_it_or_when_something_runs_uncancelled(
    later: list[Any], past: tuple[Any, ...], renewed: bool
) -> None:
    assert label(RENEWAL, *later, past=past) is renewed


@pytest.mark.parametrize(
    ("later", "grew"),
    [
        ([], False),
        ([(40, SubscriptionChanged, MORE)], True),
        ([(40, SubscriptionChanged, {"mrr_minor": 100})], False),
        ([(40, SubscriptionChanged, MORE), (50, SubscriptionChanged, {})], False),  # and back again
        ([(40, SubscriptionStarted, {"subscription_id": "s2"})], True),
        ([(40, SubscriptionStarted, {"subscription_id": "s2", "trial": True})], False),
        ([(40, SubscriptionStarted, {"subscription_id": "s2", "trial": True}), (60, SubscriptionChanged, {"subscription_id": "s2"})], True),
        ([(40, SubscriptionStarted, {"subscription_id": "s2", **MORE}), END], True),
        ([(40, SubscriptionStarted, {"subscription_id": "s2", "mrr_minor": 100}), END], False),
        ([(40, SubscriptionStarted, {"subscription_id": "s2", "currency": "USD"})], False),  # currencies are never added
    ],
)
def test_revenue_rose_when_more_is_billed_at_the_end_in_the_same_currency(later: list[Any], grew: bool) -> None:
    assert label(EXPANSION, *later) is grew


def test_a_customer_referred_when_it_invited_somebody_within_the_horizon() -> None:
    assert label(REFERRAL, (40, ReferralInvited, {"referral_id": "r"}))
    assert not label(REFERRAL, past=((20, ReferralInvited, {"referral_id": "r"}),))


def test_only_those_are_asked_about_whom_the_question_fits() -> None:
    """Who has left is not asked whether it will leave, nor who has no contract due whether it renews."""
    here, gone = before(), before((20, SubscriptionEnded, {}))
    fold = Fold(CustomerHealth)
    shopper = fold.finish(fold.fold(History().on(5, InvoicePaid).facts), day(30))
    visitor = fold.finish(fold.fold(History().on(5, UsageObserved).facts), day(30))
    closed = before((20, AccountChurned, {}))
    asked = {t.name: [t.eligible(v, HORIZON * DAY_US) for v in (here, gone, shopper, visitor, closed)] for t in TARGETS}
    assert asked == {
        "churn": [True, False, False, False, False],
        "renewal": [True, False, False, False, False],
        "expansion": [True, False, False, False, False],
        "referral": [True, False, True, False, False],
    }
    assert RENEWAL.eligible(here, 37 * DAY_US)  # due in 30 days, and a week to see it
    assert not RENEWAL.eligible(here, 36 * DAY_US)
    over = before((20, RenewalDue, {"renews_at": START + timedelta(days=30)}))
    assert not RENEWAL.eligible(over, HORIZON * DAY_US)


def test_each_target_ships_with_a_prior_that_gives_ranks_over_its_features() -> None:
    for target in TARGETS:
        assert target.prior is not None
        assert target.prior.features == target.features.digest
        assert isinstance(target.prior.score(before()), Rank)
    leaving = before((20, CancellationScheduled, {}))
    for target, worse in [(CHURN, False), (RENEWAL, True), (EXPANSION, True), (REFERRAL, True)]:
        assert target.prior is not None
        now, then = target.prior.score(leaving), target.prior.score(before())
        assert isinstance(now, Rank)
        assert isinstance(then, Rank)
        assert (now.rank_ppm < then.rank_ppm) is worse


def test_a_target_that_cannot_work_is_refused_when_it_is_declared() -> None:
    calibrated = CHURN_PRIOR.model_copy(update={"calibration": Platt(slope=1, offset=0, calibrated_on="x")})
    for wrong, why in [
        ({"name": "Churn"}, "the name"),
        ({"name": "churn-risk"}, "the name"),
        ({"inputs": ("usage_30d", "luck")}, "declares no luck"),
        ({"prior": EXPANSION_PRIOR}, "prior"),
        ({"prior": calibrated}, "calibrated"),
    ]:
        with pytest.raises(BadDeclaration, match=why):
            replace(CHURN, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadDeclaration, match="share a name"):
        by_name([CHURN, CHURN])
    assert replace(CHURN, version=2).digest != CHURN.digest != replace(CHURN, inputs=CHURN.inputs[1:]).digest
