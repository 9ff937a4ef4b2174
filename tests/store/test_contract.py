"""Every store of the library passes the contract that third parties test theirs with."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.store.stores import fresh_postgres

from postsale.events import Clock
from postsale.store import MemoryStore, SQLiteStore, Store, dedup, sqlite_ids
from postsale.testing import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return MemoryStore(clock=clock, limit_bytes=limit_bytes)


class TestSQLiteStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return SQLiteStore(self.directory / f"{uuid4().hex}.db", clock=clock, limit_bytes=limit_bytes)


class TestSQLiteStoreInSmallGenerations(TestSQLiteStore):
    """Ids leave memory after every third event, so that most of the suite finds them in the file."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite_ids, "GENERATION", 3)
        monkeypatch.setattr(dedup, "FIRST_CAPACITY", 16)


class TestPostgresStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return fresh_postgres(clock, limit_bytes=limit_bytes)
