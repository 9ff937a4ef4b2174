"""The closed loop: what arrives is recorded, agents run, and what really left, read from the log, is what customers respond to."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from postsale.agents import SHIPPED, RenewalRescue
from postsale.app import PostSale
from postsale.events import ManualClock
from postsale.simulator import TROUBLED, ConsentGivenAt, Delivery, Effect, EffectsLeft, Meaning, Vendor

START = datetime(2026, 7, 1, tzinfo=UTC)


def closed_loop(seed: int, *, mode: str, days: int = 70, meanings: tuple[Meaning, ...] = ()) -> tuple[Vendor, list[Effect]]:
    clock = ManualClock(START)
    vendor = Vendor(seed, customers=25, start=START, days=days, model=TROUBLED)
    effects: list[Effect] = []
    with PostSale.open("memory:", agents=[RenewalRescue()], clock=clock) as ps:
        acme = ps.tenant("acme")
        agent, left = acme.agent("renewal-rescue"), EffectsLeft(ps, "acme", meanings=meanings)
        getattr(agent, mode)(reason="a test")
        for day in range(days):
            clock.move_to(START + timedelta(days=day + 1, hours=13))
            arrivals = vendor.day(day)
            report = acme.record_many((a.customer, a.signal) for a in arrivals if isinstance(a, Delivery))
            assert report.rejects == [], f"seed {seed}, day {day}"
            for a in arrivals:
                if isinstance(a, ConsentGivenAt):
                    acme.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="form")
            ps.run_once()
            effects += (new := left.new())
            assert vendor.act(new) == len(new)
            assert left.new() == []
        acted = [e for e in acme.decisions() if e.disposition == "acted" and "succeeded" in e.effects.values()]
        assert len(acted) == len(effects)
    return vendor, effects


def test_customers_respond_to_what_left_and_the_truth_knows_by_how_much() -> None:
    vendor, effects = closed_loop(3, mode="act")
    assert {e.action for e in effects} >= {"health-check-call", "payment-reminder"}
    reached = {name for name, o in vendor.outcomes().items() if o.acted}
    assert reached
    assert reached <= {e.customer for e in effects}
    truth = vendor.truth()
    assert truth.acted.customers == len(reached)
    assert truth.spared.mrr_minor == truth.spared.churned == truth.spared.collected_minor == 0


def test_an_agent_that_only_observes_changes_nothing() -> None:
    vendor, effects = closed_loop(3, mode="observe")
    assert effects == []
    without = vendor.twin()
    without.live()
    assert vendor.outcomes() == without.outcomes()


def test_meanings_of_ones_own_come_first() -> None:
    _, effects = closed_loop(3, mode="act", days=50, meanings=(Meaning("crm.create_task", "", "outreach"),))
    assert effects
    assert {e.action for e in effects} <= {"outreach", "offer", "payment-reminder"}


@pytest.mark.parametrize(
    ("tool", "arguments", "action"),
    [
        ("email.send@1", {"template": "payment-failing"}, "payment-reminder"),
        ("email.send@2", {"template": "we-miss-you"}, "outreach"),
        ("crm.create_task@1", {"title": "Call: renewal at risk"}, "renewal-call"),
        ("crm.create_task@1", {"title": "Look at a customer in poor health"}, "health-check-call"),
        ("billing.offer_credit@1", {"amount_minor": 1}, "offer"),
        ("billing.offer_credit@1", {"terms": "50.00 EUR off the first invoice with more seats"}, "upsell-offer"),
        ("billing.withdraw_credit@1", {}, None),
    ],
)
def test_calls_of_the_shipped_tools_have_a_meaning(tool: str, arguments: dict[str, object], action: str | None) -> None:
    with PostSale.open("memory:") as ps:
        effect = EffectsLeft(ps, "acme")._effect("cus_001", UUID(int=1), tool, arguments, 0)
    assert (None if effect is None else effect.action) == action


WHAT: dict[str, set[str]] = {  # by shipped policy, the actions that its calls may be to a customer
    "renewal-rescue": {"offer", "payment-reminder", "renewal-call", "outreach", "health-check-call"},
    "churn-outreach": {"offer", "outreach", "health-check-call"},
    "health-check": {"outreach", "health-check-call"},
    "onboarding-optimisation": {"onboarding-nudge"},
    "post-renewal-outreach": {"outreach", "health-check-call"},
    "upsell": {"upsell-offer"},
    "referral-invitation": {"referral-invitation", "outreach"},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_call_of_a_shipped_policy_is_what_its_agent_is_there_for(name: str) -> None:
    with PostSale.open("memory:") as ps:
        left = EffectsLeft(ps, "acme")
        for rule in SHIPPED[name]().policy.rules:
            if rule.tool is not None:
                said = dict(rule.arguments) | ({"terms": rule.offer.terms} if rule.offer is not None else {})
                effect = left._effect("cus_001", UUID(int=1), rule.tool, said, 0)
                assert effect is not None
                assert effect.action in WHAT[name], rule.id
