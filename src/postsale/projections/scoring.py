"""Scores: what a model may say about a customer, and logistic models whose coefficients are data.

Here live the three things a score can be (`Rank`, `Probability`, `Expected`: different types with different fields, so that none
passes for another), the `Scorer` protocol, `LogisticModel` and the scores that a warehouse sends. Scoring is plain Python over
finished features; nothing is pickled. Fitting is `fitting`, how good a score is `metrics`. Imports signals, features, fold, events.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.signals import ScoreReceived
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US, Id, Text, canonical, invalid_input
from postsale.projections.declaring import last_seen, latest
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues

PPM: Final = 1_000_000
MICRO: Final = 1_000_000


# ---------------------------------------------------------------- what a score can be


@dataclass(frozen=True, slots=True)
class Rank:
    """Puts customers in order, the greatest first, and says nothing about how likely the outcome is."""

    rank_ppm: int  # 0 … 1,000,000; only its order means anything


@dataclass(frozen=True, slots=True)
class Probability:
    """How likely the outcome is, by a model that was calibrated on recorded outcomes."""

    probability_ppm: int  # parts per million, 0 … 1,000,000
    calibrated_on: str  # the data set it was calibrated on, or the warehouse's model and version that vouch for it


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected number, such as of purchases within the model's horizon."""

    expected_micro: int  # millionths, >= 0


Scored: TypeAlias = Rank | Probability | Expected


class Scorer(Protocol):
    """A model: finished features in, a score out. Pure: the same values at the same `as_of_us` give the same score."""

    @property
    def name(self) -> str:
        """Which question it answers, such as `churn`."""
        ...

    @property
    def outcome(self) -> str:
        """What the score is about, in words, with its horizon."""
        ...

    @property
    def features(self) -> str:
        """The digest of the declaration whose values it takes."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256, 64 hex digits, over everything that determines its scores."""
        ...

    def score(self, values: FeatureValues) -> Scored | None:
        """The score at `values.as_of_us`, None when nothing can be said."""
        ...


# ---------------------------------------------------------------- the parts of a logistic model

# Bounds far beyond any fit, within which no score overflows.
_Weight = Annotated[float, Field(ge=-1e9, le=1e9)]
_Center = Annotated[float, Field(ge=-1e18, le=1e18)]
_Scale = Annotated[float, Field(ge=1e-12, le=1e18)]


