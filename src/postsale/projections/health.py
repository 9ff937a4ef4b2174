"""Health: a weighted mean of components in integers, so that the parts sum exactly to the whole. Pure.

Here live the model, its components, its rows by segment and lifecycle stage, and its score. Which features and components ship is
`customer_health`; a model's weights as a file is `weighing`; which event moved the value by how much is `why`. Imports features,
fold, events and errors.

Formula: value = Σ weight·score / Σ weight over the components that have an input; a missing or stale input
leaves both sums, so its weight is redistributed in proportion, and it is reported, never read as 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US, Event, canonical, iso
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues, Fold

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
class Row:
    """Weights and bands for the customers of a segment, of a lifecycle stage, or of both; None is any.

    `weights` by component: those it does not name keep the component's own; 0 leaves a component out. `bands` None keeps the model's.
    """

    segment: str | None = None
    stage: str | None = None
    weights: Mapping[str, int] = field(default_factory=dict, hash=False)
    bands: Bands | None = None

    @property
    def name(self) -> str:
        """`segment/stage`, with `*` for any."""
        return f"{self.segment or '*'}/{self.stage or '*'}"

    def fits(self, segment: str | None, stage: str | None) -> bool:
        """Whether it is for customers of this segment and stage; None is not known, which only `any` fits."""
        return self.segment in (None, segment) and self.stage in (None, stage)


@dataclass(frozen=True, slots=True)
class Lever:
    """A kind of fact that might have been otherwise: one more of it, or the newest one not there. For `why`: it moves no score.

    `add(values)` gives the fields of one more such signal, typical for this customer, or None where none makes sense. Each further
    one occurred `every_days` before the last.
    """

    name: str  # of one, for people: "paid invoice"
    kind: type[Event]  # a signal
    add: Callable[[FeatureValues], Mapping[str, Any] | None] | None = None
    remove: bool = False
    every_days: int = 0


class Applied(NamedTuple):
    """Which row of the model weighed a customer, and why."""

    row: int  # from 1, in the model's order; 0 is the default
    name: str  # such as enterprise/renewal, or default
    segment: str | None  # of the customer; None: not known, or the model does not ask
    stage: str | None
    reason: str


class Stage(NamedTuple):
    """Where a customer is in its lifecycle, and the fact that says so."""

    name: str
    reason: str


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
    applied: Applied


Judged = tuple[int | None, str | None]
"""A component's score, or None and the reason why there is none."""


