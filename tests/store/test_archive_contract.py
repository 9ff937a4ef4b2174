"""The whole contract of a log holds while every chapter is archived as soon as it is complete."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.postgres import fresh_log, server

from postsale.events import Clock, SystemClock
from postsale.store import Outcome, SQLiteStore, Store, Submission, archive_chapter, segments
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_schema import Roles
from postsale.testing import StoreContract

CHAPTER = 8


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a tiny chapter has several row groups."""
    monkeypatch.setattr(segments, "GROUP_ROWS", 3)


class Eager:
    """Archives after each append whatever is complete."""

    def __init__(self, store: SQLiteStore | PostgresStore, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._done = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        outcomes = self._store.append(submissions)
        with self._lock:
            while (self._done + 1) * CHAPTER <= self._store.head():
                archive_chapter(self._store.chapters(), self._done, self._directory, clock=SystemClock())
                self._done += 1
        return outcomes


class TestArchivedSQLiteStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        name = uuid4().hex
        store = SQLiteStore(self.directory / f"{name}.db", clock=clock, limit_bytes=limit_bytes, durable=False, chapter=CHAPTER)
        eager: Any = Eager(store, self.directory / f"{name}.archive")
        return eager  # type: ignore[no-any-return]


def archivable_postgres(**options: Any) -> PostgresStore:
    """A new log whose login may archive."""
    url, schema = fresh_log(chapter=options.pop("chapter", CHAPTER))
    with psycopg.connect(server(), autocommit=True) as admin:
        admin.execute(f"GRANT {Roles.of(schema).migrator} TO {schema}_app")
    return PostgresStore(url, schema=schema, as_owner=True, **options)


class TestArchivedPostgresStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        store = archivable_postgres(clock=clock, limit_bytes=limit_bytes)
        eager: Any = Eager(store, self.directory / f"{uuid4().hex}.archive")
        return eager  # type: ignore[no-any-return]
