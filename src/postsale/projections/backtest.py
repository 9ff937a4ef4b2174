"""Back-tests of scores: what was said of customers at past cut-offs, held against what came of them. Pure.

Rows in, figures out; where rows come from is `app.backtest`. Nothing here reads a log or knows a model. Imports metrics and intervals.

A row is one customer at one cut-off. Rows of one customer go together, so intervals over several cut-offs are by customers
(bootstrap), those of one cut-off are Wilson's; each says which it is.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from postsale.events import DAY_US, iso
from postsale.projections.metrics import auc_interval, brier, calibration_error, calibration_table, calibration_z
from postsale.projections.outcomes.intervals import median_time, ratio_interval, wilson
from postsale.projections.outcomes.measure import Interval

TOP: Final = (5, 10, 20)
"""Percent of customers, the highest at each cut-off."""

RANK: Final = "a rank, not calibrated: it is no probability of this outcome within this horizon"
_AUC: Final = "by customers (Obuchowski; DeLong where each has one row)"


class Row(NamedTuple):
    """One customer at one cut-off. `score` is turned so that a greater one makes the outcome likelier; a probability is 0 … 1."""

    customer: str
    at_us: int
    score: float
    positive: bool  # the outcome came within the horizon
    came_us: int | None = None  # when it came, where a fact says so
    probability: bool = False  # the score claims to be one
    band: str | None = None
    over: tuple[bool, ...] = ()  # each of the lines that are drawn through the score, such as the band that triggers an agent


class Share(NamedTuple):
    """hits / of, with its interval; no value of nobody."""

    hits: int
    of: int
    interval: Interval | None

    @property
    def value(self) -> float | None:
        return self.hits / self.of if self.of else None

    def to_dict(self) -> dict[str, Any]:
        value = self.value
        interval = None if self.interval is None else self.interval.to_dict()
        return {"value": None if value is None else round(value, 6), "hits": self.hits, "of": self.of, "interval": interval}


@dataclass(frozen=True, slots=True)
class CutFigures:
    """What acting on everybody over a line would have met. `lift`: precision over the base rate; 1 is no help."""

    name: str
    precision: Share  # of those over the line, who had the outcome
    recall: Share  # of those with the outcome, who was over the line
    lift: float | None
    lift_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "precision": self.precision.to_dict(),
            "recall": self.recall.to_dict(),
            "lift": None if self.lift is None else round(self.lift, 6),
            "lift_interval": None if self.lift_interval is None else self.lift_interval.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Slice:
    """Figures of some rows: of one cut-off, or of several together."""

    rows: int
    customers: int
    base: Share  # the outcome among all
    auc: float | None  # None where all came to the same
    auc_interval: Interval | None
    cuts: tuple[CutFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "customers": self.customers,
            "positives": self.base.hits,
            "base_rate": self.base.to_dict(),
            "auc": None if self.auc is None else round(self.auc, 6),
            "auc_interval": None if self.auc_interval is None else self.auc_interval.to_dict(),
            "cuts": [cut.to_dict() for cut in self.cuts],
        }


class Period(NamedTuple):
    """One cut-off. `seen`: the score was fitted on outcomes of that time, so it is in no figure of the whole."""

    at_us: int
    seen: bool
    figures: Slice


class CalibrationBin(NamedTuple):
    """Rows with a similar probability: what was said on average, and what happened."""

    lowest: float
    highest: float
    said: float
    happened: Share


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether probabilities came true. `within`: what was said on average lies in the interval of what happened."""

    said: float
    happened: Share
    within: bool | None  # None where there is no interval
    brier: float
    brier_of_base_rate: float
    error: float  # mean distance of said and happened over the bins
    z: float  # Spiegelhalter's, as if rows were independent
    bins: tuple[CalibrationBin, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "said": round(self.said, 6),
            "happened": self.happened.to_dict(),
            "within": self.within,
            "brier": round(self.brier, 6),
            "brier_of_base_rate": round(self.brier_of_base_rate, 6),
            "error": round(self.error, 6),
            "z": round(self.z, 6) if math.isfinite(self.z) else None,
            "bins": [
                {"lowest": round(b.lowest, 6), "highest": round(b.highest, 6), "said": round(b.said, 6), "happened": b.happened.to_dict()}
                for b in self.bins
            ],
        }


@dataclass(frozen=True, slots=True)
class Lead:
    """How long before the outcome a customer had crossed a line, and was over it from then on, cut-off by cut-off: at least so long."""

    name: str
    warned: Share  # customers who were over it at the last cut-off before, of all to whom the outcome came
    median_days: float | None
    low_days: float | None  # interval of the median (Brookmeyer and Crowley)
    high_days: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "warned": self.warned.to_dict(),
            "median_days": self.median_days,
            "low_days": self.low_days,
            "high_days": self.high_days,
        }


