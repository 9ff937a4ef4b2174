"""The stores that everything written over the contract is tested with. One more store is one more line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from postsale.events import Clock
from postsale.store import MemoryStore, SQLiteStore, Store

Maker = Callable[[Path, Clock], Store]
STORES: dict[str, Maker] = {
    "memory": lambda _, clock: MemoryStore(clock=clock),
    "sqlite": lambda folder, clock: SQLiteStore(folder / f"{uuid4().hex}.db", clock=clock, durable=False),
}
