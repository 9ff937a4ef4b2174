"""Back-tests of scores, the figures alone: by hand on tiny cases, against brute force, and where the answer is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.events import DAY_US
from postsale.projections.backtest import RANK, Asked, Calibration, Row, ScoreBacktest, Share, judge, losses, shared
from postsale.projections.outcomes.intervals import wilson

MONTH = 30 * DAY_US


def asked(**more: object) -> Asked:
    given = {"score": "s", "target": "churn", "outcome": "leaves", "horizon_days": 90, "knowledge": "recorded", "cutoffs_us": (0,)}
    return Asked(**{**given, **more})  # type: ignore[arg-type]


def one_time(scores: Sequence[float], labels: Sequence[bool], **more: object) -> list[Row]:
    """Customers at one cut-off."""
    return [Row(f"c{i:03d}", 0, s, y, **more) for i, (s, y) in enumerate(zip(scores, labels, strict=True))]  # type: ignore[arg-type]


def cut(found: ScoreBacktest, name: str) -> tuple[float | None, float | None, float | None]:
    assert found.whole is not None
    (it,) = (c for c in found.whole.cuts if c.name == name)
    return it.precision.value, it.recall.value, it.lift


# ---------------------------------------------------------------- by hand


def test_the_figures_of_ten_customers_are_those_of_a_hand_calculation() -> None:
    """Two of the three highest leave, three of ten in all: precision 2/3, recall 2/3, lift (2/3) / (3/10); AUC 19 of 21 pairs."""
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    labels = [True, False, True, True, *[False] * 6]
    found = judge(asked(), one_time(scores, labels), top=(10, 30))
    assert found.whole is not None
    assert (found.whole.rows, found.whole.customers) == (10, 10)
    assert found.whole.base == Share(3, 10, wilson(3, 10))
    assert found.whole.auc == pytest.approx(19 / 21)  # of 21 pairs, c001 is before two who leave
    assert cut(found, "top 10 %") == (1.0, 1 / 3, 1 / 0.3)
    assert cut(found, "top 30 %") == pytest.approx((2 / 3, 2 / 3, 2 / 3 / 0.3))
    assert (found.gives, found.calibration) == ("rank", RANK)


def test_who_ties_at_the_edge_is_in() -> None:
    """Half of four customers is two; three share the second place, so four are over the line, whatever their order."""
    rows = one_time([1.0, 0.5, 0.5, 0.5], [True, False, False, True])
    for order in (rows, rows[::-1]):
        assert cut(judge(asked(), order, top=(50,)), "top 50 %") == (0.5, 1.0, 1.0)


def test_the_highest_are_those_of_each_cut_off() -> None:
    """What a team works through month by month: one of two in each month, though the second month's scores are all lower."""
    rows = [Row("a", 0, 9.0, True), Row("b", 0, 8.0, False), Row("a", MONTH, 1.0, False), Row("b", MONTH, 2.0, True)]
    found = judge(asked(cutoffs_us=(0, MONTH)), rows, top=(50,))
    assert cut(found, "top 50 %") == (1.0, 1.0, 2.0)
    assert [p.figures.base.hits for p in found.periods] == [1, 1]


def test_a_line_of_ones_own_is_counted_like_the_others() -> None:
    rows = [row._replace(over=(i in (1, 2),)) for i, row in enumerate(one_time([3, 2, 1], [False, True, False]))]
    assert cut(judge(asked(), rows, top=(), lines=["band poor"]), "band poor") == (0.5, 1.0, 1.5)


def test_where_all_came_to_the_same_there_is_no_area_and_no_lift() -> None:
    found = judge(asked(), one_time([1, 2, 3], [False] * 3))
    assert found.whole is not None
    assert (found.whole.auc, found.whole.auc_interval, {c.lift for c in found.whole.cuts}) == (None, None, {None})
    nobody = judge(asked(), [])
    assert (nobody.whole, nobody.periods, nobody.leads[0].warned.value) == (None, (), None)


