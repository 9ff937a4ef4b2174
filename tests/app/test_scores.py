"""Scores as evidence: a calibrated model satisfies a floor of probability, a rank never does; decisions name the model and replay."""

from __future__ import annotations

from datetime import timedelta

import pytest

from postsale.agents import Agent, Policy
from postsale.agents.guardrails import Context, first_failed, judge
from postsale.errors import BadDeclaration, PolicyInvalid
from postsale.events import ManualClock
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.journal import Entry
from postsale.projections.priors import CHURN_PRIOR, EXPANSION_PRIOR
from postsale.projections.scoring import LogisticModel, Platt, WarehouseScorer, WarehouseScores

from .support import ANNA, NOON, Where, failed, opened, paid

POLICY = """
name = "rescue"
version = 1
owner = "anna"
description = "Opens a case where leaving is likely."

[inputs]
failed_payments = "integer"
churn_probability_ppm = "integer"
churn_rank_ppm = "integer"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[rule]]
id = "open-case"
action = "open-case"
because = "a payment failed"
risk_case = true

[guardrails]
purpose = "service"

[guardrails.probability]
of = "churn"
at_least_percent = 10
"""
RESCUE = Policy.from_toml(POLICY)


def calibrated(offset: float) -> LogisticModel:
    """The prior with a curve, as a fit would give it."""
    return CHURN_PRIOR.model_copy(update={"calibration": Platt(slope=1.0, offset=offset, calibrated_on="rows of a data set")})


def decided(where: Where, *scorers: LogisticModel) -> Entry:
    """What the agent decides when a payment fails, and decides again in a replay."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[Agent(RESCUE, name="rescue")], scorers=scorers) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - timedelta(days=9)))
        ps.run_once()
        acme.agent("rescue").act(reason="tried", by=ANNA)
        clock.advance(timedelta(days=1))
        acme.record("cus_1", failed("f", NOON + timedelta(days=1)))
        ps.run_once()
        (entry,) = acme.decisions()
        acme.replay(entry.id)  # raises unless every byte is the same
        return entry


def test_a_rank_never_satisfies_a_floor_of_probability(where: Where) -> None:
    """However high it is: the prior that ships is not calibrated."""
    certain = CHURN_PRIOR.model_copy(update={"intercept": 50.0})
    entry = decided(where, certain)
    assert entry.recorded.evidence["churn_rank_ppm"] == 1_000_000
    assert entry.recorded.evidence["churn_probability_ppm"] is None
    assert (entry.disposition, entry.suppressed_by) == ("suppressed", "probability:churn>=10%")


def test_a_calibrated_probability_satisfies_the_floor_or_does_not(where: Where) -> None:
    """The decision records what was said and by which model, and is made again from that."""
    model = calibrated(2.0)
    entry = decided(where, model)
    likely = entry.recorded.evidence["churn_probability_ppm"]
    assert isinstance(likely, int)
    assert likely > 100_000
    assert entry.recorded.evidence["churn_rank_ppm"] is None
    assert entry.disposition == "acted"
    assert entry.recorded.model is not None
    assert f"churn:{model.digest}" in entry.recorded.model
    entry = decided(None, calibrated(-9.0))
    assert entry.suppressed_by == "probability:churn>=10%"


def test_evidence_of_no_target_is_refused_and_of_a_target_without_a_model_is_not_known() -> None:
    """A name that nobody can ever give is a mistake; one whose model is not active yet satisfies no floor."""
    with pytest.raises(PolicyInvalid, match="churn_"):
        opened(None, agents=[Agent(RESCUE, name="rescue")], targets=())
    entry = decided(None)
    assert (entry.recorded.evidence["churn_probability_ppm"], entry.recorded.evidence["churn_rank_ppm"]) == (None, None)
    assert entry.suppressed_by == "probability:churn>=10%"


@pytest.mark.parametrize(
    ("likely", "row", "passed"),
    [(100_000, "open-case", True), (99_999, "open-case", False), (None, "open-case", False), (None, None, True)],
)
def test_the_verdict_is_by_parts_per_million_and_nothing_is_needed_where_nothing_is_done(
    likely: int | None, row: str | None, passed: bool
) -> None:
    context = Context(local_time="12:00", time_zone="UTC", consent={}, touches={}, probability_ppm=likely)
    assert Context.from_scalars(context.scalars()) == context
    chosen = RESCUE.rules[:1] if row else ()
    (verdict,) = (v for v in judge(RESCUE, chosen, "no-rule", None, context, mode="act", depth=0, tools={}) if v.guardrail == "probability")
    assert verdict.passed is passed
    if row:
        assert first_failed(judge(RESCUE, chosen, "", None, context, mode="act", depth=0, tools={})) == (None if passed else verdict.rule)


def test_a_floor_needs_its_evidence_declared_and_is_printed() -> None:
    with pytest.raises(PolicyInvalid, match="churn_probability_ppm"):
        Policy.from_toml(POLICY.replace('churn_probability_ppm = "integer"\n', ""))
    assert "only where churn is at least 10 % likely, by a calibrated model" in RESCUE.table()
    without = Policy.from_toml(POLICY.partition("[guardrails.probability]")[0])
    assert "probability" not in without.content.replace("churn_probability_ppm", "")


def test_a_scorer_over_other_features_and_two_of_one_name_are_refused() -> None:
    for scorers, reason in [
        ([WarehouseScorer("churn", "1", "leaves")], "another declaration"),
        ([CHURN_PRIOR, calibrated(0.0)], "share a name"),
    ]:
        with pytest.raises(BadDeclaration, match=reason):
            opened(None, scorers=scorers)
    with opened(None, scorers=[CHURN_PRIOR, EXPANSION_PRIOR]) as ps:
        assert ps.scorers == (CHURN_PRIOR, EXPANSION_PRIOR)
    with pytest.raises(BadDeclaration, match="lacks"):
        WarehouseScorer("churn", "1", "leaves", declaration=CustomerHealth)
    assert WarehouseScorer("churn", "1", "leaves").declaration is WarehouseScores
