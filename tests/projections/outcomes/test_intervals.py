"""Intervals against published figures and against what an interval must be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.projections.outcomes.intervals import difference_interval, median_time, ratio_interval, wilson


def test_wilson_gives_the_published_interval() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), two-sided intervals of a single proportion, table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (hits, n), expected in published.items():
        found = wilson(hits, n)
        assert found is not None
        assert (round(found.low, 4), round(found.high, 4)) == expected


def test_kaplan_meier_of_the_textbook() -> None:
    """Remission under 6-MP, Freireich et al. 1963: 21 patients, median 23 weeks; the lower limit on the log-log scale is 13."""
    gone = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    watched = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    found = median_time([(t, True) for t in gone] + [(t, False) for t in watched])
    assert (found.median, found.low, found.high) == (23, 13, None)


def test_without_anybody_waiting_the_median_is_the_plain_one() -> None:
    assert median_time([(t, True) for t in (1, 2, 3, 4, 5)]).median == 3
    assert median_time([(5, True), (9, False), (9, False)]).median is None
    assert median_time([]).median is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_interval_of_an_nps_holds_it_and_stays_on_the_scale(promoters: int, passives: int, detractors: int) -> None:
    n = promoters + passives + detractors
    found = difference_interval(promoters, detractors, n)
    if found is None:
        assert n == 0
    else:
        score = 100 * (promoters - detractors) / n
        assert -100 <= found.low <= score + 1e-6
        assert score - 1e-6 <= found.high <= 100
        assert found.low < found.high  # even of one answer alone, and when all agree


def test_the_interval_of_an_nps_covers_the_truth_as_often_as_it_says() -> None:
    """5,000 samples of 60 answers, 50 % promoters and 20 % detractors: an NPS of 30 lies within at least 93.5 % of them."""
    rng = random.Random(7)
    hits = 0
    for _ in range(5_000):
        draws = rng.choices((1, 0, -1), (50, 30, 20), k=60)
        found = difference_interval(draws.count(1), draws.count(-1), 60)
        assert found is not None
        hits += found.low <= 30 <= found.high
    assert 0.935 <= hits / 5_000 <= 0.98


def test_a_ratio_is_resampled_in_the_same_way_every_time_and_agrees_with_the_linearised_one() -> None:
    rng = random.Random(3)
    wholes = [rng.randrange(50, 150) for _ in range(1_000)]
    parts = [w if rng.random() < 0.9 else 0 for w in wholes]
    few, again, many = ratio_interval(parts, wholes), ratio_interval(parts, wholes), ratio_interval([*parts, *parts], [*wholes, *wholes])
    assert few == again
    assert few is not None
    assert many is not None
    assert "bootstrap" in few.source
    assert "linearised" in many.source
    assert few.high - few.low == pytest.approx((many.high - many.low) * 2**0.5, rel=0.1)
    assert ratio_interval([1, 2], [2, 2]) is None


def test_where_all_customers_have_the_same_ratio_no_interval_claims_certainty() -> None:
    assert ratio_interval([3, 7, 9, 20, 1], [3, 7, 9, 20, 1]) is None
