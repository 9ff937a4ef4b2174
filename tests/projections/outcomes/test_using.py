"""Onboarding, adoption, surveys and referrals by hand."""

from __future__ import annotations

from postsale.aggregates.signals import (
    AccountProfiled,
    AdvocacyGiven,
    MilestoneReached,
    OnboardingStepCompleted,
    ReferralClicked,
    ReferralConverted,
    ReferralInvited,
    ReferralWithdrawn,
    ReviewPublished,
    SeatsCounted,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    SurveyRevised,
    UsageObserved,
    UserLoggedIn,
)
from postsale.projections.outcomes import Adoption, Advocacy, Answers, Onboarding, adoption, onboarding, referrals, surveys

from .world import Customer, at, frame, named


def values(customers: list[Customer], features: type, day: float) -> dict:
    return {c.ref: c.values(features, day) for c in customers}


def test_time_to_value_counts_who_still_waits() -> None:
    """Value after 10, 20 and 30 days; two still wait after 90 and 80. Half of five are there on day 30; of the three alone it would be 20."""

    def begun(ref: str, day: float, value: float | None) -> Customer:
        customer = Customer(ref).on(day, AccountProfiled, starts_at=at(day))
        return customer if value is None else customer.on(day + value, MilestoneReached, milestone="report", value=True)

    everyone = [begun("a", 0, 10), begun("b", 5, 20), begun("c", 5, 30), begun("d", 0, None), begun("e", 10, None)]
    odd = Customer("odd").on(20, AccountProfiled, starts_at=at(20)).on(15, MilestoneReached, milestone="report", value=True)
    unknown = Customer("unknown").on(3, MilestoneReached, milestone="report", value=True)
    earlier = begun("earlier", -10, 5)
    found = named(onboarding(values([*everyone, odd, unknown, earlier], Onboarding, 90), frame()), "time-to-value")
    assert (found.value, found.n, found.numerator) == (30.0, 5, 3)
    assert dict(found.excluded) == {"nothing says when it began": 1, "value came before the beginning": 1}
    assert found.note == "2 are still waiting and count as such"


def test_a_milestone_that_is_not_the_outcome_is_no_value_and_progress_counts_each_step_once() -> None:
    c = (
        Customer()
        .on(0, UsageObserved, feature="x")
        .on(1, OnboardingStepCompleted, step="one", steps=4)
        .on(2, OnboardingStepCompleted, step="one", steps=4)
        .on(3, OnboardingStepCompleted, step="two", steps=5)
        .on(4, MilestoneReached, milestone="login")
    )
    found = c.values(Onboarding, 9)
    assert (found["progress"], found["time_to_value"], list(found["milestones"])) == (2 / 5, None, ["login"])
    finished = named(onboarding({"c": found}, frame(0, 9)), "onboarding-finished")
    assert (finished.value, finished.n) == (0.0, 1)


def test_breadth_depth_stickiness_and_utilisation_by_hand() -> None:
    """Logins: u1 on 3 days, u2 on 1: 4 user-days / 30 days = DAU 0.1333; MAU 2; stickiness 0.0667. 3 features, 60 uses / 2 people; 2 of 8 seats."""
    c = Customer().on(-60, SubscriptionStarted, seats=8).on(-60, SubscriptionStarted, subscription_id="gone", seats=50)
    c.on(-40, SubscriptionEnded, subscription_id="gone")
    c.on(-35, UsageObserved, feature="old", count=999, active_users=9)
    for day, feature, uses in ((1, "a", 10), (2, "b", 20), (3, "c", 30)):
        c.on(day, UsageObserved, feature=feature, count=uses, active_users=1)
        c.on(day, UserLoggedIn, user="u1")
        c.on(day + 0.1, UserLoggedIn, user="u1")
    c.on(3, UserLoggedIn, user="u2")
    v = c.values(Adoption, 10)
    assert (v["breadth"], v["depth"], v["people"]) == (3, 30.0, 2)
    assert (v["daily_active"], v["stickiness"]) == (round(4 / 30, 9), round(round(4 / 30, 9) / 2, 9))
    assert (v["seats"], v["utilisation"]) == (8, 0.25)
    c.on(5, SeatsCounted, subscription_id="s1", bought=4, assigned=3)
    assert c.values(Adoption, 10)["utilisation"] == 0.5
    found = adoption({"c": v, "quiet": Customer().on(0, AccountProfiled).values(Adoption, 10)}, frame(0, 10))
    assert (named(found, "breadth").value, named(found, "breadth").n, dict(named(found, "breadth").excluded)) == (3.0, 1, {"not known": 1})


