"""The async twin: the same log from an event loop, which it never blocks. Each call runs in a worker thread.

Holds no state of its own: `AsyncPostSale` wraps a `PostSale`, which is safe to share between threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from postsale.access import Person
from postsale.agents import Agent
from postsale.agents.engines import Engine
from postsale.agents.policies_log import Known as KnownPolicy
from postsale.aggregates.conversations import ContactLimit
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.signals import Signal
from postsale.app.budgets import BudgetPeriod
from postsale.app.effects import EffectReport
from postsale.app.health import CustomerRow
from postsale.app.importing import ImportReport, Refused
from postsale.app.outcomes import Outcomes
from postsale.app.postsale import PostSale
from postsale.app.recorder import Receipt, RecordReport
from postsale.app.rounds import RunReport, never
from postsale.app.tenant import Tenant
from postsale.app.tenant_data import Customer
from postsale.app.tools import PlannerStatus, ToolStatus
from postsale.audit import Explanation, Replayed
from postsale.events import Event, Origin, Recorded
from postsale.ingest import Item
from postsale.ingest.sources import Kind
from postsale.projections import Features, FeatureValues
from postsale.projections.freshness import WITHIN_S, AtLeast
from postsale.projections.journal import Entry as Decision
from postsale.projections.lifecycle import Lifecycle
from postsale.projections.outcomes import Rates
from postsale.projections.training import Knowledge
from postsale.projections.why import Health
from postsale.report import Report
from postsale.store import Anchor, Checkpoint, EventProof, VerifierKey, VerifyReport


class AsyncPostSale:
    """An open log for asyncio: `async with await AsyncPostSale.open(url) as ps`. Arguments and errors are those of `PostSale`.

    A call that was cancelled may still finish in its thread; ids make sending it again safe.
    """

    def __init__(self, ps: PostSale) -> None:
        self.sync = ps

    @classmethod
    async def open(cls, url: str = "sqlite:///postsale.db", **options: Any) -> Self:
        """See `PostSale.open`."""
        return cls(await asyncio.to_thread(PostSale.open, url, **options))

    async def close(self) -> None:
        """See `PostSale.close`."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def tenant(self, name: str) -> AsyncTenant:
        """See `PostSale.tenant`; touches no file, so it is not awaited."""
        return AsyncTenant(self.sync.tenant(name))

    async def run_once(
        self,
        *,
        agents: Sequence[Agent] | None = None,
        engine: Engine | None = None,
        everybody: bool = False,
        on_progress: Callable[[int], None] | None = None,
        wait_s: float = 90.0,
        stopped: Callable[[], bool] = never,
    ) -> RunReport:
        """See `PostSale.run_once`; `on_progress` and `stopped` are called in the worker thread."""
        return await asyncio.to_thread(
            self.sync.run_once,
            agents=agents,
            engine=engine,
            everybody=everybody,
            on_progress=on_progress,
            wait_s=wait_s,
            stopped=stopped,
        )

    async def checkpoint(self, tenant: str, anchor: Anchor | None = None) -> Checkpoint:
        """See `PostSale.checkpoint`."""
        return await asyncio.to_thread(self.sync.checkpoint, tenant, anchor)

    async def verifier_key(self, tenant: str) -> VerifierKey:
        """See `PostSale.verifier_key`."""
        return await asyncio.to_thread(self.sync.verifier_key, tenant)

    async def prove(self, tenant: str, event: UUID | int, checkpoint: Checkpoint | None = None) -> EventProof:
        """See `PostSale.prove`."""
        return await asyncio.to_thread(self.sync.prove, tenant, event, checkpoint)

    async def verify(self, on_progress: Callable[[int], None] | None = None, against: Iterable[Checkpoint | str] = ()) -> VerifyReport:
        """See `PostSale.verify`; `on_progress` is called in the worker thread."""
        return await asyncio.to_thread(self.sync.verify, on_progress, against)