def test_calibration_is_told_of_probabilities_only_and_is_that_of_a_hand_calculation() -> None:
    """Four at 0.25 of whom one leaves, four at 0.75 of whom three do: Brier 0.1875, base 0.25, distance 0, within."""
    scores, labels = [0.25] * 4 + [0.75] * 4, [True, False, False, False, True, True, True, False]
    found = judge(asked(), one_time(scores, labels, probability=True)).calibration
    assert isinstance(found, Calibration)
    assert (found.said, found.happened, found.within) == (0.5, Share(4, 8, wilson(4, 8)), True)
    assert (found.brier, found.brier_of_base_rate, found.error, found.z) == (0.1875, 0.25, 0, 0)
    assert [(b.said, b.happened.hits, b.happened.of) for b in found.bins] == [(0.25, 1, 4), (0.75, 3, 4)]
    over = judge(asked(), one_time([0.9] * 30, [i < 6 for i in range(30)], probability=True)).calibration
    assert isinstance(over, Calibration)
    assert over.within is False
    mixed = one_time(scores, labels, probability=True)
    mixed[3] = mixed[3]._replace(probability=False)
    assert judge(asked(), mixed).calibration == RANK


def test_lead_time_is_from_the_first_of_the_cut_offs_that_were_over_the_line_without_a_break() -> None:
    """a: over since the second month, leaves 10 days after the third. b: was over, was not at the last. c: over at once. d: never over."""
    came = 2 * MONTH + 10 * DAY_US
    over = {"a": (False, True, True), "b": (True, True, False), "c": (True, True, True), "d": (False, False, False)}
    rows = [Row(c, k * MONTH, 0.0, c != "d", came if c != "d" else None, over=(o,)) for c, os in over.items() for k, o in enumerate(os)]
    (lead,) = judge(asked(), rows, top=(), lines=["line"]).leads
    assert lead.warned == Share(2, 3, wilson(2, 3))
    assert lead.median_days == 40.0  # of 40 and 70 days


def test_green_accounts_churn_is_told() -> None:
    """Two left: one was poor at the last cut-off before, one was good; the band of an earlier month does not count."""
    rows = [
        Row("a", 0, 1, True, MONTH + 1, band="good"),
        Row("a", MONTH, 1, True, MONTH + 1, band="poor"),
        Row("b", 0, 1, True, MONTH + 1, band="good"),
        Row("c", 0, 1, False, band="good"),
    ]
    poor, good = judge(asked(), rows, bands=("poor", "good")).bands
    assert ((poor.rate.hits, poor.rate.of), (good.rate.hits, good.rate.of)) == ((1, 1), (2, 3))
    assert (poor.lost.hits, good.lost.hits, good.lost.of) == (1, 1, 2)


def test_what_a_score_was_fitted_on_is_in_no_figure_of_the_whole() -> None:
    rows = [Row(f"c{i}", k * MONTH, i, (i > 2) == (k < 2)) for i in range(5) for k in range(4)]
    found = judge(asked(cutoffs_us=tuple(k * MONTH for k in range(4)), fitted_until_us=2 * MONTH), rows)
    assert [p.seen for p in found.periods] == [True, True, False, False]
    assert [p.figures.auc for p in found.periods] == [1, 1, 0, 0]
    assert found.whole is not None
    assert (found.whole.rows, found.whole.auc) == (10, 0)
    assert judge(asked(fitted_until_us=9 * MONTH), rows).whole is None


def test_a_loss_that_two_facts_tell_came_once() -> None:
    """The subscription ended, and weeks later the CRM closed the account: one loss, the first; a year later it is another."""
    facts = [("a", 5), ("a", 50), ("b", 50), ("a", 400)]
    assert losses(facts, 90) == {("a", 5), ("b", 50), ("a", 400)}


# ---------------------------------------------------------------- against brute force

CELLS = st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.integers(0, 4), st.booleans())
ROWS = st.lists(CELLS, min_size=1, max_size=20, unique_by=lambda c: c[:2])


