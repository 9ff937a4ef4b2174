"""Scores: models are data, explain themselves exactly, and a rank never passes for a probability."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents.expressions import parse_cell
from postsale.aggregates.signals import ScoreReceived
from postsale.errors import InvalidInput
from postsale.events import DAY_US
from postsale.projections import FeatureValues, Fold, fact_from
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.priors import CHURN_PRIOR, EXPANSION_PRIOR, REFERRAL_PRIOR
from postsale.projections.purchases import PurchaseModel, PurchaseState, state_of
from postsale.projections.scoring import (
    Category,
    Expected,
    Isotonic,
    LogisticModel,
    Number,
    Platt,
    Probability,
    Rank,
    Scorer,
    WarehouseScorer,
    WarehouseScores,
    as_evidence,
    evidence_of,
    sigmoid,
)

from .customers import START, day

finite = st.floats(-50, 50, allow_nan=False)
numbers = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.booleans(), st.floats(-1e9, 1e9))


def model(**more: object) -> LogisticModel:
    terms = (
        Number(feature="n", coefficient=0.5, center=2, scale=3, missing=-1),
        Number(feature="seen", of="age_days", coefficient=-0.25),
        Number(feature="kinds", of="size", coefficient=0.125),
        Category(feature="plan", levels={"free": 0.75, "pro": -0.75}, other=0.1),
    )
    given = {"name": "churn", "version": 1, "owner": "tests", "outcome": "leaves", "features": "d", "intercept": -1.0, "terms": terms}
    return LogisticModel(**{**given, **more})


def values(at: int = 10 * DAY_US, **given: object) -> FeatureValues:
    return FeatureValues({"n": 5, "seen": 8 * DAY_US, "kinds": ("a", "b"), "plan": "free", **given}, at, None, 0)


# ---------------------------------------------------------------- logistic models


def test_the_score_is_the_formula() -> None:
    """Intercept, a scaled number, an age in days, a number of elements, a level."""
    log_odds = -1 + 0.5 * (5 - 2) / 3 - 0.25 * 2 + 0.125 * 2 + 0.75
    assert model().log_odds_micro(values()) == round(1_000_000 * log_odds)
    assert model().score(values()) == Rank(round(1_000_000 / (1 + math.exp(-log_odds))))


def test_what_is_not_known_has_coefficients_of_its_own() -> None:
    """None, and a level that was not trained on."""
    parts = {p.feature: p.log_odds_micro for p in model().parts(values(n=None, plan="gold", seen=None))}
    assert (parts["n"], parts["plan"], parts["seen"]) == (-1_000_000, 100_000, 0)
    assert {p.feature: p.log_odds_micro for p in model().parts(values(plan=None))}["plan"] == 100_000


@given(n=numbers, plan=st.sampled_from([None, "free", "pro", "x"]), intercept=finite, coefficient=finite)
def test_parts_sum_exactly_to_the_log_odds_and_a_score_stays_in_its_bounds(
    n: float | None, plan: str | None, intercept: float, coefficient: float
) -> None:
    m = model(intercept=intercept, terms=(Number(feature="n", coefficient=coefficient), Category(feature="plan", levels={"pro": 3.0})))
    v = values(n=n, plan=plan)
    assert sum(p.log_odds_micro for p in m.parts(v)) == m.log_odds_micro(v)
    score = m.score(v)
    assert isinstance(score, Rank)
    assert 0 <= score.rank_ppm <= 1_000_000


@given(finite, finite, st.sampled_from(["platt", "isotonic"]))
def test_a_model_goes_through_json_and_scores_the_same(intercept: float, slope: float, kind: str) -> None:
    calibration: Platt | Isotonic = Platt(slope=slope, offset=0.1, calibrated_on="d1")
    if kind == "isotonic":
        calibration = Isotonic(log_odds=(-1.0, 0.0, 2.5), probabilities=(0.0, 0.25, 0.5), calibrated_on="d1")
    one = model(intercept=intercept, calibration=calibration)
    other = LogisticModel.from_json(one.content)
    assert (other, other.digest, other.content) == (one, one.digest, one.content)
    assert other.score(values()) == one.score(values())


def test_whatever_determines_a_score_is_in_the_digest() -> None:
    one = model()
    changed = [
        model(intercept=-1.1),
        model(terms=one.terms[:-1]),
        model(features="e"),
        model(version=2),
        model(calibration=Platt(slope=1.0, offset=0.0, calibrated_on="d1")),
        model(trained_on="d1"),
        one.model_copy(update={"owner": "others"}),
    ]
    assert len({m.digest for m in (one, *changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04N.",
        json.dumps({**json.loads(model().content), "intercept": "1"}),
        json.dumps({**json.loads(model().content), "more": 1}),
        model().content.replace("-1.0", "NaN"),
        model().content.replace("-1.0", "1e999"),
    ],
)
def test_what_is_not_such_a_model_is_refused_and_no_pickle_is_opened(content: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        LogisticModel.from_json(content)


def test_wrong_models_are_refused_when_they_are_made() -> None:
    twice = (Number(feature="n", coefficient=1.0), Number(feature="n", coefficient=2.0))
    with pytest.raises(InvalidInput, match="two terms"):
        model(terms=twice)
    for xs, ys in [((0.0, 0.0), (0.1, 0.2)), ((0.0, 1.0), (0.2, 0.1)), ((0.0,), (0.1, 0.2)), ((), ()), ((0.0,), (1.5,))]:
        with pytest.raises(ValueError, match="Isotonic"):
            Isotonic(log_odds=xs, probabilities=ys, calibrated_on="d1")


def test_values_that_lack_a_feature_or_hold_another_type_are_refused_by_name() -> None:
    lacking = FeatureValues({"n": 1}, DAY_US, None, 0)
    with pytest.raises(InvalidInput, match="seen"):
        model().score(lacking)
    with pytest.raises(InvalidInput, match="holds a str"):
        model().score(values(n="many"))


# ---------------------------------------------------------------- rank, probability, expected


def test_only_a_calibrated_model_gives_a_probability() -> None:
    z = model().log_odds_micro(values()) / 1_000_000
    calibrated = model(calibration=Platt(slope=2.0, offset=0.5, calibrated_on="d1")).score(values())
    assert calibrated == Probability(round(1_000_000 * sigmoid(2 * z + 0.5)), "d1")
    assert isinstance(model(trained_on="d1").score(values()), Rank)


@given(st.floats(-9, 9))
def test_an_isotonic_curve_rises_through_its_points_and_is_level_beyond_them(z: float) -> None:
    curve = Isotonic(log_odds=(-1.0, 0.0, 2.0), probabilities=(0.1, 0.4, 0.5), calibrated_on="d1")
    p = curve.probability(z)
    assert 0.1 <= p <= 0.5
    assert curve.probability(z + 0.5) >= p
    assert [curve.probability(x) for x in (-9, -1, -0.5, 0, 1, 2, 9)] == pytest.approx([0.1, 0.1, 0.25, 0.4, 0.45, 0.5, 0.5])


def test_the_three_kinds_of_score_share_no_field() -> None:
    """So that code written for one cannot read another by mistake."""
    names = [f.name for kind in (Rank, Probability, Expected) for f in fields(kind)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("prior", [CHURN_PRIOR, EXPANSION_PRIOR, REFERRAL_PRIOR], ids=lambda m: m.name)
def test_a_prior_that_ships_is_not_calibrated_and_gives_a_rank(prior: LogisticModel) -> None:
    """Over the shipped features, also of a customer about whom nothing is known."""
    assert prior.calibration is None
    assert prior.trained_on == ""
    assert prior.features == CustomerHealth.digest
    fold = Fold(CustomerHealth)
    assert isinstance(prior.score(fold.finish(fold.empty(), 0)), Rank)


def test_a_rank_satisfies_no_condition_about_a_probability() -> None:
    """Its evidence is not known, and what is not known satisfies no comparison."""
    rank = as_evidence("churn", Rank(999_999))
    assert rank == {"churn_rank_ppm": 999_999, "churn_probability_ppm": None, "churn_expected_micro": None}
    for cell in (">= 0", "<= 1000000", "between 0 and 1000000", "!= 7"):
        condition = parse_cell(cell, "integer", policy="p", where="w")
        assert not condition.test(rank["churn_probability_ppm"])
        assert condition.test(as_evidence("churn", Probability(999_999, "d1"))["churn_probability_ppm"])
    assert set(as_evidence("churn", None).values()) == {None}


def test_every_scorer_is_one() -> None:
    scorers: list[Scorer] = [CHURN_PRIOR, purchases(), WarehouseScorer("churn", "1", "leaves")]
    assert len({len(s.digest) for s in scorers}) == 1
    assert all(s.outcome and s.features and s.name for s in scorers)


# ---------------------------------------------------------------- a warehouse's scores


def received(n: float, ppm: int, *, version: str = "v1", means: str = "probability", name: str = "churn") -> ScoreReceived:
    from datetime import timedelta

    at = START + timedelta(days=n)
    return ScoreReceived(
        source="dbt", id=f"{name}{n}", occurred_at=at, model=name, model_version=version, outcome="leaves", value_ppm=ppm, means=means
    )


def test_a_warehouses_newest_score_counts_while_it_is_of_the_named_version_and_fresh() -> None:
    fold = Fold(WarehouseScores)

    def said(*signals: ScoreReceived, at: float = 10, version: str = "v1") -> object:
        state = fold.fold(fact_from(signal, n) for n, signal in enumerate(signals, 1))
        return WarehouseScorer("churn", version, "leaves", max_age_days=5).score(fold.finish(state, day(at)))

    assert said() is None
    assert said(received(8, 300), received(9, 400)) == Probability(400, "churn@v1")
    assert said(received(9, 400), received(8, 300)) == Probability(400, "churn@v1")
    assert said(received(9, 400, means="rank")) == Rank(400)
    assert said(received(8, 400), received(9, 500, means="rank")) == Rank(500)
    assert said(received(9, 400, version="v2")) is None
    assert said(received(9, 400, name="upsell")) is None
    assert said(received(5, 400)) == Probability(400, "churn@v1")
    assert said(received(4.9, 400)) is None


def test_a_score_that_says_nothing_about_its_meaning_is_a_rank() -> None:
    fold = Fold(WarehouseScores)
    signal = ScoreReceived(source="dbt", id="1", occurred_at=START, model="churn", model_version="v1", outcome="leaves", value_ppm=9)
    at = fold.finish(fold.fold([fact_from(signal, 1)]), day(0))
    assert evidence_of([WarehouseScorer("churn", "v1", "leaves")], at)["churn_probability_ppm"] is None


# ---------------------------------------------------------------- expected purchases


def purchases(**more: float) -> PurchaseModel:
    """The parameters that the source gives for CDNOW, in days instead of weeks."""
    given = {"r": 0.243, "alpha": 7 * 4.414, "a": 0.793, "b": 2.426, "horizon_days": 273.0, **more}
    names = {"name": "purchases", "version": 1, "owner": "tests", "features": "d", "purchases": "n", "first": "first", "last": "last"}
    return PurchaseModel(**names, **given)


def test_the_example_of_the_source_comes_out() -> None:
    """Fader, Hardie and Lee's customer with x = 2, t_x = 30.43, T = 38.86 weeks: 1.226 purchases in the next 39 weeks."""
    assert purchases().expected(PurchaseState(2, 7 * 30.43, 7 * 38.86), 7 * 39) == pytest.approx(1.226, abs=0.0005)


