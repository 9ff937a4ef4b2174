"""Back-tests of agents, the figures alone: by hand, and against counting."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.audit.backtest import AgentBacktest, AskedOfAgent, Stood, Would, judge_agent
from postsale.audit.whatif_results import Result
from postsale.events import DAY_US

HORIZON = 90 * DAY_US
ACTED = Result("acted", ("r",), "email", None, 1)


def asked(*days: int) -> AskedOfAgent:
    return AskedOfAgent(
        agent="a",
        policy="a v1",
        policy_digest="0",
        mode="act",
        target="churn",
        outcome="leaves",
        horizon_us=HORIZON,
        knowledge="recorded",
        steps_us=tuple(day * DAY_US for day in days),
    )


def judged(would: list[Would], stood: list[Stood], touched: dict[str, list[int]] | None = None) -> AgentBacktest:
    return judge_agent(asked(0, 30), would, stood, touched or {})


def stood(customer: str, day: int, came: int | None = None) -> Stood:
    return Stood(customer, day * DAY_US, came is not None, None if came is None else came * DAY_US)


def would(customer: str, day: int, result: Result = ACTED) -> Would:
    return Would(customer, day * DAY_US, result)


def test_the_figures_are_those_of_a_hand_calculation() -> None:
    """Ten customers, of whom b and c leave. It reaches b and d at once, c a month later: precision 2/3; picked at random 2/10, 2/10, 2/10."""
    everybody = [stood(name, day, {"b": 40, "c": 60}.get(name)) for name in "abcdefghij" for day in (0, 30)]
    offer = Result("awaiting", ("r",), "offer", None, 0, 500, "EUR")
    decisions = [would("b", 0), would("d", 0, offer), would("c", 30), would("e", 0, Result("suppressed", (), None, "consent"))]
    found = judged(decisions, everybody)
    assert (found.triggers, dict(found.dispositions)) == (4, {"acted": 2, "awaiting": 1, "suppressed by consent": 1})
    assert (found.precision.hits, found.precision.of, found.random) == (2, 3, pytest.approx(0.2))
    assert found.lift == pytest.approx(2 / 3 / 0.2)
    assert (found.coverage.hits, found.coverage.of) == (2, 2)
    assert found.median_days == 30.0  # b after 40 days, c after 30
    assert (found.cost.decisions, found.cost.contacts, found.cost.approvals, found.cost.offers) == (3, 2, 1, {"EUR": 500})
    assert found.per_reached() == {"decisions": 1.5, "contacts": 1.0, "approvals": 0.5, "offers EUR": 250.0}
    assert "not whom it would have saved" in found.to_dict()["claim"]


def test_reaching_somebody_too_early_or_after_the_loss_covers_nothing() -> None:
    """More than a horizon before, or on the day itself; the day before is in time."""
    rows = [stood("early", 0, 91), stood("late", 0, 30), stood("just", 0, 31)]
    found = judged([would("early", 0), would("late", 30), would("just", 30)], [*rows, stood("late", 30), stood("just", 30, 31)])
    assert (found.coverage.hits, found.coverage.of, found.median_days) == (1, 3, 1.0)


def test_history_with_an_action_near_is_in_no_figure_and_is_counted() -> None:
    """A real action a horizon before or after still counts as near; for a loss on day 50, one on day -131 or just after day 140 does not."""
    everybody = [stood(name, 0, 50) for name in ("before", "after", "far")]
    touched = {"before": [-HORIZON], "after": [HORIZON], "far": [-131 * DAY_US, 140 * DAY_US + 1]}
    found = judged([would(name, 0) for name in touched], everybody, touched)
    assert dict(found.left_out) == {"a truly acted near": 2}
    assert (found.precision.of, found.spent.decisions, found.cost.decisions) == (1, 1, 3)
    assert (found.coverage.hits, found.coverage.of) == (1, 1)


def test_what_the_target_does_not_ask_about_is_left_out_and_nothing_is_no_figure() -> None:
    found = judged([would("a", 0)], [])
    assert dict(found.left_out) == {"not asked about by the target, or not over yet": 1}
    assert (found.precision.value, found.random, found.lift, found.coverage.value, found.per_reached()) == (None, None, None, None, None)
    assert found.cost.contacts == 1


def test_times_at_which_nobody_had_the_outcome_are_no_fault_of_the_interval() -> None:
    """Five reached where nobody leaves, and one where half do: a lift, and no division by nothing."""
    everybody = [stood(name, 0) for name in "abcdef"] + [stood("a", 30, 40), stood("b", 30)]
    found = judged([*(would(name, 0) for name in "bcdef"), would("a", 30)], everybody)
    assert (found.precision.hits, found.precision.of, found.lift, found.lift_interval) == (1, 6, 2.0, None)


CUSTOMERS = "abcdef"


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Would], list[Stood], dict[str, list[int]]]:
    came = {c: draw(st.none() | st.integers(1, 85)) for c in CUSTOMERS}
    days = (0, 30)
    rows = [
        stood(c, day, came[c] if came[c] is not None and day < (came[c] or 0) <= day + 90 else None)
        for c in CUSTOMERS
        for day in days
        if draw(st.booleans())
    ]
    kinds = st.sampled_from([ACTED, Result("awaiting", ("r",), "call"), Result("suppressed", (), None, "x"), Result("acted", ("r",), None)])
    decisions = [would(c, day, draw(kinds)) for c in CUSTOMERS for day in days if draw(st.booleans())]
    touched = {c: sorted(d * DAY_US for d in draw(st.lists(st.integers(-200, 300), max_size=2))) for c in CUSTOMERS}
    return decisions, rows, touched


@given(histories(), st.randoms(use_true_random=False))
def test_every_figure_is_that_of_counting(case: tuple[Any, Any, Any], rng: random.Random) -> None:
    """Each decision by itself, with everybody at its time beside it; and the order of rows is nothing."""
    decisions, rows, touched = case
    found = judged(decisions, rows, touched)
    rng.shuffle(rows)
    assert judged(decisions, rows, touched) == found

    def near(customer: str, at: int) -> bool:
        return any(abs(t - at) <= HORIZON for t in touched.get(customer, ()))

    def tended(customer: str, came: int) -> bool:
        return any(came - 2 * HORIZON <= t <= came + HORIZON for t in touched.get(customer, ()))

    reaching = [d for d in decisions if d.result.disposition in ("acted", "awaiting") and d.result.action]
    mine = [(d, r) for d in reaching for r in rows if (r.customer, r.at_us) == (d.customer, d.at_us) and not near(d.customer, d.at_us)]
    assert (found.precision.hits, found.precision.of) == (sum(r.positive for _, r in mine), len(mine))
    assert sum(found.left_out.values()) == len(reaching) - len(mine)
    chances = []
    for d, _ in mine:
        beside = [r for r in rows if r.at_us == d.at_us and not near(r.customer, r.at_us)]
        chances.append(sum(r.positive for r in beside) / len(beside))
    if mine:
        assert found.random == pytest.approx(sum(chances) / len(mine), abs=1e-5)
    lost = {(r.customer, r.came_us) for r in rows if r.came_us is not None and not tended(r.customer, r.came_us)}
    reached = {loss for loss in lost if any(d.customer == loss[0] and loss[1] - HORIZON <= d.at_us < loss[1] for d, _ in mine)}
    assert (found.coverage.hits, found.coverage.of) == (len(reached), len(lost))
    assert sum(found.dispositions.values()) == len(decisions)
