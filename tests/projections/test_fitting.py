"""Fitted models: what is scored is what was fitted, nothing is measured on rows that were trained on, parameters are found again."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postsale.aggregates.signals import AccountChurned, AccountProfiled, InvoicePaid
from postsale.errors import InvalidInput
from postsale.events import DAY_US, from_us, to_us
from postsale.projections import Fact, Features, count, derived, first_seen, last_seen, latest
from postsale.projections.fitting import Recipe, fit_bg_nbd, fit_purchases
from postsale.projections.metrics import auc
from postsale.projections.purchases import PurchaseState
from postsale.projections.scoring import Category, Isotonic, LogisticModel, Number, Platt, Probability, Rank, sigmoid
from postsale.projections.training import Known, Subject, feature_rows, training_table

START = to_us(datetime(2026, 1, 1, tzinfo=UTC))


class Profile(Features, version=1, owner="tests"):
    """One input of each kind."""

    paid = count(InvoicePaid)
    last = last_seen(InvoicePaid)
    seats = latest(AccountProfiled, lambda e: e.seats)
    segment = latest(AccountProfiled, lambda e: e.segment)
    paid_by = count(InvoicePaid, by=lambda e: e.currency)

    @derived()
    def big(seats: int) -> bool:
        return seats > 50


class Left(Features, version=1, owner="tests"):
    left = count(AccountChurned)


RECIPE = Recipe(features=Profile, label="left", name="churn", outcome="leaves within 10 days", owner="tests")


def rows(n: int = 600, seed: int = 3, points: tuple[int, ...] = (30,), until: int = 10_000) -> Any:
    """Customers who leave the more likely the longer they are silent and the smaller they are; some without a profile."""
    rng = random.Random(seed)
    subjects = []
    for c in range(n):
        silent, seats, segment = rng.randrange(1, 29), rng.randrange(1, 100), rng.choice(["smb", "enterprise"])
        facts = [Fact("billing/invoice-paid", 1, START + (30 - silent) * DAY_US, 0, {"amount_minor": 1, "currency": "EUR"})]
        if rng.random() < 0.8:
            facts.append(Fact("crm/account-profiled", 2, START + DAY_US, 0, {"seats": seats, "segment": segment}))
        if rng.random() < 0.3:
            facts.append(Fact("billing/invoice-paid", 3, START + DAY_US, 0, {"amount_minor": 1, "currency": "USD"}))
        later = []
        for point in points:
            if rng.random() < sigmoid(0.15 * silent - 0.03 * seats - (segment == "enterprise")):
                later.append(Fact("crm/account-churned", 9, START + (point + 5) * DAY_US, 0, {}))
        known = [Known(f.occurred_at_us, None, f) for f in facts]
        subjects.append(Subject(f"{c:032x}", [START + p * DAY_US for p in points], known, later))
    return training_table(Profile, subjects, outcome=Left, horizon_us=10 * DAY_US, until_us=START + until * DAY_US)


TABLE = rows()
MODEL = RECIPE.fit(TABLE, data_set="d1")


def test_every_kind_of_input_becomes_a_term() -> None:
    """Numbers, flags, ages of times, sizes of maps, levels of texts; what is missing has a coefficient of its own."""
    kinds = {t.feature: t.of if isinstance(t, Number) else sorted(t.levels) for t in MODEL.terms}
    assert kinds == {
        "big": "value", "last": "age_days", "paid": "value", "paid_by": "size", "seats": "value", "segment": ["enterprise", "smb"],
    }  # fmt: skip
    by_name = {t.feature: t for t in MODEL.terms}
    assert isinstance(by_name["seats"], Number)
    assert by_name["seats"].missing != 0
    assert isinstance(by_name["segment"], Category)
    assert by_name["segment"].other != 0
    assert isinstance(by_name["last"], Number)
    assert by_name["last"].missing == 0  # everybody has bought: nothing was learnt about those who have not


def test_scoring_in_plain_python_is_what_scikit_learn_predicts() -> None:
    """Log-odds of every row, to a millionth per term."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    values = list(feature_rows(TABLE, Profile))
    labels = [bool(v) for v in TABLE.column("label_left").to_pylist()]

    def standard(numbers: list[float | None]) -> list[list[float]]:
        known = [n for n in numbers if n is not None]
        center, scale = np.mean(known), np.std(known) or 1.0
        columns = [[0.0 if n is None else (n - center) / scale for n in numbers]]
        return columns + ([[float(n is None) for n in numbers]] if None in numbers else [])

    segments = [v["segment"] for v in values]
    columns = [
        *standard([v["paid"] for v in values]),
        *standard([(v.as_of_us - v["last"]) / DAY_US for v in values]),
        *standard([v["seats"] for v in values]),
        *([float(s == level) for s in segments] for level in ("enterprise", "smb", None)),
        *standard([len(v["paid_by"]) for v in values]),
        *standard([None if v["big"] is None else float(v["big"]) for v in values]),
    ]
    theirs = LogisticRegression(max_iter=10_000, tol=1e-10).fit(np.array(columns).T, labels).decision_function(np.array(columns).T)
    ours = [MODEL.log_odds_micro(v) / 1e6 for v in values]
    assert ours == pytest.approx(theirs.tolist(), abs=5e-3)


