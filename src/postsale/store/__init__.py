"""The log: the contract, the stores that keep it, verification, checkpoints and proofs. Keeps bytes; knows no kind of event. Imports events and errors."""

from __future__ import annotations

from postsale.errors import Unsupported
from postsale.events import Clock
from postsale.store.anchors import FileAnchor
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
from postsale.store.memory import MemoryStore
from postsale.store.notes import Note, VerifierKey
from postsale.store.proofs import Tree, verify_consistency, verify_inclusion
from postsale.store.quarantine import MemoryQuarantine, SQLiteQuarantine
from postsale.store.sqlite import SQLiteStore
from postsale.store.verify import VerifyReport, verify

__all__ = [
    "Anchor",
    "Appended",
    "CheckedProof",
    "Checkpoint",
    "Condition",
    "EventProof",
    "FileAnchor",
    "Holds",
    "Kept",
    "KeyValue",
    "LeaseName",
    "MemoryQuarantine",
    "MemoryStore",
    "NoneSince",
    "Note",
    "Outcome",
    "Quarantine",
    "QuarantineItem",
    "Query",
    "SQLiteQuarantine",
    "SQLiteStore",
    "Store",
    "StreamAt",
    "Submission",
    "Tree",
    "TreeHead",
    "VerifierKey",
    "VerifyReport",
    "check_proof",
    "kept_checkpoints",
    "latest_checkpoint",
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
