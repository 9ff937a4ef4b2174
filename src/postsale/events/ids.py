"""Names and numbers that identify things: streams, lanes, deterministic ids. Pure; imports only the errors."""

from __future__ import annotations

import re
import uuid
from enum import IntEnum
from hashlib import sha1
from typing import NamedTuple

from postsale.errors import InvalidInput

# Never change: every derived id in every log depends on it.
NAMESPACE = uuid.UUID("6f1d8f0a-6d0c-5b52-9a3e-0f6f2c1b7a10")
_NAMESPACE = NAMESPACE.bytes
_VERSION_5 = (5 << 76) | (0x2 << 62)  # version and variant
_HASHED_BITS = ~((0xF << 76) | (0x3 << 62))

_IDENT = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}\Z")
SYSTEM_TENANT = "_system"


def derive_id(*parts: object) -> uuid.UUID:
    """The id of a thing derived from its cause: the same parts give the same id, anywhere, for ever.

    Each part is length-prefixed, so ("ab", "c") and ("a", "bc") differ. uuid5 (RFC 9562), over the parts' `str`.
    """
    text = "".join([f"{len(s)}:{s}" for s in map(str, parts)])
    number = int.from_bytes(sha1(_NAMESPACE + text.encode(), usedforsecurity=False).digest()[:16])
    return uuid_of(number & _HASHED_BITS | _VERSION_5)


_NEW, _UNKNOWN = object.__new__, uuid.SafeUUID.unknown  # an enum's member takes a call to look up
_SET_INT, _SET_SAFE = uuid.UUID.__dict__["int"].__set__, uuid.UUID.__dict__["is_safe"].__set__


def uuid_of(number: int) -> uuid.UUID:
    """`UUID(int=number)` of a number that is known to have 128 bits: its constructor's checks cost four times as much."""
    made = _NEW(uuid.UUID)
    _SET_INT(made, number)
    _SET_SAFE(made, _UNKNOWN)
    return made


class Lane(IntEnum):
    """The two lanes of a stream. The numbers are the storage format."""

    FACT = 0  # what sources say: blind, idempotent append; version = position
    DECISION = 1  # what we decide: optimistic concurrency; versions 1, 2, 3 …


class StreamId(NamedTuple):
    """`tenant/category/id`. The id is a random reference or a keyed digest, never an external id."""

    tenant: str
    category: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.category}/{self.id}"


def check_tenant(name: str) -> str:
    """Return `name` when it can name a tenant: lower case letters, digits, `.`, `_`, `-`, at most 64; else InvalidInput."""
    if not isinstance(name, str) or not _IDENT.match(name):
        raise InvalidInput(what="tenant", field="name", reason="expected 1 to 64 of a-z, 0-9, '.', '_', '-'")
    return name