class BandFigures(NamedTuple):
    """A band: how often the outcome came from it, and how many of all to whom it came were in it at the last cut-off before."""

    band: str
    rate: Share
    lost: Share

    def to_dict(self) -> dict[str, Any]:
        return {"band": self.band, "rate": self.rate.to_dict(), "lost": self.lost.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a back-test was about."""

    score: str
    target: str
    outcome: str  # in words, with its horizon
    horizon_days: int
    knowledge: Literal["recorded", "claimed"]
    cutoffs_us: tuple[int, ...]
    fitted_until_us: int | None = None  # the score was fitted on outcomes up to here
    censored: int = 0  # rows whose horizon is not over
    unscored: int = 0  # rows of which the score said nothing
    not_asked: int = 0  # rows that the target does not ask about


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBacktest:
    """A score over history. `whole` is over the rows of cut-offs on whose outcomes it was not fitted."""

    asked: Asked
    gives: Literal["probability", "rank"]
    whole: Slice | None  # None when there is no such row
    periods: tuple[Period, ...]
    calibration: Calibration | str  # or why there is none
    leads: tuple[Lead, ...]
    bands: tuple[BandFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; no customer is named."""
        a = self.asked
        return {
            "score": a.score,
            "gives": self.gives,
            "target": a.target,
            "outcome": a.outcome,
            "horizon_days": a.horizon_days,
            "knowledge": a.knowledge,
            "cutoffs": [iso(at) for at in a.cutoffs_us],
            "fitted_until": None if a.fitted_until_us is None else iso(a.fitted_until_us),
            "left_out": {"censored": a.censored, "unscored": a.unscored, "not_asked_about": a.not_asked},
            "whole": None if self.whole is None else self.whole.to_dict(),
            "periods": [{"at": iso(p.at_us), "fitted_on": p.seen, **p.figures.to_dict()} for p in self.periods],
            "calibration": self.calibration.to_dict() if isinstance(self.calibration, Calibration) else None,
            "no_calibration_because": None if isinstance(self.calibration, Calibration) else self.calibration,
            "lead": [lead.to_dict() for lead in self.leads],
            "bands": [band.to_dict() for band in self.bands],
        }


def judge(
    asked: Asked, rows: Iterable[Row], *, top: Sequence[int] = TOP, lines: Sequence[str] = (), bands: Sequence[str] = ()
) -> ScoreBacktest:
    """The figures of these rows. `top` is in percent of each cut-off's customers; who ties at the edge is in. `lines` are the names of `Row.over`."""
    every = sorted(rows, key=lambda r: (r.at_us, r.customer))
    by_time: dict[int, list[Row]] = defaultdict(list)
    for row in every:
        by_time[row.at_us].append(row)
    until = asked.fitted_until_us
    cuts = [f"top {percent} %" for percent in top] + [*lines]
    over = {at: _over(mine, top) for at, mine in by_time.items()}
    periods, fresh, fresh_over = [], [], []
    for at, mine in by_time.items():
        seen = until is not None and at < until
        periods.append(Period(at, seen, _slice(mine, over[at], cuts)))
        if not seen:
            fresh += mine
            fresh_over += over[at]
    probability = bool(fresh) and all(row.probability for row in fresh)
    lost = losses(((row.customer, row.came_us) for row in fresh if row.came_us is not None), asked.horizon_days * DAY_US)
    return ScoreBacktest(
        asked=asked,
        gives="probability" if probability else "rank",
        whole=_slice(fresh, fresh_over, cuts) if fresh else None,
        periods=tuple(periods),
        calibration=_calibration(fresh) if probability else RANK if fresh else "no row is left",
        leads=tuple(_lead(name, i, fresh, fresh_over, lost) for i, name in enumerate(cuts)),
        bands=tuple(_bands(fresh, lost, bands)),
    )  # fmt: skip


# ---------------------------------------------------------------- lines


def _over(rows: Sequence[Row], top: Sequence[int]) -> list[tuple[bool, ...]]:
    """For each row of one cut-off, whether it is over each line."""
    order = sorted((row.score for row in rows), reverse=True)
    edges = [order[max(1, -(-len(order) * percent // 100)) - 1] for percent in top]
    return [(*(row.score >= edge for edge in edges), *row.over) for row in rows]


def shared(hits: Iterable[str], of: Iterable[str]) -> Share:
    """The share of `of` that is in `hits`, each given by its customer: Wilson's interval where each customer counts once, else by customers."""
    mine, whole = Counter(hits), Counter(of)
    n = whole.total()
    if len(whole) == n:
        return Share(mine.total(), n, wilson(mine.total(), n))
    pairs = sorted((mine[c], whole[c]) for c in whole)  # by value: names are random, and what is drawn must not depend on them
    return Share(mine.total(), n, ratio_interval([hits for hits, _ in pairs], [rows for _, rows in pairs]))


def _slice(rows: Sequence[Row], over: Sequence[tuple[bool, ...]], cuts: Sequence[str]) -> Slice:
    labels, customers = [row.positive for row in rows], [row.customer for row in rows]
    positives = [row.customer for row in rows if row.positive]
    base = shared(positives, customers)
    area, interval = None, None
    if 0 < len(positives) < len(rows):
        area, low, high = auc_interval(labels, [row.score for row in rows], customers)
        interval = Interval(round(low, 9), round(high, 9), 0.95, _AUC)
    found = []
    for i, name in enumerate(cuts):
        flagged = [row for row, lines in zip(rows, over, strict=True) if lines[i]]
        hits = [row.customer for row in flagged if row.positive]
        precision, recall = shared(hits, (row.customer for row in flagged)), shared(hits, positives)
        lift = precision.value / base.value if precision.value is not None and base.value else None
        found.append(CutFigures(name, precision, recall, lift, _over_base(precision.interval, base)))
    return Slice(len(rows), len(set(customers)), base, area, interval, tuple(found))


def _over_base(interval: Interval | None, base: Share) -> Interval | None:
    if interval is None or not base.value:
        return None
    low, high = (round(limit / base.value, 9) for limit in (interval.low, interval.high))
    return Interval(low, high, interval.level, f"{interval.source}, over the base rate as it was found")


# ---------------------------------------------------------------- calibration


def _calibration(rows: Sequence[Row]) -> Calibration:
    labels, said = [row.positive for row in rows], [row.score for row in rows]
    happened = shared((row.customer for row in rows if row.positive), (row.customer for row in rows))
    mean, base = math.fsum(said) / len(said), sum(labels) / len(labels)
    table, order, start = calibration_table(labels, said), sorted(range(len(rows)), key=lambda i: said[i]), 0
    bins = []
    for part in table:
        mine = [rows[i] for i in order[start : start + part.rows]]
        start += part.rows
        share = shared((row.customer for row in mine if row.positive), (row.customer for row in mine))
        bins.append(CalibrationBin(part.lowest, part.highest, part.said, share))
    interval = happened.interval
    return Calibration(
        said=mean,
        happened=happened,
        within=None if interval is None else interval.low <= mean <= interval.high,
        brier=brier(labels, said),
        brier_of_base_rate=base * (1 - base),
        error=calibration_error(table),
        z=calibration_z(labels, said),
        bins=tuple(bins),
    )


# ---------------------------------------------------------------- before the outcome


def losses(came: Iterable[tuple[str, int]], horizon_us: int) -> set[tuple[str, int]]:
    """When the outcome came to each customer. What several facts say within a horizon, one after the other, came once, with the first."""
    found: set[tuple[str, int]] = set()
    last: tuple[str, int] | None = None
    for customer, at in sorted(set(came)):
        if last is None or last[0] != customer or at - last[1] > horizon_us:
            last = (customer, at)
            found.add(last)
    return found


def _lead(name: str, line: int, rows: Sequence[Row], over: Sequence[tuple[bool, ...]], lost: set[tuple[str, int]]) -> Lead:
    history: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for row, lines in zip(rows, over, strict=True):
        history[row.customer].append((row.at_us, lines[line]))
    waits: list[int] = []
    for customer, came in sorted(lost):
        crossed = None
        for at, flagged in history[customer]:
            if at < came:
                crossed = (at if crossed is None else crossed) if flagged else None
        if crossed is not None:
            waits.append(came - crossed)
    median, low, high = median_time([(wait, True) for wait in waits]) if waits else (None, None, None)
    return Lead(name, Share(len(waits), len(lost), wilson(len(waits), len(lost))), *(_days(us) for us in (median, low, high)))


def _bands(rows: Sequence[Row], lost: set[tuple[str, int]], bands: Sequence[str]) -> Iterable[BandFigures]:
    last: dict[tuple[str, int], str | None] = {}
    came: dict[str, list[int]] = defaultdict(list)
    for customer, at in sorted(lost):
        came[customer].append(at)
    for row in rows:
        for at in came.get(row.customer, ()):
            if row.at_us < at:
                last[row.customer, at] = row.band
    for band in bands:
        mine = [row for row in rows if row.band == band]
        hits = sum(was == band for was in last.values())
        rate = shared((row.customer for row in mine if row.positive), (row.customer for row in mine))
        yield BandFigures(band, rate, Share(hits, len(lost), wilson(hits, len(lost))))


def _days(us: int | None) -> float | None:
    return None if us is None else round(us / DAY_US, 1)
