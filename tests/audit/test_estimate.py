"""What acting changed, estimated from two arms: by hand, as often right as it says, and refused where nothing supports it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.audit import Difference, difference
from postsale.audit.estimate import FEWEST, _student


def of(treated: list[float], held: list[float], confidence: float = 0.95) -> Difference:
    found = difference(treated, held, confidence)
    assert isinstance(found, Difference), found
    return found


def share(hits: int, n: int) -> list[float]:
    return [1.0] * hits + [0.0] * (n - hits)


def test_a_difference_of_shares_has_the_published_interval() -> None:
    """Newcombe 1998, table II, (a): 56/70 - 48/80 = 0.2, method 10: 0.0524 to 0.3339; (f): 10/10 - 0/10 = 1: 0.6075 to 1."""
    found = of(share(56, 70), share(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    whole = of(share(10, 10), share(0, 10))
    assert (whole.low, whole.high) == pytest.approx((0.6075, 1.0), abs=5e-5)
    assert (whole.treated, whole.held_out, whole.treated_mean, whole.held_out_mean) == (10, 10, 1.0, 0.0)


def test_a_difference_of_means_by_hand() -> None:
    """1..10 and 3..12: means 5.5 and 7.5, variances 55/6, so the error is sqrt(2 x 55/60) = 1.3540 on 18 degrees; t is 2.1009."""
    found = of([float(x) for x in range(1, 11)], [float(x) for x in range(3, 13)])
    half = 2.100922 * math.sqrt(2 * 55 / 60)
    assert (found.value, found.low, found.high) == pytest.approx((-2, -2 - half, -2 + half), abs=1e-3)


@pytest.mark.parametrize(("freedom", "quantile"), [(9, 2.262157), (18, 2.100922), (60, 2.000298), (1e9, 1.959964)])
def test_students_quantile_is_that_of_the_tables(freedom: float, quantile: float) -> None:
    assert _student(1.959963984540054, freedom) == pytest.approx(quantile, abs=1e-3)


@given(st.lists(st.integers(0, 1), min_size=10, max_size=60), st.lists(st.integers(0, 1), min_size=10, max_size=60))
def test_exchanging_the_arms_turns_the_sign_and_the_interval_holds_the_value(a: list[int], b: list[int]) -> None:
    there, back = of([*map(float, a)], [*map(float, b)]), of([*map(float, b)], [*map(float, a)])
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert -1 - 1e-12 <= there.low <= there.value <= there.high <= 1 + 1e-12


@pytest.mark.parametrize("sizes", [(FEWEST - 1, 500), (500, FEWEST - 1), (0, 0)])
def test_too_few_in_either_arm_give_no_estimate(sizes: tuple[int, int]) -> None:
    treated, held = sizes
    assert "are too few" in str(difference([0.0] * treated, [1.0] * held))


def test_where_nobody_differs_from_anybody_no_interval_claims_certainty() -> None:
    assert "how much chance could do" in str(difference([2.0] * 50, [3.0] * 50))
    assert of([0.0] * 50, [0.0] * 50).high > 0.05  # of shares something is known even then


@pytest.mark.parametrize("seed", [3, 4])
def test_the_interval_covers_the_truth_as_often_as_it_says(seed: int) -> None:
    """2,000 trials of 60 and 20 customers: 95 % within 4 standard deviations, sqrt(0.95 x 0.05 / 2,000) = 0.49 %; the score's own error is 1 %."""
    rng, shares, means = random.Random(seed), 0, 0
    for _ in range(2_000):
        found = of([float(rng.random() < 0.15) for _ in range(60)], [float(rng.random() < 0.35) for _ in range(20)])
        shares += found.low <= -0.2 <= found.high
        found = of([rng.gauss(5, 3) for _ in range(60)], [rng.gauss(4, 1) for _ in range(20)])
        means += found.low <= 1 <= found.high
    assert shares / 2_000 == pytest.approx(0.95, abs=0.03), f"seed {seed}"
    assert means / 2_000 == pytest.approx(0.95, abs=0.02), f"seed {seed}"
