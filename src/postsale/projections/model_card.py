"""Model cards: what is published of a model, as one document. Its coefficients, what it was trained on, how good it was on later rows.

Here live the document and the scorer that reads it; it is data, named by the digest of its content. Who published and activated it,
and why, are events of the log and not here. How a card is made is `modelling`. Imports scoring, purchases, spending, targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from postsale.errors import InvalidInput
from postsale.events import DAY_US, Text
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.purchases import PurchaseModel
from postsale.projections.scoring import Data, Document, Expected, LogisticModel, Part, Probability, Rank, Scored
from postsale.projections.spending import ValueModel
from postsale.projections.targets import Target

Gives = Literal["probability", "rank", "expected"]
Ppm = Annotated[int, Field(ge=0, le=1_000_000)]
VALID_DAYS: Final = 180
PRIOR_DAYS: Final = 90
OTHER_SCORES: Final = ("purchases", "value")
"""Names of models that answer no yes-or-no question: how many purchases, and how much they bring."""


class FeatureSet(Data):
    """The declaration whose values the model takes."""

    name: Text
    version: Annotated[int, Field(ge=1)]
    digest: Text


class Trained(Data):
    """The rows that the model was fitted on. Times are UTC microseconds."""

    data_set: Text  # id of the manifest, which is its digest
    outcome: Text  # digest of the target: what was asked, and what counted as the outcome
    knowledge: Literal["recorded", "claimed"]
    rows: int
    customers: int
    positives: int
    split_us: int  # rows whose outcome was over by then were fitted; rows from then on were measured
    horizon_days: int


class CalibrationRow(Data):
    """Rows with a similar probability: what was said and what happened."""

    rows: int
    lowest_ppm: Ppm
    highest_ppm: Ppm
    said_ppm: Ppm
    happened_ppm: Ppm


class Period(Data):
    """All rows of one time: what was said and what happened."""

    as_of_us: int
    rows: int
    said_ppm: Ppm
    happened_ppm: Ppm


class Measures(Data):
    """How good the probabilities were on rows after the split, which the fit had not seen. Parts per million, but for rows."""

    rows: int
    customers: int
    positives: int
    base_rate_ppm: Ppm
    auc_ppm: Ppm
    auc_low_ppm: Ppm  # an interval of 95 %, by customers
    auc_high_ppm: Ppm
    brier_ppm: Ppm
    brier_skill_ppm: int  # 1 - Brier / Brier of the base rate: at 0 or below it is no better than saying the base rate
    calibration_error_ppm: Ppm
    said_ppm: Ppm  # mean probability
    lift_ppm: int  # of the highest tenth
    calibration: tuple[CalibrationRow, ...]
    periods: tuple[Period, ...]


class Histogram(Data):
    """How many training rows lay between edges: part i holds edges[i-1] < x <= edges[i]. What later rows are held against."""

    of: Text  # "" is the model's log-odds, else a feature: then its part in them; both in millionths
    edges: tuple[int, ...]
    rows: tuple[int, ...]

    @model_validator(mode="after")
    def _one_part_more(self) -> Self:
        if len(self.rows) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("expected rising edges, and one part more than edges")
        return self


class ModelCard(Document):
    """A model with what is known about it. `gives` is the most it may say: a card that gives ranks never gives a probability.

    It is stale `valid_days` after `made_at_us`, the time up to which its rows were known: from then on it gives ranks only.
    """

    format: Literal[1] = 1
    model: Annotated[LogisticModel | PurchaseModel | ValueModel, Field(discriminator="kind")]
    features: FeatureSet
    gives: Gives
    use: Text  # what it may be used for, and why no more
    made_at_us: int
    valid_days: Annotated[int, Field(ge=1, le=3_650)] = VALID_DAYS
    trained: Trained | None = None
    measures: Measures | None = None
    histograms: tuple[Histogram, ...] = ()

    @model_validator(mode="after")
    def _says_what_it_can(self) -> Self:
        if self.model.features != self.features.digest:
            raise ValueError("the model takes values of another declaration than the card says")
        if (self.gives == "expected") == isinstance(self.model, LogisticModel):
            raise ValueError("a logistic model gives a rank or a probability, a model of purchases what is expected")
        if self.gives == "probability" and (
            not isinstance(self.model, LogisticModel) or self.model.calibration is None or self.measures is None
        ):
            raise ValueError("only a model that was calibrated and measured gives a probability")
        return self

    @property
    def name(self) -> str:
        """Which question it answers: the name of its target."""
        return self.model.name

    @property
    def outcome(self) -> str:
        """What the score is about, in words, with its horizon."""
        return self.model.outcome

    def stale_at(self, at_us: int) -> bool:
        """Whether it is older than it says it may be."""
        return at_us > self.made_at_us + self.valid_days * DAY_US

    def score(self, values: FeatureValues) -> Scored | None:
        """What the model says, less what the card does not let it say at `values.as_of_us`. InvalidInput where it cannot be calculated."""
        try:
            scored = self.model.score(values)
        except (KeyError, TypeError, ArithmeticError):  # not of these features after all, or parameters that nobody fitted
            reason = "the card cannot be calculated over these features"
            raise InvalidInput(what=f"model {self.name!r}", field="score", reason=reason) from None
        if isinstance(scored, Probability) and (self.gives != "probability" or self.stale_at(values.as_of_us)):
            return Rank(scored.probability_ppm)
        return scored

    def parts(self, values: FeatureValues) -> tuple[Part, ...]:
        """What each feature puts into the log-odds, which they sum to exactly; () for a model of purchases, where nothing adds up."""
        return self.model.parts(values) if isinstance(self.model, LogisticModel) else ()


def expected_card(
    model: PurchaseModel | ValueModel, features: type[Features], *, made_at_us: int, valid_days: int = VALID_DAYS
) -> ModelCard:
    """The card of a model of purchases or of value. Its name must be one of OTHER_SCORES for agents to read it."""
    return ModelCard(
        model=model,
        features=FeatureSet(name=features.__name__, version=features.version, digest=features.digest),
        gives="expected",
        use="For the mean of many customers alike; of one customer it says little. No probability.",
        made_at_us=made_at_us,
        valid_days=valid_days,
    )


@dataclass(frozen=True, slots=True)
class CardScorer:
    """A card as a `Scorer`, named by the card's digest, which is what decisions record.

    With its `target` it says nothing of customers that the target does not ask about; a card of another version of the target gives ranks only.
    """

    card: ModelCard
    digest: str  # of the card
    target: Target | None = None

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def outcome(self) -> str:
        return self.card.outcome

    @property
    def features(self) -> str:
        return self.card.features.digest

    @property
    def of_this_target(self) -> bool:
        """Whether the target is as it was when the card was made; a prior and a model of purchases have no such tie."""
        trained = self.card.trained
        return trained is None or self.target is None or trained.outcome == self.target.digest

    def asks(self, values: FeatureValues) -> bool:
        """Whether the target asks about this customer."""
        horizon_days = self.card.trained.horizon_days if self.card.trained is not None else PRIOR_DAYS
        return self.target is None or self.target.eligible(values, horizon_days * DAY_US)

    def score(self, values: FeatureValues) -> Scored | None:
        if not self.asks(values):
            return None
        scored = self.card.score(values)
        return Rank(scored.probability_ppm) if isinstance(scored, Probability) and not self.of_this_target else scored


def figure(scored: Scored | None) -> str:
    """A score for people: its kind beside its figure."""
    match scored:
        case Rank(rank_ppm):
            return f"rank {rank_ppm:,} (an order, no probability)"
        case Probability(probability_ppm, _):
            return f"{probability_ppm / 10_000:.1f} %"
        case Expected(expected_micro):
            return f"{expected_micro / 1_000_000:,.2f} expected"
    return "not known"
