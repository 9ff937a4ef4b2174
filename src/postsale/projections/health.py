"""Health: a weighted mean of components in integers, so that the parts sum exactly to the whole. Pure.

Here live the model, its components and its score. Which features and components ship is `customer_health`; which event moved
the value by how much is `why`. Imports features, fold, events and errors.

Formula: value = Σ weight·score / Σ weight over the components that have an input; a missing or stale input
leaves both sums, so its weight is redistributed in proportion, and it is reported, never read as 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US, canonical, iso
from postsale.projections.features import Features
from postsale.projections.fold import FeatureValues, Fold

POINT_MICRO: Final = 1_000_000
FULL_MICRO: Final = 100 * POINT_MICRO
STALE_AFTER_DAYS: Final = 90

Bands = tuple[tuple[str, int], ...]
DEFAULT_BANDS: Final[Bands] = (("poor", 50), ("fair", 75), ("good", 100))
"""Band names with their greatest rounded score, inclusive, ascending to 100."""


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a score: `score(values)` gives micro-points 0 … 100,000,000, or None when it does not apply.

    `fresh` names the feature that says when the input was last seen (UTC microseconds): None there means no input, more than
    90 days before `as_of` means stale. Leave it out for an input that does not age. `absent` says in words what None means.
    """

    name: str
    weight: int  # ≥ 1; relative to the other weights
    score: Callable[[FeatureValues], int | None]
    fresh: str | None = None
    absent: str = "no input"


@dataclass(frozen=True, slots=True)
class Contribution:
    """A component's part in a value. Contributions sum exactly to `value_micro`."""

    name: str
    weight: int
    score_micro: int | None  # None when missing
    contribution_micro: int
    missing: str | None  # the reason, None when it counted


@dataclass(frozen=True, slots=True)
class Score:
    """A model's value: in micro-points, rounded, in a band, and by component. No input at all: None, None, None."""

    value_micro: int | None
    score: float | None  # 0 … 100, two decimals, half to even
    band: str | None
    components: tuple[Contribution, ...]


def round_half_even(numerator: int, denominator: int) -> int:
    """numerator / denominator (> 0) to the nearest integer, ties to the even one, exactly."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))


@dataclass(frozen=True)
class HealthModel:
    """Features, weighted components over them, and bands. Public: pass your own to get your own explained score.

    `score` and `why` are for any declaration. The functions' code is not in `digest`: raise `version` when it changes.
    BadDeclaration for a weight below 1, a name twice, an unknown `fresh`, or bands that do not ascend to 100.
    """

    name: str
    version: int
    features: type[Features]
    components: tuple[Component, ...]
    bands: Bands = DEFAULT_BANDS

    def __post_init__(self) -> None:
        def refuse(reason: str) -> None:
            raise BadDeclaration(what=f"health model {self.name!r}", reason=reason)

        names = [c.name for c in self.components]
        if not names or len(set(names)) != len(names):
            refuse("expected at least one component, each name once")
        features = {*self.features.leaves, *(d.name for d in self.features.deriveds)}
        for c in self.components:
            if isinstance(c.weight, bool) or not isinstance(c.weight, int) or c.weight < 1:
                refuse(f"the weight of {c.name!r} must be a whole number from 1")
            if c.fresh is not None and c.fresh not in features:
                refuse(f"{c.name!r} is fresh by {c.fresh!r}, which {self.features.__name__} does not declare")
        tops = [top for _, top in self.bands]
        if not tops or tops != sorted(set(tops)) or tops[-1] != 100 or tops[0] < 0:
            refuse("bands must ascend to 100")

    @cached_property
    def fold(self) -> Fold:
        """The fold of its features."""
        return Fold(self.features)

    @cached_property
    def digest(self) -> str:
        """32 hex digits over name, version, features' digest, components' names, weights and freshness, and bands."""
        components = [[c.name, c.weight, c.fresh] for c in self.components]
        content: dict[str, Any] = {"name": self.name, "version": self.version, "features": self.features.digest}
        content |= {"components": components, "bands": [list(band) for band in self.bands]}
        return hashlib.blake2b(canonical(content), digest_size=16).hexdigest()

    def score(self, values: FeatureValues) -> Score:
        """The value at `values.as_of_us`. InvalidInput when a component returns something outside 0 … 100,000,000."""
        judged = [(c, *self._judge(c, values)) for c in self.components]
        weights = sum(c.weight for c, score, _ in judged if score is not None)
        if not weights:
            return Score(None, None, None, tuple(Contribution(c.name, c.weight, None, 0, why) for c, _, why in judged))
        value = round_half_even(sum(c.weight * score for c, score, _ in judged if score is not None), weights)
        shares = [divmod(c.weight * score, weights) if score is not None else (0, 0) for c, score, _ in judged]
        # Largest remainder: the micro-points lost by rounding down go to the greatest remainders, the first on a tie.
        left = value - sum(whole for whole, _ in shares)
        for index in sorted(range(len(shares)), key=lambda i: -shares[i][1])[:left]:
            shares[index] = (shares[index][0] + 1, 0)
        parts = (Contribution(c.name, c.weight, s, share, why) for (c, s, why), (share, _) in zip(judged, shares, strict=True))
        return Score(value, points(value), self.band(value), tuple(parts))

    def band(self, value_micro: int) -> str:
        """The band of a value, by the value rounded to a whole point."""
        whole = round_half_even(value_micro, POINT_MICRO)
        return next(name for name, top in self.bands if whole <= top)

    def _judge(self, component: Component, values: FeatureValues) -> tuple[int | None, str | None]:
        if component.fresh is not None:
            seen = values[component.fresh]
            if seen is None:
                return None, component.absent
            age = values.as_of_us - seen
            if age > STALE_AFTER_DAYS * DAY_US:
                return None, f"stale: last seen {iso(seen)[:10]}, {age // DAY_US} days before"
        score = component.score(values)
        if score is None:
            return None, component.absent
        if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= FULL_MICRO:
            reason = f"expected an integer from 0 to {FULL_MICRO} or None"
            raise InvalidInput(what=f"health model {self.name!r}", field=component.name, reason=reason)
        return score, None


def points(micro: int) -> float:
    """Micro-points as points with two decimals, half to even."""
    return round_half_even(micro, POINT_MICRO // 100) / 100
