"""Proofs for third parties that one event is in a log: made from the log, checked without it. Imports the contract and its proofs.

A proof is what C2SP's tlog-proof carries, in JSON: the bytes that the leaf hashes, its index, the audit path, the signed checkpoint.
It shows tenant, stream, kind and version of the event, and hides contents, envelope and times behind the salt, which it lacks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson

from postsale.errors import LogDamaged, NotCheckpointed, NoteInvalid, UnknownEvent
from postsale.events import Lane, StoredEvent
from postsale.store.checkpoints import Checkpoint, latest_checkpoint, tree_of
from postsale.store.contract import Query, Store
from postsale.store.leaves import Shown, commitment, leaf_of, shown_by
from postsale.store.notes import COSIGNATURE, ED25519, VerifierKey, unbase64
from postsale.store.proofs import verify_inclusion

FORMAT: Final = "postsale-proof@1"
MAX_BYTES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class EventProof:
    """That an event with this commitment is in the tree that a checkpoint signs. Gives nothing personal away."""

    commitment: bytes
    leaf_index: int
    path: tuple[bytes, ...]
    checkpoint: Checkpoint

    @property
    def shown(self) -> Shown:
        """What the proof tells about the event."""
        return shown_by(self.commitment)

    def to_json(self) -> bytes:
        """The document to hand out; `check_proof` reads it. Bytes are in base64."""
        document = {
            "format": FORMAT,
            "commitment": _base64(self.commitment),
            "leaf_index": self.leaf_index,
            "path": [_base64(hash_) for hash_ in self.path],
            "checkpoint": self.checkpoint.text,
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def prove(store: Store, tenant: str, event: UUID | int, checkpoint: Checkpoint | None = None) -> EventProof:
    """Prove that an event, by id or position, is in the tenant's log, under the newest checkpoint that the log keeps, or the one given.

    Raises UnknownEvent, NotCheckpointed when no checkpoint covers the event yet, LogDamaged when its stored bytes do not lead to
    the checkpoint, NoteInvalid.
    """
    stored = _event(store, tenant, event)
    checkpoint = checkpoint or latest_checkpoint(store, tenant)
    if checkpoint is None or checkpoint.size <= stored.leaf_index:
        raise NotCheckpointed(tenant=tenant, leaf_index=stored.leaf_index, signed_size=checkpoint.size if checkpoint else 0)
    fields = stored._asdict()
    del fields["leaf"]
    committed = commitment(**fields)
    path = tree_of(store, tenant).inclusion(stored.leaf_index, checkpoint.size)
    if not verify_inclusion(leaf_of(committed), stored.leaf_index, checkpoint.size, path, checkpoint.root):
        raise LogDamaged(position=stored.position, reason=f"its stored bytes do not lead to the checkpoint of {checkpoint.size} events")
    return EventProof(committed, stored.leaf_index, tuple(path), checkpoint)


def _event(store: Store, tenant: str, event: UUID | int) -> StoredEvent:
    if isinstance(event, UUID):
        found = store.find(tenant, event)
    else:
        found = next(iter(list(store.read(Query(tenant=tenant, after=event - 1, upto=event)))), None)
    if found is None:
        raise UnknownEvent(tenant=tenant, event=str(event) if isinstance(event, UUID) else f"at position {event}")
    return found


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """The outcome of a check. Only with `ok` do the other fields say anything about a log."""

    ok: bool
    reason: str = ""  # why not
    shown: Shown | None = None
    checkpoint: Checkpoint | None = None
    cosigned: Mapping[str, int] = field(default_factory=dict)  # witness -> when (POSIX seconds)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        if not self.ok or self.shown is None or self.checkpoint is None:
            return {"ok": False, "reason": self.reason}
        shown = self.shown
        return {
            "ok": True,
            "origin": self.checkpoint.origin,
            "tenant": shown.tenant,
            "leaf_index": shown.leaf_index,
            "stream": f"{shown.tenant}/{shown.category}/{shown.id}",
            "lane": Lane(shown.lane).name.lower(),
            "version": shown.version,
            "kind": shown.wire_name,
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "signed_at_us": self.checkpoint.at_us,
            "cosigned": dict(self.cosigned),
        }


def check_proof(document: bytes | str, keys: Iterable[VerifierKey], witnesses: Iterable[VerifierKey] = ()) -> CheckedProof:
    """Whether the document proves that its event is in the log of one of these keys, cosigned by every one of these witnesses.

    Needs no log and trusts nothing in the document. Whatever it holds, the answer is a CheckedProof.
    """
    keys, witnesses = list(keys), list(witnesses)
    try:
        proof = _parse(document)
        shown = proof.shown
        signed = proof.checkpoint.note.signed_by([*keys, *witnesses])
    except NoteInvalid as error:
        return CheckedProof(False, f"its checkpoint: {error.reason}")
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        return CheckedProof(False, f"it is not a proof of this kind ({type(error).__name__})")
    checkpoint = proof.checkpoint
    if not any(key in signed and key.type == ED25519 and key.name == checkpoint.origin for key in keys):
        return CheckedProof(False, "its checkpoint is not signed by a key that was given")
    cosigned = {key.name: time_s for key, time_s in signed.items() if time_s is not None}
    missing = [key.name for key in witnesses if key.type != COSIGNATURE or key not in signed]
    if missing:
        return CheckedProof(False, f"its checkpoint is not cosigned by the witness {missing[0]}")
    if shown.leaf_index != proof.leaf_index or shown.lane not in set(Lane) or checkpoint.origin.rpartition("/")[2] != shown.tenant:
        return CheckedProof(False, "its event is of another place than its proof")
    if not verify_inclusion(leaf_of(proof.commitment), proof.leaf_index, checkpoint.size, list(proof.path), checkpoint.root):
        return CheckedProof(False, "its path does not lead from the event to the root that was signed")
    return CheckedProof(True, "", shown, checkpoint, cosigned)


def _parse(document: bytes | str) -> EventProof:
    """ValueError, TypeError, KeyError, NoteInvalid for what is none."""
    if len(document) > MAX_BYTES:
        raise ValueError("too long")
    fields = json.loads(document, object_pairs_hook=_unique)
    if fields["format"] != FORMAT or type(fields["leaf_index"]) is not int or type(fields["path"]) is not list:
        raise ValueError("another format")
    if type(fields["checkpoint"]) is not str:
        raise TypeError("a checkpoint is text")
    path = tuple(_unbase64(hash_) for hash_ in fields["path"])
    return EventProof(_unbase64(fields["commitment"]), fields["leaf_index"], path, Checkpoint.parse(fields["checkpoint"]))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a member twice")
    return fields


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unbase64(text: Any) -> bytes:
    raw = unbase64(text) if type(text) is str else None
    if raw is None:
        raise ValueError("not base64")
    return raw
