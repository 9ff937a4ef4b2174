"""The log: the contract, the stores that keep it, verification. Keeps bytes; knows no kind of event. Imports events and errors."""

from __future__ import annotations

from postsale.errors import Unsupported
from postsale.events import Clock
from postsale.store.contract import (
    Appended,
    Condition,
    Holds,
    Kept,
    KeyValue,
    LeaseName,
    NoneSince,
    Outcome,
    Quarantine,
    QuarantineItem,
    Query,
    Store,
    StreamAt,
    Submission,
    TreeHead,
)
from postsale.store.leases import Lease, Leases
from postsale.store.memory import MemoryStore
from postsale.store.quarantine import MemoryQuarantine, SQLiteQuarantine
from postsale.store.sqlite import SQLiteStore
from postsale.store.verify import VerifyReport, verify

__all__ = [
    "Appended",
    "Condition",
    "Holds",
    "Kept",
    "KeyValue",
    "Lease",
    "LeaseName",
    "Leases",
    "MemoryQuarantine",
    "MemoryStore",
    "NoneSince",
    "Outcome",
    "Quarantine",
    "QuarantineItem",
    "Query",
    "SQLiteQuarantine",
    "SQLiteStore",
    "Store",
    "StreamAt",
    "Submission",
    "TreeHead",
    "VerifyReport",
    "open_store",
    "verify",
]

_SUPPORTED = "memory:, sqlite:///relative.db or sqlite:////absolute.db (postgresql:// is coming)"


def open_store(url: str, clock: Clock | None = None, *, durable: bool = True) -> MemoryStore | SQLiteStore:
    """The store a URL names: `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db`.

    Raises Unsupported for any other URL (which is not repeated: it may hold a password), StoreUnavailable from the store itself.
    """
    if url == "memory:":
        return MemoryStore(clock=clock)
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path and path != ":memory:":
        return SQLiteStore(path, clock=clock, durable=durable)
    raise Unsupported(what=f"a store URL with the scheme {url.partition(':')[0]!r}", supported=_SUPPORTED)
