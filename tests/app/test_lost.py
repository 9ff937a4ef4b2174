"""Risk cases of customers who left: they close as lost when the last subscription ended, with the fact that says so."""

from __future__ import annotations

from datetime import timedelta

from postsale.agents import Agent, Policy
from postsale.aggregates import decisions as d
from postsale.aggregates.signals import SubscriptionEnded
from postsale.app import PostSale, Tenant
from postsale.audit import check_dispositions
from postsale.events import ManualClock
from postsale.store import Query
from tests.agents.test_approval_rules import CALENDAR
from tests.agents.test_timed import HEAD, SLAS

from .support import ANNA, NOON, Where, failed, opened, subscribed


def ended(subscription: str, at: timedelta) -> SubscriptionEnded:
    at_ = NOON + at
    terms = {"mrr_minor": 19900, "interval": "month", "currency": "EUR", "effective_at": at_, "subscription_id": subscription}
    return SubscriptionEnded(source="stripe", id=f"end-{subscription}", occurred_at=at_, **terms)


def at_risk(ps: PostSale) -> Tenant:
    """A customer with two subscriptions and an open case."""
    acme = ps.tenant("acme")
    acme.agent("dunning").act(reason="test", by=ANNA)
    for name in ("s1", "s2"):
        acme.record("cus_42", subscribed(name, NOON - timedelta(days=10), subscription_id=name))
    acme.record("cus_42", failed("f1", attempt=2))
    ps.run_once()
    assert len(acme.cases()) == 1
    return acme


def closed(ps: PostSale) -> list[tuple[str, str, str | None]]:
    """How cases ended, why, and the kind of the event that caused it."""
    found = []
    for e in ps.log.events(Query(tenant="acme", kinds=frozenset({"risk/case-closed"}))):
        assert isinstance(e.data, d.RiskCaseClosed)
        cause = ps.log.store.find("acme", e.header.causation_id) if e.header.causation_id else None
        found.append((e.data.result, e.data.reason, cause.kind if cause else None))
    return found


def test_a_case_is_lost_with_the_last_subscription_and_not_with_one_of_two(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[Agent(Policy.from_toml(HEAD + CALENDAR + SLAS))]) as ps:
        acme = at_risk(ps)
        clock.advance(timedelta(days=2))
        acme.record("cus_42", ended("s1", timedelta(days=1)))
        ps.run_once()
        assert (closed(ps), len(acme.cases())) == ([], 1)
        acme.record("cus_42", ended("s2", timedelta(days=2)))
        ps.run_once()
        assert closed(ps) == [("lost", "the last subscription ended", "billing/subscription-ended")]
        assert acme.cases() == []
        ps.run_once()
        assert len(closed(ps)) == 1
        assert not check_dispositions(ps.log.store).problems


def test_an_end_that_is_told_late_closes_a_case_that_was_opened_in_vain() -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[Agent(Policy.from_toml(HEAD + CALENDAR + SLAS))]) as ps:
        acme = at_risk(ps)
        clock.advance(timedelta(days=1))
        for name in ("s1", "s2"):
            acme.record("cus_42", ended(name, timedelta(days=-1)))
        ps.run_once()
        assert [result for result, _, _ in closed(ps)] == ["lost"]


def test_a_case_that_is_opened_for_whom_it_is_known_to_have_left_stays_open() -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[Agent(Policy.from_toml(HEAD + CALENDAR + SLAS))]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").act(reason="test", by=ANNA)
        acme.record("cus_42", subscribed("s1", NOON - timedelta(days=10), subscription_id="s1"))
        acme.record("cus_42", ended("s1", timedelta(days=-1)))
        acme.record("cus_42", failed("f1", attempt=2))
        ps.run_once()
        clock.advance(timedelta(days=1))
        acme.record("cus_42", failed("f2", NOON + timedelta(days=1), attempt=3))
        ps.run_once()
        assert (closed(ps), len(acme.cases())) == ([], 1)
