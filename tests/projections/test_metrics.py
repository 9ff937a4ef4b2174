"""Metrics equal their definitions, and those of scikit-learn."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from postsale.errors import InvalidInput
from postsale.projections.metrics import (
    auc,
    brier,
    calibration_error,
    calibration_table,
    mean_absolute_error,
    root_mean_squared_error,
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