def test_the_same_rows_give_the_same_model_and_it_names_them() -> None:
    again = RECIPE.fit(rows(), data_set="d1")
    assert (again, again.digest) == (MODEL, MODEL.digest)
    assert (MODEL.trained_on, MODEL.features) == ("d1", Profile.digest)
    assert MODEL.calibration is not None
    assert MODEL.calibration.calibrated_on == "d1"


@pytest.mark.parametrize(("calibration", "kind"), [("platt", Platt), ("isotonic", Isotonic), (None, type(None))])
def test_a_model_gives_probabilities_only_when_it_was_calibrated(calibration: Any, kind: type) -> None:
    model = replace(RECIPE, calibration=calibration).fit(TABLE, data_set="d1")
    assert isinstance(model.calibration, kind)
    score = model.score(next(feature_rows(TABLE, Profile)))
    assert isinstance(score, Rank if calibration is None else Probability)
    assert LogisticModel.from_json(model.content) == model


def test_probabilities_on_customers_that_were_left_out_are_calibrated_and_tell_them_apart() -> None:
    report = RECIPE.cross_validated(rows(2_000))
    assert report.rows == 2_000
    assert report.auc > 0.75
    assert report.brier < 0.8 * report.brier_of_base_rate
    assert report.calibration_error < 0.05


def test_a_customer_is_never_on_both_sides_of_a_fold() -> None:
    """Each has a text of its own, and a coin decides who leaves: whoever had seen a customer would know its label."""
    import pyarrow as pa

    table, rng = rows(40, points=(30, 31, 32, 33)), random.Random(5)
    customers = table.column("customer").to_pylist()
    coin = {customer: rng.randrange(2) for customer in sorted(set(customers))}
    columns = {"label_left": pa.array([coin[c] for c in customers], pa.int64()), "segment": pa.array([c[-8:] for c in customers])}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    recipe = replace(RECIPE, inputs=("segment",), l2=0.01, calibration=None)
    assert recipe.cross_validated(table).auc < 0.6
    model = recipe.fit(table, data_set="d1")
    said = [score.rank_ppm for v in feature_rows(table, Profile) if isinstance(score := model.score(v), Rank)]
    assert auc([coin[c] == 1 for c in customers], said) > 0.95  # so there is something to leak


def test_a_back_test_trains_on_outcomes_that_were_over_and_measures_on_rows_from_the_cut() -> None:
    """Rows whose horizon reaches over the cut are in neither part; turning their labels round changes nothing."""
    points = (30, 45, 60)
    table, horizon = rows(400, points=points), timedelta(days=10)
    cut = from_us(START + 58 * DAY_US)
    report = RECIPE.back_tested(table, cut, horizon=horizon)
    assert report.rows == 400
    import pyarrow as pa
    import pyarrow.compute as pc

    late = rows(400, points=(30, 50, 60))
    middle = pc.equal(late.column("as_of"), pa.scalar(from_us(START + 50 * DAY_US)))
    turned = [(1 - v) if m else v for v, m in zip(late.column("label_left").to_pylist(), middle.to_pylist(), strict=True)]
    poisoned = late.set_column(late.column_names.index("label_left"), "label_left", pa.array(turned, pa.int64()))
    assert RECIPE.back_tested(poisoned, cut, horizon=horizon) == RECIPE.back_tested(late, cut, horizon=horizon)


def test_censored_rows_are_neither_trained_on_nor_measured() -> None:
    some = rows(400, points=(30, 200), until=100)
    assert RECIPE.fit(some, data_set="d1") == RECIPE.fit(some.filter(some.column("censored").to_numpy() == False), data_set="d1")  # noqa: E712
    assert RECIPE.cross_validated(some).rows == 400