class Data(BaseModel):
    """Frozen values, checked strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise InvalidInput(what="document", field="(whole)", reason="a key is there twice: which of the two counts, nobody can tell")
    return found


class Document(Data):
    """Data that is kept as canonical JSON, named by its digest, and read back without loading any code. InvalidInput for wrong values."""

    def __init__(self, /, **data: Any) -> None:
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
            return
        except ValidationError as error:
            refusal = invalid_input(type(self).__name__, error)
        raise refusal

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_json(cls, content: str | bytes) -> Self:
        """What `content` of an earlier one holds. InvalidInput for anything else."""
        try:
            made: Self = cls.__pydantic_validator__.validate_json(content)
            json.loads(content, object_pairs_hook=_each_key_once)
            made.content  # noqa: B018  # raises for what cannot be kept
            return made
        except ValidationError as error:
            refusal = invalid_input(cls.__name__, error)
        except TypeError:
            refusal = InvalidInput(what=cls.__name__, field="(whole)", reason="expected integers of at most 53 bits")
        raise refusal

    # Not cached: pydantic's copies would keep what was cached of another one.
    @property
    def content(self) -> str:
        """Canonical JSON: what is kept, compared and hashed."""
        return canonical(self.model_dump(mode="json", by_alias=True)).decode()

    @property
    def digest(self) -> str:
        """SHA-256 of `content`, hex."""
        return content_digest(self.content)


class ModelData(Document):
    """A model as data: canonical JSON, named by its digest, read back without loading any code. InvalidInput for wrong values."""

    format: Literal[1] = 1
    name: Id
    version: Annotated[int, Field(ge=1)]
    owner: Id
    features: Text  # digest of the declaration whose values it takes
    trained_on: Text = ""  # id of the data set; "" for a model that somebody wrote by hand


class Number(Data):
    """A term of a numeric feature: `coefficient · (x - center) / scale`, or `missing` when the value is None.

    `of` says what x is: the value itself (true is 1), the days from a time to `as_of`, or the number of elements.
    """

    as_: Literal["number"] = Field("number", alias="as")
    feature: Id
    of: Literal["value", "age_days", "size"] = "value"
    coefficient: _Weight
    center: _Center = 0.0
    scale: _Scale = 1.0
    missing: _Weight = 0.0

    def term(self, values: FeatureValues) -> float:
        """Its part of the log-odds."""
        value = values[self.feature]
        if value is None:
            return self.missing
        return self.coefficient * (number_of(self.of, value, values.as_of_us) - self.center) / self.scale


class Category(Data):
    """A term of a text feature: the coefficient of its level; `other` for a level that was not trained on, and for None."""

    as_: Literal["category"] = Field("category", alias="as")
    feature: Id
    levels: dict[Text, _Weight]
    other: _Weight = 0.0

    def term(self, values: FeatureValues) -> float:
        """Its part of the log-odds."""
        value = values[self.feature]
        return self.levels.get(value, self.other) if isinstance(value, str) else self.other


Term: TypeAlias = Annotated[Number | Category, Field(discriminator="as_")]


def number_of(of: str, value: Any, as_of_us: int) -> float:
    """What a numeric term calculates with, of a value that is not None. InvalidInput for a value that is no such thing."""
    if of == "size" and isinstance(value, Sized):
        return float(len(value))
    if of != "size" and isinstance(value, bool | int | float):
        return (as_of_us - value) / DAY_US if of == "age_days" else float(value)
    raise InvalidInput(what="model", field=of, reason=f"the feature holds a {type(value).__name__}")


class Platt(Data):
    """Calibration by a logistic curve: probability = 1 / (1 + e^-(slope · z + offset)), z the model's log-odds. Platt 1999."""

    kind: Literal["platt"] = "platt"
    slope: _Weight
    offset: _Weight
    calibrated_on: Text

    def probability(self, log_odds: float) -> float:
        """0 … 1."""
        return sigmoid(self.slope * log_odds + self.offset)


class Isotonic(Data):
    """Calibration by a rising curve through points (log-odds, probability), straight between them, level beyond them."""

    kind: Literal["isotonic"] = "isotonic"
    log_odds: Annotated[tuple[float, ...], Field(min_length=1)]
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    calibrated_on: Text

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.log_odds) != len(self.probabilities):
            raise ValueError("as many log-odds as probabilities are expected")
        if sorted(set(self.log_odds)) != list(self.log_odds) or sorted(self.probabilities) != list(self.probabilities):
            raise ValueError("log-odds must rise, and probabilities must not fall")
        return self

    def probability(self, log_odds: float) -> float:
        """0 … 1."""
        xs, ys = self.log_odds, self.probabilities
        after = bisect_right(xs, log_odds)
        if after in (0, len(xs)):
            return ys[min(after, len(xs) - 1)]
        low, high = xs[after - 1], xs[after]
        return ys[after - 1] + (ys[after] - ys[after - 1]) * (log_odds - low) / (high - low)


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z), without overflow."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


class Part(NamedTuple):
    """One feature's part in a score, in millionths of log-odds; parts sum exactly to `log_odds_micro`."""

    feature: str  # "" is the intercept
    log_odds_micro: int


# ---------------------------------------------------------------- the model


