"""What the tests of the app share: a clock that stands, signals in one line each, people, and a place for the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

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
from postsale.projections.views_postgres_schema import views_schema, views_sql
from tests.postgres import server

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday; 13:00 in Berlin
ANNA = Person("anna", "os-user")
CANARY = "canary.bird@example.com"


class Server(NamedTuple):
    """A log on PostgreSQL."""

    url: str
    schema: str
    keys: Path


Where = Path | Server | None
"""A log: in a file of this folder, on a server, in memory."""


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'log.db'}"


def place_of(where: Where) -> tuple[str, dict[str, Any]]:
    """What `PostSale.open` needs to know of the place."""
    match where:
        case None:
            return "memory:", {}
        case Path():
            return url_of(where), {}
        case Server(url, schema, keys):
            return url, {"schema": schema, "keys": str(keys)}


def arguments(where: Where) -> tuple[str, str]:
    """The same for a process of its own: URL and options in JSON."""
    url, options = place_of(where)
    return url, json.dumps(options)


def opened(where: Where, *, clock: ManualClock | None = None, agents: Sequence[Agent] = (), **more: Any) -> PostSale:
    """A log in a folder, on a server, or in memory; its clock stands at NOON."""
    url, options = place_of(where)
    return PostSale.open(url, clock=clock or ManualClock(NOON), agents=agents, **options, **more)


def delete_views(where: Where) -> None:
    """As an operator does it: the file, or the schema, which is then made again, empty."""
    if isinstance(where, Server):
        with psycopg.connect(server(), autocommit=True) as db, db.transaction():
            db.execute(f"DROP SCHEMA {views_schema(where.schema)} CASCADE")
            db.execute(views_sql(where.schema))
    elif where is not None:
        for path in where.glob("log.views*"):
            path.unlink()


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
