"""The shipped agents on the read models that ship: what they do for whom, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from postsale.agents import ChurnOutreach, RenewalRescue
from postsale.agents.evidence import OFFERED, HealthReading, customer_evidence
from postsale.agents.readings import RunnerHealth
from postsale.agents.rederive import rederive
from postsale.aggregates.signals import CancellationScheduled, RenewalDue, TicketEscalated, TicketOpened, UsageObserved
from postsale.events import DAY_US, encode_payload, to_us
from postsale.projections import CUSTOMER_HEALTH, HealthModel, MemoryViews, Row, Runner
from tests.agents.world import ANNA, BEN, NOON, World, calls


def world(mode: str = "act", model: HealthModel = CUSTOMER_HEALTH) -> World:
    w = World([RenewalRescue(), ChurnOutreach()])
    w.engine.health = RunnerHealth(Runner(w.store, MemoryViews(), model.fold, clock=w.clock), model)
    w.mode(mode, "renewal-rescue")
    w.mode(mode, "churn-outreach")
    return w


def terms(w: World, mrr_minor: int) -> dict[str, object]:
    return {
        "subscription_id": "s1",
        "mrr_minor": mrr_minor,
        "interval": "month",
        "currency": "EUR",
        "effective_at": w.now() + timedelta(days=20),
    }


def test_a_failing_payment_of_a_large_subscriber_is_a_call_and_a_risk_case() -> None:
    w = world()
    w.subscribed(mrr_minor=60_000)
    w.attend(w.failed(attempt=2))
    event = next(d for d in w.decisions() if d.condition == "payment-failing")
    assert (event.rule, event.disposition, event.action) == ("dunning-big", "acted", "call")
    assert event.rationale == "2 attempts to collect the newest invoice failed, on a large subscription."
    assert w.customer().cases
    assert ("crm.create_task@1", "Call: payment failing") in [(t, a["title"]) for t, a in calls(w)]


def test_a_cancelling_subscriber_gets_an_offer_that_a_person_approves() -> None:
    w = world()
    w.consent()
    w.subscribed(mrr_minor=12_000)
    w.wait(days=1)
    (id_,) = w.attend(w.says(CancellationScheduled, **terms(w, 12_000))).decided[:1]
    event = w.decision(id_).data
    assert (event.rule, event.disposition) == ("save-cancelling", "awaiting")
    assert event.offer is not None
    assert (event.offer.amount_minor, event.offer.authority_limit_minor) == (12_000, 5_000)
    w.engine.approvals.approve("acme", id_, BEN)
    w.attend()
    assert calls(w)[0][1]["amount_minor"] == 12_000


def test_poor_health_before_a_renewal_is_a_call_with_the_score_in_the_reason() -> None:
    w = world()
    w.subscribed()
    for _ in range(4):
        w.attend(w.says(TicketOpened, ticket_id=f"t{_}"))
        w.attend(w.says(TicketEscalated, ticket_id=f"t{_}"))
    w.attend(w.says(RenewalDue, renews_at=w.now() + timedelta(days=45)))
    event = w.decisions()[-1]
    assert event.condition == "renewal-near"
    assert (event.rule, event.evidence["health_band"], event.evidence["days_to_renewal"]) == ("renewal-at-risk", "poor", 45)
    assert f"health score is {event.evidence['health']}" in event.rationale
    assert event.model == CUSTOMER_HEALTH.digest
    assert event.read_set[0].projection == "CustomerHealth"


def test_a_decision_names_the_weights_that_its_health_was_weighed_with_and_the_row_is_evidence() -> None:
    model = replace(CUSTOMER_HEALTH, rows=(Row("enterprise", "onboarding", {"support": 100}),))
    w = world(model=model)
    w.subscribed()
    w.profile(segment="enterprise")
    for n in range(4):
        w.attend(w.says(TicketOpened, ticket_id=f"t{n}"))
        w.attend(w.says(TicketEscalated, ticket_id=f"t{n}"))
    w.attend(w.says(RenewalDue, renews_at=w.now() + timedelta(days=45)))
    event = w.decisions()[-1]
    assert event.model == model.digest != CUSTOMER_HEALTH.digest
    assert w.engine.health is not None
    reading = w.engine.health.read(w.customer(), to_us(w.now()), frozenset())
    assert (reading.row, reading.stage, reading.model) == ("enterprise/onboarding", "onboarding", model.digest)
    seen = customer_evidence(w.customer(), reading, to_us(w.now()))
    assert (seen["health_row"], seen["lifecycle_stage"]) == ("enterprise/onboarding", "onboarding")


def test_churn_outreach_works_on_nothing_but_purchases() -> None:
    w = World([ChurnOutreach()], at=datetime(1997, 9, 30, 15, tzinfo=UTC))
    w.engine.health = RunnerHealth(Runner(w.store, MemoryViews(), CUSTOMER_HEALTH.fold, clock=w.clock))
    w.mode("act", "churn-outreach")
    bought = {
        "weekly": [datetime(1997, 6, day, tzinfo=UTC) for day in range(1, 29, 3)],
        "monthly": [datetime(1997, month, 1, tzinfo=UTC) for month in range(1, 7)],
        "in-rhythm": [datetime(1997, month, 1, tzinfo=UTC) for month in (3, 6, 9)],
        "once": [datetime(1997, 7, 1, tzinfo=UTC)],
        "long-gone": [datetime(1996, month, 1, tzinfo=UTC) for month in (1, 2, 3)],
    }
    found = {}
    for ref, times in bought.items():
        w.consent(ref, purpose="marketing")
        facts = [w.paid(ref, at=at) for at in times]
        w.attend(facts[-1], ref)
        found[ref] = [(d.condition, d.rule, d.disposition) for d in w.decisions(ref)]
    assert found == {
        "weekly": [("overdue", "regular-lapsing", "awaiting")],
        "monthly": [("overdue", "repeat-lapsing", "acted")],
        "in-rhythm": [],
        "once": [("one-and-done", "nudge", "acted")],
        "long-gone": [("overdue", "long-gone", "suppressed")],
    }
    assert w.decisions("monthly")[0].rationale == "6 purchases, usually every 30 days, and now none for 121 days."


@pytest.mark.parametrize("agent", [RenewalRescue(), ChurnOutreach()], ids=lambda a: a.name)
def test_a_shipped_policy_reads_only_what_is_on_offer_and_names_only_shipped_tools(agent: RenewalRescue | ChurnOutreach) -> None:
    w = World([agent])  # the engine refuses what it cannot run
    assert set(agent.policy.inputs) <= set(OFFERED)
    w.toolbox.check(agent.policy)


def test_every_decision_of_a_busy_month_is_made_again_byte_for_byte() -> None:
    w = world()
    w.consent()
    w.subscribed(mrr_minor=12_000)
    for day in range(30):
        w.wait(days=1)
        match day % 4:
            case 0:
                w.attend(w.failed(attempt=2))
            case 1:
                w.attend(w.paid())
            case 2:
                w.attend(w.says(UsageObserved, feature="x", count=30 - day))
            case _:
                w.attend(w.says(TicketEscalated, ticket_id=f"t{day}"))
        w.attend()
    decisions = [r for r in w.events() if r.stored.kind == "agent/decision-recorded"]
    assert len(decisions) >= 5
    assert {r.data.disposition for r in decisions} >= {"acted", "suppressed"}
    policies = {a.policy.digest: a.policy for a in w.engine.agents.values()}
    for r in decisions:
        arguments = r.data.arguments if isinstance(r.data.arguments, str) else None
        again = rederive(r.data, arguments, policies[r.data.policy], w.engine.desk.mac("acme"))
        assert again.difference is None
        assert encode_payload(again.event) == encode_payload(r.data)
    triggers = [r for r in w.events() if r.stored.kind == "agent/trigger-raised"]
    assert {r.data.trigger_id for r in decisions} == {t.event_id for t in triggers}  # a disposition for each, and no other
    assert len(triggers) == len(decisions)


def test_observing_proposing_and_acting_differ_in_nothing_but_what_leaves() -> None:
    found = []
    for mode in ("observe", "propose", "act"):
        w = World([RenewalRescue()], at=NOON)
        w.engine.set_mode("acme", "renewal-rescue", mode, person=ANNA, reason="step")  # type: ignore[arg-type]
        w.subscribed(mrr_minor=60_000)
        w.attend(w.failed(attempt=2))
        (event,) = w.decisions()
        found.append((event.rule, event.disposition, len(calls(w))))
    assert found == [("dunning-big", "suppressed", 0), ("dunning-big", "awaiting", 0), ("dunning-big", "acted", 1)]


def test_agents_that_are_asked_in_turn_about_several_customers_and_times_see_each_its_own() -> None:
    """What was made for one is not given for another: neither another customer, nor another reading, nor another time."""
    w = world()
    w.profile("c1", segment="smb")
    w.profile("c2", segment="enterprise")
    customers, readings, now_us = (w.customer("c1"), w.customer("c2")), (HealthReading(), HealthReading(band="poor")), to_us(w.now())
    asked = list(product(customers, readings, (now_us, now_us + DAY_US)))
    first, second = RenewalRescue(), ChurnOutreach()
    for before, after in product(asked, asked):
        assert first.values(*before) == customer_evidence(*before)
        assert second.values(*after) == customer_evidence(*after)
    assert len({str(customer_evidence(*one)) for one in asked}) == 8
