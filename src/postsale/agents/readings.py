"""Readings for agents from the read models: the score of a health model over a runner's state, which has seen every fact.

May import projections, aggregates, events. No decision is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postsale.agents.evidence import HealthReading
from postsale.agents.expressions import InputType
from postsale.agents.models import NO_MODELS, ActiveModels, Models
from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import BadDeclaration
from postsale.events import DAY_US
from postsale.projections import CUSTOMER_HEALTH, HealthModel, Runner, State
from postsale.projections.deployments import Deployments
from postsale.projections.health import POINT_MICRO, round_half_even
from postsale.projections.scoring import Scorer, as_evidence, evidence_of
from postsale.projections.why import TREND_DAYS, direction


class RunnerHealth:
    """A `HealthSource` over a projection runner. Safe to use from any thread, as `Runner.read_state` is.

    With `deployments`, a version of the projection that is not live gives no evidence to anybody: reads raise NotLive. What `scorers`
    say stands beside the features under the names of `as_evidence`; BadDeclaration for one over another declaration, or a name twice.
    With `models`, what is active in a tenant's log scores, before a scorer of its name; one over other features says nothing.
    """

    def __init__(
        self,
        runner: Runner,
        model: HealthModel = CUSTOMER_HEALTH,
        deployments: Deployments | None = None,
        scorers: Sequence[Scorer] = (),
        models: Models | None = None,
    ) -> None:
        self._runner = runner
        self._model = model
        self._deployments = deployments
        self._scorers = tuple(scorers)
        self._models = models
        self._digest = model.digest
        declared = [*model.features.leaves, *(d.name for d in model.features.deriveds)]
        said = [name for scorer in self._scorers for name in as_evidence(scorer.name, None)]
        for scorer in self._scorers:
            if scorer.features != model.features.digest:
                raise BadDeclaration(
                    what=f"scorer {scorer.name!r}", reason=f"takes values of another declaration than {model.features.__name__}"
                )
        if len({*declared, *said}) < len(declared) + len(said):
            raise BadDeclaration(what="scorers", reason="two scorers, or a scorer and a feature, share a name")
        said += [name for of in (models.names if models is not None else ()) for name in as_evidence(of, None)]
        self._features: dict[str, InputType | None] = dict.fromkeys(declared) | dict.fromkeys(said, "integer")
        if set(declared) & set(said):
            raise BadDeclaration(what="targets", reason="a target and a feature share a name")

    @property
    def features(self) -> Mapping[str, InputType | None]:
        """Every declared feature, which type it has, its value shows; and what the scorers say, integers."""
        return self._features

    def read(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None) -> HealthReading:
        """Health and features of all the customer's streams at `at_us`; the trend only when it is wanted. Raises NotLive."""
        self.require_live()
        fold, read = self._model.fold, self._runner.read_state(customer.fact_streams, as_of_us=at_us, known_at_us=known_at_us)
        before = self._before(customer, at_us, wanted, known_at_us)
        models = self.models_of(customer.stream.tenant, known_at_us=known_at_us)
        return self.reading(read.state, at_us, position=read.position, state_hash=fold.digest(read.state), before=before, models=models)

    def states(
        self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None
    ) -> tuple[State, State | None]:
        """What `read` reads from: the state at `at_us`, and where the trend is wanted the one before. Raises NotLive."""
        self.require_live()
        read = self._runner.read_state(customer.fact_streams, as_of_us=at_us, known_at_us=known_at_us)
        return read.state, self._before(customer, at_us, wanted, known_at_us)

    def _before(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str], known_at_us: int | None) -> State | None:
        if "health_trend" not in wanted:
            return None
        before_us = at_us - TREND_DAYS * DAY_US
        return self._runner.read_state(customer.fact_streams, as_of_us=before_us, known_at_us=known_at_us).state

    def models_of(self, tenant: str, *, known_at_us: int | None = None) -> ActiveModels:
        """What is active in a tenant's log, now or as it was known at a time."""
        return NO_MODELS if self._models is None else self._models.active(tenant, known_at_us=known_at_us)

    def require_live(self) -> None:
        """Return when the version of the projection that is read here is live. Raises NotLive."""
        if self._deployments is not None:
            self._deployments.require(self._model.features)

    def reading(
        self,
        state: State,
        at_us: int,
        *,
        position: int,
        state_hash: str = "",
        before: State | None = None,
        models: ActiveModels = NO_MODELS,
    ) -> HealthReading:
        """The reading that a folded state gives at `at_us`; `before` is the state 30 days before, for the trend."""
        scorers = self._scoring(models)
        values = self._model.fold.finish(state, at_us)
        score = self._model.score(values)
        trend = None
        if before is not None and score.value_micro is not None:
            then = self._model.score(self._model.fold.finish(before, at_us - TREND_DAYS * DAY_US))
            trend = None if then.value_micro is None else direction(score.value_micro - then.value_micro)
        return HealthReading(
            score=None if score.value_micro is None else round_half_even(score.value_micro, POINT_MICRO),
            band=score.band,
            trend=trend,
            features={**values, **evidence_of(scorers, values)} if scorers else values,
            model=" ".join([self._digest, *(f"{scorer.name}:{scorer.digest}" for scorer in scorers)]),
            row=score.applied.name,
            stage=score.applied.stage,
            projection=self._model.fold.name,
            projection_version=self._model.features.version,
            position=position,
            state_hash=state_hash,
            models=models.held,
        )

    def _scoring(self, models: ActiveModels) -> Sequence[Scorer]:
        active = {scorer.name: scorer for scorer in models.scorers}
        own = [scorer for scorer in self._scorers if scorer.name not in active]
        return [*own, *(scorer for scorer in active.values() if scorer.features == self._model.features.digest)]
