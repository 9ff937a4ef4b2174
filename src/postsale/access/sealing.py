"""Sealing: personal fields under their subject's key, keyed digests, blind indexes. Everything that turns clear into hidden.

May import `events`, `errors` and the vault. Formats: `$sealed` holds "1." + base64url(nonce ‖ AES-256-GCM ciphertext ‖ tag);
associated data bind tenant, stream, event id, wire name and field, so that a ciphertext copied elsewhere does not open.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from postsale.access.vault import KeyVault, SubjectKey, TenantKeys
from postsale.aggregates.identity import ExternalId
from postsale.errors import KeyUnavailable, SealBroken
from postsale.events import SEALED, Header, StoredEvent, StreamId, canonical, uuid_of

_VERSION_8 = (8 << 76) | (0x2 << 62)  # version and variant
_RANDOM_BITS = ~((0xF << 76) | (0x3 << 62))


_FEW = 1_024
_LENGTHS = [size.to_bytes(8) for size in range(_FEW)]  # most parts are short, and a table costs half of `to_bytes`


def _mac(key: bytes, *parts: bytes) -> bytes:
    """16-byte keyed BLAKE2b over length-prefixed parts."""
    digest = _keyed(key).copy()
    for part in parts:
        size = len(part)
        digest.update((_LENGTHS[size] if size < _FEW else size.to_bytes(8)) + part)
    return digest.digest()


@lru_cache(maxsize=256)
def _keyed(key: bytes) -> hashlib.blake2b:
    """The state after the key, which costs as much as a whole digest of something short."""
    return hashlib.blake2b(key=key, digest_size=16)


def content_mac(keys: TenantKeys, *parts: bytes) -> bytes:
    """Whether two contents are the same, without either being guessable from it."""
    return _mac(keys.content, *parts)


def blind_index(keys: TenantKeys, external: ExternalId) -> str:
    """The alias stream of an external id: 32 hex digits; stable for the life of the tenant's keys."""
    return _mac(keys.blind, *(part.encode() for part in external)).hex()


def fact_id(keys: TenantKeys, source: str, source_id: str, index: int) -> UUID:
    """The event id of a fact, derived from its idempotency key (RFC 9562 version 8)."""
    raw = _mac(keys.dedup, source.encode(), source_id.encode(), index.to_bytes(4, "big"))
    return uuid_of(int.from_bytes(raw, "big") & _RANDOM_BITS | _VERSION_8)


def _bound(stream: StreamId, event_id: UUID, wire_name: str, field: str) -> bytes:
    return canonical([stream.tenant, stream.category, stream.id, event_id.hex, wire_name, field])


def seal_fields(
    fields: dict[str, Any], names: Iterable[str], key: SubjectKey, stream: StreamId, event_id: UUID, wire_name: str
) -> list[str]:
    """Replace the named fields of a payload by their sealed form, in place; returns the names that were present."""
    done = []
    for name in names:
        if name not in fields:
            continue
        nonce = os.urandom(12)
        sealed = AESGCM(key.key).encrypt(nonce, canonical(fields[name]), _bound(stream, event_id, wire_name, name))
        fields[name] = {SEALED: "1." + base64.urlsafe_b64encode(nonce + sealed).decode()}
        done.append(name)
    return done


MaySee = Callable[[StreamId, str, str], bool]
"""(stream, subject, field) -> whether this reader may see it. Asked at each unsealing, so that a revoked right counts at once."""


def everything(*_: object) -> bool:
    """The embedded default: whoever can read the 0600 key file may unseal."""
    return True


def nothing(*_: object) -> bool:
    """For auditors without the right to unseal."""
    return False


class Unsealer:
    """Opens sealed fields for one reader. A missing or destroyed key, or no right, leaves the field sealed: MASKED."""

    def __init__(self, vault: KeyVault, may_see: MaySee = everything) -> None:
        self._vault = vault
        self._may_see = may_see

    def __call__(self, stored: StoredEvent, header: Header) -> bytes:
        subjects = {subject for subject, _ in header.sealed.values()}
        try:
            keys = self._vault.subjects(stored.tenant, subjects, create=False)
        except KeyUnavailable:
            return stored.data  # reads go on, masked; writes fail closed
        return canonical(self.open(stored, header, keys))

    def open(self, stored: StoredEvent, header: Header, keys: Mapping[str, SubjectKey]) -> dict[str, Any]:
        """The payload with what may be read in the clear; SealBroken when a ciphertext does not belong here."""
        try:
            fields: dict[str, Any] = orjson.loads(stored.data)
        except orjson.JSONDecodeError:
            raise SealBroken(field=", ".join(sorted(header.sealed)), position=stored.position) from None
        for name, (subject, key_id) in header.sealed.items():
            key = keys.get(subject)
            if key is None or key.id != key_id or not self._may_see(stored.stream, subject, name):
                continue
            try:
                version, _, text = fields[name][SEALED].partition(".")
                if version != "1":
                    raise ValueError("another format")
                raw = base64.urlsafe_b64decode(text)
                clear = AESGCM(key.key).decrypt(raw[:12], raw[12:], _bound(stored.stream, stored.event_id, stored.wire_name, name))
            except (InvalidTag, KeyError, TypeError, ValueError, AttributeError):
                raise SealBroken(field=name, position=stored.position) from None
            fields[name] = orjson.loads(clear)
        return fields


def seal_blob(vault: KeyVault, tenant: str, subject: str, raw: bytes) -> bytes:
    """Seal loose bytes (quarantined input) under a subject of its own, so that it can be erased."""
    key = vault.subjects(tenant, [subject], create=True)[subject]
    nonce = os.urandom(12)
    return nonce + AESGCM(key.key).encrypt(nonce, raw, canonical([tenant, subject]))


def open_blob(vault: KeyVault, tenant: str, subject: str, sealed: bytes) -> bytes | None:
    """The bytes, or None when the key is gone. SealBroken when they were altered."""
    key = vault.subjects(tenant, [subject], create=False).get(subject)
    if key is None:
        return None
    try:
        return AESGCM(key.key).decrypt(sealed[:12], sealed[12:], canonical([tenant, subject]))
    except (InvalidTag, ValueError):
        raise SealBroken(field="quarantined body") from None