@given(
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(1, 3_000),
    st.floats(1, 3_000),
    st.sampled_from([0.2, 0.793, 1.0, 1.7, 4.0]),
)
def test_expected_purchases_are_finite_rise_with_the_horizon_and_never_negative(
    x: int, share: float, age: float, t: float, a: float
) -> None:
    """For heavy buyers and long horizons too, where the textbook's series overflows."""
    model_ = purchases(a=a)
    state = PurchaseState(x, share * age if x else 0.0, age)
    near, far = model_.expected(state, t), model_.expected(state, 2 * t)
    assert 0 <= near <= far * (1 + 1e-9) < math.inf
    assert 0 <= model_.alive(state) <= 1


def test_a_model_of_purchases_scores_finished_features_and_goes_through_json() -> None:
    model_ = purchases()
    v = FeatureValues({"n": 3, "first": 0, "last": round(7 * 30.43 * DAY_US)}, round(7 * 38.86 * DAY_US), None, 0)
    assert model_.score(v) == Expected(pytest.approx(1_226_028, abs=5))
    assert model_.score(FeatureValues({"n": 0, "first": None, "last": None}, DAY_US, None, 0)) is None
    assert PurchaseModel.from_json(model_.content) == model_
    assert as_evidence("purchases", model_.score(v))["purchases_probability_ppm"] is None
    with pytest.raises(InvalidInput, match="before the last purchase"):
        state_of(2, 5, 9, 8)


def test_everybody_without_a_repeat_purchase_is_alive_so_nobody_is_ranked_by_it() -> None:
    """The trap: expected purchases fall with silence where P(alive) does not."""
    model_ = purchases()
    fresh, silent = PurchaseState(0, 0, 10), PurchaseState(0, 0, 1_000)
    assert model_.alive(fresh) == model_.alive(silent) == 1
    assert model_.expected(silent, 273) < model_.expected(fresh, 273)
