"""Readings for agents from the read models: the score of a health model over a runner's state, which has seen every fact.

May import projections, aggregates, events. No decision is made here.
"""

from __future__ import annotations

from collections.abc import Mapping

from postsale.agents.evidence import HealthReading
from postsale.agents.expressions import InputType
from postsale.aggregates.customer import CustomerAggregate
from postsale.events import DAY_US
from postsale.projections import CUSTOMER_HEALTH, HealthModel, Runner
from postsale.projections.health import POINT_MICRO, round_half_even
from postsale.projections.why import TREND_DAYS


class RunnerHealth:
    """A `HealthSource` over a projection runner. Safe to use from any thread, as `Runner.read_state` is."""

    def __init__(self, runner: Runner, model: HealthModel = CUSTOMER_HEALTH) -> None:
        self._runner = runner
        self._model = model

    @property
    def features(self) -> Mapping[str, InputType | None]:
        """Every declared feature; which type it has, its value shows."""
        declared = self._model.features
        return dict.fromkeys([*declared.leaves, *(d.name for d in declared.deriveds)])

    def read(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str]) -> HealthReading:
        """Health and features of all the customer's streams at `at_us`; the trend only when it is wanted."""
        fold, streams = self._model.fold, customer.fact_streams
        read = self._runner.read_state(streams, as_of_us=at_us)
        values = fold.finish(read.state, at_us)
        score = self._model.score(values)
        trend = None
        if "health_trend" in wanted and score.value_micro is not None:
            trend = self._trend(customer, at_us, score.value_micro)
        return HealthReading(
            score=None if score.value_micro is None else round_half_even(score.value_micro, POINT_MICRO),
            band=score.band,
            trend=trend,
            features=values,
            model=self._model.digest,
            projection=fold.name,
            projection_version=self._model.features.version,
            position=read.position,
            state_hash=fold.digest(read.state),
        )

    def _trend(self, customer: CustomerAggregate, at_us: int, value_micro: int) -> str | None:
        """up, down or steady (less than a point) against the value 30 days before, by what is known now; None without one."""
        then_us = at_us - TREND_DAYS * DAY_US
        state = self._runner.read_state(customer.fact_streams, as_of_us=then_us).state
        before = self._model.score(self._model.fold.finish(state, then_us)).value_micro
        if before is None:
            return None
        change = value_micro - before
        return "steady" if abs(change) < POINT_MICRO else "up" if change > 0 else "down"
