"""What can be back-tested: anything that says a number of a customer from finished features. Pure.

Health, models, what a warehouse sent, a feature of your own. Imports scoring, health, features; `backtest` judges what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from postsale.errors import InvalidInput
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.health import POINT_MICRO, HealthModel, round_half_even
from postsale.projections.scoring import MICRO, PPM, Expected, Probability, Rank, Scored, Scorer, as_evidence


class Said(NamedTuple):
    """What a score said of one customer. `evidence`: the same, under the names by which policies read it."""

    value: float
    probability: bool = False
    band: str | None = None
    evidence: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A number about customers. `of` is pure; None where nothing can be said. `rising`: a greater one makes the outcome likelier.

    Write your own: `Score(name="silence", features=Mine, of=lambda v: Said(v["days"]))`.
    """

    name: str
    features: type[Features]
    of: Callable[[FeatureValues], Said | None]
    rising: bool = True
    bands: tuple[str, ...] = ()  # the riskiest first
    fitted_until_us: int | None = None  # fitted on outcomes of rows before this time
    lines: Mapping[str, Callable[[Said], bool]] = field(default_factory=dict)  # besides the highest few percent: what is acted on

    def __post_init__(self) -> None:
        if self.features.relations:
            reason = "reads across customers; histories are read customer by customer"
            raise InvalidInput(what="backtest", field="score", reason=f"{self.features.__name__} {reason}")


def health_score(model: HealthModel, *, rising: bool = False) -> Score:
    """The value of a health model, in points. Its bands are lines: the worst, the worst two, …"""
    names = [name for name, _ in model.bands]
    bands = tuple(reversed(names)) if rising else tuple(names)

    def of(values: FeatureValues) -> Said | None:
        score = model.score(values)
        if score.value_micro is None:
            return None
        rounded = round_half_even(score.value_micro, POINT_MICRO)
        return Said(score.value_micro / POINT_MICRO, False, score.band, {"health": rounded, "health_band": score.band})

    lines: dict[str, Callable[[Said], bool]] = {}
    for i in range(1, len(bands)):
        within = frozenset(bands[:i])
        lines[f"band {' or '.join(bands[:i])}"] = lambda said, within=within: said.band in within  # type: ignore[misc]
    return Score(name=model.name, features=model.features, of=of, rising=rising, bands=bands, lines=lines)


def scorer_score(scorer: Scorer, features: type[Features], *, name: str | None = None, fitted_until_us: int | None = None) -> Score:
    """What a scorer over `features` says; its probability where it gives one. InvalidInput for values of another declaration."""
    if scorer.features != features.digest:
        raise InvalidInput(
            what="backtest", field="score", reason=f"{scorer.name!r} takes values of another declaration than {features.__name__}"
        )
    return Score(
        name=name or scorer.name, features=features, of=lambda v: said(scorer.name, scorer.score(v)), fitted_until_us=fitted_until_us
    )


def feature_score(features: type[Features], feature: str, *, rising: bool = True) -> Score:
    """A feature of a declaration of your own, as it is: a number or a truth. InvalidInput for one that is not declared."""
    if feature not in {*features.leaves, *(d.name for d in features.deriveds)}:
        raise InvalidInput(what="backtest", field="score", reason=f"{features.__name__} declares no {feature}")

    def of(values: FeatureValues) -> Said | None:
        value = values[feature]
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise InvalidInput(what="backtest", field="score", reason=f"{feature} is no number")
        return Said(float(value), evidence={feature: value})

    return Score(name=feature, features=features, of=of, rising=rising)


def said(name: str, scored: Scored | None) -> Said | None:
    """A model's score as a number: a probability or a rank 0 … 1, an expected number as it is."""
    evidence = as_evidence(name, scored)
    match scored:
        case None:
            return None
        case Probability(probability_ppm=value):
            return Said(value / PPM, True, None, evidence)
        case Rank(rank_ppm=value):
            return Said(value / PPM, False, None, evidence)
        case Expected(expected_micro=value):
            return Said(value / MICRO, False, None, evidence)
