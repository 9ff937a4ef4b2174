"""The part of a tenant that back-tests scores and agents over its own log. Part of the wiring, as `tenant`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast, overload

from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import Mode
from postsale.app.backtest_agents import backtest_agent
from postsale.app.backtest_scores import backtest_score, given_score, span_of, with_threshold
from postsale.app.training import microseconds
from postsale.audit.backtest import AgentBacktest
from postsale.events import DAY_US, to_us
from postsale.projections import HealthModel
from postsale.projections.backtest import TOP, ScoreBacktest
from postsale.projections.backtest_scores import Score
from postsale.projections.scoring import Scorer
from postsale.projections.targets import Target
from postsale.projections.training import Knowledge

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale
    from postsale.app.tenant import Tenant

_WORKING_US = DAY_US * 15 // 24  # day from California to eastern Europe


class TenantBacktests:
    """What `Tenant` inherits; never made alone."""

    _ps: PostSale
    name: str

    @overload
    def backtest(
        self,
        what: str | Score | Scorer | HealthModel,
        *,
        begin: datetime,
        end: datetime | None = ...,
        horizon: timedelta = ...,
        target: str | Target = ...,
        every: timedelta | None = ...,
        knowledge: Knowledge = ...,
        rising: bool | None = ...,
        threshold: float | None = ...,
        top: Sequence[int] = ...,
        on_progress: Callable[[int, int], None] | None = ...,
    ) -> ScoreBacktest: ...

    @overload
    def backtest(
        self,
        what: Agent | Policy,
        *,
        begin: datetime,
        end: datetime | None = ...,
        horizon: timedelta = ...,
        target: str | Target = ...,
        every: timedelta | None = ...,
        knowledge: Knowledge = ...,
        mode: Mode = ...,
        on_progress: Callable[[int, int], None] | None = ...,
    ) -> AgentBacktest: ...

    def backtest(
        self,
        what: str | Score | Scorer | HealthModel | Agent | Policy,
        *,
        begin: datetime,
        end: datetime | None = None,
        horizon: timedelta = timedelta(days=90),
        target: str | Target = "churn",
        every: timedelta | None = None,
        knowledge: Knowledge = "recorded",
        rising: bool | None = None,
        threshold: float | None = None,
        top: Sequence[int] = TOP,
        mode: Mode = "act",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> ScoreBacktest | AgentBacktest:
        """How good a score, or an agent, would have been over this log, by what was known at each time. Writes nothing here.

        A score is looked at on the first of each month from `begin` to `end` (default: while its horizon is over); an agent lives through
        the same time and looks every 7 days, at `begin`'s time of day (at 15:00 UTC for midnight, when most policies are quiet); or `every`.
        What came within `horizon` is what `target` says. A score is `health`, a model's name (what scored then), `NAME@DIGEST` (one
        version over all of history), `prior:NAME`, `warehouse:MODEL@VERSION`, `feature:NAME`, a scorer over the health model's features,
        or a `Score` of your own. `rising`: a greater one makes the outcome likelier; `threshold` adds a line; `top` is in percent of each
        cut-off's customers. An agent acts as far as `mode` lets it, and nobody answers.

        `on_progress` gets what is done and how much there is; what it raises ends the call, and nothing is left behind. Raises
        InvalidInput, UnknownModel, NotLive, PolicyInvalid, and what an unreadable event raises.
        """
        whole, now_us = cast("Tenant", self), self._ps.clock.now_us()
        its, is_agent = whole.models.target(target), isinstance(what, Agent | Policy)
        every_us = microseconds(every) if every is not None else 7 * DAY_US if is_agent else None
        begin_us = to_us(begin)
        if is_agent and begin_us % DAY_US == 0:
            begin_us += _WORKING_US  # at midnight quiet hours would suppress everything
        span = span_of(
            its, begin_us, None if end is None else to_us(end), microseconds(horizon), every_us, knowledge, now_us
        )  # fmt: skip
        if isinstance(what, Agent | Policy):
            return backtest_agent(whole, what, span, mode=mode, on_progress=on_progress)
        score = given_score(whole, what, span, rising=rising)
        if threshold is not None:
            score = with_threshold(score, threshold)
        return backtest_score(whole, score, span, top=top, on_progress=on_progress)