@given(ROWS, st.integers(1, 100), st.randoms(use_true_random=False))
def test_every_figure_is_that_of_counting(cells: list[tuple[str, int, int, bool]], percent: int, rng: random.Random) -> None:
    """Pairs for AUC; for a line, how many are over it by their place in their cut-off; and the order of rows is nothing."""
    rows = [Row(c, at * MONTH, s, y) for c, at, s, y in cells]
    found = judge(asked(), rows, top=(percent,))
    rng.shuffle(rows)
    assert judge(asked(), rows, top=(percent,)) == found
    assert found.whole is not None

    def is_over(row: Row) -> bool:
        same = [r for r in rows if r.at_us == row.at_us]
        better = sum(r.score > row.score for r in same)
        return better < max(1, math.ceil(len(same) * percent / 100 - 1e-9))

    ups, downs = [r for r in rows if r.positive], [r for r in rows if not r.positive]
    if ups and downs:
        wins = sum((u.score > d.score) + (u.score == d.score) / 2 for u in ups for d in downs)
        assert found.whole.auc == pytest.approx(wins / len(ups) / len(downs))
    else:
        assert found.whole.auc is None
    over = [r for r in rows if is_over(r)]
    (its,) = found.whole.cuts
    hits = sum(r.positive for r in over)
    assert (its.precision.hits, its.precision.of, its.recall.hits, its.recall.of) == (hits, len(over), hits, len(ups))
    if ups:
        assert its.lift == pytest.approx(hits / len(over) / (len(ups) / len(rows)))


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=40))
def test_calibration_adds_up(cells: list[tuple[int, bool]]) -> None:
    """Bins hold every row once; the means of their parts are the mean of all; Brier is the mean of squares."""
    rows = [Row(f"c{i}", 0, p / 100, y, probability=True) for i, (p, y) in enumerate(cells)]
    found = judge(asked(), rows).calibration
    assert isinstance(found, Calibration)
    assert sum(b.happened.of for b in found.bins) == len(rows)
    assert sum(b.happened.hits for b in found.bins) == sum(r.positive for r in rows)
    assert sum(b.said * b.happened.of for b in found.bins) == pytest.approx(found.said * len(rows))
    assert found.brier == pytest.approx(sum((r.score - r.positive) ** 2 for r in rows) / len(rows))


# ---------------------------------------------------------------- where the answer is known


def population(seed: int, score: Callable[[float, random.Random], float], n: int = 150) -> list[Row]:
    """Customers with a probability of leaving, and a score of it, over four cut-offs."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        p = rng.random() ** 3
        rows += [Row(f"c{i}", k * MONTH, score(p, rng), rng.random() < p, probability=True) for k in range(4)]
    return rows


def test_a_perfect_score_has_area_one_and_a_lift_of_one_over_the_base_rate() -> None:
    rows = [row._replace(score=float(row.positive)) for row in population(1, lambda p, _: p)]
    found = judge(asked(), rows, top=(5,))
    assert found.whole is not None
    base = found.whole.base.value
    assert base is not None
    assert found.whole.auc == 1
    assert cut(found, "top 5 %") == pytest.approx((1, 1, 1 / base))  # who ties at the edge is in: all who leave
    assert isinstance(found.calibration, Calibration)
    assert (found.calibration.brier, found.calibration.error) == (0, 0)


def test_the_interval_of_a_random_score_holds_one_half_about_as_often_as_it_says() -> None:
    """95 of 100, less four standard errors; so does that of a lift of 1."""
    held, lifted = 0, 0
    for seed in range(40):
        found = judge(asked(), [row._replace(probability=False) for row in population(seed, lambda _, rng: rng.random(), 40)], top=(20,))
        assert found.whole is not None
        area, lift = found.whole.auc_interval, found.whole.cuts[0].lift_interval
        assert area is not None
        assert lift is not None
        held += area.low <= 0.5 <= area.high
        lifted += lift.low <= 1 <= lift.high
    assert min(held, lifted) >= 40 * (0.95 - 4 * math.sqrt(0.95 * 0.05 / 40)), (held, lifted)


def test_what_was_said_lies_in_the_interval_of_what_came_for_calibrated_probabilities_and_not_for_doubled_ones() -> None:
    held, doubled = 0, 0
    for seed in range(12):
        true = judge(asked(), population(seed, lambda p, _: p, 80), top=()).calibration
        false = judge(asked(), population(seed, lambda p, _: min(1.0, 2 * p), 80), top=()).calibration
        assert isinstance(true, Calibration)
        assert isinstance(false, Calibration)
        assert true.brier < true.brier_of_base_rate
        held += true.within is True
        doubled += false.within is True
    assert (held >= 9, doubled) == (True, 0), (held, doubled)


def test_shares_by_customer_are_wider_than_those_that_take_rows_for_independent() -> None:
    """Twelve rows of three customers each: what one customer does it does twelve times."""
    customers = [f"c{i}" for i in range(12) for _ in range(12)]
    hits = [c for c in customers if int(c[1:]) < 4]
    by_customer, alone = shared(hits, customers).interval, wilson(len(hits), len(customers))
    assert by_customer is not None
    assert alone is not None
    assert by_customer.high - by_customer.low > 1.5 * (alone.high - alone.low)
    assert "customers" in by_customer.source
