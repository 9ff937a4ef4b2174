"""The part of a tenant that data teams use: training rows, what they were made of, exports. Part of the wiring, as `tenant`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast, overload

from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import Mode
from postsale.aggregates.identity import CUSTOMERS, ExternalId
from postsale.app.backtest_agents import backtest_agent
from postsale.app.backtest_scores import backtest_score, given_score, span_of, with_threshold
from postsale.app.directory import as_external
from postsale.app.exporting import Exports
from postsale.app.models import TenantModels
from postsale.app.outcomes import Outcomes, frame_of, outcomes_of
from postsale.app.training import Question, Rows, TrainingRows, ascending, microseconds
from postsale.audit.backtest import AgentBacktest
from postsale.errors import UnknownCustomer
from postsale.events import DAY_US, to_us
from postsale.projections import Features, HealthModel
from postsale.projections.backtest import TOP, ScoreBacktest
from postsale.projections.backtest_scores import Score
from postsale.projections.datasets import Datasets, Manifest, pseudonym
from postsale.projections.outcomes import Rates
from postsale.projections.scoring import Scorer
from postsale.projections.targets import Target
from postsale.projections.training import Knowledge

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale
    from postsale.app.tenant import Tenant

Customer = str | ExternalId
_WORKING_US = DAY_US * 15 // 24  # day from California to eastern Europe


class TenantData:
    """What `Tenant` inherits; never made alone."""

    _ps: PostSale
    name: str

    def training_rows(
        self,
        features: type[Features],
        *,
        name: str,
        at: Sequence[datetime] = (),
        points: Iterable[tuple[Customer, datetime]] | None = None,
        agent: str | None = None,
        outcome: type[Features] | None = None,
        within: timedelta | None = None,
        knowledge: Knowledge = "recorded",
        lag: timedelta = timedelta(0),
        until: datetime | None = None,
        known_at: datetime | None = None,
    ) -> TrainingRows:
        """Features of customers as they were known at past times, and what came of them: an Arrow table with its manifest.

        A row is a customer at a time `as_of`: every customer known at each time of `at`, or these `points`, or, with `agent` alone, the
        agent's decisions. Its features use facts that had occurred by `as_of` and were known by `as_of` + `lag`: `recorded` in the
        log by then, or `claimed`: knowable by then where the source says so (`available_at`; for backfills), else recorded. Its labels are
        the features of `outcome` over facts that occurred in (`as_of`, `as_of` + `within`], whenever they were recorded; a row whose
        horizon ends after `until` (default now) is censored and has none. `agent` adds what that agent first decided from `as_of` on,
        within the horizon: treatment (None unless it acted), eligible actions and their propensities.

        Keys are stable pseudonyms. `known_at` gives the rows that the log would have given then. The data set is remembered under its
        name, so that `datasets_of` can name it. Raises InvalidInput, MissingExtra, UnknownCustomer for a point.
        """
        question = Question(
            name=name,
            features=features,
            outcome=outcome,
            horizon_us=microseconds(within),
            knowledge=knowledge,
            lag_us=microseconds(lag),
            at_us=ascending(at),
            points=None if points is None else self._points(points),
            agent=agent,
            until_us=None if until is None else to_us(until),
            known_at_us=None if known_at is None else to_us(known_at),
        )
        rows = Rows(self._ps.log, self.name, question).made(self._ps.log.vault.tenant(self.name))
        self._datasets.remember(rows.manifest, rows.table.column("customer").to_pylist())
        return rows

    def outcomes(
        self,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        knowledge: Knowledge = "recorded",
        rates: Rates | None = None,
        conditions: Collection[str] | None = None,
        reply_within: timedelta | None = None,
    ) -> Outcomes:
        """What came of the period [start, end): retention, churn, renewals, onboarding, adoption, surveys, referrals, response.

        What takes effect at `start` is in the period. Facts that occurred by `as_of` (default now) and were known by `known_at` count, late
        ones about the period too; `claimed`: known when the source says so. Money is in minor units per month, per currency, never added;
        `rates` convert it all. `conditions`, as `agent/condition`, are those that mean high risk (default: of every agent all); `reply_within`
        is a term for first replies to tickets, wall-clock. Each measure says its population, who was left out and why, and its interval. Raises InvalidInput for a
        period that is empty or not over at `as_of`.
        """
        frame = frame_of(self._ps.log, start, end, as_of, known_at, knowledge)
        within_us = None if reply_within is None else microseconds(reply_within)
        return outcomes_of(self._ps.log, self.name, frame, rates=rates, conditions=conditions, reply_within_us=within_us)

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

        A score is looked at on the first of each month from `begin` to `end` (default: while its horizon is over), an agent lives through
        the same time looking every 7 days at that time of day (15:00 UTC for midnight, which is in most policies' quiet hours); or `every`. What came within `horizon` is what `target` says. A score is `health`, a model's
        name (what scored then), `NAME@DIGEST` (one version over all of history), `prior:NAME`, `warehouse:MODEL@VERSION`,
        `feature:NAME`, a scorer over the health model's features, or a `Score` of your own; `rising`: a greater one makes the outcome
        likelier; `threshold` adds a line. An agent acts as far as `mode` lets it, and nobody answers.

        `on_progress` gets what is done and how much there is; what it raises ends the call, and nothing is left behind. Raises
        InvalidInput, UnknownModel, NotLive, PolicyInvalid, and what an unreadable event raises.
        """
        whole, now_us = self._whole, self._ps.clock.now_us()
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

    def datasets(self) -> list[Manifest]:
        """Every data set that was made of this tenant's customers, by name."""
        return self._datasets.manifests()

    def datasets_of(self, customer: Customer) -> list[Manifest]:
        """The data sets that hold this customer: what its erasure affects beyond the log. Raises UnknownCustomer."""
        key = self._ps.log.vault.tenant(self.name).blind
        refs = {stream.id for stream in self._whole.customer(customer).fact_streams if stream.category == CUSTOMERS}
        return self._datasets.holding(pseudonym(key, ref) for ref in refs)

    def pseudonyms(self) -> dict[str, str]:
        """Customers' references by their name in data sets: to bring scores back. `names` says who they are to whoever may know."""
        key = self._ps.log.vault.tenant(self.name).blind
        return {pseudonym(key, ref): ref for ref in self._whole.names()}

    @property
    def _whole(self) -> Tenant:
        return cast("Tenant", self)

    @property
    def _datasets(self) -> Datasets:
        return Datasets(self._ps.log.store.kv, self.name)

    def _points(self, points: Iterable[tuple[Customer, datetime]]) -> tuple[tuple[str, int], ...]:
        pairs = [(as_external(customer), to_us(at)) for customer, at in points]
        places = self._ps.directory.resolve(self.name, {external for external, _ in pairs})
        found = []
        for external, at in pairs:
            linked = places[external].linked
            if linked is None:
                raise UnknownCustomer(tenant=self.name)
            found.append((linked.account, at))
        return tuple(found)

    @property
    def export(self) -> Exports:
        """What leaves for the data stack: `export.log(url)`, `export.features(Features, url)`, `export.frame(SignalClass)`."""
        return Exports(self._whole)

    @property
    def models(self) -> TenantModels:
        """Models of this tenant in the log: `models.train(…)`, `publish`, `activate`, `retire`, `scores(customer)`, `check(name)`."""
        return TenantModels(self._whole)
