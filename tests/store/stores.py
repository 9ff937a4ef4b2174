"""The stores that everything written over the contract is tested with. One more store is one more line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.postgres import fresh_log

from postsale.events import Clock
from postsale.store import MemoryStore, SQLiteStore, Store
from postsale.store.postgres import PostgresStore

Maker = Callable[[Path, Clock], Store]
STORES: dict[str, Maker] = {
    "memory": lambda _, clock: MemoryStore(clock=clock),
    "sqlite": lambda folder, clock: SQLiteStore(folder / f"{uuid4().hex}.db", clock=clock, durable=False),
    "postgres": lambda _, clock: fresh_postgres(clock),
}


def fresh_postgres(clock: Clock | None = None, **options: Any) -> PostgresStore:
    """A new PostgreSQL log, opened."""
    url, schema = fresh_log(**({"chapter": options.pop("chapter")} if "chapter" in options else {}))
    return PostgresStore(url, schema=schema, clock=clock, **options)
