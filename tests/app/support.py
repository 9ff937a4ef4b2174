"""What the tests of the app share: a clock that stands, signals in one line each, people, and a place for the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from postsale.access import Person
from postsale.agents import Agent
from postsale.aggregates.signals import (
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    Signal,
    SubscriptionStarted,
    UsageObserved,
)
from postsale.app import PostSale
from postsale.events import ManualClock

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday; 13:00 in Berlin
ANNA = Person("anna", "os-user")
CANARY = "canary.bird@example.com"


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'log.db'}"


def opened(where: Path | None, *, clock: ManualClock | None = None, agents: Sequence[Agent] = (), **more: Any) -> PostSale:
    """A log in a folder, or in memory; its clock stands at NOON."""
    return PostSale.open("memory:" if where is None else url_of(where), clock=clock or ManualClock(NOON), agents=agents, **more)


def paid(id: str, at: datetime = NOON, **more: Any) -> InvoicePaid:
    return InvoicePaid(**{"source": "stripe", "id": id, "occurred_at": at, "amount_minor": 4900, "currency": "EUR"} | more)


def failed(id: str, at: datetime = NOON, **more: Any) -> InvoicePaymentFailed:
    return InvoicePaymentFailed(**{"source": "stripe", "id": id, "occurred_at": at, "amount_minor": 4900, "currency": "EUR"} | more)


def used(id: str, at: datetime = NOON, **more: Any) -> UsageObserved:
    return UsageObserved(**{"source": "product", "id": id, "occurred_at": at, "feature": "search", "count": 3} | more)


def _terms(id: str, at: datetime, more: dict[str, Any]) -> dict[str, Any]:
    terms = {"source": "stripe", "id": id, "occurred_at": at, "subscription_id": "sub_1", "mrr_minor": 19900}
    return terms | {"interval": "month", "currency": "EUR", "effective_at": at} | more


def subscribed(id: str, at: datetime = NOON, **more: Any) -> SubscriptionStarted:
    return SubscriptionStarted(**_terms(id, at, more))


def cancelled(id: str, at: datetime = NOON, **more: Any) -> CancellationScheduled:
    return CancellationScheduled(**_terms(id, at, {"effective_at": at + timedelta(days=30)} | more))


def head(ps: PostSale) -> int:
    return ps.log.store.head()


def everything(ps: PostSale, tenant: str = "acme") -> list[tuple[Any, ...]]:
    """Every event of a tenant, as stored."""
    from postsale.store import Query

    return [tuple(event) for event in ps.log.store.read(Query(tenant=tenant))]


def bytes_of(folder: Path) -> bytes:
    """All bytes of all files in a folder, but those of the keys."""
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".keys")


def execute(path: Path, *statements: str) -> None:
    """Raw SQL behind the library's back."""
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


Signals = Sequence[tuple[str, Signal]]
