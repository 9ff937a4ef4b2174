"""How good a score is: AUC, Brier, a calibration table, errors of expected numbers. Plain Python over lists; knows no model.

Labels are booleans and scores numbers, in the same order; InvalidInput when they are not as many, or when there is nothing to compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from postsale.errors import InvalidInput


def _check(a: Sequence[object], b: Sequence[object]) -> None:
    if len(a) != len(b):
        raise InvalidInput(what="metrics", field="labels", reason=f"{len(a)} labels and {len(b)} scores; expected as many")
    if not a:
        raise InvalidInput(what="metrics", field="labels", reason="none; expected at least one")


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """How often a customer with the outcome scores higher than one without, ties as a half; 0.5 says nothing.

    By ranks (Mann and Whitney 1947). InvalidInput unless both kinds of labels occur.
    """
    _check(labels, scores)
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    positives = sum(map(bool, labels))
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise InvalidInput(what="metrics", field="labels", reason="all the same; expected customers with and without the outcome")
    twice_ranks, start = 0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        twice_ranks += (start + 1 + end) * sum(bool(labels[i]) for i in order[start:end])  # the mean rank of the tied ones
        start = end
    return (twice_ranks / 2 - positives * (positives + 1) / 2) / (positives * negatives)


def brier(labels: Sequence[bool], probabilities: Sequence[float]) -> float:
    """Mean squared error of probabilities, 0 (sure and right) to 1; saying the base rate p to all gives p(1 - p). Brier 1950."""
    _check(labels, probabilities)
    return math.fsum((p - bool(y)) ** 2 for y, p in zip(labels, probabilities, strict=True)) / len(labels)


class Bin(NamedTuple):
    """Customers with a similar probability: what was said, and what happened."""

    rows: int
    lowest: float
    highest: float
    said: float  # mean probability
    happened: float  # share with the outcome


def calibration_table(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> tuple[Bin, ...]:
    """Customers by ascending probability, in at most `bins` parts of nearly equal size; equal probabilities stay together."""
    _check(labels, probabilities)
    order = sorted(range(len(labels)), key=lambda i: probabilities[i])
    found: list[Bin] = []
    start = 0
    for part in range(1, bins + 1):
        end = max(start, len(order) * part // bins)
        while start < end < len(order) and probabilities[order[end]] == probabilities[order[end - 1]]:
            end += 1
        if mine := order[start:end]:
            said = math.fsum(probabilities[i] for i in mine) / len(mine)
            happened = sum(bool(labels[i]) for i in mine) / len(mine)
            found.append(Bin(len(mine), probabilities[mine[0]], probabilities[mine[-1]], said, happened))
        start = end
    return tuple(found)


def calibration_error(table: Sequence[Bin]) -> float:
    """Mean distance between what was said and what happened, weighted by rows: 0 is calibrated."""
    return math.fsum(b.rows * abs(b.said - b.happened) for b in table) / sum(b.rows for b in table)


def mean_absolute_error(numbers: Sequence[float], expected: Sequence[float]) -> float:
    """MAE, in the unit of the numbers."""
    _check(numbers, expected)
    return math.fsum(abs(n - e) for n, e in zip(numbers, expected, strict=True)) / len(numbers)


def root_mean_squared_error(numbers: Sequence[float], expected: Sequence[float]) -> float:
    """RMSE, in the unit of the numbers."""
    _check(numbers, expected)
    return math.sqrt(math.fsum((n - e) ** 2 for n, e in zip(numbers, expected, strict=True)) / len(numbers))
