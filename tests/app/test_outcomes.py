"""Outcomes of a tenant, from the log: both clocks, claimed knowledge, merges and splits, streams that were linked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postsale import PostSale, foreign
from postsale.agents import Agent
from postsale.aggregates.signals import (
    AdvocacyGiven,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    UserLoggedIn,
)
from postsale.app.outcomes import Outcomes
from postsale.errors import InvalidInput
from postsale.events import ManualClock

from .support import ANNA, Where, failed, opened
from .test_agents import Mailer, policy

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
SOON = END + timedelta(seconds=1)  # each record is a microsecond after the last one, while the clock stands
BEFORE, LATER = START - timedelta(days=60), END + timedelta(days=10)


def terms(kind: type[Any], id: str, at: datetime, minor: int, **more: Any) -> Any:
    values = {"subscription_id": f"s-{id[0]}", "mrr_minor": minor, "interval": "month", "currency": "EUR", "effective_at": at}
    return kind(source="billing", id=id, occurred_at=at, **(values | more))


def read(ps: PostSale, **more: Any) -> Outcomes:
    return ps.tenant("acme").outcomes(START, END, **more)


def figures(found: Outcomes) -> tuple[int, int | None, int | None, float | None]:
    grr = found.measure("grr")
    return grr.n, grr.numerator, grr.denominator, found.measure("logo-churn").value


def test_a_late_fact_changes_the_period_once_it_is_known_and_not_before(where: Where) -> None:
    clock = ManualClock(END)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        for name in "ab":
            acme.record(name, terms(SubscriptionStarted, f"{name}0", BEFORE, 100))
        clock.move_to(SOON)
        first = read(ps)
        clock.move_to(LATER)
        acme.record("b", terms(SubscriptionEnded, "b1", END - timedelta(days=5), 100))
        assert figures(first) == (2, 200, 200, 0.0)
        assert figures(read(ps)) == (2, 100, 200, 0.5)
        assert figures(read(ps, known_at=SOON)) == (2, 200, 200, 0.0)
        assert read(ps, known_at=SOON, as_of=SOON).to_dict() == first.to_dict()


def test_a_backfill_is_known_when_its_source_says_so_if_that_is_asked_for(where: Where) -> None:
    clock = ManualClock(LATER)
    with opened(where, clock=clock) as ps:
        acme, gone = ps.tenant("acme"), END - timedelta(days=5)
        acme.record("a", terms(SubscriptionStarted, "a0", BEFORE, 100, available_at=BEFORE))
        acme.record("a", terms(SubscriptionEnded, "a1", gone, 100, available_at=END + timedelta(days=1)))
        with pytest.raises(InvalidInput, match="no such measure"):
            read(ps, known_at=END).measure("grr")  # nothing was recorded by then
        assert figures(read(ps, known_at=END, knowledge="claimed")) == (1, 100, 100, 0.0)
        assert figures(read(ps, known_at=END + timedelta(days=2), knowledge="claimed")) == (1, 0, 100, 1.0)


def test_merged_customers_are_one_and_split_ones_two_again(where: Where) -> None:
    """a of 100 and b of 50 are one company: b's end is a contraction by a third, nobody is lost. Split, b is lost."""
    clock = ManualClock(LATER)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("a", terms(SubscriptionStarted, "a0", BEFORE, 100))
        acme.record("b", terms(SubscriptionStarted, "b0", BEFORE, 50))
        acme.record("b", terms(SubscriptionEnded, "b1", END - timedelta(days=5), 50))
        assert figures(read(ps)) == (2, 100, 150, 0.5)
        clock.advance(timedelta(hours=1))
        acme.merge("b", into="a", reason="one company", by=ANNA)
        assert figures(read(ps)) == (1, 100, 150, 0.0)
        assert read(ps).movements[0].contraction == -50
        assert figures(read(ps, known_at=LATER + timedelta(minutes=1))) == (2, 100, 150, 0.5)
        clock.advance(timedelta(hours=1))
        acme.split("b", reason="they are not", by=ANNA)
        assert figures(read(ps)) == (2, 100, 150, 0.5)


def test_facts_under_a_linked_id_count_for_the_customer(where: Where) -> None:
    with opened(where, clock=ManualClock(LATER)) as ps:
        acme = ps.tenant("acme")
        acme.record("a", terms(SubscriptionStarted, "a0", BEFORE, 100))
        acme.record(foreign("billing", "77"), terms(SubscriptionChanged, "a1", START, 130))
        assert read(ps).measure("nrr").value == 1.0
        acme.link(foreign("billing", "77"), "a")
        assert read(ps).measure("nrr").value == 1.3


def test_one_read_gives_every_measure_and_a_tenant_sees_only_its_own(where: Where) -> None:
    with opened(where, clock=ManualClock(LATER)) as ps:
        acme, other = ps.tenant("acme"), ps.tenant("other")
        at = END - timedelta(days=3)
        acme.record("a", SurveyAnswered(source="nps", id="1", occurred_at=at, survey="nps", score=10))
        acme.record("a", UserLoggedIn(source="app", id="2", occurred_at=at, user="7"))
        acme.record("a", AdvocacyGiven(source="crm", id="3", occurred_at=at, act="talk"))
        other.record("x", SurveyAnswered(source="nps", id="1", occurred_at=at, survey="nps", score=0))
        found = read(ps)
        assert found.measure("nps").value == 100.0
        assert found.measure("stickiness").value == round(1 / 30, 9)
        told = found.to_dict()["measures"][0]
        assert (told["as_of"], told["knowledge"]) == ("2026-04-11T00:00:00.000000Z", "recorded")
        with pytest.raises(InvalidInput, match="there are: logo-churn"):
            found.measure("no-such")


def test_a_measure_of_several_currencies_is_asked_for_by_currency(where: Where) -> None:
    with opened(where, clock=ManualClock(LATER)) as ps:
        acme = ps.tenant("acme")
        acme.record("a", terms(SubscriptionStarted, "a0", BEFORE, 100))
        acme.record("b", terms(SubscriptionStarted, "b0", BEFORE, 100, currency="USD"))
        found = read(ps)
        with pytest.raises(InvalidInput, match="EUR, USD; say which"):
            found.measure("grr")
        assert found.measure("grr", "USD").currency == "USD"


def test_triggers_decisions_and_effects_of_an_agent_become_coverage_and_time_to_response(where: Where) -> None:
    """One of two customers consents and is written to; of the other one the agent decides to do nothing, which is a disposition and no action."""
    clock, mailer = ManualClock(START + timedelta(days=1)), Mailer()
    with opened(where, clock=clock, agents=[Agent(policy())], tools=[mailer], sandbox=False) as ps:
        acme = ps.tenant("acme")
        acme.agent("mailer").act(reason="test", by=ANNA)
        for name in "ab":
            acme.record(name, failed(f"f-{name}", START + timedelta(days=1)))
        acme.consent("a", "email", "service", evidence="form")
        ps.run_once()
        clock.move_to(LATER)
        found = read(ps)
        assert len(mailer.sent) == 1
        triggers, accounts = found.measure("coverage-triggers"), found.measure("coverage-at-risk-accounts")
        assert (triggers.numerator, triggers.denominator) == (2, 2)
        assert (accounts.numerator, accounts.denominator) == (1, 2)
        assert found.measure("time-to-response").numerator == 1
        nothing = read(ps, conditions={"mailer/none"})
        assert nothing.measure("time-to-response").n == 0
