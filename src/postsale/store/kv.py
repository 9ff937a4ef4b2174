"""Small records beside the log: in memory, and in a table of a SQLite log. See `KeyValue`; nothing here is a fact.

Imports the contract and errors.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.store.contract import Kept

MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
_MAX_NAME: Final = 200


def check_names(**names: str) -> None:
    """InvalidInput for a space, tenant or key that cannot be kept."""
    for field, name in names.items():
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
            raise InvalidInput(what="KeyValue", field=field, reason=f"expected 1 to {_MAX_NAME} characters")
        if not (name.isascii() and name.isprintable()) and any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise InvalidInput(what="KeyValue", field=field, reason="expected no control characters, NUL or lone surrogates")


def check_keys(space: str, tenant: str, keys: Sequence[str]) -> None:
    """InvalidInput for a space, a tenant or any key that cannot be kept."""
    check_names(space=space, tenant=tenant)
    for key in keys:
        check_names(key=key)


def check_value(value: bytes) -> None:
    """InvalidInput for a value that cannot be kept."""
    if type(value) is not bytes or len(value) > MAX_VALUE_BYTES:
        raise InvalidInput(what="KeyValue", field="value", reason=f"expected at most {MAX_VALUE_BYTES} bytes")


def check_limit(limit: int) -> None:
    """InvalidInput for a negative limit."""
    if limit < 0:
        raise InvalidInput(what="KeyValue", field="limit", reason="expected 0 or more")


class MemoryKeyValue:
    """Records of a log in memory. Thread-safe, under the lock of its log: an append that a lease allows is there before the lease goes."""

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._records: dict[tuple[str, str, str], Kept] = {}
        self._revision = 0
        self._lock = lock

    def get(self, space: str, tenant: str, key: str) -> Kept | None:
        check_names(space=space, tenant=tenant, key=key)
        with self._lock:
            return self._records.get((space, tenant, key))

    def get_many(self, space: str, tenant: str, keys: Sequence[str]) -> list[Kept]:
        check_keys(space, tenant, keys)
        with self._lock:
            return [kept for key in dict.fromkeys(keys) if (kept := self._records.get((space, tenant, key))) is not None]

    def put(self, space: str, tenant: str, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        check_names(space=space, tenant=tenant, key=key)
        check_value(value)
        with self._lock:
            kept = self._records.get((space, tenant, key))
            if expected is not None and expected != (kept.revision if kept else 0):
                return None
            self._revision += 1
            self._records[space, tenant, key] = Kept(key, value, self._revision)
            return self._revision

    def delete(self, space: str, tenant: str, key: str, *, expected: int | None = None) -> bool:
        check_names(space=space, tenant=tenant, key=key)
        with self._lock:
            kept = self._records.get((space, tenant, key))
            if kept is None or expected not in (None, kept.revision):
                return False
            del self._records[space, tenant, key]
            return True

    def scan(self, space: str, tenant: str, *, after: str = "", upto: str | None = None, limit: int = 1_000) -> list[Kept]:
        check_names(space=space, tenant=tenant)
        check_limit(limit)
        with self._lock:
            found = sorted(
                kept
                for (its_space, its_tenant, key), kept in self._records.items()
                if its_space == space and its_tenant == tenant and key > after and (upto is None or key <= upto)
            )
        return found[:limit]


class SQLiteKeyValue:
    """Records in a log's own file; made by `SQLiteStore`, whose write transactions and snapshots it uses."""

    def __init__(
        self,
        *,
        write: Callable[[], AbstractContextManager[sqlite3.Connection]],
        read: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._write = write
        self._read = read

    def get(self, space: str, tenant: str, key: str) -> Kept | None:
        check_names(space=space, tenant=tenant, key=key)
        with self._read() as db:
            return get(db, space, tenant, key)

    def get_many(self, space: str, tenant: str, keys: Sequence[str]) -> list[Kept]:
        check_keys(space, tenant, keys)
        if not keys:
            return []
        with self._read() as db:
            sql = "SELECT key, value, revision FROM kv WHERE space = ? AND tenant = ? AND key IN (SELECT value FROM json_each(?))"
            return [Kept(*row) for row in db.execute(sql, (space, tenant, json.dumps(list(keys))))]

    def put(self, space: str, tenant: str, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        check_names(space=space, tenant=tenant, key=key)
        check_value(value)
        with self._write() as db:
            if expected is not None:
                kept = get(db, space, tenant, key)
                if expected != (kept.revision if kept else 0):
                    return None
            # AUTOINCREMENT: REPLACE gives the record a number that no record ever had.
            return db.execute(
                "INSERT OR REPLACE INTO kv (space, tenant, key, value) VALUES (?, ?, ?, ?)", (space, tenant, key, value)
            ).lastrowid

    def delete(self, space: str, tenant: str, key: str, *, expected: int | None = None) -> bool:
        check_names(space=space, tenant=tenant, key=key)
        with self._write() as db:
            found = db.execute(
                "DELETE FROM kv WHERE space = ? AND tenant = ? AND key = ? AND revision = coalesce(?, revision)",
                (space, tenant, key, expected),
            )
            return found.rowcount > 0

    def scan(self, space: str, tenant: str, *, after: str = "", upto: str | None = None, limit: int = 1_000) -> list[Kept]:
        check_names(space=space, tenant=tenant)
        check_limit(limit)
        with self._read() as db:
            rows = db.execute(
                "SELECT key, value, revision FROM kv WHERE space = ? AND tenant = ? AND key > ? AND (? IS NULL OR key <= ?)"
                " ORDER BY key LIMIT ?",
                (space, tenant, after, upto, upto, limit),
            )
            return [Kept(*row) for row in rows]


def get(db: sqlite3.Connection, space: str, tenant: str, key: str) -> Kept | None:
    """A record, within a transaction that is open."""
    row = db.execute("SELECT key, value, revision FROM kv WHERE space = ? AND tenant = ? AND key = ?", (space, tenant, key)).fetchone()
    return None if row is None else Kept(*row)