def test_nps_and_csat_by_hand_where_a_revised_answer_replaces() -> None:
    """NPS: 10, 9, 7, 6 and a 2 revised to 9: promoters 3, detractors 1 of 5: 40. CSAT 1 to 5: 5, 4, 3; a 1 of 0 to 1: 3 of 4."""
    c = Customer()
    for n, score in enumerate((10, 9, 7, 6)):
        c.on(n, SurveyAnswered, survey="nps", score=score, response=f"r{n}")
    c.on(5, SurveyAnswered, survey="nps", score=2, response="again").on(20, SurveyRevised, survey="nps", score=9, response="again")
    c.on(6, SurveyAnswered, survey="nps", score=5, scale_max=5)  # not on the scale of an NPS
    for score in (5, 4, 3):
        c.on(7, SurveyAnswered, survey="csat", score=score, scale_min=1, scale_max=5)
    c.on(8, SurveyAnswered, survey="csat", score=1, scale_max=1)
    nps, csat = surveys({"c": c.values(Answers, 30)}, frame(0, 10, 30))
    assert (nps.value, nps.n, nps.note) == (40.0, 5, "3 promoters, 1 detractors")
    assert (csat.value, csat.n) == (0.75, 4)
    before, _ = surveys({"c": c.values(Answers, 10)}, frame(0, 10))
    assert before.value == 0.0  # as the answers stood then: 2 promoters, 2 detractors of 5
    turned = Customer().on(1, SurveyAnswered, survey="csat", score=1, scale_min=1, scale_max=5, higher_is_better=False)
    assert surveys({"c": turned.values(Answers, 9)}, frame(0, 9))[1].value == 1.0


def test_an_empty_population_has_no_value_and_is_not_zero() -> None:
    for measure in (*surveys({}, frame()), *referrals({}, frame()), *adoption({}, frame()), *onboarding({}, frame())):
        assert (measure.value, measure.n, measure.interval) == (None, 0, None)


def test_referral_conversion_and_k_factor_name_their_denominator() -> None:
    """Four invites of two sharers among four customers; two clicked; two converted, of which one was withdrawn."""
    one = (
        Customer("one")
        .on(1, ReferralInvited, referral_id="a")
        .on(1, ReferralInvited, referral_id="b")
        .on(2, ReferralInvited, referral_id="c")
    )
    one.on(3, ReferralClicked, referral_id="a").on(4, ReferralConverted, referral_id="a")
    one.on(3, ReferralConverted, referral_id="b").on(9, ReferralWithdrawn, referral_id="b")
    two = Customer("two").on(5, ReferralInvited, referral_id="d").on(6, ReferralClicked, referral_id="d")
    two.on(-9, ReferralInvited, referral_id="earlier").on(3, ReferralConverted, referral_id="earlier")
    three, four = Customer("three").on(1, ReviewPublished, site="g", stars=4), Customer("four").on(1, AdvocacyGiven, act="talk")
    found = referrals(values([one, two, three, four], Advocacy, 20), frame(0, 10, 20))
    assert {m.name: (m.numerator, m.denominator) for m in found} == {
        "referral-conversion-per-invite": (1, 4),
        "referral-conversion-per-click": (1, 2),
        "k-factor-per-customer": (1, 4),
        "k-factor-per-sharer": (1, 2),
    }
    assert one.values(Advocacy, 20)["converted"] == 1
    assert three.values(Advocacy, 20)["given"] == 1
