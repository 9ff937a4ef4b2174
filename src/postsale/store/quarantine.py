"""Where refused input waits: in memory, and in a table beside a SQLite log. Nothing here is a fact, so rows may change."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from postsale.errors import InvalidInput
from postsale.store.contract import QuarantineItem

STATUSES: Final = frozenset({"waiting", "recorded", "dropped"})

_COLUMNS: Final = "id, tenant, source, reason, received_at, body, status"


class MemoryQuarantine:
    """Quarantine of a log in memory. Thread-safe."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], QuarantineItem] = {}
        self._lock = threading.Lock()

    def put(self, items: Sequence[QuarantineItem]) -> int:
        check_items(items)
        with self._lock:
            before = len(self._items)
            for item in items:
                self._items.setdefault((item.tenant, item.id), item)
            return len(self._items) - before

    def items(self, tenant: str, *, status: str | None = "waiting") -> Iterator[QuarantineItem]:
        with self._lock:
            found = [item for item in self._items.values() if item.tenant == tenant and status in (None, item.status)]
        yield from sorted(found, key=lambda item: item.received_at_us)

    def settle(self, tenant: str, id: str, status: str) -> bool:
        check_status(status)
        with self._lock:
            item = self._items.get((tenant, id))
            if item is None:
                return False
            self._items[tenant, id] = replace(item, status=status)
            return True


class SQLiteQuarantine:
    """Quarantine in a log's own file; made by `SQLiteStore`, whose write transactions and snapshots it uses."""

    def __init__(
        self,
        *,
        write: Callable[[], AbstractContextManager[sqlite3.Connection]],
        read: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._write = write
        self._read = read

    def put(self, items: Sequence[QuarantineItem]) -> int:
        check_items(items)
        with self._write() as db:
            return db.executemany(
                f"INSERT INTO quarantine ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, id) DO NOTHING",
                [(item.id, item.tenant, item.source, item.reason, item.received_at_us, item.body, item.status) for item in items],
            ).rowcount

    def items(self, tenant: str, *, status: str | None = "waiting") -> Iterator[QuarantineItem]:
        with self._read() as db:
            for id_, name, source, reason, received_at_us, body, found in db.execute(
                f"SELECT {_COLUMNS} FROM quarantine WHERE tenant = ? AND coalesce(?, status) = status ORDER BY received_at, no",
                (tenant, status),
            ):
                yield QuarantineItem(
                    id=id_, tenant=name, source=source, reason=reason, received_at_us=received_at_us, body=body, status=found
                )

    def settle(self, tenant: str, id: str, status: str) -> bool:
        check_status(status)
        with self._write() as db:
            return db.execute("UPDATE quarantine SET status = ? WHERE tenant = ? AND id = ?", (status, tenant, id)).rowcount > 0


def check_items(items: Sequence[QuarantineItem]) -> None:
    """InvalidInput for an item that cannot be kept."""
    for item in items:
        check_status(item.status)
        for field in ("id", "tenant", "source", "reason"):
            try:
                getattr(item, field).encode()
            except UnicodeEncodeError:
                raise InvalidInput(what="QuarantineItem", field=field, reason="expected no lone surrogates") from None


def check_status(status: str) -> None:
    """InvalidInput for a status that does not exist."""
    if status not in STATUSES:
        raise InvalidInput(what="QuarantineItem", field="status", reason=f"expected one of {', '.join(sorted(STATUSES))}")