class AsyncTenant:
    """One tenant for asyncio. Each method is the awaitable twin of the one of `Tenant`; `sync` is the tenant itself.

    Agents are controlled by people, through `sync.agent(name)`.
    """

    def __init__(self, tenant: Tenant) -> None:
        self.sync = tenant
        self.name = tenant.name

    async def record(self, customer: Customer, signal: Signal, *, connection: Any = None) -> Receipt:
        """See `Tenant.record`; `connection` is a synchronous one, which nothing else uses meanwhile."""
        return await asyncio.to_thread(self.sync.record, customer, signal, connection=connection)

    async def record_many(
        self,
        items: Iterable[tuple[Customer, Signal]],
        *,
        on_progress: Callable[[int], None] | None = None,
        origin: Origin = Origin.LIVE,
        connection: Any = None,
    ) -> RecordReport:
        """See `Tenant.record_many`; `items` is iterated, and `on_progress` called, in the worker thread."""
        return await asyncio.to_thread(self.sync.record_many, items, on_progress=on_progress, origin=origin, connection=connection)

    async def health(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Health:
        """See `Tenant.health`."""
        return await asyncio.to_thread(self.sync.health, customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)

    async def lifecycle(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Lifecycle:
        """See `Tenant.lifecycle`."""
        return await asyncio.to_thread(self.sync.lifecycle, customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)

    async def customer(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> CustomerAggregate:
        """See `Tenant.customer`."""
        return await asyncio.to_thread(self.sync.customer, customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)

    async def features(
        self,
        features: type[Features],
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> FeatureValues:
        """See `Tenant.features`."""
        return await asyncio.to_thread(
            self.sync.features, features, customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s
        )

    async def all_features(
        self,
        features: type[Features],
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> list[tuple[str, FeatureValues]]:
        """See `Tenant.all_features`; all at once."""
        return await asyncio.to_thread(
            lambda: list(self.sync.all_features(features, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s))
        )

    async def customers(
        self,
        *,
        at_risk: bool = False,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> list[CustomerRow]:
        """See `Tenant.customers`."""
        return await asyncio.to_thread(
            self.sync.customers, at_risk=at_risk, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s
        )

    async def timeline(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> list[Recorded[Event]]:
        """See `Tenant.timeline`."""
        return await asyncio.to_thread(self.sync.timeline, customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)

    async def decisions(
        self, customer: Customer | None = None, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> list[Decision]:
        """See `Tenant.decisions`."""
        return await asyncio.to_thread(self.sync.decisions, customer, as_of=as_of, known_at=known_at)

    async def report(
        self,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        names: bool = False,
    ) -> Report:
        """See `Tenant.report`."""
        return await asyncio.to_thread(self.sync.report, start, end, as_of=as_of, known_at=known_at, names=names)

    async def outcomes(
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
        """See `Tenant.outcomes`."""
        return await asyncio.to_thread(
            self.sync.outcomes,
            start,
            end,
            as_of=as_of,
            known_at=known_at,
            knowledge=knowledge,
            rates=rates,
            conditions=conditions,
            reply_within=reply_within,
        )

    async def effects(
        self,
        start: datetime,
        end: datetime,
        *,
        holdout: str | None = None,
        agent: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
    ) -> tuple[EffectReport, ...]:
        """See `Tenant.effects`."""
        return await asyncio.to_thread(self.sync.effects, start, end, holdout=holdout, agent=agent, as_of=as_of, known_at=known_at)

    async def approvals(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[Decision]:
        """See `Tenant.approvals`."""
        return await asyncio.to_thread(self.sync.approvals, as_of=as_of, known_at=known_at)

    async def approve(
        self, decision_id: UUID | str, *, by: Person | None = None, reason: str = "", seen: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """See `Tenant.approve`."""
        return await asyncio.to_thread(self.sync.approve, decision_id, by=by, reason=reason, seen=seen)

    async def reject(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> None:
        """See `Tenant.reject`."""
        await asyncio.to_thread(self.sync.reject, decision_id, reason=reason, by=by)

    async def consent(self, customer: Customer, channel: str, purpose: str, *, given: bool = True, evidence: str) -> bool:
        """See `Tenant.consent`."""
        return await asyncio.to_thread(self.sync.consent, customer, channel, purpose, given=given, evidence=evidence)

    async def policies(self) -> list[KnownPolicy]:
        """See `Tenant.policies`."""
        return await asyncio.to_thread(self.sync.policies)

    async def retire_policy(self, digest: str, *, reason: str, by: Person | None = None) -> int:
        """See `Tenant.retire_policy`."""
        return await asyncio.to_thread(self.sync.retire_policy, digest, reason=reason, by=by)

    async def returned(self, effect: UUID | str, signal: Signal, *, customer: Customer | None = None) -> Receipt:
        """See `Tenant.returned`."""
        return await asyncio.to_thread(self.sync.returned, effect, signal, customer=customer)

    async def tools(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[ToolStatus]:
        """See `Tenant.tools`."""
        return await asyncio.to_thread(self.sync.tools, as_of=as_of, known_at=known_at)

    async def planners(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[PlannerStatus]:
        """See `Tenant.planners`."""
        return await asyncio.to_thread(self.sync.planners, as_of=as_of, known_at=known_at)

    async def budgets(self, name: str | None = None) -> list[BudgetPeriod]:
        """See `Tenant.budgets`."""
        return await asyncio.to_thread(self.sync.budgets, name)

    async def contact_limits(self) -> dict[str, ContactLimit]:
        """See `Tenant.contact_limits`."""
        return await asyncio.to_thread(self.sync.contact_limits)

    async def contact_budget(self, channel: str, *, at_most: int, days: int, reason: str, by: Person | None = None) -> bool:
        """See `Tenant.contact_budget`."""
        return await asyncio.to_thread(self.sync.contact_budget, channel, at_most=at_most, days=days, reason=reason, by=by)

    async def receive(self, item: Item) -> ImportReport:
        """See `Tenant.receive`."""
        return await asyncio.to_thread(self.sync.receive, item)

    async def ingest(
        self, kind: Kind, path: Path | str, mapping: Path | str | None = None, *, on_progress: Callable[[int], None] | None = None
    ) -> ImportReport:
        """See `Tenant.ingest`; `on_progress` is called in the worker thread."""
        return await asyncio.to_thread(self.sync.ingest, kind, path, mapping, on_progress=on_progress)

    async def quarantine(self) -> list[Refused]:
        """See `Tenant.quarantine`."""
        return await asyncio.to_thread(self.sync.quarantine)

    async def retry_quarantine(self, ids: Sequence[str] | None = None, *, mapping: Path | str | None = None) -> dict[str, int]:
        """See `Tenant.retry_quarantine`."""
        return await asyncio.to_thread(self.sync.retry_quarantine, ids, mapping=mapping)

    async def link(self, external: Customer, customer: Customer) -> bool:
        """See `Tenant.link`."""
        return await asyncio.to_thread(self.sync.link, external, customer)

    async def merge(self, other: Customer, *, into: Customer, reason: str, by: Person | None = None) -> bool:
        """See `Tenant.merge`."""
        return await asyncio.to_thread(self.sync.merge, other, into=into, reason=reason, by=by)

    async def split(self, other: Customer, *, reason: str, by: Person | None = None) -> bool:
        """See `Tenant.split`."""
        return await asyncio.to_thread(self.sync.split, other, reason=reason, by=by)

    async def names(self) -> dict[str, str]:
        """See `Tenant.names`."""
        return await asyncio.to_thread(self.sync.names)

    async def ask(
        self, customer: Customer, agent: str, command: str, *, reason: str, by: Person | None = None, at: datetime | None = None
    ) -> UUID:
        """See `Tenant.ask`."""
        return await asyncio.to_thread(self.sync.ask, customer, agent, command, reason=reason, by=by, at=at)

    async def withdraw(self, trigger_id: UUID | str) -> bool:
        """See `Tenant.withdraw`."""
        return await asyncio.to_thread(self.sync.withdraw, trigger_id)

    async def override(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> None:
        """See `Tenant.override`."""
        await asyncio.to_thread(self.sync.override, decision_id, reason=reason, by=by)

    async def settle(
        self, decision_id: UUID | str, intent_id: UUID | str, *, happened: bool, reason: str, by: Person | None = None
    ) -> None:
        """See `Tenant.settle`."""
        await asyncio.to_thread(self.sync.settle, decision_id, intent_id, happened=happened, reason=reason, by=by)

    async def explain(self, decision_id: UUID | str) -> Explanation:
        """See `Tenant.explain`."""
        return await asyncio.to_thread(self.sync.explain, decision_id)

    async def replay(self, decision_id: UUID | str) -> Replayed:
        """See `Tenant.replay`."""
        return await asyncio.to_thread(self.sync.replay, decision_id)
