"""Every store of the library passes the contract that third parties test theirs with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from tests.postgres import new_log

from postsale.events import Clock
from postsale.store import MemoryStore, SQLiteStore, Store
from postsale.store.postgres import PostgresStore
from postsale.testing import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return MemoryStore(clock=clock, limit_bytes=limit_bytes)


class TestSQLiteStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return SQLiteStore(self.directory / f"{uuid4().hex}.db", clock=clock, limit_bytes=limit_bytes)


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _logs(self) -> Iterator[None]:
        with ExitStack() as self.logs:
            yield

    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        url, schema = self.logs.enter_context(new_log())
        return PostgresStore(url, schema=schema, clock=clock, limit_bytes=limit_bytes)
