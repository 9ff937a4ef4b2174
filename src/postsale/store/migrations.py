"""Migrations of a SQLite log: explicit, one step per schema version, in one transaction. Opening a log never makes one.

A step turns the tables of version n into those of version n + 1 and changes no event: every leaf and every root stays. Which versions
there are is written here and nowhere else. Imports the schema, the trees and verification.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from postsale.errors import InvalidInput, LogDamaged, StoreUnavailable
from postsale.store.leaves import Frontier
from postsale.store.plan import DEFAULT_CHAPTER
from postsale.store.sqlite import SQLiteStore
from postsale.store.sqlite_ids import GENERATION, Ids
from postsale.store.sqlite_schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    connect,
    expected_schema,
    schema_objects,
    translated,
    url_of,
)
from postsale.store.verify import VerifyReport, verify

_PROGRESS_EVERY: Final = 10_000
_BACKUP_PAGES: Final = 1_000
_WAIT_S: Final = 10.0

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


class Step(NamedTuple):
    """From one version to the next."""

    what: str  # for people: what the new version has
    run: Callable[[sqlite3.Connection, Progress], None]  # within a write transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What a migration did. `report` is the verification of the log as it is now."""

    version_before: int
    version_after: int
    backup: Path | None
    report: VerifyReport


