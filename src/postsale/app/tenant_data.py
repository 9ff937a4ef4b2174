"""The part of a tenant that data teams use: training rows, what they were made of, exports. Part of the wiring, as `tenant`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from postsale.aggregates.identity import CUSTOMERS, ExternalId
from postsale.app.directory import as_external
from postsale.app.effects import EffectReport, effects_of
from postsale.app.exporting import Exports
from postsale.app.models import TenantModels
from postsale.app.outcomes import Outcomes, frame_of, outcomes_of
from postsale.app.reporting import report_of
from postsale.app.training import Question, Rows, TrainingRows, ascending, microseconds
from postsale.errors import InvalidInput, UnknownCustomer
from postsale.events import to_us
from postsale.projections import Features
from postsale.projections.datasets import Datasets, Manifest, pseudonym
from postsale.projections.outcomes import Rates
from postsale.projections.training import Knowledge
from postsale.report import Report

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale
    from postsale.app.tenant import Tenant

Customer = str | ExternalId


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
        asked = Rows(self._ps.log, self.name, question)
        rows = asked.made(self._ps.log.vault.tenant(self.name))
        if not rows.table.num_rows and asked.nobody_claims():
            raise InvalidInput(
                what="training_rows",
                field="knowledge",
                reason="claimed gives no row: nothing was recorded yet at these times, and no fact says when it was knowable; give "
                "available_at with what you import, or ask for recorded",
            )
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

    def effects(
        self,
        start: datetime,
        end: datetime,
        *,
        holdout: str | None = None,
        agent: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
    ) -> tuple[EffectReport, ...]:
        """What agents changed, by hold-out: customers that entered in [start, end), acted on less held out, as they are at the end.

        With `agent`, of those whom its decisions brought in. An effect is that of everything under the hold-out's name from a customer's
        entry on. Each has its interval of 95 %, its population and who was left out. Raises InvalidInput where no decision was made under
        a hold-out, and for a period that is empty or not over at `as_of`.
        """
        frame = frame_of(self._ps.log, start, end, as_of, known_at, "recorded")
        return effects_of(self._ps.log, self.name, frame, holdout, agent)

    def report(
        self,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        names: bool = False,
    ) -> Report:
        """The period [start, end) for people: health and risk by month, revenue by quarter, what agents decided and people said.

        `postsale.report.page` makes an HTML page of it. Figures are those of `outcomes` and `decisions` at the same two clocks. Customers in
        its cases are named only with `names`, and only to whoever may see it; else they are parts of references. Money is in the currency with the
        most of it. Raises InvalidInput as `outcomes` does, and for more than 120 months.
        """
        return report_of(self._whole, start, end, as_of=as_of, known_at=known_at, names=names)

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
