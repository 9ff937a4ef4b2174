"""Agents change what customers do, and the library measures by how much, from its own logs, as the simulator's truth says it is.

Two ways: the same world twice, each recorded in a log, read by `Tenant.outcomes`; and one log alone, by a hold-out, `Tenant.effects`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from postsale.agents import Agent, Policy
from postsale.agents.holdout import Holdout, draw
from postsale.app.effects import EffectReport
from postsale.audit import Difference, difference
from postsale.simulator import TROUBLED, Action, Outcome, Response, Vendor, VendorModel
from tests.simulator.closed import HELD, OPENED, START, Measured, closed_loop, seven

LONG = pytest.mark.skipif(not os.environ.get("POSTSALE_TORTURE"), reason="long; set POSTSALE_TORTURE=1")
KIND = Response(goodwill=3.0, contact=False)
CARES: tuple[Action, ...] = ("health-check-call", "outreach", "renewal-call", "onboarding-nudge", "payment-reminder", "offer")
MONTHLY = TROUBLED.changed(
    annual_share=0.0, monthly_leaving=1.0, renewal_base=0.5, goodwill_days=500.0, consent_service=1.0, consent_marketing=1.0, responses={}
)
"""Whoever is left alone mostly leaves within half a year; nothing that agents do means anything to anybody, until responses say so."""
HELPED = MONTHLY.changed(responses=dict.fromkeys(CARES, KIND))
OFTEN = """
name = "often"
version = 1
owner = "tests"
description = "Write whenever there is a chance to."

[inputs]
days_since_first_seen = "integer"

{triggers}
[[rule]]
id = "write"
action = "email"
tool = "email.send@1"
channel = "email"
arguments = {{ customer = "$customer", template = "news" }}
approval = "none"
because = "It is day {{days_since_first_seen}}."