def pending(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The steps that a log still needs, as (version reached, what that version has). Empty for a log of this release. Changes nothing.

    StoreUnavailable when there is no log at `path`, or one of a newer release.
    """
    file = Path(path).absolute()
    with translated(url_of(file)), closing(connect(file, busy_timeout_s=_WAIT_S, reader=True)) as db:
        version = _version(db, url_of(file))
    return [(number + 1, STEPS[number].what) for number in range(version, SCHEMA_VERSION)]


def migrate(path: str | os.PathLike[str], *, backup: Path | None = None, on_progress: Progress | None = None) -> Migrated:
    """Bring a log to the schema of this release, then verify it. Killed at any moment, the log is as it was or migrated whole.

    `backup` is where a copy of the log as it was goes first; it must not exist. None makes none. Other programs may read meanwhile;
    stop those that write, for they are of the other release. A log of this release is only verified.
    StoreUnavailable when there is no log at `path`, one of a newer release, one that is locked, or no room for it; InvalidInput when the
    backup exists; LogDamaged when a tree of the log does not match its head. The log is unchanged after any of them.
    """
    file, advance = Path(path).absolute(), on_progress or (lambda _what, _done, _all: None)
    url = url_of(file)
    if backup is not None and backup.exists():
        raise InvalidInput(what="migrate", field="backup", reason="there is a file of that name already")
    with translated(url), closing(connect(file, busy_timeout_s=_WAIT_S)) as db, _transaction(db):
        version = _version(db, url)
        if version < SCHEMA_VERSION:
            if backup is not None:
                _back_up(file, backup, advance)
            heads = _heads(db)
            for number in range(version, SCHEMA_VERSION):
                STEPS[number].run(db, advance)
                db.execute(f"PRAGMA user_version = {number + 1}")
            if _heads(db) != heads:
                raise LogDamaged(position=0, reason="the tree heads are not the same after the migration as before; nothing was changed")
            if (wrong := _differences(db)) != []:
                raise LogDamaged(position=0, reason=f"the migration does not lead to the schema of this release ({wrong[0]})")
    with closing(SQLiteStore(file)) as store:
        events = store.head()
        report = verify(store, lambda done: advance("verifying", done, events))
    return Migrated(
        version_before=version, version_after=SCHEMA_VERSION, backup=backup if version < SCHEMA_VERSION else None, report=report
    )


def _version(db: sqlite3.Connection, url: str) -> int:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreUnavailable(url=url, reason="not a postsale log")
    if version not in (*STEPS, SCHEMA_VERSION):
        raise StoreUnavailable(url=url, reason=f"schema version {version}; this release migrates up to version {SCHEMA_VERSION}")
    return version


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _back_up(file: Path, to: Path, advance: Progress) -> None:
    """A copy of what is committed, under its name only when the disk has all of it. The caller holds the write lock."""
    partial = to.with_name(f"{to.name}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
        with closing(connect(file, busy_timeout_s=_WAIT_S, reader=True)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target, pages=_BACKUP_PAGES, progress=lambda _, left, total: advance("backing up", total - left, total))
            target.execute("PRAGMA journal_mode = WAL")  # as the log itself; closing leaves one file
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(to)
        directory = os.open(to.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreUnavailable(url=url_of(file), reason=f"the backup cannot be written ({error.strerror})") from error


def _heads(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT name, size, frontier FROM tenants ORDER BY name").fetchall()


def _differences(db: sqlite3.Connection) -> list[str]:
    found, expected = schema_objects(db), expected_schema()
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


# ---------------------------------------------------------------- steps


def _to_version_2(db: sqlite3.Connection, advance: Progress) -> None:
    """Release 0.1.0 had no chapters, records, kept nodes or segments, and one table of ids with an index on random keys."""
    with _rebuilding(db):
        db.execute(f"INSERT INTO log SELECT one, log_id, position, recorded_at, {DEFAULT_CHAPTER} FROM old_log")
        _keep_nodes(db, advance)
        ids, (position,) = Ids(), db.execute("SELECT position FROM log").fetchone()
        for last in range(GENERATION, position + 1, GENERATION):
            ids.seal(db, last)


@contextmanager
def _rebuilding(db: sqlite3.Connection) -> Iterator[None]:
    """Tables of the new schema, empty where their text differs from the old one's, which is then named `old_…` until the end.

    Tables that are the same stay as they are. Triggers and indexes come back at the end, as the new schema has them.
    """
    new = expected_schema()
    old = schema_objects(db)
    kinds = dict(db.execute("SELECT name, type FROM sqlite_master WHERE sql IS NOT NULL"))
    for kind in ("trigger", "index"):
        for name in [name for name in old if kinds[name] == kind and (kind == "trigger" or new.get(name) != old[name])]:
            db.execute(f"DROP {kind} {name}")
    changed = [name for name in old if kinds[name] == "table" and new.get(name) != old[name]]
    for name in changed:
        db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for sql in _missing(db, "TABLE"):
        db.execute(sql)
    yield
    for name in changed:
        db.execute(f"DROP TABLE old_{name}")
    for kind in ("INDEX", "UNIQUE INDEX", "TRIGGER"):
        for sql in _missing(db, kind):
            db.execute(sql)


def _missing(db: sqlite3.Connection, kind: str) -> list[str]:
    there = schema_objects(db)
    return [sql for name, sql in expected_schema().items() if name not in there and sql.startswith(f"CREATE {kind} ")]


def _keep_nodes(db: sqlite3.Connection, advance: Progress) -> None:
    """The roots of 256, 256 ** 2, … leaves, from the leaves. A tree that does not end at its tenant's head is not migrated."""
    frontiers = {no: (name, Frontier(), size, raw) for no, name, size, raw in db.execute("SELECT no, name, size, frontier FROM tenants")}
    (total,) = db.execute("SELECT position FROM log").fetchone()
    done = 0
    for done, (tenant, leaf) in enumerate(db.execute("SELECT tenant, leaf FROM events NOT INDEXED ORDER BY position"), 1):
        if tenant not in frontiers:
            raise LogDamaged(position=done, reason="its tenant is not in the table of tenants; nothing was changed")
        for node in frontiers[tenant][1].extend((leaf,)):
            db.execute("INSERT INTO nodes VALUES (?, ?, ?, ?)", (tenant, *node))
        if not done % _PROGRESS_EVERY:
            advance("migrating", done, total)
    advance("migrating", done, total)
    for name, frontier, size, raw in frontiers.values():
        if (frontier.size, frontier.to_bytes()) != (size, raw):
            raise LogDamaged(position=0, reason=f"the tree of tenant {name!r} does not match its head; nothing was changed")


STEPS: Final[dict[int, Step]] = {
    1: Step(
        "chapters that can be archived, ids that outlive them, nodes of the trees for proofs, small records beside the log", _to_version_2
    ),
}
"""By the version that a step starts from. The newest step may use the schema as it is; the next one freezes what it needs of it."""
