"""Making model cards: rows with a target's label, a fit before the split, measures after it. Needs the extra `models`.

The coefficients that are measured are those on the card: nothing is fitted again afterwards. Nothing here reads a log. Imports
targets, fitting, model_card, metrics, training.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from postsale.errors import InvalidInput, TooFewOutcomes
from postsale.events import DAY_US, iso
from postsale.projections.datasets import Manifest
from postsale.projections.fitting import Recipe
from postsale.projections.folding import FeatureValues
from postsale.projections.metrics import auc_interval, brier, calibration_error, calibration_table, lift
from postsale.projections.model_card import VALID_DAYS, CalibrationRow, FeatureSet, Gives, Histogram, Measures, ModelCard, Period, Trained
from postsale.projections.scoring import PPM, LogisticModel, Probability
from postsale.projections.targets import Target
from postsale.projections.training import LABEL, feature_rows, outcome_rows, pyarrow

LEAST: Final = 30
"""Customers with, and customers without the outcome that a fit needs; a third of it for measuring."""

_PARTS: Final = 10
_TARGET: Final = "target"


class Labelled(NamedTuple):
    """The rows that a target asks about: a table with the label, values as scorers take them, truths, customers, times."""

    table: Any
    values: list[FeatureValues]
    labels: list[bool]
    customers: list[str]
    times_us: list[int]

    def part(self, keep: Sequence[int]) -> Labelled:
        table = self.table.take(pyarrow().array(keep, "int64"))
        values, labels = [self.values[i] for i in keep], [self.labels[i] for i in keep]
        return Labelled(table, values, labels, [self.customers[i] for i in keep], [self.times_us[i] for i in keep])


def labelled(table: Any, target: Target, horizon_us: int) -> Labelled:
    """Of training rows those that `target` asks about and whose horizon is over, with its label as a column."""
    pa = pyarrow()
    before, after = feature_rows(table, target.features), outcome_rows(table, target.after, horizon_us)
    rows = [(i, b, a) for i, (b, a) in enumerate(zip(before, after, strict=True)) if a is not None and target.eligible(b, horizon_us)]
    labels = [bool(target.label(b, a)) for _, b, a in rows]
    kept = table.take(pa.array([i for i, _, _ in rows], "int64"))
    kept = kept.select([name for name in kept.column_names if not name.startswith(LABEL)]).append_column(
        LABEL + _TARGET, pa.array(labels, pa.bool_())
    )
    return Labelled(kept, [b for _, b, _ in rows], labels, kept.column("customer").to_pylist(), [b.as_of_us for _, b, _ in rows])


def make_card(
    target: Target, rows: Labelled, manifest: Manifest, *, split_us: int, version: int, owner: str, valid_days: int = VALID_DAYS
) -> ModelCard:
    """Fit on rows whose outcome was over at the split, calibrate on customers left out of that fit, measure on rows from the split on.

    It gives probabilities only when, on the later rows, they tell customers apart (AUC's interval lies above 0.5), beat the base rate
    (Brier skill above 0) and are right on average, to a quarter or to what chance explains; else ranks. Raises TooFewOutcomes, MissingExtra.
    """
    horizon_us = manifest.horizon_us
    early = rows.part([i for i, at in enumerate(rows.times_us) if at + horizon_us <= split_us])
    late = rows.part([i for i, at in enumerate(rows.times_us) if at >= split_us])
    _require(target, early, "training", LEAST, f"Record more history, choose a later split than {iso(split_us)[:10]}, or a longer horizon.")
    _require(
        target, late, "measuring", LEAST // 3, f"Choose an earlier split than {iso(split_us)[:10]}, or wait until more horizons are over."
    )
    days = horizon_us // DAY_US
    recipe = Recipe(
        features=target.features, label=_TARGET, name=target.name, outcome=target.outcome.format(days=days), owner=owner, version=version,
        inputs=_told_apart(target.inputs, early),
    )  # fmt: skip
    model = recipe.fit(early.table, data_set=manifest.id)
    measures = measured(model, late)
    gives, use = _judged(measures)
    return ModelCard(
        model=model,
        features=FeatureSet(name=target.features.__name__, version=target.features.version, digest=target.features.digest),
        gives=gives,
        use=use,
        made_at_us=manifest.known_at_us,
        valid_days=valid_days,
        trained=Trained(
            data_set=manifest.id,
            outcome=target.digest,
            knowledge="claimed" if manifest.knowledge == "claimed" else "recorded",
            rows=len(early.labels),
            customers=len(set(early.customers)),
            positives=sum(early.labels),
            split_us=split_us,
            horizon_days=days,
        ),
        measures=measures,
        histograms=histograms(model, early.values),
    )  # fmt: skip


def prior_card(target: Target, *, made_at_us: int) -> ModelCard:
    """The target's prior as a card: a rank, fitted on nobody's outcomes. InvalidInput for a target without one."""
    if target.prior is None:
        raise InvalidInput(what="model", field="prior", reason=f"the target {target.name!r} has none; train a model")
    return ModelCard(
        model=target.prior,
        features=FeatureSet(name=target.features.__name__, version=target.features.version, digest=target.features.digest),
        gives="rank",
        use="To order customers until a model is trained. Written down by people and fitted on nobody's outcomes: not calibrated, no probability.",
        made_at_us=made_at_us,
        valid_days=3_650,
    )


def _told_apart(inputs: Sequence[str], rows: Labelled) -> tuple[str, ...]:
    """Inputs of which anything is known in any row: a column of nothing has no coefficient."""
    return tuple(name for name in inputs if any(v[name] is not None for v in rows.values))


def _require(target: Target, rows: Labelled, part: str, least: int, todo: str) -> None:
    having = {c for c, y in zip(rows.customers, rows.labels, strict=True) if y}
    without = {c for c, y in zip(rows.customers, rows.labels, strict=True) if not y}
    if min(len(having), len(without)) < least:
        raise TooFewOutcomes(
            target=target.name, part=part, customers_with=len(having), customers_without=len(without), least=least, todo_next=todo
        )


# ---------------------------------------------------------------- measures


def said(model: LogisticModel, values: Sequence[FeatureValues]) -> list[float]:
    """The model's own probabilities (or ranks, where it was not calibrated), 0 … 1, whatever its card lets it say."""
    scores = [model.score(v) for v in values]
    return [(s.probability_ppm if isinstance(s, Probability) else s.rank_ppm) / PPM for s in scores]


def measured(model: LogisticModel, rows: Labelled) -> Measures:
    """How good its probabilities are on these rows. InvalidInput unless both outcomes occur."""
    p, labels = said(model, rows.values), rows.labels
    base, error = sum(labels) / len(labels), brier(labels, p)
    area, table = auc_interval(labels, p, rows.customers), calibration_table(labels, p)
    return Measures(
        rows=len(labels),
        customers=len(set(rows.customers)),
        positives=sum(labels),
        base_rate_ppm=ppm(base),
        auc_ppm=ppm(area.value),
        auc_low_ppm=ppm(area.low),
        auc_high_ppm=ppm(area.high),
        brier_ppm=ppm(error),
        brier_skill_ppm=ppm(1 - error / (base * (1 - base))),
        calibration_error_ppm=ppm(calibration_error(table)),
        said_ppm=ppm(sum(p) / len(p)),
        lift_ppm=ppm(lift(labels, p)),
        calibration=tuple(
            CalibrationRow(
                rows=b.rows, lowest_ppm=ppm(b.lowest), highest_ppm=ppm(b.highest), said_ppm=ppm(b.said), happened_ppm=ppm(b.happened)
            )
            for b in table
        ),
        periods=tuple(_periods(rows.times_us, p, labels)),
    )


def _periods(times_us: Sequence[int], p: Sequence[float], labels: Sequence[bool]) -> list[Period]:
    found = []
    for at in sorted(set(times_us)):
        mine = [i for i, t in enumerate(times_us) if t == at]
        mean, share = sum(p[i] for i in mine) / len(mine), sum(labels[i] for i in mine) / len(mine)
        found.append(Period(as_of_us=at, rows=len(mine), said_ppm=ppm(mean), happened_ppm=ppm(share)))
    return found


def _judged(m: Measures) -> tuple[Gives, str]:
    """The most it may say, and why no more."""
    if m.auc_low_ppm <= PPM // 2:
        return "rank", "For reading only: on later rows it does not tell customers apart (the interval of AUC reaches 0.5)."
    if m.brier_skill_ppm <= 0:
        return "rank", "To order customers: on later rows its probabilities are no better than saying the base rate to all."
    if _far_off(m):
        return (
            "rank",
            "To order customers: on later rows its probabilities are off by more than a quarter on average, and chance is not why.",
        )
    return "probability", "To order customers, and as a probability of this outcome within this horizon, also for a policy's floor."


def _far_off(m: Measures) -> bool:
    """Whether what was said and what happened differ by more than a quarter, and by more than two standard errors of so many rows."""
    share, came = m.said_ppm / PPM, m.base_rate_ppm / PPM
    near = 4 * came <= 5 * share and 4 * share <= 5 * came
    error = math.sqrt(max(share * (1 - share), came * (1 - came)) / m.rows)
    return not near and abs(share - came) > 2 * error


def histograms(model: LogisticModel, values: Sequence[FeatureValues]) -> tuple[Histogram, ...]:
    """How the model's log-odds and each feature's part in them are spread over these rows, in at most ten parts of equal size."""
    parts = [model.parts(v) for v in values]
    columns = {"": [sum(p.log_odds_micro for p in row) for row in parts]}
    columns |= {term.feature: [row[i + 1].log_odds_micro for row in parts] for i, term in enumerate(model.terms)}
    return tuple(histogram(of, numbers) for of, numbers in columns.items())


def histogram(of: str, numbers: Sequence[int]) -> Histogram:
    """Edges at the deciles, each once; how many numbers lie between them."""
    order = sorted(numbers)
    edges = tuple(sorted({order[len(order) * part // _PARTS] for part in range(1, _PARTS)} - {order[-1]}))
    return Histogram(of=of, edges=edges, rows=spread(edges, numbers))


def spread(edges: Sequence[int], numbers: Sequence[int]) -> tuple[int, ...]:
    """How many numbers lie in each part; an edge belongs to the part below it."""
    rows = [0] * (len(edges) + 1)
    for number in numbers:
        rows[bisect_left(edges, number)] += 1
    return tuple(rows)


def ppm(share: float) -> int:
    """Whole parts per million."""
    return round(PPM * share)
