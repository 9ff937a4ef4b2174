"""Metrics equal their definitions, and those of scikit-learn."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from postsale.errors import InvalidInput
from postsale.projections.metrics import (
    auc,
    auc_interval,
    brier,
    calibration_error,
    calibration_table,
    calibration_z,
    lift,
    mean_absolute_error,
    root_mean_squared_error,
    stability_bound,
    stability_index,
)

pairs = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5001, 0.9, 1.0])), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@given(pairs)
def test_auc_and_brier_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    """With many ties."""
    labels, scores = [y for y, _ in rows], [p for _, p in rows]
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))


@given(pairs)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, float]]) -> None:
    with_, without = [p for y, p in rows if y], [p for y, p in rows if not y]
    share = sum((a > b) + 0.5 * (a == b) for a in with_ for b in without) / (len(with_) * len(without))
    assert auc([y for y, _ in rows], [p for _, p in rows]) == pytest.approx(share)


@given(pairs, st.integers(1, 12))
def test_a_calibration_table_has_every_row_once_in_order(rows: list[tuple[bool, float]], bins: int) -> None:
    """And equal probabilities are never in two bins."""
    labels, said = [y for y, _ in rows], [p for _, p in rows]
    table = calibration_table(labels, said, bins)
    assert 1 <= len(table) <= bins
    assert sum(b.rows for b in table) == len(rows)
    assert sum(b.rows * b.happened for b in table) == pytest.approx(sum(labels))
    assert sum(b.rows * b.said for b in table) == pytest.approx(sum(said))
    for lower, higher in pairwise(table):
        assert lower.highest < higher.lowest
    assert 0 <= calibration_error(table) <= 1


def test_what_happens_as_often_as_was_said_is_calibrated() -> None:
    labels, said = [True, False, False, False, True, True, True, False], [0.25] * 4 + [0.75] * 4
    assert calibration_error(calibration_table(labels, said, 2)) == 0
    assert calibration_error(calibration_table(labels, [0.5] * 8, 2)) == 0
    assert calibration_error(calibration_table(labels, [1.0] * 8, 2)) == 0.5


def test_errors_of_numbers() -> None:
    assert mean_absolute_error([0, 2, 4], [1, 2, 1]) == pytest.approx(4 / 3)
    assert root_mean_squared_error([0, 2, 4], [1, 2, 1]) == pytest.approx(math.sqrt(10 / 3))


@pytest.mark.parametrize("metric", [auc, brier, calibration_table, mean_absolute_error])
def test_nothing_to_compare_and_lists_of_different_length_are_refused(metric: object) -> None:
    for labels, scores in [([], []), ([True], [0.1, 0.2])]:
        with pytest.raises(InvalidInput):
            metric(labels, scores)  # type: ignore[operator]


def test_auc_without_both_outcomes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="all the same"):
        auc([True, True], [0.1, 0.2])


# ---------------------------------------------------------------- intervals, lift, drift


def delong(labels: list[bool], scores: list[float]) -> float:
    """The standard error of AUC, pair by pair, of rows that are each a customer of its own. DeLong, DeLong, Clarke-Pearson 1988."""
    ups, downs = [s for s, y in zip(scores, labels, strict=True) if y], [s for s, y in zip(scores, labels, strict=True) if not y]
    wins = [[(u > d) + 0.5 * (u == d) for d in downs] for u in ups]
    rows, columns = [statistics.fmean(w) for w in wins], [statistics.fmean(w) for w in zip(*wins, strict=True)]
    return math.sqrt(statistics.variance(rows) / len(rows) + statistics.variance(columns) / len(columns))


def drawn(rng: random.Random, n: int) -> tuple[list[bool], list[float]]:
    labels = [rng.random() < 0.4 for _ in range(n)]
    return labels, [round(rng.gauss(1.0 if y else 0.0, 1.0), 1) for y in labels]


def test_the_interval_of_auc_is_delongs_where_each_row_is_a_customer() -> None:
    rng = random.Random(2)
    for _ in range(20):
        labels, scores = drawn(rng, 50)
        found = auc_interval(labels, scores, [str(i) for i in range(50)])
        # DeLong's covariance of one row's two placements is absent: no customer is of both kinds.
        assert found.value == pytest.approx(auc(labels, scores))
        assert found.high - found.value == pytest.approx(min(1 - found.value, 1.959964 * delong(labels, scores)))
        assert found.value - found.low == pytest.approx(1.959964 * delong(labels, scores))


def test_rows_of_one_customer_that_say_the_same_do_not_narrow_the_interval() -> None:
    labels, scores = drawn(random.Random(4), 80)
    once = auc_interval(labels, scores, [str(i) for i in range(80)])
    again = auc_interval(labels * 5, scores * 5, [str(i) for i in range(80)] * 5)
    apart = auc_interval(labels * 5, scores * 5, [str(i) for i in range(400)])
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.02)
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_the_interval_holds_the_true_auc_about_as_often_as_it_says() -> None:
    """Scores that lie a standard deviation apart: the AUC is Φ(1 / √2)."""
    rng, true = random.Random(8), statistics.NormalDist().cdf(1 / math.sqrt(2))
    held = 0
    for _ in range(300):
        labels, scores = drawn(rng, 120)
        found = auc_interval(labels, scores, [str(i) for i in range(120)])
        held += found.low <= true <= found.high
    assert 0.91 <= held / 300 <= 0.99
    assert auc_interval([True, False], [1, 0], ["a", "b"]) == (1.0, 0.0, 1.0)  # nothing can be said


@pytest.mark.parametrize("often", [0.9, 0.5])
def test_the_interval_holds_the_true_auc_where_customers_have_rows_of_both_kinds(often: float) -> None:
    """Each customer has a level of its own in all its rows. `often` is how alike its outcomes are: alike, rows taken apart say too much;
    not alike, a level cancels out, and who takes rows apart says too little.
    """
    rng, true = random.Random(11), statistics.NormalDist().cdf(1 / math.sqrt(2 * (1 + 1.5**2)))
    held, apart = 0, 0
    for _ in range(120):
        labels, scores, customers = [], [], []
        for c in range(25):
            level, kind = rng.gauss(0, 1.5), rng.random() < 0.5
            for _ in range(8):
                y = rng.random() < (often if kind else 1 - often)
                labels.append(y)
                scores.append(level + rng.gauss(1.0 if y else 0.0, 1.0))
                customers.append(str(c))
        together, alone = auc_interval(labels, scores, customers), auc_interval(labels, scores, list(map(str, range(200))))
        held += together.low <= true <= together.high
        apart += alone.low <= true <= alone.high
    assert 0.88 <= held / 120 <= 0.985
    assert apart / 120 < 0.75 if often > 0.5 else apart > held - 2


@given(rows=pairs, seed=st.integers(0, 99))
def test_lift_is_between_nothing_and_all_outcomes_and_ties_have_no_order(rows: list[tuple[bool, float]], seed: int) -> None:
    labels, scores = [y for y, _ in rows], [s for _, s in rows]
    found = lift(labels, scores)
    assert 0 <= found <= len(rows) / sum(labels) + 1e-9
    random.Random(seed).shuffle(rows)
    assert lift([y for y, _ in rows], [s for _, s in rows]) == pytest.approx(found)
    assert lift(labels, [0.5] * len(labels)) == pytest.approx(1)


def test_z_of_calibrated_probabilities_is_standard_and_of_others_is_not() -> None:
    rng, found = random.Random(5), []
    for _ in range(300):
        p = [rng.betavariate(1, 4) for _ in range(200)]
        found.append(calibration_z([rng.random() < x for x in p], p))
    assert abs(statistics.fmean(found)) < 0.2
    assert 0.85 < statistics.stdev(found) < 1.15
    p = [rng.betavariate(1, 4) for _ in range(400)]
    assert calibration_z([rng.random() < min(1, 2 * x) for x in p], p) > 3
    assert calibration_z([False, True], [0.0, 1.0]) == 0
    assert calibration_z([True], [0.0]) == math.inf


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.data())
def test_the_stability_index_is_zero_for_the_same_and_never_negative(expected: list[int], data: st.DataObject) -> None:
    found = data.draw(st.lists(st.integers(0, 1000), min_size=len(expected), max_size=len(expected)))
    assert stability_index(expected, expected) == 0
    assert stability_index(expected, found) >= 0
    assert stability_index(expected, found) == pytest.approx(stability_index(found, expected))


def test_chance_alone_stays_below_the_bound_nearly_always() -> None:
    """And a figure by hand: shares of a half and a half against three quarters and one."""
    rng, above = random.Random(6), 0
    for _ in range(1_500):
        e, f = [0] * 10, [0] * 10
        for _ in range(300):
            e[rng.randrange(10)] += 1
        for _ in range(80):
            f[rng.randrange(10)] += 1
        above += stability_index(e, f) > stability_bound(10, 300, 80)
    assert above / 1_500 < 0.006
    assert stability_index([10**6] * 2, [3 * 10**6, 10**6]) == pytest.approx(0.25 * math.log(3), rel=1e-4)
    assert stability_bound(1, 5, 5) == 0
