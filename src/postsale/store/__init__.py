"""The log: the contract, the stores that keep it, verification, checkpoints and proofs. Keeps bytes; knows no kind of event but
the one that carries other libraries' events. Imports events and errors."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from postsale.errors import Unsupported
from postsale.events import Clock
from postsale.store.aio import AsyncStore
from postsale.store.anchors import FileAnchor
from postsale.store.archive import Archivable, Chapters, archive_chapter
from postsale.store.checkpoints import (
    Anchor,
    Checkpoint,
    kept_checkpoints,
    latest_checkpoint,
    origin_of,
    sign_checkpoint,
    tree_of,
    verifier_key,
)
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
from postsale.store.inclusion import CheckedProof, EventProof, check_proof, prove
from postsale.store.leases import Lease, Leases
from postsale.store.memory import MemoryStore
from postsale.store.notes import Note, VerifierKey
from postsale.store.opaque import OpaqueEvent
from postsale.store.postgres_schema import DEFAULT_SCHEMA
from postsale.store.proofs import Tree, verify_consistency, verify_inclusion
from postsale.store.quarantine import MemoryQuarantine, SQLiteQuarantine
from postsale.store.segments import Segment
from postsale.store.sqlite import SQLiteStore
from postsale.store.subscriptions import Page, Subscription
from postsale.store.timers import Timer, Timers, local_instant
from postsale.store.verify import VerifyReport, verify

if TYPE_CHECKING:
    from postsale.store.postgres import PostgresStore

__all__ = [
    "Anchor",
    "Appended",
    "AsyncStore",
    "Chapters",
    "CheckedProof",
    "Checkpoint",
    "Condition",
    "EventProof",
    "FileAnchor",
    "Holds",
    "Kept",
    "KeyValue",
    "Lease",
    "LeaseName",
    "Leases",
    "MemoryQuarantine",
    "MemoryStore",
    "NoneSince",
    "Note",
    "OpaqueEvent",
    "Outcome",
    "Page",
    "Quarantine",
    "QuarantineItem",
    "Query",
    "SQLiteQuarantine",
    "SQLiteStore",
    "Segment",
    "Store",
    "StreamAt",
    "Submission",
    "Subscription",
    "Timer",
    "Timers",
    "Tree",
    "TreeHead",
    "VerifierKey",
    "VerifyReport",
    "archive_chapter",
    "chapters_of",
    "check_proof",
    "kept_checkpoints",
    "latest_checkpoint",
    "local_instant",
    "open_store",
    "origin_of",
    "prove",
    "sign_checkpoint",
    "tree_of",
    "verifier_key",
    "verify",
    "verify_consistency",
    "verify_inclusion",
]

_SCHEME = re.compile("[A-Za-z][A-Za-z0-9_+.-]*")
_SUPPORTED = "memory:, sqlite:///relative.db, sqlite:////absolute.db or postgresql://host/database"


def open_store(
    url: str,
    clock: Clock | None = None,
    *,
    durable: bool = True,
    archive: str | os.PathLike[str] | None = None,
    schema: str = DEFAULT_SCHEMA,
    max_connections: int = 16,
    as_owner: bool = False,
) -> MemoryStore | SQLiteStore | PostgresStore:
    """The store a URL names: `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://login@host/database`.

    `archive` is where archived chapters are now; `schema` is where a PostgreSQL log is in its database, which is asked over at most
    `max_connections`; `as_owner` is for archiving there.
    Raises Unsupported for any other URL (which is not repeated: it may hold a password), MissingExtra, and from the store itself
    StoreUnavailable and UnsafeDatabase.
    """
    if url == "memory:":
        return MemoryStore(clock=clock)
    if url.startswith(("postgresql://", "postgres://")):
        from postsale.store.postgres import PostgresStore  # needs an extra

        return PostgresStore(url, schema=schema, clock=clock, archive=archive, max_connections=max_connections, as_owner=as_owner)
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path and path != ":memory:":
        return SQLiteStore(path, clock=clock, durable=durable, archive=archive)
    raise Unsupported(what=f"a store URL with {scheme_of(url)}", supported=_SUPPORTED)


def scheme_of(url: str) -> str:
    """The scheme of a URL, for an error; nothing else of it, for it may hold a password, and may be no URL at all."""
    scheme, colon, _ = url.partition(":")
    return f"the scheme {scheme!r}" if colon and _SCHEME.fullmatch(scheme) else "no scheme"


def chapters_of(store: Store) -> Chapters:
    """The seam through which the chapters of a store are archived. Unsupported for a log in memory."""
    if isinstance(store, Archivable):
        return store.chapters()
    raise Unsupported(what=f"archiving a {type(store).__name__}", supported="a log in a file or a database")
