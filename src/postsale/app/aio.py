"""The async twin: the same log from an event loop, which it never blocks. Each call runs in a worker thread.

Holds no state of its own: `AsyncPostSale` wraps a `PostSale`, which is safe to share between threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from postsale.access import Person
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.signals import Signal
from postsale.app.health import CustomerRow
from postsale.app.postsale import PostSale
from postsale.app.recorder import Receipt, RecordReport
from postsale.app.rounds import RunReport
from postsale.app.tenant import Customer, Tenant
from postsale.audit import Explanation, Replayed
from postsale.events import Event, Recorded
from postsale.projections.journal import Entry as Decision
from postsale.projections.why import Health
from postsale.store import VerifyReport


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

    async def run_once(self) -> RunReport:
        """See `PostSale.run_once`."""
        return await asyncio.to_thread(self.sync.run_once)

    async def verify(self) -> VerifyReport:
        """See `PostSale.verify`."""
        return await asyncio.to_thread(self.sync.verify)


class AsyncTenant:
    """One tenant for asyncio. Each method is the awaitable twin of the one of `Tenant`; `sync` is the tenant itself."""

    def __init__(self, tenant: Tenant) -> None:
        self.sync = tenant
        self.name = tenant.name

    async def record(self, customer: Customer, signal: Signal) -> Receipt:
        """See `Tenant.record`."""
        return await asyncio.to_thread(self.sync.record, customer, signal)

    async def record_many(self, items: Iterable[tuple[Customer, Signal]]) -> RecordReport:
        """See `Tenant.record_many`; `items` is iterated in the worker thread."""
        return await asyncio.to_thread(self.sync.record_many, items)

    async def health(self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None) -> Health:
        """See `Tenant.health`."""
        return await asyncio.to_thread(self.sync.health, customer, as_of=as_of, known_at=known_at)

    async def customer(self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None) -> CustomerAggregate:
        """See `Tenant.customer`."""
        return await asyncio.to_thread(self.sync.customer, customer, as_of=as_of, known_at=known_at)

    async def customers(
        self, *, at_risk: bool = False, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> list[CustomerRow]:
        """See `Tenant.customers`."""
        return await asyncio.to_thread(self.sync.customers, at_risk=at_risk, as_of=as_of, known_at=known_at)

    async def timeline(
        self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> list[Recorded[Event]]:
        """See `Tenant.timeline`."""
        return await asyncio.to_thread(self.sync.timeline, customer, as_of=as_of, known_at=known_at)

    async def decisions(
        self, customer: Customer | None = None, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> list[Decision]:
        """See `Tenant.decisions`."""
        return await asyncio.to_thread(self.sync.decisions, customer, as_of=as_of, known_at=known_at)

    async def approvals(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[Decision]:
        """See `Tenant.approvals`."""
        return await asyncio.to_thread(self.sync.approvals, as_of=as_of, known_at=known_at)

    async def approve(
        self, decision_id: UUID | str, *, by: Person | None = None, reason: str = "", seen: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """See `Tenant.approve`."""
        await asyncio.to_thread(self.sync.approve, decision_id, by=by, reason=reason, seen=seen)

    async def reject(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> None:
        """See `Tenant.reject`."""
        await asyncio.to_thread(self.sync.reject, decision_id, reason=reason, by=by)

    async def consent(self, customer: Customer, channel: str, purpose: str, *, given: bool = True, evidence: str) -> bool:
        """See `Tenant.consent`."""
        return await asyncio.to_thread(self.sync.consent, customer, channel, purpose, given=given, evidence=evidence)

    async def explain(self, decision_id: UUID | str) -> Explanation:
        """See `Tenant.explain`."""
        return await asyncio.to_thread(self.sync.explain, decision_id)

    async def replay(self, decision_id: UUID | str) -> Replayed:
        """See `Tenant.replay`."""
        return await asyncio.to_thread(self.sync.replay, decision_id)