def round_half_even(numerator: int, denominator: int) -> int:
    """numerator / denominator (> 0) to the nearest integer, ties to the even one, exactly."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))


DEFAULT_ROW: Final = "default"
_ALL_ALIKE: Final = Applied(0, DEFAULT_ROW, None, None, "the model weighs all customers alike")


@dataclass(frozen=True)
class HealthModel:
    """Features, weighted components over them, bands, and rows of other weights. Public: pass your own to get your own explained score.

    `score` and `why` are for any declaration. Of `rows` the first one that fits a customer's segment and stage applies, else the
    default: the components' own weights. `segment` names a feature that is text; `stage` reads a stage, one of `stages`. The
    functions' code is not in `digest`: raise `version` when it changes. `weighing` is the version of weights from a file, 0 for those
    declared in code.
    BadDeclaration for a weight below 1 (in a row below 0), a name twice, an unknown `fresh`, bands that do not ascend to 100, a row
    that can never apply, that weighs an unknown component, or whose bands have other names.
    """

    name: str
    version: int
    features: type[Features]
    components: tuple[Component, ...]
    bands: Bands = DEFAULT_BANDS
    rows: tuple[Row, ...] = ()
    segment: str | None = None
    stage: Callable[[FeatureValues], Stage | None] | None = None
    stages: tuple[str, ...] = ()
    levers: tuple[Lever, ...] = ()
    weighing: int = 0

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if not names or len(set(names)) != len(names):
            self._refuse("expected at least one component, each name once")
        if self.features.relations:
            reason = "reads across customers: what a customer's score is, is attributed to its own facts one by one, and a member's facts move with it"
            self._refuse(f"{self.features.__name__} {reason}; keep features of related customers in a declaration of their own")
        features = {*self.features.leaves, *(d.name for d in self.features.deriveds)}
        for c in self.components:
            self._check_weight(f"the weight of {c.name!r}", c.weight, 1)
            if c.fresh is not None and c.fresh not in features:
                self._refuse(f"{c.name!r} is fresh by {c.fresh!r}, which {self.features.__name__} does not declare")
        self._check_bands("bands", self.bands)
        if self.segment is not None and self.segment not in features:
            self._refuse(f"the segment is {self.segment!r}, which {self.features.__name__} does not declare")
        for index, row in enumerate(self.rows):
            self._check_row(f"row {index + 1}, {row.name},", row, self.rows[:index])

    def _check_row(self, what: str, row: Row, before: Sequence[Row]) -> None:
        if row.segment is None and row.stage is None:
            self._refuse(f"{what} is for every customer; that is the default")
        if row.segment is not None and self.segment is None:
            self._refuse(f"{what} is for a segment, and no feature says which one a customer is in")
        if row.stage is not None and row.stage not in self.stages:
            self._refuse(f"{what} is for a stage that there is not; there are: {', '.join(self.stages) or 'none'}")
        for earlier in before:
            if earlier.fits(row.segment, row.stage):
                self._refuse(f"{what} never applies, because {earlier.name} above it does")
        for name, weight in row.weights.items():
            if name not in {c.name for c in self.components}:
                self._refuse(f"{what} weighs {name!r}, which is not a component")
            self._check_weight(f"{what} the weight of {name!r}", weight, 0)
        if not any(row.weights.get(c.name, c.weight) for c in self.components):
            self._refuse(f"{what} weighs nothing")
        if row.bands is not None:
            self._check_bands(f"{what} bands", row.bands)
            if [name for name, _ in row.bands] != [name for name, _ in self.bands]:
                self._refuse(f"{what} bands must have the model's names, in its order")

    def _check_weight(self, what: str, weight: object, least: int) -> None:
        if type(weight) is not int or weight < least:
            self._refuse(f"{what} must be a whole number from {least}")

    def _check_bands(self, what: str, bands: Bands) -> None:
        tops = [top for _, top in bands]
        if not tops or any(type(top) is not int for top in tops) or tops != sorted(set(tops)) or tops[-1] != 100 or tops[0] < 0:
            self._refuse(f"{what} must ascend to 100")
        if len({name for name, _ in bands}) != len(bands):
            self._refuse(f"{what}: each name once")

    def _refuse(self, reason: str) -> NoReturn:
        raise BadDeclaration(what=f"health model {self.name!r}", reason=reason)

    @cached_property
    def fold(self) -> Fold:
        """The fold of its features."""
        return Fold(self.features)

    @cached_property
    def digest(self) -> str:
        """32 hex digits over name, versions, features' digest, components' names, weights and freshness, bands, and rows."""
        components = [[c.name, c.weight, c.fresh] for c in self.components]
        content: dict[str, Any] = {"name": self.name, "version": self.version, "features": self.features.digest}
        content |= {"components": components, "bands": [list(band) for band in self.bands]}
        if self.rows:
            rows = [[r.segment, r.stage, sorted(r.weights.items()), r.bands and [list(band) for band in r.bands]] for r in self.rows]
            content |= {"rows": rows, "segment": self.segment, "stages": list(self.stages)}
        if self.weighing:
            content["weighing"] = self.weighing
        return hashlib.blake2b(canonical(content), digest_size=16).hexdigest()

    def score(self, values: FeatureValues) -> Score:
        """The value at `values.as_of_us`. InvalidInput when a component returns something outside 0 … 100,000,000."""
        return self.weigh([self.judge(c, values) for c in self.components], self.applied(values))

    def applied(self, values: FeatureValues) -> Applied:
        """The row for these values. InvalidInput when the segment is no text, or the stage is none of `stages`."""
        if self.segment is None and self.stage is None:
            return _ALL_ALIKE
        segment = values[self.segment] if self.segment is not None else None
        if segment is not None and type(segment) is not str:
            raise InvalidInput(what=f"health model {self.name!r}", field=self.segment or "", reason="expected text as a segment, or None")
        at = self.stage(values) if self.stage is not None else None
        stage = at.name if at is not None else None
        if stage is not None and stage not in self.stages:
            raise InvalidInput(what=f"health model {self.name!r}", field="stage", reason=f"expected one of {', '.join(self.stages)}")
        known = f"segment {segment}" if segment is not None else "no segment is known"
        known += f"; stage {stage}: {at.reason}" if at is not None else "; no stage is known"
        for index, row in enumerate(self.rows, 1):
            if row.fits(segment, stage):
                return Applied(index, row.name, segment, stage, known)
        return Applied(0, DEFAULT_ROW, segment, stage, f"{known}; {'no row is for that' if self.rows else _ALL_ALIKE.reason}")

    def weights(self, row: int = 0) -> dict[str, int]:
        """Weights by component, in a row from 1, or the default's."""
        own = self.rows[row - 1].weights if row else {}
        return {c.name: own.get(c.name, c.weight) for c in self.components}

    def bands_of(self, row: int = 0) -> Bands:
        """The bands of a row from 1, or the default's."""
        return (self.rows[row - 1].bands if row else None) or self.bands

    def value(self, scores: Sequence[int | None], row: int = 0) -> int | None:
        """The weighted mean of the components' scores, in their order, in micro-points; None where nothing counts."""
        weights = total = 0
        for weight, score in zip(self._weights[row], scores, strict=True):
            if score is not None:
                weights += weight
                total += weight * score
        return round_half_even(total, weights) if weights else None

    @cached_property
    def _weights(self) -> tuple[tuple[int, ...], ...]:
        """By row, the default's first."""
        return tuple(tuple(self.weights(row).values()) for row in range(len(self.rows) + 1))

    def weigh(self, judged: Sequence[Judged], applied: Applied) -> Score:
        """The weighted mean of what the components, in their order, were judged to be."""
        weighed = [(c.name, weight, *by) for c, weight, by in zip(self.components, self._weights[applied.row], judged, strict=True)]
        value = self.value([score for score, _ in judged], applied.row)
        if value is None:
            return Score(None, None, None, tuple(Contribution(n, weight, s, 0, why) for n, weight, s, why in weighed), applied)
        weights = sum(weight for _, weight, score, _ in weighed if score is not None)
        shares = [divmod(weight * score, weights) if score is not None else (0, 0) for _, weight, score, _ in weighed]
        # Largest remainder: the micro-points lost by rounding down go to the greatest remainders, the first on a tie.
        left = value - sum(whole for whole, _ in shares)
        for index in sorted(range(len(shares)), key=lambda i: -shares[i][1])[:left]:
            shares[index] = (shares[index][0] + 1, 0)
        parts = (Contribution(n, weight, s, share, why) for (n, weight, s, why), (share, _) in zip(weighed, shares, strict=True))
        return Score(value, points(value), self.band(value, applied.row), tuple(parts), applied)

    def band(self, value_micro: int, row: int = 0) -> str:
        """The band of a value in a row, by the value rounded to a whole point."""
        whole = round_half_even(value_micro, POINT_MICRO)
        return next(name for name, top in self.bands_of(row) if whole <= top)

    def judge(self, component: Component, values: FeatureValues) -> Judged:
        """What one component says about these values."""
        if component.fresh is not None:
            seen = values[component.fresh]
            if seen is None:
                return None, component.absent
            age = values.as_of_us - seen
            if age > STALE_AFTER_DAYS * DAY_US:
                return None, _stale(seen // DAY_US, age // DAY_US)
        score = component.score(values)
        if score is None:
            return None, component.absent
        if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= FULL_MICRO:
            reason = f"expected an integer from 0 to {FULL_MICRO} or None"
            raise InvalidInput(what=f"health model {self.name!r}", field=component.name, reason=reason)
        return score, None


@lru_cache(4_096)
def _stale(day: int, days_before: int) -> str:
    return f"stale: last seen {iso(day * DAY_US)[:10]}, {days_before} days before"


def points(micro: int) -> float:
    """Micro-points as points with two decimals, half to even."""
    return round_half_even(micro, POINT_MICRO // 100) / 100
