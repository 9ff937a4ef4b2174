"""A vendor's past in a log: all that arrives, nobody acting; and the truth of an agent in the same world."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from postsale import PostSale
from postsale.access import Person
from postsale.agents import RenewalRescue
from postsale.audit.backtest import AgentBacktest
from postsale.events import ManualClock, from_us
from postsale.projections.backtest import Calibration, ScoreBacktest
from postsale.simulator import TROUBLED, Vendor
from postsale.simulator.past import fill, true_effect

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def vendor() -> Vendor:
    return Vendor(7, customers=20, start=START, days=200, model=TROUBLED)


def test_a_back_test_over_the_past_agrees_with_the_truth() -> None:
    """Of those who are over the line many leave in truth; whoever the log says left, left; and an agent changes nothing of whom it does not reach."""
    clock, world = ManualClock(START), vendor()
    days: list[int] = []
    with PostSale.open("memory:", clock=clock) as ps:
        acme = ps.tenant("acme")
        fill(acme, clock, world, days.append)
        assert len(days) == world.days
        assert from_us(clock.now_us()) == START + 200 * DAY
        health = acme.backtest("health", begin=START + 30 * DAY)
        agent = acme.backtest(RenewalRescue(), begin=START + 30 * DAY, every=14 * DAY)
        assert isinstance(health, ScoreBacktest)
        assert isinstance(agent, AgentBacktest)
        assert acme.decisions() == []
    ended = [outcome.ended for outcome in world.outcomes().values() if outcome.ended is not None]
    lost = agent.coverage.of
    assert 0 < lost <= len([day for day in ended if day > 30])
    assert health.whole is not None
    assert (health.whole.auc or 0) > 0.6
    truth = true_effect(RenewalRescue(), vendor(), first_day=30, every=14 * DAY)
    assert truth.spared.churned == 0
    assert truth.acted.customers > 0
    assert truth == true_effect(RenewalRescue(), vendor(), first_day=30, every=14 * DAY)
    assert agent.to_dict()["worth"] is None  # from the log alone nothing is known of what it changes


@pytest.mark.torture
@pytest.mark.skipif("POSTSALE_TORTURE" not in os.environ, reason="long; set POSTSALE_TORTURE=1")
def test_a_model_that_may_say_probabilities_is_right_on_a_vendors_later_past() -> None:
    """Trained on the first half of a simulated past: on the second what it said lies in the interval of what came, and it tells customers apart."""
    clock, world = ManualClock(START), Vendor(3, customers=220, start=START, days=300, model=TROUBLED)
    with PostSale.open("memory:", clock=clock) as ps:
        acme = ps.tenant("acme")
        fill(acme, clock, world)
        split = START + 160 * DAY
        card = acme.models.train("churn", horizon=30 * DAY, split_at=split, every=15 * DAY, since=START + 20 * DAY)
        acme.models.publish(card, reason="a test", by=Person("anna", "os-user"))
        found = acme.backtest(f"churn@{card.digest[:12]}", begin=START + 100 * DAY, horizon=30 * DAY, every=15 * DAY)
    assert card.gives == "probability"
    assert isinstance(found, ScoreBacktest)
    assert isinstance(found.calibration, Calibration)
    assert found.calibration.within
    assert found.calibration.brier < found.calibration.brier_of_base_rate
    assert found.whole is not None
    assert found.whole.auc_interval is not None
    assert found.whole.auc_interval.low > 0.7
    assert {p.seen for p in found.periods} == {True, False}
