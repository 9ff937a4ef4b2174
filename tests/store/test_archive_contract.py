"""The whole contract of a log holds while every chapter is archived as soon as it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from postsale.events import Clock, SystemClock
from postsale.store import Outcome, SQLiteStore, Store, Submission
from postsale.store.archive import archive_chapter
from postsale.store.sqlite_archive import SQLiteChapters
from postsale.testing import StoreContract

CHAPTER = 8


class EagerlyArchived(SQLiteStore):
    """A log in tiny chapters, archived after each append."""

    def __init__(self, path: Path, *, clock: Clock, limit_bytes: int) -> None:
        super().__init__(path, clock=clock, limit_bytes=limit_bytes, durable=False, chapter=CHAPTER)
        self._to = path.with_suffix(".archive")
        self._done = 0

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        outcomes = super().append(submissions)
        with self._write_lock:
            while (self._done + 1) * CHAPTER <= self.head():
                archive_chapter(SQLiteChapters(self), self._done, self._to, clock=SystemClock())
                self._done += 1
        return outcomes


class TestArchivedSQLiteStore(StoreContract):
    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        return EagerlyArchived(self.directory / f"{uuid4().hex}.db", clock=clock, limit_bytes=limit_bytes)
