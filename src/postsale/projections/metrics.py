"""How good a score is: AUC with its interval, Brier, calibration, lift, drift, errors of expected numbers. Plain Python over lists; knows no model.

Labels are booleans and scores numbers, in the same order; InvalidInput when they are not as many, or when there is nothing to compare.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from postsale.errors import InvalidInput

_Z95: Final = 1.959964
_Z999: Final = 3.090232  # one-sided


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


class Interval(NamedTuple):
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


def auc_interval(labels: Sequence[bool], scores: Sequence[float], customers: Sequence[str]) -> Interval:
    """AUC with an interval that knows that rows of one customer go together (Obuchowski 1997; with one row each it is DeLong 1988).

    InvalidInput unless both kinds of labels occur. Without two customers of each kind the interval is 0 to 1.
    """
    _check(labels, customers)
    value = auc(labels, scores)
    ups, downs = (
        sorted(s for s, y in zip(scores, labels, strict=True) if y),
        sorted(s for s, y in zip(scores, labels, strict=True) if not y),
    )
    m, n = len(ups), len(downs)
    above: dict[str, float] = {}  # of each customer: how its rows with the outcome are placed among those without, less what AUC says
    below: dict[str, float] = {}
    for label, score, customer in zip(labels, scores, customers, strict=True):
        others, part = (downs, above) if label else (ups, below)
        less, most = bisect_left(others, score), bisect_right(others, score)
        placed = (less + most) / 2 / len(others)
        part[customer] = part.get(customer, 0.0) + (placed if label else 1 - placed) - value
    if len(above) < 2 or len(below) < 2:
        return Interval(value, 0.0, 1.0)
    i10, i01, both = len(above), len(below), len(above.keys() | below.keys())
    s10 = i10 / ((i10 - 1) * m) * math.fsum(v * v for v in above.values())
    s01 = i01 / ((i01 - 1) * n) * math.fsum(v * v for v in below.values())
    s11 = both / (both - 1) * math.fsum(v * below[c] for c, v in above.items() if c in below)
    error = math.sqrt(max(0.0, s10 / m + s01 / n + 2 * s11 / (m * n)))
    return Interval(value, max(0.0, value - _Z95 * error), min(1.0, value + _Z95 * error))


def lift(labels: Sequence[bool], scores: Sequence[float], share: float = 0.1) -> float:
    """How many times more often the outcome is among the highest `share` of scores than among all; 1 is no help.

    Rows that tie at the edge count in part, so that their order changes nothing. InvalidInput without any outcome.
    """
    _check(labels, scores)
    positives = sum(map(bool, labels))
    if not positives:
        raise InvalidInput(what="metrics", field="labels", reason="nobody has the outcome; expected at least one")
    size = max(1, math.ceil(len(labels) * share))
    edge = sorted(scores, reverse=True)[size - 1]
    over = [bool(y) for y, s in zip(labels, scores, strict=True) if s > edge]
    tied = [bool(y) for y, s in zip(labels, scores, strict=True) if s == edge]
    found = sum(over) + sum(tied) * (size - len(over)) / len(tied)
    return found / size / (positives / len(labels))


def calibration_z(labels: Sequence[bool], probabilities: Sequence[float]) -> float:
    """How many standard errors the Brier score is from what calibrated probabilities would give (Spiegelhalter 1986); 0 when nothing varies."""
    _check(labels, probabilities)
    numerator = math.fsum((bool(y) - p) * (1 - 2 * p) for y, p in zip(labels, probabilities, strict=True))
    variance = math.fsum((1 - 2 * p) ** 2 * p * (1 - p) for p in probabilities)
    if variance > 0:
        return numerator / math.sqrt(variance)
    return 0.0 if numerator == 0 else math.copysign(math.inf, numerator)


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """The population stability index of two histograms over the same parts: Σ (f - e) · ln(f / e), of shares; 0 is the same.

    Below 0.1 is usually read as stable, from 0.25 as another population (N. Siddiqi, Credit Risk Scorecards, 2006). Half a row is added to
    each part, so that an empty one has a logarithm.
    """
    _check(expected, found)
    e_all, f_all = sum(expected) + len(expected) / 2, sum(found) + len(found) / 2
    shares = [((e + 0.5) / e_all, (f + 0.5) / f_all) for e, f in zip(expected, found, strict=True)]
    return math.fsum((f - e) * math.log(f / e) for e, f in shares)


def stability_bound(parts: int, expected_rows: int, found_rows: int) -> float:
    """What chance alone keeps the index below, 999 times in 1,000, in one and the same population: few rows give a large index.

    (1/N + 1/M) · χ² with parts - 1 degrees of freedom (B. Yurdakul, J. Naranjo, Statistical properties of the population stability
    index, 2020); the quantile by Wilson and Hilferty 1931.
    """
    k = parts - 1
    if k < 1:
        return 0.0
    return (1 / expected_rows + 1 / found_rows) * k * (1 - 2 / (9 * k) + _Z999 * math.sqrt(2 / (9 * k))) ** 3


def mean_absolute_error(numbers: Sequence[float], expected: Sequence[float]) -> float:
    """MAE, in the unit of the numbers."""
    _check(numbers, expected)
    return math.fsum(abs(n - e) for n, e in zip(numbers, expected, strict=True)) / len(numbers)


def root_mean_squared_error(numbers: Sequence[float], expected: Sequence[float]) -> float:
    """RMSE, in the unit of the numbers."""
    _check(numbers, expected)
    return math.sqrt(math.fsum((n - e) ** 2 for n, e in zip(numbers, expected, strict=True)) / len(numbers))