[guardrails]
purpose = "service"
"""


def often(every: int, days: int) -> Agent:
    """An agent that writes every so many days, without any limit."""
    triggers = "".join(f'[[trigger]]\nid = "day-{d}"\nwhen = {{ days_since_first_seen = ">= {d}" }}\n\n' for d in range(1, days, every))
    return Agent(Policy.from_toml(OFTEN.format(triggers=triggers) + HELD))


def lost(outcome: Outcome) -> bool:
    return outcome.ended is not None


def agrees(m: Measured) -> None:
    """What the read models of the two logs measure differs by what is true: customers lost, revenue kept, referrals that bought."""
    told = f"seed {m.seed}"
    one, other = (tenant.outcomes(OPENED, m.end) for tenant in (m.acted, m.twin))
    cohort = [pair for _, *pair in m.cohort() if pair[1].ended is None or pair[1].ended >= 3]  # who is still there when it is opened
    churn = [outcomes.measure("logo-churn") for outcomes in (one, other)]
    assert churn[0].numerator is not None
    assert churn[1].numerator is not None
    paid = [outcomes.measure("nrr") for outcomes in (one, other)]
    assert churn[0].denominator == churn[1].denominator == len(cohort), told
    assert churn[0].numerator - churn[1].numerator == sum(lost(a) - lost(b) for a, b in cohort), told
    opening = paid[0].denominator
    assert opening == paid[1].denominator, told
    assert paid[0].value is not None
    assert paid[1].value is not None
    assert paid[0].value - paid[1].value == pytest.approx(sum(a.mrr_minor - b.mrr_minor for a, b in cohort) / (opening or 1), abs=1e-8), (
        told
    )


def treated(m: Measured) -> list[str]:
    """Customers that were acted on at the first time that somebody would have, by the journal, which the estimate does not read."""
    names, first = m.acted.names(), {}
    for e in m.acted.decisions():
        if e.recorded.disposition in {"acted", "awaiting"} or e.recorded.suppressed_by == "holdout:everybody":
            first.setdefault(e.stream.id, e.recorded)
    return [names[ref] for ref, event in first.items() if event.disposition != "suppressed" and event.decided_at < m.end]


def estimated(m: Measured) -> EffectReport:
    (found,) = m.acted.effects(OPENED, m.end)
    return found


def covers(found: Difference | None, truth: float) -> bool:
    assert found is not None
    return found.low <= truth <= found.high


def true_effect(m: Measured) -> float:
    """Of acting, on the share that is lost, of those on whom somebody acted."""
    who = treated(m)
    return sum(lost(m.outcomes[name]) - lost(m.without[name]) for name in who) / len(who)


@pytest.fixture(scope="module")
def helped() -> Iterator[Measured]:
    with closed_loop(3, seven(), HELPED, customers=40, days=200, every=12) as m:
        yield m


@pytest.fixture(scope="module")
def unmoved() -> Iterator[Measured]:
    """The same with responses switched off."""
    with closed_loop(3, seven(), MONTHLY, customers=36, days=90, every=15) as m:
        yield m


@pytest.fixture(scope="module")
def tired() -> Iterator[Measured]:
    model = MONTHLY.changed(responses={"outreach": Response()}, renewal_base=2.5, fatigue=0.3, satisfaction_pace=0.01)
    with closed_loop(5, [often(6, 72)], model, customers=36, days=110, every=6) as m:
        yield m


# ---------------------------------------------------------------- the same world twice


def test_two_logs_of_one_world_differ_by_the_truth_of_what_agents_changed(helped: Measured) -> None:
    agrees(helped)
    assert helped.truth.acted.churned <= -5, f"seed {helped.seed}"  # they keep customers, and it shows in both logs
    assert helped.truth.spared.churned == 0


def test_where_customers_do_not_respond_the_two_logs_measure_the_same(unmoved: Measured) -> None:
    agrees(unmoved)
    assert treated(unmoved) != []
    assert unmoved.truth.overall.churned == unmoved.truth.overall.mrr_minor == 0


def test_too_many_contacts_lose_customers_and_both_logs_say_how_many(tired: Measured) -> None:
    agrees(tired)
    assert tired.truth.acted.churned >= 5, f"seed {tired.seed}"


# ---------------------------------------------------------------- one log alone


def test_the_hold_out_tells_that_agents_keep_customers_and_by_how_much(helped: Measured) -> None:
    found = estimated(helped).effect("lost").estimate
    assert covers(found, true_effect(helped)), f"seed {helped.seed}"
    assert found is not None
    assert found.high < 0, f"seed {helped.seed}"
    change = estimated(helped).effect("mrr-change").estimate
    assert change is not None
    assert change.value > 0


def test_the_hold_out_finds_no_effect_where_customers_do_not_respond(unmoved: Measured) -> None:
    report = estimated(unmoved)
    assert true_effect(unmoved) == 0
    assert covers(report.effect("lost").estimate, 0), f"seed {unmoved.seed}"
    assert report.treated == len(treated(unmoved))
    assert report.held_out > 10


def test_the_hold_out_tells_that_too_many_contacts_lose_customers(tired: Measured) -> None:
    found = estimated(tired).effect("lost").estimate
    assert covers(found, true_effect(tired)), f"seed {tired.seed}"
    assert found is not None
    assert found.low > 0, f"seed {tired.seed}"


def test_whoever_is_held_out_is_reached_by_nothing(helped: Measured, tired: Measured) -> None:
    for m in (helped, tired):
        reached = {name for name, o in m.outcomes.items() if o.acted}
        held = {
            name
            for ref, name in m.acted.names().items()
            if (drawn := draw(Holdout(name="everybody", percent=50), ref)) is not None and drawn.held
        }
        assert reached
        assert not reached & held, f"seed {m.seed}"


# ---------------------------------------------------------------- as often as it says


def worlds(seed: int, model: VendorModel, action: Action) -> dict[str, tuple[Outcome, Outcome]]:
    """What becomes of each customer of the start when the action reaches it, and when nothing does. Nobody else matters to it."""
    vendor = Vendor(seed, customers=80, start=datetime(2026, 1, 5, tzinfo=UTC), days=120, model=model)
    for n in range(1, 81):
        vendor.respond(f"cus_{n:03d}", action, START + timedelta(days=5))
    vendor.live()
    twin = vendor.twin()
    twin.live()
    other = twin.outcomes()
    return {name: (o, other[name]) for name, o in vendor.outcomes().items() if o.joined < 0}


@pytest.mark.parametrize(("responses", "seed"), [({"outreach": KIND}, 11), ({}, 12)], ids=["an effect", "none"])
def test_over_many_draws_the_interval_covers_the_truth_as_often_as_it_says(responses: dict[Action, Response], seed: int) -> None:
    """400 hold-outs of one world: 95 % within 4 standard deviations, sqrt(0.95 x 0.05 / 400) = 1.1 %. The truth is known, so it is too often, not
    too rarely, where acting makes customers alike (Neyman)."""
    pairs = worlds(seed, MONTHLY.changed(responses=responses), "outreach")
    truth = sum(lost(a) - lost(b) for a, b in pairs.values()) / len(pairs)
    assert (truth < -0.2) is bool(responses), f"seed {seed}: {truth}"
    covered = told = 0
    for n in range(400):
        arms: dict[bool, list[float]] = {False: [], True: []}
        for name, both in pairs.items():
            drawn = draw(Holdout(name=f"n{n}", percent=40), name)
            assert drawn is not None
            arms[drawn.held].append(float(lost(both[drawn.held])))
        found = difference(arms[False], arms[True])
        assert isinstance(found, Difference)
        covered += covers(found, truth)
        told += found.high < 0
    assert covered / 400 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400), f"seed {seed}"
    assert told / 400 > 0.5 if responses else told / 400 < 0.06, f"seed {seed}: {told}"


# ---------------------------------------------------------------- longer


@pytest.mark.torture
@LONG
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_year_of_the_troubled_vendor_is_measured_as_it_was(seed: int) -> None:
    """As customers are by default: effects are too small for 60 of them to be sure of, and the interval says so."""
    with closed_loop(seed, seven(), TROUBLED, customers=60, days=365, every=7) as m:
        agrees(m)
        assert m.truth.spared.churned == m.truth.spared.mrr_minor == 0
        found = estimated(m).effect("lost").estimate
        assert found is not None
        assert found.high - found.low > 0.3
        assert abs(found.value - true_effect(m)) < 0.75 * (found.high - found.low), f"seed {seed}"  # 3 of 4 standard errors and a half


@pytest.mark.torture
@LONG
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("health-check", 1),  # of seeds 2 and 3 it reaches fewer than ten customers in an arm, for which there is no estimate
        *((name, seed) for name in ("renewal-rescue", "onboarding-optimisation") for seed in (1, 2, 3)),
    ],
)
def test_each_agent_alone_moves_its_customers_the_way_that_its_actions_do(name: str, seed: int) -> None:
    """Only what this agent does has an effect: on who stays, but for onboarding, whose goal is the next step."""
    (agent,) = (a for a in seven() if a.name == name)
    model = (
        HELPED
        if name != "onboarding-optimisation"
        else MONTHLY.changed(responses={"onboarding-nudge": Response(onboarding=0.9, contact=False)}, growth_per_year=2.0, renewal_base=3.0)
    )
    with closed_loop(seed, [agent], model, customers=80, days=240, every=6) as m:
        report = estimated(m)
        if name == "onboarding-optimisation":
            goal = report.effect("goal").estimate
            assert goal is not None
            assert goal.value > 0, f"seed {seed}"
            return
        agrees(m)
        found = report.effect("lost").estimate
        assert true_effect(m) < 0, f"seed {seed}"
        assert found is not None
        assert found.low <= true_effect(m), f"seed {seed}"
        assert found.value < 0, f"seed {seed}"