def test_rows_that_nothing_can_be_learnt_from_are_refused() -> None:
    with pytest.raises(InvalidInput, match="label_nothing"):
        replace(RECIPE, label="nothing").fit(TABLE, data_set="d")
    with pytest.raises(InvalidInput, match="all the same"):
        RECIPE.fit(TABLE.slice(0, 1), data_set="d")
    with pytest.raises(InvalidInput, match="folds"):
        RECIPE.fit(TABLE.slice(0, 3) if len(set(TABLE.slice(0, 3)["label_left"].to_pylist())) > 1 else TABLE.slice(0, 6), data_set="d")
    nobody = rows(5, until=0)
    with pytest.raises(InvalidInput, match="all the same"):
        RECIPE.fit(nobody, data_set="d")


# ---------------------------------------------------------------- purchases


def simulated(n: int, r: float, alpha: float, a: float, b: float, seed: int = 11) -> list[PurchaseState]:
    """Customers as the model says they are."""
    rng = random.Random(seed)
    states = []
    for _ in range(n):
        rate, p, age = rng.gammavariate(r, 1 / alpha), rng.betavariate(a, b), rng.uniform(200, 400)
        t = x = 0.0
        last = 0.0
        while True:
            t += rng.expovariate(rate) if rate > 1e-12 else 1e9
            if t > age:
                break
            x, last = x + 1, t
            if rng.random() < p:
                break
        states.append(PurchaseState(int(x), last, age))
    return states


def test_the_parameters_of_simulated_customers_are_found_again() -> None:
    """6,000 customers; within what so many can tell."""
    r, alpha, a, b = fit_bg_nbd(simulated(6_000, 0.8, 40.0, 1.2, 3.0))
    assert r == pytest.approx(0.8, rel=0.15)
    assert alpha == pytest.approx(40.0, rel=0.15)
    assert a / (a + b) == pytest.approx(1.2 / 4.2, rel=0.15)


def test_the_unit_of_time_does_not_matter() -> None:
    """Days, or hours: the same customers."""
    states = simulated(500, 0.8, 40.0, 1.2, 3.0)
    r, alpha, a, b = fit_bg_nbd(states)
    hours = fit_bg_nbd([PurchaseState(s.x, 24 * s.t_x_days, 24 * s.T_days) for s in states])
    assert hours == pytest.approx((r, 24 * alpha, a, b), rel=1e-3)


class Buys(Features, version=1, owner="tests"):
    n = count(InvoicePaid)
    first = first_seen(InvoicePaid)
    last = last_seen(InvoicePaid)


def test_a_model_of_purchases_is_fitted_to_rows_without_those_who_never_bought() -> None:
    subjects = []
    for c in range(40):
        facts = [
            Fact("billing/invoice-paid", k, START + (k * (c % 7) + 1) * DAY_US, 0, {"amount_minor": 1, "currency": "EUR"})
            for k in range(1 + c % 5)
        ]
        subjects.append(Subject(f"{c:032x}", [START + 90 * DAY_US], [Known(f.occurred_at_us, None, f) for f in facts]))
    more = [*subjects, Subject("f" * 32, [START + 90 * DAY_US])]

    def fit(some: list[Subject]) -> Any:
        names = {"purchases": "n", "first": "first", "last": "last", "name": "p", "owner": "tests", "data_set": "d1"}
        return fit_purchases(training_table(Buys, some), Buys, horizon=timedelta(days=30), **names)

    assert fit(subjects) == fit(more)
    assert (fit(more).trained_on, fit(more).horizon_days, fit(more).features) == ("d1", 30.0, Buys.digest)
    with pytest.raises(InvalidInput, match="twice"):
        fit(more[-1:])


def test_an_input_that_is_no_column_is_refused_with_the_columns_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"nope: not among the columns: .*seats"):
        replace(RECIPE, inputs=("nope",)).fit(TABLE, data_set="d1")


def test_without_the_extra_scoring_works_and_fitting_names_the_extra() -> None:
    """In a process where scikit-learn, SciPy and NumPy cannot be imported."""
    code = """
import sys
for name in ("sklearn", "scipy", "numpy"): sys.modules[name] = None
from postsale.errors import MissingExtra
from postsale.projections import Fold
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.fitting import fit_bg_nbd
from postsale.projections.priors import CHURN_PRIOR
fold = Fold(CustomerHealth)
print(type(CHURN_PRIOR.score(fold.finish(fold.empty(), 0))).__name__)
try: fit_bg_nbd([])
except MissingExtra as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "Rank"
    assert "postsale[models]" in done.stdout