class LogisticModel(ModelData):
    """A logistic regression. Without `calibration` it gives a `Rank`, whatever it was fitted on; with it a `Probability`."""

    kind: Literal["logistic"] = "logistic"
    outcome: Text  # in words, with its horizon
    intercept: _Weight
    terms: tuple[Term, ...]
    calibration: Annotated[Platt | Isotonic, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _each_term_once(self) -> Self:
        names = [term.feature for term in self.terms]
        if len(set(names)) != len(names):
            raise ValueError("a feature has two terms")
        return self

    def parts(self, values: FeatureValues) -> tuple[Part, ...]:
        """What the intercept and each term put in. InvalidInput when `values` lack a feature, or hold another type."""
        try:
            terms = [Part(term.feature, _micro(term.term(values))) for term in self.terms]
        except KeyError as error:
            raise InvalidInput(what=f"model {self.name!r}", field=str(error.args[0]), reason="the values lack this feature") from None
        return (Part("", _micro(self.intercept)), *terms)

    def log_odds_micro(self, values: FeatureValues) -> int:
        """The uncalibrated log-odds in millionths: exactly the sum of `parts`."""
        return sum(part.log_odds_micro for part in self.parts(values))

    def score(self, values: FeatureValues) -> Rank | Probability:
        """A `Probability` when calibrated, else a `Rank`."""
        log_odds = self.log_odds_micro(values) / MICRO
        if self.calibration is None:
            return Rank(round(PPM * sigmoid(log_odds)))
        return Probability(round(PPM * self.calibration.probability(log_odds)), self.calibration.calibrated_on)


def _micro(log_odds: float) -> int:
    return round(log_odds * MICRO)


# ---------------------------------------------------------------- scores made elsewhere


class WarehouseScores(Features, version=1, owner="postsale"):
    """The newest score of each model that a warehouse sent about a customer."""

    value_ppm = latest(ScoreReceived, lambda e: e.value_ppm, by=lambda e: e.model, unit="ppm")
    means = latest(ScoreReceived, lambda e: e.means, by=lambda e: e.model)
    model_version = latest(ScoreReceived, lambda e: e.model_version, by=lambda e: e.model)
    scored_at = last_seen(ScoreReceived, by=lambda e: e.model)


@dataclass(frozen=True, slots=True)
class WarehouseScorer:
    """A warehouse's model: its newest score, as long as it is of exactly this version and at most `max_age_days` old, else None.

    `declaration` is where its values come from: one that declares the features of `WarehouseScores` under the same names.
    """

    model: str
    model_version: str
    outcome: str
    max_age_days: int = 30
    declaration: type[Features] = WarehouseScores

    def __post_init__(self) -> None:
        if missing := sorted(WarehouseScores.leaves.keys() - self.declaration.leaves.keys()):
            raise BadDeclaration(what=self.declaration.__name__, reason=f"lacks {', '.join(missing)}, as WarehouseScores declares them")

    @property
    def name(self) -> str:
        return self.model

    @property
    def features(self) -> str:
        return self.declaration.digest

    @property
    def digest(self) -> str:
        parts = ["warehouse", self.model, self.model_version, self.outcome, self.max_age_days, self.features]
        return content_digest(canonical(parts).decode())

    def score(self, values: FeatureValues) -> Rank | Probability | None:
        """What the warehouse said its value means; never more than that."""
        at = values["scored_at"].get(self.model)
        if at is None or values["model_version"][self.model] != self.model_version:
            return None
        if values.as_of_us - at > self.max_age_days * DAY_US:
            return None
        value = values["value_ppm"][self.model]
        if values["means"][self.model] == "probability":
            return Probability(value, f"{self.model}@{self.model_version}")
        return Rank(value)


def as_evidence(name: str, scored: Scored | None) -> Mapping[str, int | None]:
    """A score under the names by which policies read it: `NAME_rank_ppm`, `NAME_probability_ppm`, `NAME_expected_micro`.

    Each name holds one kind of score only and is None (not known) for the others, so a rank never satisfies a condition about a
    probability: a cell of a policy is not satisfied by what is not known.
    """
    return {
        f"{name}_rank_ppm": scored.rank_ppm if isinstance(scored, Rank) else None,
        f"{name}_probability_ppm": scored.probability_ppm if isinstance(scored, Probability) else None,
        f"{name}_expected_micro": scored.expected_micro if isinstance(scored, Expected) else None,
    }


def evidence_of(scorers: Iterable[Scorer], values: FeatureValues) -> dict[str, int | None]:
    """What all these scorers say, as `as_evidence` names it."""
    found: dict[str, int | None] = {}
    for scorer in scorers:
        found |= as_evidence(scorer.name, scorer.score(values))
    return found
